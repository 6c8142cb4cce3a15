"""The normalization family, swappable by one word (Wu & He 2018, section 3).

Every layer computes `gamma * (x - mu) / sqrt(var + 1e-5) + beta` with one gamma and one beta a channel. For features
`[N, C, T, H, W]` they differ only in the set over which mu and var are taken:

| word        | mean and variance over                                                             |
|-------------|------------------------------------------------------------------------------------|
| `bn`        | (N, T, H, W) of each channel, over the clips of one GPU                            |
| `ln`        | (C, T, H, W) of each clip: GN with one group                                       |
| `in`        | (T, H, W) of each clip and channel: GN with as many groups as channels             |
| `gn`        | (C / G, T, H, W) of each clip and group of consecutive channels                    |
| `frozen_bn` | none: the running statistics that the layer was loaded with (BN* in the papers)    |

BN over all GPUs is `bn` with Lightning's `trainer.sync_batchnorm: true`.
To add a norm, add a function of the channel count to `NORMS`.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from video_gn.errors import InputError

Norm = Callable[[int], nn.Module]
EPS = 1e-5


class FrozenBatchNorm3d(nn.Module):
    """BatchNorm that always uses its running statistics, and never changes them.

    Its state dict has BatchNorm's names. It is no `_BatchNorm`, so that converting a model to synchronised BN leaves
    it alone.

    Args:
        channels: C of `[N, C, T, H, W]`.
        freeze_affine: Whether gamma and beta are fixed too.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, freeze_affine: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels), requires_grad=not freeze_affine)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=not freeze_affine)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=EPS
        )

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, freeze_affine={not self.weight.requires_grad}"


def group_norm(channels: int, num_groups: int = 32, channels_per_group: int | None = None) -> nn.GroupNorm:
    """GroupNorm by number of groups or, if given, by channels per group (Wu & He 2018, Table 3).

    Raises:
        InputError: The channels do not divide evenly.
    """
    if channels_per_group is not None:
        if channels_per_group < 1 or channels % channels_per_group:
            raise InputError(
                f"{channels} channels cannot be split into groups of channels_per_group={channels_per_group}; "
                "take a divisor of every layer's channels"
            )
        num_groups = channels // channels_per_group
    if num_groups < 1 or channels % num_groups:
        raise InputError(
            f"{channels} channels cannot be split into num_groups={num_groups} equal groups; "
            "take a divisor of every layer's channels"
        )
    return nn.GroupNorm(num_groups, channels, eps=EPS)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "bn": partial(nn.BatchNorm3d, eps=EPS, momentum=0.1),
    "gn": group_norm,
    "ln": partial(group_norm, num_groups=1),
    "in": partial(group_norm, channels_per_group=1),
    "frozen_bn": FrozenBatchNorm3d,
}


def make_norm(
    name: str, num_groups: int = 32, channels_per_group: int | None = None, freeze_affine: bool = False
) -> Norm:
    """The function `channels -> layer` of a norm.

    Args:
        name: A word of `NORMS`.
        num_groups: G of `gn`; the other norms have none.
        channels_per_group: C / G of `gn`, in place of `num_groups`.
        freeze_affine: Whether `frozen_bn` fixes gamma and beta too.

    Raises:
        InputError: There is no norm of that name.
    """
    if name not in NORMS:
        raise InputError(f"there is no norm {name!r}; the norms are: {', '.join(NORMS)}")
    if name == "gn":
        return partial(group_norm, num_groups=num_groups, channels_per_group=channels_per_group)
    if name == "frozen_bn":
        return partial(FrozenBatchNorm3d, freeze_affine=freeze_affine)
    return NORMS[name]


def norm_label(name: str, num_groups: int = 32, channels_per_group: int | None = None) -> str:
    """The norm as it stands in the name of a run: the word, and GN's division where it is not 32 groups."""
    if name != "gn" or (num_groups == 32 and channels_per_group is None):
        return name
    return f"gn{num_groups}" if channels_per_group is None else f"gn{channels_per_group}c"


def norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Gamma and beta of every layer of the family (synchronised BN included), once each."""
    family = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, FrozenBatchNorm3d)
    for layer in module.modules():
        if isinstance(layer, family):
            yield from layer.parameters(recurse=False)
