"""The layers of the normalization family whose statistics are those of several clips, and frozen ones."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.kernels.dispatch import takes
from video_gn.kernels.layers import Fused, finish

EPS = 1e-5


def wide(x: Tensor) -> Tensor:
    """A tensor in float32 at least, in which squares of features are finite."""
    return x if x.dtype == torch.float64 else x.float()


def channelwise(x: Tensor) -> tuple[tuple[int, ...], list[int]]:
    """The shape that `[C]` has beside features `[N, C, ...]`, and the dimensions of these but C."""
    return (-1, *(1,) * (x.ndim - 2)), [0, *range(2, x.ndim)]


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within it, types are as they are written, where `x` is."""
    kind = x.device.type
    casts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if casts else nullcontext()


def _batch_norm(x: Tensor, *args: Any) -> Tensor:
    """PyTorch's, of which the GPU kernels for 5-D channels_last_3d are slow: those for `[N, C]` see the same memory."""
    if not x.is_cuda or x.ndim != 5 or not x.is_contiguous(memory_format=torch.channels_last_3d):
        return nn.functional.batch_norm(x, *args)
    rows = x.permute(0, 2, 3, 4, 1)
    y = nn.functional.batch_norm(rows.reshape(-1, x.shape[1]), *args)
    return y.view(rows.shape).permute(0, 4, 1, 2, 3)


def by_given(
    layer: Any, mean: Tensor | None, var: Tensor | None, x: Tensor, residual: Tensor | None, relu: bool
) -> Tensor:
    """Normalizes by given statistics `[C]`, the running ones.

    Args:
        layer: With weight, bias, eps and kernels.
        mean: Subtracted.
        var: By whose root, with eps added to it, is divided.
        x: As in `norm_act`, also what follows.
        residual: Likewise.
        relu: Likewise.
    """
    assert mean is not None and var is not None
    if not torch.compiler.is_compiling() and takes(layer, x):
        from video_gn.kernels import ops

        statistics = torch.stack([mean, (var + layer.eps).rsqrt()])[:, None]
        return ops.norm(x, layer.weight, layer.bias, residual, 1, len(mean), layer.eps, relu, statistics)
    y = _batch_norm(x, mean, var, layer.weight, layer.bias, False, 0.0, layer.eps)
    return finish(y, residual, relu, x.dtype)


class BatchNorm3d(Fused, nn.BatchNorm3d):
    """BatchNorm; with a ghost batch, its statistics in training are those of consecutive groups of clips.

    A batch of 32 clips with `ghost_batch=4` gives the outputs and gradients of 8 processes with 4 clips each. So do its
    running statistics: they follow the first group alone, as DDP keeps (and evaluates with) those of its first
    process. Under gradient accumulation each of the batches moves them.

    Args:
        channels: C of `[N, C, T, H, W]`.
        ghost_batch: Clips that share statistics; None for all N. The last group is smaller where it does not divide N.

    Attributes:
        kernels: As GroupNorm's. While compiling, the compiler's: it fuses BatchNorm.
    """

    momentum: float | None
    kernels = "auto"

    def __init__(self, channels: int, ghost_batch: int | None = None) -> None:
        if ghost_batch is not None and ghost_batch < 1:
            raise InputError(f"ghost_batch is {ghost_batch}; it has to be at least 1 clip")
        super().__init__(channels, eps=EPS, momentum=0.1)
        self.ghost_batch = ghost_batch

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        x = input  # the name that torch's norms are called by
        if not self.training:
            return by_given(self, self.running_mean, self.running_var, x, residual, relu)
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr, operator]
        size = self.ghost_batch or len(x)
        sets = self._sets_at_once(x, size)
        if sets:
            return self._normalize(x, True, residual, relu, sets)
        rest = residual.split(size) if residual is not None else [None] * len(x)
        return torch.cat([self._normalize(part, i == 0, rest[i], relu) for i, part in enumerate(x.split(size))])

    def _sets_at_once(self, x: Tensor, size: int) -> int:
        """Into how many groups of `size` clips one call divides the batch; 0 if it takes several calls."""
        if len(x) <= size:
            return 1
        return len(x) // size if len(x) % size == 0 and self._takes(x, size) else 0

    def _takes(self, x: Tensor, size: int) -> bool:
        """Whether the kernels take groups of `size` clips."""
        several = size * x.numel() > x.shape[0] * self.num_features
        return several and not torch.compiler.is_compiling() and takes(self, x)

    def _normalize(self, x: Tensor, keep: bool, residual: Tensor | None, relu: bool, sets: int = 1) -> Tensor:
        """Normalizes clips by their own statistics, and keeps these in the running ones or not."""
        return self._by_own_statistics(x, keep, residual, relu, sets, self.weight, self.bias)

    def _by_own_statistics(
        self, x: Tensor, keep: bool, residual: Tensor | None, relu: bool, sets: int, weight: Tensor, bias: Tensor
    ) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        running = (self.running_mean, self.running_var) if keep else None
        # None is the mean over all batches, as PyTorch has it: averages of weights are given their statistics so.
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum  # type: ignore[arg-type]
        if self._takes(x, len(x) // sets):
            from video_gn.kernels import ops

            args = (sets, self.num_features, self.eps, relu, None, running, momentum)
            return ops.norm(x, weight, bias, residual, *args)
        y = _batch_norm(x, *(running or (None, None)), weight, bias, True, momentum, self.eps)
        return finish(y, residual, relu, x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch={self.ghost_batch}"


class BatchRenorm3d(BatchNorm3d):
    """Batch Renormalization (Ioffe 2017): training normalizes nearly as inference will.

    In training `y = gamma * ((x - mu) / sigma * r + d) + beta` with `r = sigma / sigma_running`, cut to
    `[1 / r_max, r_max]`, and `d = (mu - mu_running) / sigma_running`, cut to `[-d_max, d_max]`; no gradient passes
    through r and d. Ioffe widens both bounds during training; Wu & He 2018 (section 4.1) state the two constants alone.
    The running variance is averaged, as in BatchNorm, where Ioffe averages the deviation.

    Args:
        channels: C of `[N, C, T, H, W]`.
        ghost_batch: As for BatchNorm.
        r_max: Largest correction of the scale; 1 for none.
        d_max: Largest correction of the mean, in standard deviations; 0 for none.
    """

    def __init__(self, channels: int, ghost_batch: int | None = None, r_max: float = 1.5, d_max: float = 0.5) -> None:
        if not r_max >= 1 or not d_max >= 0:
            raise InputError(f"r_max is {r_max} and d_max {d_max}; r_max has to be at least 1, and d_max at least 0")
        super().__init__(channels, ghost_batch)
        self.r_max, self.d_max = r_max, d_max

    def _sets_at_once(self, x: Tensor, size: int) -> int:
        return int(len(x) <= size)  # each group has an r and a d of its own

    def _normalize(self, x: Tensor, keep: bool, residual: Tensor | None, relu: bool, sets: int = 1) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        if not x.numel():
            return super()._normalize(x, keep, residual, relu, sets)
        with torch.no_grad():
            var, mean = torch.var_mean(wide(x), [0, *range(2, x.ndim)], correction=0)
            running = (self.running_var + self.eps).sqrt()
            r = ((var + self.eps).sqrt() / running).clamp(1 / self.r_max, self.r_max)
            d = ((mean - self.running_mean) / running).clamp(-self.d_max, self.d_max)
        weight, bias = (value.to(self.weight.dtype) for value in (self.weight * r, self.weight * d + self.bias))
        return self._by_own_statistics(x, keep, residual, relu, sets, weight, bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}"


class FrozenBatchNorm3d(Fused, nn.Module):
    """BatchNorm that always uses its running statistics, and never changes them.

    Its state dict has BatchNorm's names. It is no `_BatchNorm`, so that converting a model to synchronised BN leaves
    it alone.

    Args:
        channels: C of `[N, C, T, H, W]`.
        freeze_affine: Whether gamma and beta are fixed too.

    Attributes:
        kernels: As GroupNorm's.
        eps: Added to the variance.
    """

    kernels = "auto"
    eps = EPS
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

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        x = input  # the name that torch's norms are called by
        return by_given(self, self.running_mean, self.running_var, x, residual, relu)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Files of before PyTorch 0.4.1 do not have it, nor those of other projects' frozen batch norms.
        state_dict.setdefault(f"{prefix}num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, freeze_affine={not self.weight.requires_grad}"
