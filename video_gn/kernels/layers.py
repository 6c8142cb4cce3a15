"""GroupNorm and InstanceNorm on the kernels, and the call of a norm with its residual sum and ReLU.

For any network: `from video_gn.kernels import GroupNorm, InstanceNorm, norm_act` (docs/kernels_in_networks.md).
"""

import torch
from torch import Tensor, nn

from video_gn.kernels import cpu_norm
from video_gn.kernels.dispatch import takes


class Fused:
    """A norm whose call takes a residual sum and a ReLU too: `layer(x, residual=None, relu=False)`."""


def norm_act(layer: nn.Module, x: Tensor, residual: Tensor | None = None, relu: bool = True) -> Tensor:
    """`relu(layer(x) + residual)`, by one kernel where there is one.

    Args:
        layer: Of this family, or any other norm (synchronised BN).
        x: Features `[N, C, H, W]` or `[N, C, T, H, W]`.
        residual: Added after the norm; None for nothing.
        relu: Whether a ReLU comes last.
    """
    if isinstance(layer, Fused):
        # By name: a hook before the layer sees x alone, and what it gives in its place is x alone.
        return layer(x, residual=residual, relu=relu)
    y = layer(x)
    y = y.clone() if y is x else y  # an identity's result is its input, in which nothing may be written
    return finish(y, residual, relu, y.dtype)


def finish(y: Tensor, residual: Tensor | None, relu: bool, dtype: torch.dtype) -> Tensor:
    """What follows a norm: a residual sum, the type of the result, a ReLU; in place where that is the norm's own."""
    if residual is not None:
        y = residual + y
    y = y.to(dtype)  # before the ReLU, which keeps its result
    return y.relu_() if relu else y


class GroupNorm(Fused, nn.GroupNorm):
    """PyTorch's, whose result has the type of its input under autocast too, and which a GPU's kernels can take.

    Features are `[N, C, ...]`; the kernels take `[N, C, H, W]` and `[N, C, T, H, W]`. Arguments, parameters and state
    dict are those of `torch.nn.GroupNorm`; called as `layer(x, residual, relu=True)`, or by `norm_act`, it also adds
    a residual of the shape of `x` and ends with a ReLU.

    Attributes:
        kernels: Which kernels run: a word of `video_gn.kernels.dispatch.SETTINGS`.
    """

    kernels = "auto"

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        x = input  # the name that torch's norms are called by
        # A group of a single number, and another number of channels, are PyTorch's to answer.
        several = x.numel() > x.shape[0] * self.num_groups and x.shape[1] == self.num_channels
        if several and takes(self, x, self.num_channels // self.num_groups):
            from video_gn.kernels import ops

            return ops.norm(x, self.weight, self.bias, residual, len(x), self.num_groups, self.eps, relu)
        if several and self.affine and cpu_norm.takes(self, x, residual):
            return cpu_norm.norm(x, self.weight, self.bias, residual, self.num_groups, self.eps, relu)
        return finish(super().forward(x), residual, relu, x.dtype)


class InstanceNorm(GroupNorm):
    """Normalizes each channel of each sample by itself: GroupNorm of one channel a group.

    Without running statistics, as `torch.nn.InstanceNorm2d` and `InstanceNorm3d` are by default, and with the state
    dict of theirs with `affine=True`.

    Args:
        num_features: C of `[N, C, ...]`.
        eps: Added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, num_features, eps)
