"""Activations behind norms, which EvoNorm-S0 takes the place of."""

from collections.abc import Iterable

from torch import nn

from video_gn.errors import InputError
from video_gn.models.evonorm import without_activation

_ACTIVATIONS = ("ReLU", "ReLU6", "LeakyReLU", "SiLU", "Swish", "Hardswish", "GELU", "Mish", "ELU")
# In blocks of pytorchvideo, and in this project's, the activation that follows a norm.
_FOLLOWS = {"norm": "activation", "norm_a": "act_a", "norm_b": "act_b", "pre_norm": "pre_act"}


def take_activations(model: nn.Module, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> int:
    """Removes the activation behind each norm, and gives their number; norms without one are affine alone.

    Args:
        model: Any network, with the norms of before.
        pairs: These, and the EvoNorm-S0 that is to be in their place.

    Raises:
        InputError: There is none.
    """
    parents = {id(child): (parent, name) for parent in model.modules() for name, child in parent.named_children()}
    count = 0
    for old, new in pairs:
        if found := _following(old, parents):
            setattr(found[0], found[1], nn.Identity())
            count += 1
        else:
            without_activation(new)
    if not count:
        raise InputError(
            "evonorm_s0 takes the place of a norm and of the activation behind it, and in this network no norm is "
            "followed by a module that is an activation (within nn.Sequential, or a block of pytorchvideo)"
        )
    return count


def _following(layer: nn.Module, parents: dict[int, tuple[nn.Module, str]]) -> tuple[nn.Module, str] | None:
    """Where the activation that follows a module is: its parent, and its name there."""
    if id(layer) not in parents:
        return None
    parent, name = parents[id(layer)]
    if type(parent).forward is nn.Sequential.forward:
        children = dict(parent.named_children())
        for follower in list(children)[list(children).index(name) + 1 :]:
            other = children[follower]
            if type(other).__name__ in _ACTIVATIONS:
                return parent, follower
            if type(other).__name__ not in ("Identity", "SqueezeExcitation"):  # X3D's, between norm and Swish
                return None
        return _following(parent, parents)
    if type(parent).__module__.partition(".")[0] not in ("pytorchvideo", "video_gn"):
        return None
    follows = _FOLLOWS.get(name, "")
    return (parent, follows) if type(getattr(parent, follows, None)).__name__ in _ACTIVATIONS else None
