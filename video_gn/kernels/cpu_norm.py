"""GroupNorm on a CPU for features in channels_last_3d, exact and fast, of PyTorch's own operators.

Convolutions of few channels are fastest in that order, and PyTorch's GroupNorm has two faults there (2.15): it sums
squares without a shift, so that with a mean of 100 deviations 3 digits of 7 are left, and it takes the channels of a
group one after the other, which its backward is slow by where they fill no vector. So x is given to it less its mean,
where that is large; and groups of few channels go by rows `[N, T H W, C]`, the same memory, whose sums over positions
and products with `[N, 1, C]` are fast operators.
"""

from typing import Any

import torch
from torch import Tensor

from video_gn.compat import is_fake, transforming
from video_gn.kernels.dispatch import check_once

_VECTOR = 8  # channels of a group from which on PyTorch's kernel is fast: float32s in 256 bits
_SMALL = 2**16  # features up to which it is faster than several operators, whatever its groups
_POSITIONS = 2048  # T H W from which on its forward goes along all channels at once
_LARGE = 2.0  # deviations of a mean, up to which sums of squares lose next to nothing


def takes(layer: Any, x: Tensor, residual: Tensor | None = None) -> bool:
    """Whether a layer's features are for it: in this order alone it is any use, and `kernels: torch` is PyTorch's."""
    return (
        not torch.compiler.is_compiling()
        and not transforming()
        and (residual is None or (residual.shape == x.shape and residual.stride() == x.stride()))
        and x.device.type == "cpu"
        and layer.kernels == "auto"
        and x.ndim == 5
        and x.dtype == torch.float32
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and not x.is_contiguous()
        and not torch.jit.is_tracing()
        and not is_fake(x)
    )


def norm(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, groups: int, eps: float, relu: bool
) -> Tensor:
    """`relu(group_norm(x) + residual)`, for what it takes."""
    return _Norm.apply(x, weight, bias, residual, groups, eps, relu)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, groups: int, eps: float, relu: bool
    ) -> Tensor:
        n, c, t, h, w = x.shape
        s = t * h * w
        ctx.whole = c >= _VECTOR * groups or x.numel() <= _SMALL
        if ctx.whole or s >= _POSITIONS:
            y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, s, groups, eps)
            large = ~((mean * rstd).abs() < _LARGE)  # or NaN
            if large.any():  # for these clips and groups alone: each clip has the same bits whatever the others are
                x = x - _of_channels(mean * large, c).view(n, c, 1, 1, 1)
                y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, s, groups, eps)
            if not ctx.whole:
                mean, rstd = _of_channels(mean, c), _of_channels(rstd, c)
        else:
            rows = _rows(x)
            mean = _averaged(rows.sum(1), groups).div_(s)
            squares = torch.ops.aten.mse_loss(rows, mean.unsqueeze(1), 0)  # of each difference, in one pass
            rstd = _averaged(squares.sum(1), groups).div_(s).add_(eps).rsqrt_()
            scale = rstd * weight
            offset = torch.addcmul(bias, mean, scale, value=-1)
            y = _features(torch.addcmul(offset.unsqueeze(1), rows, scale.unsqueeze(1), out=squares), x)
        if residual is not None:
            y.add_(residual)
        if relu:
            y.relu_()
        ctx.save_for_backward(x, weight, mean, rstd, y if relu else None)
        ctx.groups, ctx.residual = groups, residual is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        check_once()
        x, weight, mean, rstd, y = ctx.saved_tensors
        if dy.stride() != x.stride():
            dy = torch.empty_like(x).copy_(dy)
        dy = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
        n, c, t, h, w = x.shape
        s = t * h * w
        if ctx.whole:
            sizes = (n, c, s, ctx.groups, [True, True, True])
            found = torch.ops.aten.native_group_norm_backward(dy, x, mean, rstd, weight, *sizes)
        else:
            found = _by_rows(dy, x, mean, rstd, weight, ctx.groups)
        return *found, dy if ctx.residual else None, None, None, None


def _by_rows(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gamma and beta: `dx = rstd (g dy - average(g dy) - x^ average(g dy x^))` by x, 1 and dy.

    Args:
        dy: As `x`.
        x: `[N, C, T, H, W]` in channels_last_3d.
        mean: `[N, C]`.
        rstd: Likewise, 1 / deviation.
        weight: Gamma.
        groups: Of the channels.
    """
    rows, d_rows = _rows(x), _rows(dy)
    product = d_rows * rows
    d_bias = d_rows.sum(1)
    d_weight = product.sum(1).addcmul_(mean, d_bias, value=-1).mul_(rstd)
    less = rstd / -rows.shape[1]
    by_x = _averaged(d_weight * weight, groups).mul_(less).mul_(rstd)
    by_1 = _averaged(d_bias * weight, groups).mul_(less).addcmul_(by_x, mean, value=-1)
    dx = torch.addcmul(by_1.unsqueeze(1), rows, by_x.unsqueeze(1), out=product)
    dx.addcmul_(d_rows, (rstd * weight).unsqueeze(1))
    return _features(dx, x), d_weight.sum(0), d_bias.sum(0)


def _averaged(sums: Tensor, groups: int) -> Tensor:
    """Values `[N, C]` as means over each group's channels, at each of these."""
    return _of_channels(sums.unflatten(1, (groups, -1)).mean(2), sums.shape[1])


def _rows(x: Tensor) -> Tensor:
    """Features as `[N, T H W, C]`, the same memory."""
    n, c, t, h, w = x.shape
    return x.as_strided((n, t * h * w, c), (t * h * w * c, c, 1))


def _features(rows: Tensor, like: Tensor) -> Tensor:
    return rows.as_strided(like.shape, like.stride())


def _of_channels(values: Tensor, channels: int) -> Tensor:
    """Values of groups `[N, G]` at each of their channels, `[N, C]`."""
    n, groups = values.shape
    return values.unsqueeze(2).expand(n, groups, channels // groups).reshape(n, channels)
