"""Weights of other networks as the start of ours, 2D ones inflated (Carreira & Zisserman 2017; Wang et al. 2018, 3.1).

A kernel that is flat in time is repeated along T and divided by the temporal size, so that a clip of one repeated image
gives the flat network's features, away from the clip's ends where the temporal padding reaches. One that is
standardised is repeated alone: its network divides. Gamma, beta and running statistics are carried over; loaded gammas
replace zero-initialised ones.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from video_gn.errors import InputError
from video_gn.models.contract import known
from video_gn.models.conv_weights import Formed
from video_gn.models.interface import Known
from video_gn.models.norm import STANDARDIZED
from video_gn.models.resnet3d import ResNet3d, norm_of
from video_gn.weights.layouts import IMAGENET, KINETICS
from video_gn.weights.match import match
from video_gn.weights.reader import Weights

log = logging.getLogger(__name__)
BATCH_NORMS = ("bn", "brn", "frozen_bn")


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
        ours = known(net, "model.start.init")
        check_norm(weights, norm_of(ours.settings), file_norm)
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
    usual = (weights.scale if weights else None) or (
        IMAGENET if weights and weights.kind == "torchvision" else KINETICS
    )
    if mean and weights and weights.scale and max(abs(a - b) for a, b in zip(mean, usual[0], strict=True)) > 1e-4:
        raise InputError(
            f"{weights.source} was trained on inputs less the mean {_numbers(usual[0])}, and model.start.mean is "
            f"{_numbers(mean)}; set model.start.mean to null, which takes the file's"
        )
    if isinstance(net, Known) and not weights:  # it may have been made with some
        usual = (net.mean, net.std)
    scale: Any = (tuple(mean or usual[0]), tuple(std or usual[1]))
    if isinstance(net, Known):
        net.mean, net.std = scale
    return scale


def start_from(
    net: Known,
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
        owners = (net.get_submodule(f"{net.prefix}{first}".rpartition(".")[0]) for first in net.first)
        if any(isinstance(owner, Formed) for owner in owners):
            raise InputError(
                f"{weights.source} was trained on inputs divided by {_numbers(weights.scale[1])}, model.start.std is "
                f"{_numbers(std)}, and standardised or centred kernels cannot make up for that; set model.start.std to "
                "null, which takes the file's"
            )
        ratio = torch.tensor([ours / theirs for ours, theirs in zip(std, weights.scale[1], strict=True)])
        for first in net.first:
            name = f"{net.prefix}{first}"
            matched[name] = matched[name] * ratio.view(3, 1, 1, 1)
        said += f"; its first kernel rescaled from std {_numbers(weights.scale[1])} to {_numbers(std)}"
    net.load_state_dict(matched, strict=False)  # `match` has accounted for every name
    if isinstance(net, ResNet3d) and weights.archs and net.arch not in weights.archs and not inflated:
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
    if batch_norm_of(theirs) and not batch_norm_of(weights.norm or ""):
        raise InputError(f"{weights.source} has no running statistics, so it was not trained with init_norm={theirs}")
    word = theirs.removesuffix(STANDARDIZED)
    take = theirs if theirs == word else f"{word} with --model.net.weight_standardization true"
    if norm != theirs and not (batch_norm_of(norm) and batch_norm_of(norm) == batch_norm_of(theirs)):
        raise InputError(
            f"{weights.source} was trained with norm {theirs}, the model has {norm}, and weights do not carry over "
            f"between norms; take a checkpoint trained with {norm}, or give the model the norm {take}"
            + _remedy(weights, norm, theirs)
        )


def _remedy(weights: Weights, norm: str, theirs: str) -> str:
    if not weights.norm:
        return "; if the file was trained with another norm, name it with --model.start.init_norm"
    if batch_norm_of(theirs) and norm.startswith(("gn", "ln", "in")):
        return "; or have gamma and beta re-fitted on training clips: --model.start.convert 32"
    return ""


def batch_norm_of(norm: str) -> str:
    """What weights of BatchNorm, renormalized or frozen, have in common; empty for other norms."""
    word = norm.removesuffix(STANDARDIZED)
    return norm.replace(word, "bn") if word in BATCH_NORMS else ""


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
