"""Parts of the network: pytorchvideo's blocks with each norm, residual sum and ReLU as one call."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pytorchvideo.layers.nonlocal_net import NonLocal as NonLocalBlock
from pytorchvideo.models.resnet import BottleneckBlock, ResBlock, ResStage
from pytorchvideo.models.stem import ResNetBasicStem
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from video_gn.errors import InputError
from video_gn.kernels.dispatch import SETTINGS, takes
from video_gn.kernels.layers import finish, norm_act

Triple = tuple[int, int, int]


class Conv3d(nn.Conv3d):
    """PyTorch's, less an error of its CPU kernels in bfloat16.

    Where padding reaches every position of the output, oneDNN's weight gradient in bfloat16 reads and writes memory
    that is not its own (PyTorch 2.15 on a CPU with AVX512-BF16: a 3x1x1 kernel on 2 frames, a 1x3x3 kernel of stride 2
    on 1 x 1 pixels): the gradient is NaN or any number, or the process dies. Such layers compute in float32.

    And less its choice of a kernel on a single thread of a CPU, where 1x1x1 and 3x1x1 convolutions of fewer than 16
    clips go to one that is 2 to 10 times slower, unless they are dilated: dilation along H and W, which a kernel of
    size 1 there does not have, is given.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and self._type(x) == torch.bfloat16 and self._is_all_border(x.shape[2:]):
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(x.float(), self.weight.float(), self.bias).bfloat16()
        return super().forward(x)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._is_thin(input):
            return super()._conv_forward(input, weight, bias)
        geometry: Any = (self.stride, self.padding, (1, 2, 2), self.groups)
        return nn.functional.conv3d(input, weight, bias, *geometry)

    def _is_thin(self, x: Tensor) -> bool:
        """Whether PyTorch would take its slow kernel."""
        return (
            not torch.compiler.is_compiling()
            and self.kernel_size[1:] == (1, 1)
            and x.is_cpu
            and torch.get_num_threads() == 1
            and self.padding_mode == "zeros"
            and self.stride == self.dilation == (1, 1, 1)
            and not torch.jit.is_tracing()
        )

    def _type(self, x: Tensor) -> torch.dtype:
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype

    def _is_all_border(self, sizes: Sequence[int]) -> bool:
        """Whether no position of the output has its kernel within the input, along T, H or W."""
        assert not isinstance(self.padding, str)
        for size, kernel, stride, padding in zip(sizes, self.kernel_size, self.stride, self.padding, strict=True):
            first = -(-padding // stride) * stride - padding  # where the first kernel begins that is not before it
            if first + kernel > size:
                return True
        return False


class MaxPool3d(nn.MaxPool3d):
    """PyTorch's, or on a GPU a kernel that keeps one byte an output for backward, not its input and 8 bytes an output.

    Attributes:
        kernels: Which kernels run: a word of `video_gn.kernels.dispatch.SETTINGS`.
    """

    kernels = "auto"

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 5 and takes(self, x):
            from video_gn.kernels import ops

            return ops.pool(x, self.kernel_size, self.stride, self.padding)  # type: ignore[arg-type]
        return super().forward(x)


class ZeroPaddedPool(MaxPool3d):
    """Max pooling whose padding of H and W is zeros, where PyTorch's is what no maximum is: features may be below 0.

    In T it is PyTorch's, so that a clip's ends are what they would be on a still clip without end.

    Args:
        kernel: T, H, W.
        stride: T, H, W.
        padding: T, H, W.
    """

    def __init__(self, kernel: Triple, stride: Triple, padding: Triple) -> None:
        super().__init__(kernel, stride, (padding[0], 0, 0))
        _, self.zeros_h, self.zeros_w = padding

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (*(self.zeros_w,) * 2, *(self.zeros_h,) * 2)))


class Stem(ResNetBasicStem):
    """pytorchvideo's, with the norm and its ReLU as one, if there are some."""

    def __init__(self, **parts: nn.Module | None) -> None:
        super().__init__(**parts)
        self.__class__ = Stem  # pytorchvideo's sets all of its locals() as attributes, this one too

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.norm is None else norm_act(self.norm, x)
        return x if self.pool is None else self.pool(x)


class Bottleneck(BottleneckBlock):
    """pytorchvideo's, with each norm and its ReLU as one, the last also with the residual sum.

    Attributes:
        recompute: Whether what two of the convolutions read is computed again in backward, not kept.
        drop_path: Probability with which a clip passes by the shortcut alone, in training.
    """

    recompute = False
    drop_path = 0.0

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__(**parts)
        self.__class__ = Bottleneck  # as in Stem

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        x = self._convolve(self.conv_b, norm_act(self.norm_a, self.conv_a(x)))
        x = self._convolve(self.conv_c, norm_act(self.norm_b, x))
        if not self.training or not self.drop_path:
            return norm_act(self.norm_c, x, shortcut)
        x = norm_act(self.norm_c, x, relu=False)
        return finish(stochastic_depth(x, self.drop_path, "row"), shortcut, True, x.dtype)

    def _convolve(self, conv: nn.Module, x: Tensor) -> Tensor:
        if not self.recompute or x.grad_fn is None or torch.compiler.is_compiling():
            return conv(x)
        from video_gn.kernels import ops

        with ops.recomputed(x):
            return conv(x)


class PreActBottleneck(Bottleneck):
    """pytorchvideo's parts in the order of pre-activation: each convolution behind its norm and ReLU.

    `PreActResidual` calls `norm_a`, whose result its shortcut has a part in too.
    """

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__(**parts)
        self.__class__ = PreActBottleneck  # as in Stem

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        x = self._convolve(self.conv_b, norm_act(self.norm_b, self._convolve(self.conv_a, x)))
        x = self._convolve(self.conv_c, norm_act(self.norm_c, x))
        if self.training and self.drop_path:
            x = stochastic_depth(x, self.drop_path, "row")
        return x + shortcut


class NonLocal(NonLocalBlock):
    """pytorchvideo's in its embedded Gaussian form (Wang et al. 2018, 3.2), `x + norm(out(y))`.

    `y = softmax(theta(x) phi(x')^T / sqrt(C / 2)) g(x')`, where x' is x after a 1x2x2 max pool and each position is a
    row. The rows of the softmax, one number for each pair of positions, are never in memory all at once: it is the
    attention of one head of C / 2 channels.
    """

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__(**parts, instantiation="softmax")
        self.__class__ = NonLocal  # as in Stem

    def reset_parameters(self) -> None:
        """Convolutions from N(0, 0.01) without bias, and gamma 0, as video-nonlocal-net: at first it is the identity.

        Also where residual branches do not begin at 0 (`zero_init_gamma`): it joins networks that are trained.
        """
        for conv in (self.conv_theta, self.conv_phi, self.conv_g, self.conv_out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x) if min(x.shape[3:]) > 1 else x
        pairs = ((self.conv_theta, x), (self.conv_phi, pooled), (self.conv_g, pooled))
        # Rows of channels next to each other, as the kernels that keep no matrix ask for; in channels_last they are so.
        rows = (conv(at).flatten(2).transpose(1, 2).contiguous()[:, None] for conv, at in pairs)
        y = nn.functional.scaled_dot_product_attention(*rows)
        y = y.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])
        return norm_act(self.norm, self.conv_out(y), x, relu=False)


class Residual(ResBlock):
    """pytorchvideo's, of a `Bottleneck`, and behind it perhaps a non-local block.

    Args:
        nonlocal_block: None for none, which leaves the names in the state dict as they are.
        parts: pytorchvideo's.
    """

    def __init__(self, nonlocal_block: NonLocal | None = None, **parts: Any) -> None:
        super().__init__(**parts)
        self.__class__ = Residual  # as in Stem
        self.nonlocal_block = nonlocal_block

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.branch1_conv is None else norm_act(self.branch1_norm, self.branch1_conv(x), relu=False)
        x = self.branch2(x, shortcut)
        return x if self.nonlocal_block is None else self.nonlocal_block(x)


class PreActResidual(Residual):
    """pytorchvideo's, of a `PreActBottleneck`: nothing follows the sum, and a projection has the activated features.

    Args:
        parts: As of `Residual`, without `branch1_norm` and `activation`.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.__class__ = PreActResidual  # as in Stem

    def forward(self, x: Tensor) -> Tensor:
        activated = norm_act(self.branch2.norm_a, x)
        x = self.branch2(activated, x if self.branch1_conv is None else self.branch1_conv(activated))
        return x if self.nonlocal_block is None else self.nonlocal_block(x)


class NormedStage(ResStage):
    """pytorchvideo's, with a norm and its ReLU at the end.

    Args:
        res_blocks: Residual blocks.
        norm: Of their output.
    """

    def __init__(self, res_blocks: nn.ModuleList, norm: nn.Module) -> None:
        super().__init__(res_blocks)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(self.norm, super().forward(x))


def select_kernels(net: nn.Module, kernels: str) -> None:
    """Sets which kernels the norms and pools of a network run.

    Raises:
        InputError: `kernels` is none of `video_gn.kernels.dispatch.SETTINGS`.
    """
    if kernels not in SETTINGS:
        raise InputError(f"kernels is {kernels!r}; it has to be one of: {', '.join(SETTINGS)}")
    ours: Iterator[Any] = (module for module in net.modules() if type(module).__module__.startswith("video_gn."))
    for module in ours:
        if hasattr(module, "kernels"):
            module.kernels = kernels


class WindowPool(nn.Module):
    """Average over all of T and a sliding `window x window` of H x W, clipped to the size that is there.

    `[N, C, T, H, W]` to `[N, C, 1, max(H - window, 0) + 1, max(W - window, 0) + 1]`.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = x.shape[2:]
        return nn.functional.avg_pool3d(x, (t, min(h, self.window), min(w, self.window)), stride=1)

    def extra_repr(self) -> str:
        return f"window={self.window}"
