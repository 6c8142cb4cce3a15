"""Weights of other networks as the start of ours, 2D ones inflated (Carreira & Zisserman 2017; Wang et al. 2018, 3.1).

A kernel that is flat in time is repeated along T and divided by the temporal size, so that a clip of one repeated image
gives the flat network's features, away from the clip's ends where the temporal padding reaches. Gamma, beta and running
statistics are carried over; loaded gammas replace zero-initialised ones.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.models.contract import resnet
from video_gn.models.norm import STANDARDIZED
from video_gn.models.resnet3d import Net, ResNet3d, ResStage
from video_gn.weights.layouts import IMAGENET, KINETICS, NONLOCAL, Place
from video_gn.weights.nonlocal_blocks import count_blocks, joining_blocks, other_blocks
from video_gn.weights.reader import Weights

log = logging.getLogger(__name__)
BATCH_NORMS = ("bn", "brn", "frozen_bn")


def places(net: Net) -> dict[str, Place]:
    """Where each tensor of a network's state dict belongs."""
    found = {}
    stages = [i for i, block in enumerate(net.blocks) if isinstance(block, ResStage)]
    for name in net.state_dict():
        _, number, *inner = name.split(".")
        if int(number) in stages:
            part = f"{NONLOCAL}{inner[-2]}" if "nonlocal_block" in inner else inner[-2]
            found[name] = Place(stages.index(int(number)) + 1, int(inner[1]), part, inner[-1])
        else:
            found[name] = Place(0 if number == "0" else 5, 0, inner[-2], inner[-1])
    return found


def start_net(
    net: nn.Module,
    weights: Weights | None,
    class_names: Sequence[str],
    file_norm: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[list[float], list[float]]:
    """Starts a network from weights, if there are any; gives mean and standard deviation of its input.

    Args:
        net: The network; with weights, one of this project.
        weights: Of `video_gn.weights.reader.read_weights`.
        class_names: The network's.
        file_norm: The norm that the weights were trained with, where they do not say.
        mean: Of the input, where it is not the weights'.
        std: Of the input, likewise.

    Raises:
        InputError: The weights are not of this network, norm or mean.
    """
    scale = set_input_scale(net, weights, mean, std)
    if weights:
        ours = resnet(net, "model.start.init")
        check_norm(weights, ours.norm, file_norm)
        log.info(start_from(ours, weights, class_names, scale[1]))
    return list(scale[0]), list(scale[1])


def set_input_scale(
    net: nn.Module, weights: Weights | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of a model's input: those given, else those of its weights, else of its network.

    Where a file does not tell, they are ImageNet's for torchvision's and timm's layout, and else Kinetics'. A network
    of this project keeps them.

    Raises:
        InputError: Another mean is given than the weights were trained with. The padding's zeros stand for it, so that
            no change of the first kernel makes up for another one; another standard deviation is made up for exactly.
    """
    known = (weights.scale if weights else None) or (
        IMAGENET if weights and weights.kind == "torchvision" else KINETICS
    )
    if mean and weights and weights.scale and max(abs(a - b) for a, b in zip(mean, known[0], strict=True)) > 1e-4:
        raise InputError(
            f"{weights.source} was trained on inputs less the mean {_numbers(known[0])}, and model.start.mean is "
            f"{_numbers(mean)}; set model.start.mean to null, which takes the file's"
        )
    if isinstance(net, ResNet3d) and not weights:  # it may have been made with some
        known = (net.mean, net.std)
    scale: Any = (tuple(mean or known[0]), tuple(std or known[1]))
    if isinstance(net, ResNet3d):
        net.mean, net.std = scale
    return scale


def start_from(
    net: ResNet3d,
    weights: Weights,
    class_names: Sequence[str],
    std: Sequence[float],
) -> str:
    """Starts a network from weights of the same norm (`check_norm`), in place, and says in one line what was done.

    Args:
        net: The network.
        weights: Of `video_gn.weights.reader.read_weights`.
        class_names: The network's; the classifier is carried over where its classes are those of the weights.
        std: Of the network's input.

    Raises:
        InputError: A name or shape does not match; or non-local blocks would be the identity for ever.
    """
    matched, inflated, said = match(weights, net, class_names)
    if weights.scale and tuple(weights.scale[1]) != tuple(std):
        first = next(iter(matched))
        ratio = torch.tensor([ours / theirs for ours, theirs in zip(std, weights.scale[1], strict=True)])
        matched[first] = matched[first] * ratio.view(3, 1, 1, 1)
        said += f"; its first kernel rescaled from std {_numbers(weights.scale[1])} to {_numbers(std)}"
    net.load_state_dict(matched, strict=False)  # `match` has accounted for every name
    if weights.archs and net.arch not in weights.archs and not inflated:
        log.warning(
            "%s is of arch %s, the model's is %s: equal kernels but other strides, a start for training, not the "
            "same network", weights.source, " or ".join(weights.archs), net.arch,
        )  # fmt: skip
    how = f"of which {inflated} inflated" if inflated else "none inflated"
    return f"started from {weights.source} ({weights.kind}): {len(matched)} tensors, {how}; {said}"


def check_norm(weights: Weights, norm: str, file_norm: str | None = None) -> None:
    """Refuses weights that were trained with another norm than the network's.

    Args:
        weights: Of `video_gn.weights.reader.read_weights`.
        norm: The network's norm as `video_gn.models.norm.norm_label` writes it.
        file_norm: The norm that the weights were trained with, where they do not say. None takes "bn" where there are
            running statistics, and "gn" (32 groups, as the public ones) where there are none.

    Raises:
        InputError: The norm is another one, or not that of the file.
    """
    theirs = file_norm or weights.norm or "gn"
    if _batch_norm(theirs) and not _batch_norm(weights.norm or ""):
        raise InputError(f"{weights.source} has no running statistics, so it was not trained with init_norm={theirs}")
    if norm != theirs and not (_batch_norm(norm) and _batch_norm(norm) == _batch_norm(theirs)):
        raise InputError(
            f"{weights.source} was trained with norm {theirs}, the model has {norm}, and weights do not carry over "
            f"between norms; take a checkpoint trained with {norm}, or give the model the norm {theirs}"
            + (
                ""
                if weights.norm
                else "; if the file was trained with another norm, name it with --model.start.init_norm"
            )
        )


def _batch_norm(norm: str) -> str:
    """What weights of BatchNorm, renormalized or frozen, have in common; empty for other norms."""
    word = norm.removesuffix(STANDARDIZED)
    return norm.replace(word, "bn") if word in BATCH_NORMS else ""


def match(weights: Weights, net: Net, class_names: Sequence[str]) -> tuple[dict[str, Tensor], int, str]:
    """The weights under the network's names and in its shapes, how many were inflated, and what of the classifier.

    Raises:
        InputError: Names that only one of the two has, or a shape that differs in more than T.
    """
    target, source = net.state_dict(), weights.tensors
    named = {name: weights.layout(place) for name, place in places(net).items()}
    head = {name for name in target if ".proj." in name}
    theirs = {weights.layout(Place(5, 0, "proj", what)) for what in ("weight", "bias")} & source.keys()
    classes = max((source[name].shape[0] if source[name].ndim else 0 for name in theirs), default=0)
    new = _new_classifier(weights, classes, class_names)
    kept = set(target) - head if new else set(target)
    added = joining_blocks(weights.source, weights.tensors, net)
    kept -= {name for name in target if added and count_blocks([name])}
    counters = {name for name in target if name.endswith("num_batches_tracked")}  # missing in old files
    missing = [named[name] for name in target if name in kept - counters and named[name] not in source]
    unused = sorted(source.keys() - set(named.values()) - theirs)
    if missing or unused:
        raise InputError(
            f"{weights.source} is another architecture: {_few('without', missing)}{_few('with unknown', unused)}"
            f"the model's depth, width and norm have to be those of the file{other_blocks(weights.tensors, net)}"
        )
    found = {name: source[named[name]] for name in target if name in kept and named[name] in source}
    inflated = {name for name in found if target[name].ndim == 5 and _frames(found[name]) < target[name].shape[2]}
    said = f"the classifier starts at random ({new})" if new else "the classifier carried over"
    said += f"; the {added} non-local blocks, of which the file has none, start as the identity" if added else ""
    return {name: _inflate(name, weight, target[name], weights) for name, weight in found.items()}, len(inflated), said


def _new_classifier(weights: Weights, classes: int, class_names: Sequence[str]) -> str:
    """Why the weights' classifier, of so many classes, is not the network's; empty if it is."""
    names = weights.settings.get("class_names")
    if not classes:
        return "the file has none"
    if classes != len(class_names):
        return f"{classes} classes there, {len(class_names)} here"
    if names is not None and list(names) != list(class_names):
        return "as many classes there, of other names or in another order"
    return ""


def _frames(weight: Tensor) -> int:
    return weight.shape[2] if weight.ndim == 5 else 1


def _inflate(name: str, weight: Tensor, target: Tensor, weights: Weights) -> Tensor:
    if weight.ndim == 4 and target.ndim == 5:
        weight = weight.unsqueeze(2)
    repeats = target.shape[2] if target.ndim == weight.ndim == 5 and weight.shape[2] == 1 else 1
    shape = [*weight.shape[:2], repeats, *weight.shape[3:]] if repeats > 1 else list(weight.shape)
    if shape != list(target.shape):
        known = f"; the file's arch is {' or '.join(weights.archs)}" if weights.archs else ""
        raise InputError(
            f"{weights.source} is another architecture: {name} is {shape}, not {list(target.shape)}{known}"
        )
    weight = _sound(name, weight, target, weights.source)
    return weight.expand(-1, -1, repeats, -1, -1) / repeats if repeats > 1 else weight


def _sound(name: str, weight: Tensor, target: Tensor, source: str) -> Tensor:
    """A weight in its target's type.

    Raises:
        InputError: It is not numbers that a network computes with.
    """
    if target.is_floating_point() and not weight.is_floating_point():
        raise InputError(f"{source} has whole numbers in {name}; the file is damaged")
    value = weight.detach().to(target.dtype)
    if not weight.isfinite().all() or not value.isfinite().all():
        raise InputError(
            f"{source} has weights that are not finite ({name}): its training diverged, or the file is damaged; take "
            "an earlier checkpoint"
        )
    if name.endswith("running_var") and (value < 0).any():
        raise InputError(f"{source} has variances below 0 ({name}); the file is damaged")
    return value


def own_state(weights: Weights, net: Net, class_names: Sequence[str]) -> dict[str, Tensor]:
    """The state of a network out of a file that describes it: every tensor of it, and no other.

    Args:
        weights: Of `video_gn.weights.reader.read_weights`.
        net: Made by the file's settings; on the meta device, nothing is allocated for it.
        class_names: Of the file.

    Raises:
        InputError: The weights are not those of that network, its classifier included.
    """
    source, target = weights.source, net.state_dict()
    found = weights.tensors
    missing = [name for name in target if name not in found and not name.endswith("num_batches_tracked")]
    unknown = sorted(found.keys() - target.keys())
    if weights.kind != "ours" or missing or unknown:
        raise InputError(
            f"{source} is another architecture than it says: {_few('without', missing)}{_few('with unknown', unknown)}"
            "the file is damaged, or was put together from two"
        )
    for name, weight in found.items():
        outputs = weight.shape[0] if ".proj." in name and weight.ndim else len(class_names)
        if outputs != len(class_names):
            raise InputError(
                f"{source} has a classifier of {outputs} outputs and names {len(class_names)} classes, so nothing says "
                "which is which; take a file that is whole"
            )
        if weight.shape != target[name].shape:
            raise InputError(
                f"{source} is another architecture than it says: {name} is {list(weight.shape)}, not "
                f"{list(target[name].shape)}"
            )
    return {name: _sound(name, weight, target[name], source) for name, weight in found.items()}


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def _few(word: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{word} {', '.join(names[:3])}{more}; " if names else ""
