"""Norms of any network replaced by those of the family."""

from collections import Counter
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops.misc import FrozenBatchNorm2d

from video_gn.compat import BatchNorm, InstanceNorm, hooked
from video_gn.errors import InputError
from video_gn.kernels.layers import Fused
from video_gn.models.activations import take_activations
from video_gn.models.conv_weights import CONVOLUTIONS, fold_weights, form_weights, formable, is_formed
from video_gn.models.evonorm import EvoNormS0
from video_gn.models.interface import Known
from video_gn.models.norm import OPTIONS, check_words, make_norm
from video_gn.models.norm_layers import FrozenBatchNorm3d
from video_gn.rules import shown

# What is replaced; what is not, because it is over the last dimension and no channels.
_REPLACED: Any = (BatchNorm, InstanceNorm, nn.GroupNorm, FrozenBatchNorm2d, Fused)
_LEFT = (nn.LayerNorm, nn.RMSNorm)
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
        form: Whether kernels are standardised or centred now.
        kernels: Convolutions of which they are, as they were and as they are.
        biased: Convolutions with a bias, whose kernels stay.
        learns: By the layer's name, whether gamma and beta are to learn, where that follows from frozen BN's settings.
        unlearned: Layers without the running statistics that they normalize by in evaluation.
    """

    to: str
    pairs: dict[str, tuple[nn.Module, nn.Module]] = field(default_factory=dict)
    left: int = 0
    activations: int = 0
    form: str = ""
    kernels: list[tuple[nn.Module, nn.Module]] = field(default_factory=list)
    biased: int = 0
    learns: dict[str, bool] = field(default_factory=dict)
    unlearned: int = 0

    @property
    def unlike(self) -> bool:
        """Whether the network computes something else in evaluation than with the norms of before."""
        return bool(self.form or self.unlearned) or not all(_equal(old, new) for old, new in self.pairs.values())

    def __str__(self) -> str:
        before = Counter(type(old).__name__ for old, _ in self.pairs.values())
        parts = [f"{', '.join(f'{count} {name}' for name, count in before.items())} are {self.to} now"]
        groups = Counter(getattr(new, "num_groups", None) for _, new in self.pairs.values())
        if set(groups) != {32} and self.to in ("gn", "evonorm_s0"):
            parts.append(
                f"groups: {', '.join(f'{number} in {count} layers' for number, count in groups.most_common())}"
            )
        if self.activations:
            parts.append(f"{self.activations} of them with the activation behind")
        formed = len(self.kernels)
        if formed:
            biased = f", those of {self.biased} with a bias stay" if self.biased else ""
            parts.append(f"the kernels of {formed} convolutions are {self.form}{biased}")
        if self.to == "mabn" and len(self.pairs) > formed:
            parts.append(f"{len(self.pairs) - formed} norms have no centred kernel before them, which mabn needs")
        if self.left:
            parts.append(f"{self.left} norms over the last dimension stay")
        if fixed := sum(not new.weight.requires_grad for _, new in self.pairs.values()):  # type: ignore[union-attr]
            parts.append(f"gamma and beta of {fixed} are fixed")
        return "; ".join(parts)


def replace_norms(model: nn.Module, to: str, **options: Any) -> tuple[nn.Module, Replaced]:
    """Replaces every batch, group and instance norm of a network, in place, by a norm of the family.

    Gamma and beta are the same parameters as before, so what is tied stays tied, and optimisers keep what they have;
    eps, momentum, device, type, training flags and, where both have them, running statistics stay. Where GN's or
    EvoNorm-S0's number of groups does not divide a layer's channels, it is the largest divisor that leaves groups of 4
    channels at least. LayerNorm and RMSNorm stay: they are over the last dimension. A network of this project says its
    new norm in its settings; it takes EvoNorm-S0 when it is made alone.

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
    done = _made(model, to, options)
    if to == "evonorm_s0":
        done.activations = take_activations(model, done.pairs.values())
    new = {id(old): layer for old, layer in done.pairs.values()}
    for name, child in list(model.named_modules(remove_duplicate=False)):
        if name and id(child) in new:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, new[id(child)])
    for name, learns in done.learns.items():
        done.pairs[name][1].requires_grad_(learns)
    if to != "mabn":
        fold_weights(model, "centered")
    if options.get("weight_standardization") is False:
        fold_weights(model, "standardized")
    if done.form:
        done.kernels = [(copy(conv), conv) for conv in formable(model)]
        form_weights(model, done.form)
        done.biased = sum(isinstance(m, CONVOLUTIONS) and m.bias is not None for m in model.modules())
    for net in _known(model):
        net.settings |= {"norm": to, **{name: value for name, value in options.items() if name in net.settings}}
    return new.get(id(model), model), done


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """The norms of a network that can be replaced, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _REPLACED)}


def _made(model: nn.Module, to: str, options: dict[str, Any]) -> Replaced:
    """What is to be done to a network, which is not yet changed.

    Raises:
        InputError: As `replace_norms`.
    """
    check_words(to, options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{shown(model)} is no torch.nn.Module; what makes one has to be called: resnet50()")
    if "num_groups" in options:
        options.setdefault("channels_per_group", None)
    norms = norms_of(model)
    if not norms:
        raise InputError(f"{type(model).__name__} has no batch, group or instance norm to replace")
    for name, layer in norms.items():
        _check(name, layer)
    owners = {id(layer): net for net in _known(model) for layer in net.modules()}
    where = next((value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()), None)
    done = Replaced(to, left=sum(isinstance(layer, _LEFT) for layer in model.modules()))
    for name, layer in norms.items():
        net = owners.get(id(layer))
        own = _options(to, _channels(layer), options, net)
        done.pairs[name] = layer, _layer(name, layer, to, own, where)
        if own.get("freeze_affine"):
            done.learns[name] = False
        elif net is not None and net.settings.get("freeze_affine") and isinstance(layer, FrozenBatchNorm3d):
            done.learns[name] = True
    done.unlearned = _missing(done)
    done.form = _form(model, to, options.get("weight_standardization"))
    if to == "evonorm_s0" and _known(model):
        raise InputError(f"make the network with norm=evonorm_s0; {type(model).__name__} cannot be converted to it")
    return done


def _form(model: nn.Module, to: str, standardize: bool | None) -> str:
    """What the kernels of a network are to become, or nothing."""
    if not standardize and to != "mabn":
        return ""
    convolutions = formable(model)
    keeps = standardize is None and any(is_formed(conv, "standardized") for conv in convolutions)
    form = "standardized" if standardize or keeps else "centered"
    if not convolutions:
        raise InputError(
            f"{type(model).__name__} has no convolution without a bias, whose kernel could be {form}; those before a "
            "norm need none (bias=False)"
        )
    return form


def _known(model: nn.Module) -> list[Known]:
    return [module for module in model.modules() if isinstance(module, Known)]


def _check(name: str, layer: nn.Module) -> None:
    """Raises InputError for a norm that does more than normalize, or is not whole."""
    plain: Any = next(kind for kind in type(layer).__mro__ if kind.__module__.partition(".")[0] in _KNOWN)
    if type(layer).forward is not plain.forward:
        raise InputError(
            f"the norm {name or 'itself'} is {type(layer).__name__}, with a forward of its own that may do more than "
            "normalize; put a plain norm and what it does besides in its place"
        )
    if isinstance(layer, EvoNormS0) and layer.v is not None:
        raise InputError(f"the norm {name or 'itself'} is an EvoNorm-S0, whose activation would be lost with it")
    if isinstance(layer, LazyModuleMixin):
        raise InputError(f"the norm {name} does not know its channels yet; call the network once before")
    if hooked([layer], layer.parameters()) or is_parametrized(layer):
        raise InputError(f"the norm {name} has hooks or parametrizations, which would be lost; remove them before")


_KNOWN = ("torch", "torchvision", "video_gn")


def _channels(layer: Any) -> int:
    given = getattr(layer, "num_features", None) or getattr(layer, "num_channels", None)
    return given or len(layer.weight)


def _layer(name: str, old: Any, to: str, options: dict[str, Any], where: Any) -> nn.Module:
    """A norm in the place of an old one; `where` is a tensor of the network, for norms without any."""
    try:
        new: Any = make_norm(to, **options)(_channels(old))
    except InputError as error:
        raise InputError(f"layer {name}: {error}") from None
    for part in ("weight", "bias"):
        value = getattr(old, part, None)
        if isinstance(value, nn.Parameter):
            setattr(new, part, value)
        else:  # none, or a buffer of constants: constants it stays
            made = getattr(new, part).requires_grad_(False)
            made.data = made.data if value is None else value.clone()
            new.affine = value is not None
    tensors = (*old.parameters(False), *old.buffers(False))
    like = next((value for value in tensors if value.is_floating_point()), where)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    new.eps = old.eps
    if hasattr(old, "momentum"):  # which GN has no use for, and BN in its place has again
        new.momentum = old.momentum
    kept = {part: getattr(old, part, None) for part in _STATISTICS if hasattr(new, part)}
    for part, value in kept.items():
        if value is not None:
            setattr(new, part, value.clone())  # of whatever type
    if isinstance(new, EvoNormS0):
        new.v.requires_grad_(new.weight.requires_grad)  # type: ignore[union-attr]
    if hasattr(old, "kernels"):
        new.kernels = old.kernels
    return new.train(old.training)


def _options(to: str, channels: int, options: dict[str, Any], net: Known | None) -> dict[str, Any]:
    """A norm's options: those given, else its network's settings; with groups that divide the channels."""
    if net is not None:
        options = {name: net.settings[name] for name in OPTIONS.get(to, ()) if name in net.settings} | options
    if to not in ("gn", "evonorm_s0") or options.get("channels_per_group") is not None:
        return options
    if net is not None and not net.fits_groups:
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
