"""Activations behind norms, which EvoNorm-S0 takes the place of."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from video_gn.errors import InputError
from video_gn.models.evonorm import without_activation

_Place = tuple[nn.Module, str]  # a parent, and a name there
_ACTIVATIONS = ("ReLU", "ReLU6", "LeakyReLU", "SiLU", "Swish", "Hardswish", "GELU", "Mish", "ELU")
# In blocks of pytorchvideo, and in this project's, the activation that follows a norm.
_FOLLOWS = {"norm": "activation", "norm_a": "act_a", "norm_b": "act_b", "pre_norm": "pre_act"}


def take_activations(model: nn.Module, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> int:
    """Removes the activation behind each norm, and gives their number; norms without one are affine alone.

    Args:
        model: Any network, with the norms of before.
        pairs: These, and the EvoNorm-S0 that is to be in their place.

    Raises:
        InputError: There is none; or a norm that is used in several places has one in some of them.
    """
    places: dict[int, list[_Place]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        parent, _, last = name.rpartition(".")
        place = model.get_submodule(parent), last
        if name and place not in places[id(module)]:
            places[id(module)].append(place)
    count = 0
    behind = [(new, [_following(place, places) for place in places[id(old)]]) for old, new in pairs]
    for _, found in behind:
        if None in found and any(found):
            raise InputError(
                "a norm is used in several places, and an activation follows in some; use one norm for each"
            )
    for new, found in behind:
        for place in filter(None, found):
            setattr(*place, nn.Identity())
        if any(found):
            count += 1
        else:
            without_activation(new)
    if not count:
        raise InputError(
            "evonorm_s0 takes the place of a norm and of the activation behind it, and in this network no norm is "
            "followed by a module that is an activation (within nn.Sequential, or a block of pytorchvideo)"
        )
    return count


def _following(place: _Place, places: Mapping[int, Sequence[_Place]]) -> _Place | None:
    """Where the activation is that follows what is at a place."""
    parent, name = place
    if type(parent).forward is nn.Sequential.forward:
        children = {n: child for n, child in parent.named_modules(remove_duplicate=False) if n and "." not in n}
        for follower in list(children)[list(children).index(name) + 1 :]:
            other = children[follower]
            if type(other).__name__ in _ACTIVATIONS:
                return parent, follower
            if type(other).__name__ not in ("Identity", "SqueezeExcitation"):  # X3D's, between norm and Swish
                return None
        around = places.get(id(parent), ())
        return _following(around[0], places) if len(around) == 1 else None
    if type(parent).__module__.partition(".")[0] not in ("pytorchvideo", "video_gn"):
        return None
    follows = _FOLLOWS.get(name, "")
    return (parent, follows) if type(getattr(parent, follows, None)).__name__ in _ACTIVATIONS else None
