"""Norms of any network replaced by those of the family."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops.misc import FrozenBatchNorm2d

from video_gn.compat import BatchNorm, InstanceNorm, hooked
from video_gn.errors import InputError
from video_gn.models.conv_weights import form_weights
from video_gn.models.evonorm import EvoNormS0, without_activation
from video_gn.models.norm import NORMS, OPTIONS, make_norm
from video_gn.models.norm_layers import Fused

# What is replaced; what is not, because it is over the last dimension and no channels.
_REPLACED: Any = (BatchNorm, InstanceNorm, nn.GroupNorm, FrozenBatchNorm2d, Fused)
_LEFT = (nn.LayerNorm, nn.RMSNorm)
_ACTIVATIONS = ("ReLU", "ReLU6", "LeakyReLU", "SiLU", "Swish", "Hardswish", "GELU", "Mish", "ELU")
# In blocks of pytorchvideo, and in this project's, the activation that follows a norm.
_FOLLOWS = {"norm": "activation", "norm_a": "act_a", "norm_b": "act_b", "pre_norm": "pre_act"}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
FEWEST = 4  # channels of a group, where the number of groups does not divide a layer's channels


@dataclass
class Replaced:
    """What was done to a network.

    Attributes:
        to: The norm, a word of the family.
        pairs: By the layer's name, the norm of before and the one of now.
        left: Norms over the last dimension, which were not touched.
        activations: How many activations EvoNorm-S0 took the place of.
        formed: Convolutions whose kernels are standardised or centred now.
        form: Which of the two.
        unlearned: Layers without the running statistics that they normalize by in evaluation.
    """

    to: str
    pairs: dict[str, tuple[nn.Module, nn.Module]] = field(default_factory=dict)
    left: int = 0
    activations: int = 0
    formed: int = 0
    form: str = ""
    unlearned: int = 0

    @property
    def unlike(self) -> bool:
        """Whether the network computes something else in evaluation than with the norms of before."""
        return bool(self.form or self.unlearned) or not all(_equal(old, new) for old, new in self.pairs.values())

    def __str__(self) -> str:
        before = Counter(type(old).__name__ for old, _ in self.pairs.values())
        parts = [f"{', '.join(f'{count} {name}' for name, count in before.items())} are {self.to} now"]
        groups = Counter(getattr(new, "num_groups", None) for _, new in self.pairs.values())
        if len(groups) > 1 and self.to in ("gn", "evonorm_s0"):
            parts.append(
                f"groups: {', '.join(f'{number} in {count} layers' for number, count in groups.most_common())}"
            )
        if self.activations:
            parts.append(f"{self.activations} of them with the activation behind")
        if self.formed:
            parts.append(f"the kernels of {self.formed} convolutions are {self.form}")
        if self.left:
            parts.append(f"{self.left} norms over the last dimension stay")
        return "; ".join(parts)


def replace_norms(model: nn.Module, to: str, **options: Any) -> tuple[nn.Module, Replaced]:
    """Replaces every batch, group and instance norm of a network, in place, by a norm of the family.

    Gamma and beta are the same parameters as before, so what is tied stays tied, and optimisers keep what they have;
    eps, momentum, device, type, training flags and, where both have them, running statistics stay. Where GN's or
    EvoNorm-S0's number of groups does not divide a layer's channels, it is the largest divisor that leaves groups of 4
    channels at least. LayerNorm and RMSNorm stay: they are over the last dimension.

    Args:
        model: Any module, not yet wrapped for several processes.
        to: A word of `video_gn.models.norm.NORMS`. `mabn` has kernels centred; `evonorm_s0` takes the place of the
            activation behind a norm, if that is a module of its own.
        options: Of the norm, as `make_norm` takes them; and `weight_standardization`.

    Returns:
        The network, another one only if it is a norm itself; and what was done.

    Raises:
        InputError: There is no such norm, nothing to replace, or something that would be lost.
    """
    _check_words(to, options)
    norms = {name: layer for name, layer in model.named_modules() if isinstance(layer, _REPLACED)}
    for name, layer in norms.items():
        _check(name, layer)
    done = Replaced(to, {name: (layer, _layer(name, layer, to, options)) for name, layer in norms.items()})
    done.left = sum(isinstance(layer, _LEFT) for layer in model.modules())
    if not done.pairs:
        raise InputError(f"{type(model).__name__} has no batch, group or instance norm to replace")
    done.unlearned = _missing(done)
    if to == "evonorm_s0":
        done.activations = _take_activations(model, done)
    new = {id(old): layer for old, layer in done.pairs.values()}
    for name, child in list(model.named_modules(remove_duplicate=False)):
        if name and id(child) in new:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, new[id(child)])
    if to == "frozen_bn" and options.get("freeze_affine"):
        for layer in new.values():
            layer.requires_grad_(False)
    if options.get("weight_standardization") or to == "mabn":
        done.form = "standardized" if options.get("weight_standardization") else "centered"
        done.formed = form_weights(model, done.form)
    return new.get(id(model), model), done


def _check_words(to: str, options: Mapping[str, Any]) -> None:
    if to not in NORMS:
        raise InputError(f"there is no norm {to!r}; the norms are: {', '.join(NORMS)}")
    known = sorted({"weight_standardization", *(name for names in OPTIONS.values() for name in names)})
    if unknown := options.keys() - set(known):
        raise InputError(f"a norm has no setting {min(unknown)}; settings are: {', '.join(known)}")


def _check(name: str, layer: nn.Module) -> None:
    """Raises InputError for a norm that does more than normalize, or is not whole."""
    plain: Any = next(kind for kind in type(layer).__mro__ if kind.__module__.partition(".")[0] in _KNOWN)
    if type(layer).forward is not plain.forward:
        raise InputError(
            f"the norm {name or 'itself'} is {type(layer).__name__}, with a forward of its own that may do more than "
            "normalize; put a plain norm and what it does besides in its place"
        )
    if isinstance(layer, LazyModuleMixin):
        raise InputError(f"the norm {name} does not know its channels yet; call the network once before")
    if hooked([layer], layer.parameters()) or is_parametrized(layer):
        raise InputError(f"the norm {name} has hooks or parametrizations, which would be lost; remove them before")


_KNOWN = ("torch", "torchvision", "video_gn")


def _channels(layer: Any) -> int:
    given = getattr(layer, "num_features", None) or getattr(layer, "num_channels", None)
    return given or len(layer.weight)


def _layer(name: str, old: Any, to: str, options: dict[str, Any]) -> nn.Module:
    channels = _channels(old)
    try:
        new: Any = make_norm(to, **_fitting(to, channels, options))(channels)
    except InputError as error:
        raise InputError(f"layer {name}: {error}") from None
    for part in ("weight", "bias"):
        value = getattr(old, part, None)
        if isinstance(value, nn.Parameter):
            setattr(new, part, value)
        else:  # none, or a buffer of constants: constants it stays
            made = getattr(new, part).requires_grad_(False)
            made.data = made.data if value is None else value.clone()
    like = next((value for value in (*old.parameters(False), *old.buffers(False)) if value.is_floating_point()), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    new.eps = old.eps
    if isinstance(old, BatchNorm) and isinstance(new, BatchNorm):
        new.momentum = old.momentum
    kept = {part: getattr(old, part, None) for part in _STATISTICS if hasattr(new, part)}
    for part, value in kept.items():
        if value is not None:
            getattr(new, part).copy_(value)
    if hasattr(old, "kernels"):
        new.kernels = old.kernels
    return new.train(old.training)


def _fitting(to: str, channels: int, options: dict[str, Any]) -> dict[str, Any]:
    """A norm's options, with a number of groups that divides the channels."""
    if to not in ("gn", "evonorm_s0") or options.get("channels_per_group") is not None:
        return options
    groups = options.get("num_groups", 32)
    return options | {"num_groups": groups if channels % groups == 0 else fitting_groups(channels, groups)}


def fitting_groups(channels: int, num_groups: int) -> int:
    """The largest divisor of a number of channels, at most `num_groups`, that leaves groups of 4 channels at least."""
    most = max(1, min(num_groups, channels // FEWEST))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def _missing(done: Replaced) -> int:
    """How many layers normalize in evaluation by running statistics that nobody gave them.

    Raises:
        InputError: They would never learn any.
    """
    has = [name for name, (old, new) in done.pairs.items() if has_statistics(new) and not has_statistics(old)]
    if has and done.to == "frozen_bn":
        raise InputError(
            f"frozen_bn normalizes by the running statistics that it is given, and {has[0]} "
            f"({type(done.pairs[has[0]][0]).__name__}) has none; take bn"
        )
    return len(has)


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, nn.GroupNorm) and isinstance(new, nn.GroupNorm):
        return old.num_groups == new.num_groups
    if isinstance(old, InstanceNorm) and isinstance(new, nn.GroupNorm):
        return new.num_groups == new.num_channels and not has_statistics(old)
    running = [getattr(layer, "running_var", None) is not None for layer in (old, new)]
    return all(running) and not isinstance(old, InstanceNorm)


def has_statistics(layer: Any) -> bool:
    """Whether a norm normalizes in evaluation by what it learned in training."""
    return getattr(layer, "running_var", None) is not None or getattr(layer, "moment", None) is not None


def _take_activations(model: nn.Module, done: Replaced) -> int:
    """Removes the activation behind each norm, and gives their number; norms without one are affine alone."""
    parents = {id(child): (parent, name) for parent in model.modules() for name, child in parent.named_children()}
    count = 0
    for old, new in done.pairs.values():
        if found := _following(old, parents):
            setattr(found[0], found[1], nn.Identity())
            count += 1
        elif not (isinstance(old, EvoNormS0) and old.v is not None):
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
