"""Moving average batch normalization (Yan et al. 2020, *Towards Stabilizing Batch Statistics in Backward Propagation
of Batch Normalization*)."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from video_gn.kernels.layers import Fused, finish
from video_gn.models.norm_layers import EPS, BatchNorm3d, by_given, channelwise, wide, without_autocast

N = TypeVar("N", bound=nn.Module)
MOMENTUM = 0.02  # of the running moment (0.98 of it stays)
WARM_UP = 100  # batches that are normalized by their own moment
LARGEST = 5.0  # correction towards the running moment, and its inverse


class MovingAverageBatchNorm(Fused, nn.Module):
    """BatchNorm by averages over batches, of the input and of its gradient; it needs `centered` kernels before it.

    Those make the mean nearly 0, so that it divides by the root of the second moment `E[x^2]` alone. With m(k) the
    average over the last k batches of a channel's second moment, and M the running one (of before this batch):

        y  = gamma * r * z + beta,   z = x / sqrt(m(k) + eps),   r = sqrt((m(k) + eps) / (M + eps)) in [1/5, 5]
        dx = (g - z * p(k)) / sqrt(m(k) + eps),   g = gamma * r * dy,   p(k) the average of E[g * z] likewise

    so that it normalizes by M, as inference does, and both passes see statistics of k times as many clips. In the first
    100 batches r is 1, and m and p are the batch's own; constants are those of the authors' code (megvii-model/MABN).
    On several processes each has statistics of its own batch and, as DDP sends buffers at every step, the history of
    the first. In evaluation it is a scale and a shift.

    Args:
        channels: C of `[N, C, ...]`.
        average_batches: k; 16 batches of 2 are the paper's.

    Attributes:
        kernels: As GroupNorm's, in evaluation.
        eps: Added to the moments.
    """

    kernels = "auto"
    eps = EPS
    moment: Tensor
    moments: Tensor
    projections: Tensor
    num_batches_tracked: Tensor
    zero: Tensor

    def __init__(self, channels: int, average_batches: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.average_batches = average_batches
        self.register_buffer("moment", torch.ones(channels))
        self.register_buffer("moments", torch.zeros(average_batches, channels))
        self.register_buffer("projections", torch.zeros(average_batches, channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.register_buffer("zero", torch.zeros(channels), persistent=False)

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        x = input  # the name that torch's norms are called by
        if not self.training:
            return by_given(self, self.zero, self.moment, x, residual, relu)
        if not x.numel():
            return finish(x * self.weight.sum() + self.bias.sum(), residual, relu, x.dtype)
        with without_autocast(x):
            y = _MovingAverage.apply(x, self.weight, self.bias, self)
        return finish(y, residual, relu, x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, average_batches={self.average_batches}"


def as_batch_norms(net: N) -> N:
    """Has BatchNorm, with its mean at 0, take the place of the layers below a network in evaluation; gives `net`."""
    for parent in net.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, MovingAverageBatchNorm):
                setattr(parent, name, _batch_norm(layer))
    return net


def _batch_norm(layer: MovingAverageBatchNorm) -> BatchNorm3d:
    made = BatchNorm3d(len(layer.weight)).to(layer.weight).train(layer.training)
    made.eps, made.kernels = layer.eps, layer.kernels
    state = {"weight": layer.weight, "bias": layer.bias, "running_mean": layer.zero, "running_var": layer.moment}
    made.load_state_dict(state | {"num_batches_tracked": layer.num_batches_tracked})
    return made


def _remember(history: Tensor, value: Tensor, count: Tensor) -> Tensor:
    """Puts the value of the count-th batch, from 1 on, into a history; gives what to normalize by.

    That is the history's mean, and while it is not full, or in the first batches, the value itself.
    """
    history.index_copy_(0, (count % len(history)).view(1), value[None].to(history.dtype))
    own = count <= max(len(history), WARM_UP)
    return torch.where(own, value, history.mean(0).to(value.dtype))


class _MovingAverage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: MovingAverageBatchNorm) -> Tensor:  # type: ignore[override]
        layer.num_batches_tracked.add_(1)
        count = layer.num_batches_tracked.clone()
        kept, x, weight, bias = x, wide(x), wide(weight), wide(bias)
        shape, rest = channelwise(x)
        moment = _remember(layer.moments, x.square().mean(rest), count)
        ratio = ((moment + layer.eps) / (layer.moment + layer.eps)).sqrt().clamp(1 / LARGEST, LARGEST)
        ratio = torch.where(count <= WARM_UP, torch.ones_like(ratio), ratio)
        inverse = (moment + layer.eps).rsqrt()
        # The first batch's takes the place of the running one's 1, as in the authors' code for ImageNet.
        start = torch.where(count == 1, moment, layer.moment.to(moment.dtype))
        layer.moment.copy_(start.lerp(moment, MOMENTUM))
        ctx.save_for_backward(kept, weight, inverse, ratio, count)
        ctx.layer = layer
        return torch.addcmul(bias.view(shape), x, (weight * ratio * inverse).view(shape))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        kept, weight, inverse, ratio, count = ctx.saved_tensors
        x, dy = wide(kept), wide(dy)
        shape, rest = channelwise(x)
        dbias, dweight = dy.sum(rest), (dy * x).sum(rest) * inverse * ratio
        projection = _remember(ctx.layer.projections, weight * dweight / (x.numel() // x.shape[1]), count)
        dx = dy * (weight * ratio * inverse).view(shape) - x * (projection * inverse**2).view(shape)
        return dx.to(kept.dtype), dweight, dbias, None
