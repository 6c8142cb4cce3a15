"""EvoNorm-S0 (Liu et al. 2020, *Evolving Normalization-Activation Layers*): a norm and its activation in one."""

from typing import Any

import torch
from torch import Tensor, nn

from video_gn.compat import transforming
from video_gn.kernels.layers import Fused, finish
from video_gn.models.norm_layers import EPS, channelwise, wide, without_autocast


class EvoNormS0(Fused, nn.Module):
    """`gamma * x * sigmoid(v * x) / sqrt(var + eps) + beta`, which takes the place of a norm and the ReLU behind it.

    The variance is GN's, of each clip and group of consecutive channels. Where no activation follows (the last norm of
    a residual branch, that of a shortcut) it is gamma and beta alone, without v, as in its authors' ResNets
    (tensorflow/tpu, `models/official/resnet/resnet_model.py`).

    Args:
        num_groups: G, which has to divide `channels`.
        channels: C of `[N, C, ...]`.

    Attributes:
        eps: Added to the variance.
        v: `[C]`, or None where no activation follows.
    """

    eps = EPS
    v: Tensor | None

    def __init__(self, num_groups: int, channels: int) -> None:
        super().__init__()
        self.num_groups, self.num_channels = num_groups, channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        x = input  # the name that torch's norms are called by
        shape, _ = channelwise(x)
        if self.v is None:
            y = torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))
            return finish(y, residual, relu, x.dtype)
        if not x.numel():
            return finish(x * self.weight.sum() + self.bias.sum() + self.v.sum(), residual, False, x.dtype)
        with without_autocast(x):
            args = (x, self.weight, self.bias, self.v, self.num_groups, self.eps)
            keeps = torch.is_grad_enabled() and not torch.compiler.is_compiling() and not transforming()
            y = _EvoNorm.apply(*args) if keeps else _evonorm(*args)[0]
        return finish(y, residual, False, x.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}{', affine alone' if self.v is None else ''}"


def without_activation(layer: nn.Module) -> nn.Module:
    """A norm where no activation follows: an EvoNorm-S0 keeps gamma and beta alone."""
    if isinstance(layer, EvoNormS0):
        layer.v = None
    return layer


def _evonorm(
    x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result in float32 at least; mean and `1 / sqrt(var + eps)` of each group."""
    x, weight, bias, v = map(wide, (x, weight, bias, v))
    (shape, _), grouped = channelwise(x), x.unflatten(1, (groups, -1))
    var, mean = torch.var_mean(grouped, list(range(2, grouped.ndim)), correction=0, keepdim=True)
    inverse = (var + eps).rsqrt()
    swish = x * torch.sigmoid(x * v.view(shape))
    y = (swish.unflatten(1, (groups, -1)) * inverse).flatten(1, 2)
    return torch.addcmul(bias.view(shape), y, weight.view(shape)), mean, inverse


class _EvoNorm(torch.autograd.Function):
    """Keeps its input for backward, where autograd would keep five tensors of that size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, v: Tensor, groups: int, eps: float) -> Tensor:  # type: ignore[override]
        y, mean, inverse = _evonorm(x, weight, bias, v, groups, eps)
        ctx.save_for_backward(x, weight, v, mean, inverse)
        ctx.groups = groups
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        kept, gamma, gate_by, mean, inverse = ctx.saved_tensors
        x, weight, v, dy = map(wide, (kept, gamma, gate_by, dy))
        shape, rest = channelwise(x)

        def grouped(full: Tensor) -> Tensor:
            return full.unflatten(1, (ctx.groups, -1))

        gate = torch.sigmoid(x * v.view(shape))
        slope = x * gate * (1 - gate)  # of the gate by v
        dscaled = (grouped(dy) * inverse).flatten(1, 2)
        dweight = (dscaled * x * gate).sum(rest)
        g = dscaled * weight.view(shape)  # of x * gate
        within = list(range(2, x.ndim + 1))
        count = grouped(x)[0, 0].numel()
        pull = (grouped(g * x * gate)).sum(within, keepdim=True) * inverse**2 / count
        dx = torch.addcmul(g * gate, g * slope, v.view(shape)) - ((grouped(x) - mean) * pull).flatten(1, 2)
        return dx.to(kept.dtype), dweight, dy.sum(rest), (g * x * slope).sum(rest), None, None
