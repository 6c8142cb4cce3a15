"""The normalization family, swappable by one word (Wu & He 2018, section 3).

Every layer computes `gamma * (x - mu) / sqrt(var + 1e-5) + beta` with one gamma and one beta a channel. For features
`[N, C, T, H, W]` they differ only in the set over which mu and var are taken:

| word        | mean and variance over                                                             |
|-------------|------------------------------------------------------------------------------------|
| `bn`        | (N, T, H, W) of each channel, over the clips of one GPU                            |
| `ln`        | (C, T, H, W) of each clip: GN with one group                                       |
| `in`        | (T, H, W) of each clip and channel: GN with as many groups as channels             |
| `gn`        | (C / G, T, H, W) of each clip and group of consecutive channels                    |
| `brn`       | as `bn`, then pulled towards the running statistics (Batch Renormalization)        |
| `frozen_bn` | none: the running statistics that the layer was loaded with (BN* in the papers)    |
| `mabn`      | no mean (kernels are centred); averages over batches, of the gradient's too        |
| `evonorm_s0` | as `gn`, the variance alone, in one with an activation of its own                 |

Each is followed by a residual sum and a ReLU where the network has them (`norm_act`): one kernel on a GPU
(`video_gn.kernels`), PyTorch's operators elsewhere.

BN over all GPUs is `bn` with Lightning's `trainer.sync_batchnorm: true`; BN over fewer clips than a GPU holds is `bn`
with `ghost_batch`. To add a norm, add a function of the channel count to `NORMS`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from video_gn.compat import BatchNorm, NormBase
from video_gn.errors import InputError
from video_gn.kernels.layers import Fused, GroupNorm
from video_gn.models.evonorm import EvoNormS0
from video_gn.models.mabn import MovingAverageBatchNorm
from video_gn.models.norm_layers import EPS, BatchNorm3d, BatchRenorm3d, FrozenBatchNorm3d
from video_gn.rules import FLAG, Rule, check, number, one_of, or_none, whole

Norm = Callable[[int], nn.Module]
STANDARDIZED = "_ws"  # behind the word of a norm, where kernels are standardised


def group_norm(channels: int, num_groups: int = 32, channels_per_group: int | None = None) -> GroupNorm:
    """GroupNorm by number of groups or, if given, by channels per group (Wu & He 2018, Table 3).

    Raises:
        InputError: The channels do not divide evenly.
    """
    return GroupNorm(_groups(channels, num_groups, channels_per_group), channels, eps=EPS)


def evonorm(channels: int, num_groups: int = 32, channels_per_group: int | None = None) -> EvoNormS0:
    """EvoNorm-S0 by number of groups or, if given, by channels per group; otherwise as `group_norm`."""
    return EvoNormS0(_groups(channels, num_groups, channels_per_group), channels)


def _groups(channels: int, num_groups: int, channels_per_group: int | None) -> int:
    if channels_per_group is not None:
        if channels_per_group < 1 or channels % channels_per_group:
            raise InputError(
                f"{channels} channels cannot be split into groups of channels_per_group={channels_per_group}; "
                "take a divisor of every layer's channels"
            )
        return channels // channels_per_group
    if num_groups < 1 or channels % num_groups:
        raise InputError(
            f"{channels} channels cannot be split into num_groups={num_groups} equal groups; "
            "take a divisor of every layer's channels"
        )
    return num_groups


NORMS: dict[str, Callable[..., nn.Module]] = {
    "bn": BatchNorm3d,
    "gn": group_norm,
    "ln": partial(group_norm, num_groups=1),
    "in": partial(group_norm, channels_per_group=1),
    "brn": BatchRenorm3d,
    "frozen_bn": FrozenBatchNorm3d,
    "mabn": MovingAverageBatchNorm,
    "evonorm_s0": evonorm,
}
# The settings that a norm takes; it has none of the others.
OPTIONS = {
    "bn": ("ghost_batch",),
    "gn": ("num_groups", "channels_per_group"),
    "brn": ("ghost_batch", "r_max", "d_max"),
    "frozen_bn": ("freeze_affine",),
    "mabn": ("average_batches",),
    "evonorm_s0": ("num_groups", "channels_per_group"),
}
RULES: dict[str, Rule] = {
    "norm": one_of(NORMS),
    "num_groups": whole(1, 2**16),
    "channels_per_group": or_none(whole(1, 2**16)),
    "ghost_batch": or_none(whole(1, 2**20)),
    "r_max": number(1, 1e6),
    "d_max": number(0, 1e6),
    "freeze_affine": FLAG,
    "average_batches": whole(1, 1024),
    "weight_standardization": FLAG,
}


def check_words(to: str, options: Mapping[str, Any]) -> None:
    """Raises InputError for a norm that there is not, or a setting that no norm has or can have."""
    if to not in NORMS:
        raise InputError(f"there is no norm {to!r}; the norms are: {', '.join(NORMS)}")
    known = sorted(RULES.keys() - {"norm"})
    if unknown := options.keys() - set(known):
        raise InputError(f"a norm has no setting {min(unknown)}; settings are: {', '.join(known)}")
    check(options, RULES, "norm")


def norm_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a network's settings that are of norms, as `make_norm` takes them."""
    return {name: settings[name] for name in RULES if name != "norm" and name in settings}


def make_norm(name: str, **options: Any) -> Norm:
    """The function `channels -> layer` of a norm, for features of 1, 2 or 3 dimensions.

    It is also what torchvision, timm and pytorchvideo take for `norm_layer` or `norm`, with the keywords that they
    call it by: `num_features`, `eps`, `momentum`, `device`, `dtype`. Networks of timm whose norm has the activation in
    it (EfficientNet, ResNetV2) refuse it.

    Args:
        name: A word of `NORMS`.
        options: Settings of any norm, of which this one takes its own (`OPTIONS`): GN's `num_groups` or, in its place,
            `channels_per_group`; BN's `ghost_batch`; Batch Renormalization's `r_max` and `d_max`; frozen BN's
            `freeze_affine`; `average_batches` of mabn. EvoNorm-S0 is an activation too: it has to have no ReLU behind
            it.

    Raises:
        InputError: There is no norm of that name, or no norm has such a setting.
    """
    check_words(name, options)
    own = {key: options[key] for key in OPTIONS.get(name, ()) if key in options}
    return partial(NormOfVideoGn, make=partial(NORMS[name], **own))


class NormOfVideoGn:
    """What `make_norm` gives is a partial call of it, which makes the layer.

    It is a class, and not a function: of any function timm believes that it makes norm and activation together.
    """

    def __new__(  # type: ignore[misc]
        cls,
        channels: int | None = None,
        *,
        make: Callable[[int], Any],
        num_features: int | None = None,
        eps: float = EPS,
        momentum: float | None = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> nn.Module:
        channels = num_features if channels is None else channels
        if channels is None:
            raise InputError("a norm is made from a number of channels, and there is none")
        layer = make(channels)
        layer.eps = eps
        if isinstance(layer, BatchNorm):
            layer.momentum = momentum
        return layer.to(device=device, dtype=dtype)


def norm_label(
    name: str, num_groups: int = 32, channels_per_group: int | None = None, weight_standardization: bool = False
) -> str:
    """The norm as it appears in the name of a run: the word, its division where it is not 32 groups, and `_ws`."""
    standardized = STANDARDIZED if weight_standardization else ""
    if name not in ("gn", "evonorm_s0") or (num_groups == 32 and channels_per_group is None):
        return f"{name}{standardized}"
    division = f"{num_groups}" if channels_per_group is None else f"{channels_per_group}c"
    return f"{name}{'' if name == 'gn' else '_'}{division}{standardized}"


def norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Gamma and beta of every layer of the family, and of torch's other norms, once each."""
    family = (NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, Fused)
    for layer in module.modules():
        if isinstance(layer, family):
            yield from layer.parameters(recurse=False)


def batch_norms(module: nn.Module) -> dict[str, BatchNorm]:
    """Name and layer of every norm that takes its statistics from the batch: BN, synchronised BN, Batch Renorm.

    Those whose gamma is frozen are not among them: they are part of a frozen stage, which keeps its statistics.
    """
    layers = {name: m for name, m in module.named_modules() if isinstance(m, BatchNorm)}
    kept = {name: layer for name, layer in layers.items() if layer.running_mean is not None}
    return {name: m for name, m in kept.items() if m.weight is None or not m.affine or m.weight.requires_grad}


@contextmanager
def own_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, batch norms normalize by the batch's own statistics, as in training, and keep none of them."""
    layers = batch_norms(module).values()
    kept = [(layer, layer.training, [buffer.clone() for buffer in layer.buffers()]) for layer in layers]
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        for layer, training, buffers in kept:
            layer.train(training)
            for buffer, value in zip(layer.buffers(), buffers, strict=True):
                buffer.copy_(value)
