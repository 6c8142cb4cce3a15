"""The tensors of a file under the names of a network and in its shapes; none is left out in silence."""

from collections.abc import Sequence

from pytorchvideo.models.resnet import ResStage
from torch import Tensor

from video_gn.errors import InputError
from video_gn.models.conv_weights import is_formed
from video_gn.models.interface import Known
from video_gn.models.resnet3d import Net, ResNet3d
from video_gn.weights.layouts import NONLOCAL, Place
from video_gn.weights.nonlocal_blocks import count_blocks, joining_blocks, other_blocks
from video_gn.weights.public import NAMED
from video_gn.weights.reader import Weights


def places(net: Net) -> dict[str, Place]:
    """Where each tensor of a network's state dict belongs."""
    found = {}
    stages = [i for i, block in enumerate(net.blocks) if isinstance(block, ResStage)]
    for name in net.state_dict():
        _, number, *inner = name.split(".")
        if int(number) in stages and inner[0] == "norm":  # where pre-activation ends
            found[name] = Place(5, 0, *inner)
        elif int(number) in stages:
            part = f"{NONLOCAL}{inner[-2]}" if "nonlocal_block" in inner else inner[-2]
            found[name] = Place(stages.index(int(number)) + 1, int(inner[1]), part, inner[-1])
        else:
            found[name] = Place(0 if number == "0" else 5, 0, inner[-2], inner[-1])
    return found


def match(weights: Weights, net: Known, class_names: Sequence[str]) -> tuple[dict[str, Tensor], int, str]:
    """The weights under the network's names and in its shapes, how many were inflated, and what of the classifier.

    Raises:
        InputError: Names that only one of the two has, or a shape that differs in more than T.
    """
    target, source = net.state_dict(), weights.tensors
    named, head = _names(weights, net), _classifier(net)
    theirs = {named[name] for name in head} & source.keys()
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
            f"{_wanted(net)}{other_blocks(weights.tensors, net)}"
        )
    found = {name: source[named[name]] for name in target if name in kept and named[name] in source}
    inflated = {name for name in found if target[name].ndim == 5 and _frames(found[name]) < target[name].shape[2]}
    said = f"the classifier starts at random ({new})" if new else "the classifier carried over"
    said += f"; the {added} non-local blocks, of which the file has none, start as the identity" if added else ""
    standardized = {f"{name}.weight" for name, m in net.named_modules() if is_formed(m, "standardized")}
    shaped = {
        name: _inflate(name, weight, target[name], weights, name in standardized) for name, weight in found.items()
    }
    return shaped, len(inflated), said


def _names(weights: Weights, net: Known) -> dict[str, str]:
    """The name in the file of each of a network's tensors.

    Raises:
        InputError: The file is of another kind of network.
    """
    if not isinstance(net, ResNet3d):
        prefix = "" if weights.kind == "ours" else net.prefix
        return {name: name.removeprefix(prefix) for name in net.state_dict()}
    if weights.as_in_library:
        raise InputError(
            f"{weights.source} is another architecture: {weights.kind}'s own network; name that one as the model, as "
            f"--model.net {next(iter(NAMED))} does (video-gn models lists them)"
        )
    if weights.preactivated == ("blocks.0.norm.weight" in net.state_dict()):
        which = "with" if weights.preactivated else "without"
        remedy = "resnetv2 or resnetv2_flat" if weights.preactivated else "another one, as i3d"
        raise InputError(
            f"{weights.source} is of a network {which} pre-activation, and the model is not: model.net.arch has to be "
            f"{remedy}"
        )
    return {name: weights.layout(place) for name, place in places(net).items()}


def _wanted(net: Known) -> str:
    if isinstance(net, ResNet3d):
        return "the model's depth, width and norm have to be those of the file"
    return f"it is not {net.library}'s {type(net).__name__}"


def _classifier(net: Known) -> set[str]:
    """Names of the tensors whose outputs are the classes."""
    layer = next(name for name, module in net.named_modules() if module is net.classifier)
    return {f"{layer}.{name}" for name in net.classifier.state_dict()}


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


def _inflate(name: str, weight: Tensor, target: Tensor, weights: Weights, standardized: bool) -> Tensor:
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
    if repeats == 1:
        return weight
    return weight.expand(-1, -1, repeats, -1, -1) / (1 if standardized else repeats)


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


def own_state(weights: Weights, net: Known, class_names: Sequence[str]) -> dict[str, Tensor]:
    """The state of a network out of a file that describes it: every tensor of it, and no other.

    Args:
        weights: Of `video_gn.weights.reader.read_weights`.
        net: Made by the file's settings; on the meta device, nothing is allocated for it.
        class_names: Of the file.

    Raises:
        InputError: The weights are not those of that network, its classifier included.
    """
    source, target, head = weights.source, net.state_dict(), _classifier(net)
    found = weights.tensors
    missing = [name for name in target if name not in found and not name.endswith("num_batches_tracked")]
    unknown = sorted(found.keys() - target.keys())
    if weights.kind != "ours" or missing or unknown:
        raise InputError(
            f"{source} is another architecture than it says: {_few('without', missing)}{_few('with unknown', unknown)}"
            "the file is damaged, or was put together from two"
        )
    for name, weight in found.items():
        outputs = weight.shape[0] if name in head and weight.ndim else len(class_names)
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


def _few(word: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{word} {', '.join(names[:3])}{more}; " if names else ""
