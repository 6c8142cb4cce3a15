"""The I3D ResNet (Wang et al. 2018, Table 1; Wu & He 2018, section 4.3), made of pytorchvideo's own parts.

State-dict names are pytorchvideo's. For a 32-frame clip of 224 x 224 pixels:

| block | layers                                                          | output T x H x W |
|-------|-----------------------------------------------------------------|------------------|
| stem  | conv 5x7x7, 64, stride 2,2,2; max pool 3x3x3, stride 2,2,2      | 8 x 56 x 56      |
| res2  | 3 bottlenecks, all of them inflated                             | 8 x 56 x 56      |
| pool2 | max pool 2x1x1, stride 2,1,1                                    | 4 x 56 x 56      |
| res3  | 4 bottlenecks, 0 and 2 inflated                                 | 4 x 28 x 28      |
| res4  | 6 bottlenecks, 0, 2 and 4 inflated                              | 4 x 14 x 14      |
| res5  | 3 bottlenecks, 1 inflated                                       | 4 x 7 x 7        |
| head  | average over T and a window of H x W, dropout, linear           | 1 x 1 x 1        |

"Inflated" is a first kernel of 3x1x1 in place of 1x1x1. The network is fully convolutional: on frames larger than
the training crop, the head's window slides and gives logits at each of its positions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from pytorchvideo.models.head import ResNetBasicHead
from pytorchvideo.models.net import Net
from pytorchvideo.models.resnet import BottleneckBlock, ResBlock, ResStage
from pytorchvideo.models.stem import ResNetBasicStem
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.kernels.dispatch import SETTINGS, takes
from video_gn.norm import Norm, normalize

# Bottlenecks of each stage. The small ones have one a stage; 11 ends after res4.
DEPTHS: dict[int, tuple[int, ...]] = {11: (1, 1, 1), 14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4
MAX_WIDTH = 1024  # 16 times the papers': 7 billion parameters at depth 50


@dataclass(frozen=True)
class Geometry:
    """Kernels and strides that differ between the networks; triples are T, H, W.

    Attributes:
        stem_kernel: Of the first convolution.
        stem_stride: Of the first convolution.
        pool1: Kernel of the stem's max pool; its padding is half of that, rounded down. None for no pool.
        pool1_stride: Of the stem's max pool.
        temporal_pools: The stages (0 = res2) after which a 2x1x1 max pool halves T.
        inflated: For each stage, which of its bottlenecks begin with a 3x1x1 kernel, as a sequence that repeats.
        padded: Whether the stem's max pool is padded.
    """

    stem_kernel: tuple[int, int, int]
    stem_stride: tuple[int, int, int]
    pool1: tuple[int, int, int] | None
    pool1_stride: tuple[int, int, int]
    temporal_pools: tuple[int, ...]
    inflated: tuple[tuple[bool, ...], ...]
    padded: bool = True

    @property
    def pool1_padding(self) -> tuple[int, int, int]:
        """Of the stem's max pool."""
        t, h, w = self.pool1 or (1, 1, 1)
        return (t // 2, h // 2, w // 2) if self.padded else (0, 0, 0)

    def spatial_stride(self, stages: int) -> int:
        """Pixels of the input per position after the last of so many stages."""
        return self.stem_stride[1] * (self.pool1_stride[1] if self.pool1 else 1) * 2 ** (stages - 1)

    def frames_out(self, frames: int) -> int:
        """T behind the last stage, of a clip of so many frames."""
        t = (frames - 1) // self.stem_stride[0] + 1  # kernels are odd and padded
        if self.pool1:
            t = (t + 2 * self.pool1_padding[0] - self.pool1[0]) // self.pool1_stride[0] + 1
        return t >> len(self.temporal_pools)

    @property
    def min_frames(self) -> int:
        """The shortest clip that every pool can halve, in frames."""
        return next(frames for frames in itertools.count(1) if self.frames_out(frames) >= 1)


_I3D = ((True,), (True, False), (True, False), (False, True))
_FLAT = ((False,),) * 4
GEOMETRIES: dict[str, Geometry] = {
    # The network of both papers.
    "i3d": Geometry((5, 7, 7), (2, 2, 2), (3, 3, 3), (2, 2, 2), (0,), _I3D),
    # As video-nonlocal-net's code has it (resnet_video_org.py): its pools are not padded.
    "i3d_nonlocal": Geometry((5, 7, 7), (2, 2, 2), (2, 3, 3), (2, 2, 2), (0,), _I3D, padded=False),
    # pytorchvideo's and PySlowFast's networks for 8 frames at interval 8: no temporal stride in the stem.
    "i3d_8x8": Geometry((5, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (0,), _I3D),
    "c2d_8x8": Geometry((1, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (0,), _FLAT),
    "slow_8x8": Geometry((1, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (), ((False,), (False,), (True,), (True,))),
    # The 2D ResNet, for images as clips of one frame; it inflates into the others.
    "flat": Geometry((1, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (), _FLAT),
    # For crops of 32 to 64 pixels and clips of 8 to 16 frames (the embedded data set, tests), and its 2D network.
    "i3d_small": Geometry((3, 5, 5), (1, 2, 2), None, (1, 1, 1), (0, 1), _I3D),
    "flat_small": Geometry((1, 5, 5), (1, 2, 2), None, (1, 1, 1), (), _FLAT),
}


class Conv3d(nn.Conv3d):
    """PyTorch's, less an error of its CPU kernels in bfloat16.

    Where padding reaches every position of the output, oneDNN's weight gradient in bfloat16 reads and writes memory
    that is not its own (PyTorch 2.15 on a CPU with AVX512-BF16: a 3x1x1 kernel on 2 frames, a 1x3x3 kernel of stride 2
    on 1 x 1 pixels): the gradient is NaN or any number, or the process dies. Such layers compute in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and self._type(x) == torch.bfloat16 and self._is_all_border(x.shape[2:]):
            with torch.autocast("cpu", enabled=False):
                return self._conv_forward(x.float(), self.weight.float(), self.bias).bfloat16()
        return super().forward(x)

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
    """PyTorch's, which on a GPU can keep one byte an output for backward in place of its input and 8 bytes an output.

    Attributes:
        kernels: Which kernels run: a word of `video_gn.kernels.dispatch.SETTINGS`.
        low_memory: Whether they shall.
    """

    kernels = "auto"
    low_memory = False

    def forward(self, x: Tensor) -> Tensor:
        if self.low_memory and takes(self.kernels, x):
            from video_gn.kernels import ops

            return ops.pool(x, self.kernel_size, self.stride, self.padding)  # type: ignore[arg-type]
        return super().forward(x)


class Stem(ResNetBasicStem):
    """pytorchvideo's, with the norm and its ReLU as one."""

    def __init__(self, **parts: nn.Module | None) -> None:
        super().__init__(**parts)
        self.__class__ = Stem  # pytorchvideo's sets all of its locals() as attributes, this one too

    def forward(self, x: Tensor) -> Tensor:
        x = normalize(self.norm, self.conv(x))
        return x if self.pool is None else self.pool(x)


class Bottleneck(BottleneckBlock):
    """pytorchvideo's, with each norm and its ReLU as one, the last also with the residual sum.

    Attributes:
        low_memory: Whether what two of the convolutions read is computed again in backward, not kept.
    """

    low_memory = False

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__(**parts)
        self.__class__ = Bottleneck  # as in Stem

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        x = self._convolve(self.conv_b, normalize(self.norm_a, self.conv_a(x)))
        x = self._convolve(self.conv_c, normalize(self.norm_b, x))
        return normalize(self.norm_c, x, shortcut)

    def _convolve(self, conv: nn.Module, x: Tensor) -> Tensor:
        if not self.low_memory or x.grad_fn is None or torch.compiler.is_compiling():
            return conv(x)
        from video_gn.kernels import ops

        with ops.recomputed(x):
            return conv(x)


class Residual(ResBlock):
    """pytorchvideo's, of a `Bottleneck`."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.__class__ = Residual  # as in Stem

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.branch1_conv is None else normalize(self.branch1_norm, self.branch1_conv(x), relu=False)
        return self.branch2(x, shortcut)


def select_kernels(net: nn.Module, kernels: str, low_memory: bool = False) -> None:
    """Sets which kernels the norms and pools of a network run, and whether they keep less for backward.

    Raises:
        InputError: `kernels` is none of `video_gn.kernels.dispatch.SETTINGS`.
    """
    if kernels not in SETTINGS:
        raise InputError(f"model.kernels is {kernels!r}; it has to be one of: {', '.join(SETTINGS)}")
    for module in net.modules():
        for name, value in {"kernels": kernels, "low_memory": low_memory}.items():
            if hasattr(module, name):
                setattr(module, name, value)


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


def resnet3d(
    num_classes: int,
    norm: Norm,
    depth: int = 50,
    width: int = 64,
    geometry: str = "i3d",
    crop_size: int = 224,
    dropout: float = 0.5,
    zero_init_gamma: bool = True,
) -> Net:
    """The I3D ResNet: clips `[N, 3, T, H, W]` to logits `[N, num_classes, 1, h, w]`, 1 x 1 x 1 at the training crop.

    Convolutions start from He's normal, gamma from 1 and beta from 0; the linear layer from N(0, 0.01).

    Args:
        num_classes: K.
        norm: Makes a layer from its number of channels (`video_gn.norm.make_norm`).
        depth: A key of `DEPTHS`: 50 and 101 are the papers', 11 and 14 small ones.
        width: Channels of the stem; stage i has `4 * 2**i * width`. The papers' is 64.
        geometry: A key of `GEOMETRIES`.
        crop_size: Side of the training crop in pixels; it sets the head's window.
        dropout: Before the linear layer.
        zero_init_gamma: Whether gamma of each bottleneck's last norm starts at 0 (Wu & He 2018, section 4.1), which
            makes every residual block its shortcut at first.

    Raises:
        InputError: An unknown depth or geometry, a number below 1, or channels that the norm's groups do not divide
            (the message names the layer).
    """
    if depth not in DEPTHS:
        raise InputError(f"there is no depth {depth}; the depths are: {', '.join(map(str, DEPTHS))}")
    if geometry not in GEOMETRIES:
        raise InputError(f"there is no geometry {geometry!r}; the geometries are: {', '.join(GEOMETRIES)}")
    for name, value in {"num_classes": num_classes, "width": width, "crop_size": crop_size}.items():
        if value < 1:
            raise InputError(f"{name} is {value}; it has to be at least 1")
    if width > MAX_WIDTH:
        raise InputError(f"width is {width}; it has to be at most {MAX_WIDTH}, the papers' is 64")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}; it has to be at least 0 and below 1")
    geo = GEOMETRIES[geometry]

    blocks: list[nn.Module] = [_stem(width, geo, norm)]
    dim_in = width
    for stage, num_blocks in enumerate(DEPTHS[depth]):
        dim_inner = width * 2**stage
        res_blocks = []
        for i in range(num_blocks):
            stride = 2 if i == 0 and stage > 0 else 1
            layer = f"res{stage + 2}.{i}"
            inflated = geo.inflated[stage][i % len(geo.inflated[stage])]
            res_blocks.append(_res_block(dim_in, dim_inner, stride, inflated, norm, zero_init_gamma, layer))
            dim_in = dim_inner * EXPANSION
        blocks.append(ResStage(res_blocks=nn.ModuleList(res_blocks)))
        if stage in geo.temporal_pools:
            blocks.append(MaxPool3d((2, 1, 1), (2, 1, 1), (0, 0, 0)))
    blocks.append(
        ResNetBasicHead(
            pool=WindowPool(ceil(crop_size / geo.spatial_stride(len(DEPTHS[depth])))),
            dropout=nn.Dropout(dropout) if dropout else None,
            proj=nn.Linear(dim_in, num_classes),
        )
    )
    return Net(blocks=nn.ModuleList(blocks))  # initialises convolutions, linear layers and BatchNorms


def _stem(width: int, geo: Geometry, norm: Norm) -> Stem:
    return Stem(
        conv=_conv(3, width, geo.stem_kernel, geo.stem_stride),
        norm=_norm(norm, width, "stem"),
        activation=nn.ReLU(inplace=True),
        pool=MaxPool3d(geo.pool1, geo.pool1_stride, geo.pool1_padding) if geo.pool1 else None,
    )


def _res_block(
    dim_in: int, dim_inner: int, stride: int, inflated: bool, norm: Norm, zero_init_gamma: bool, layer: str
) -> Residual:
    """One bottleneck and its shortcut; it knows its last norm, so nobody has to find it later."""
    dim_out = dim_inner * EXPANSION
    branch2 = Bottleneck(
        conv_a=_conv(dim_in, dim_inner, (3 if inflated else 1, 1, 1)),
        norm_a=_norm(norm, dim_inner, f"{layer}.norm_a"),
        act_a=nn.ReLU(inplace=True),
        conv_b=_conv(dim_inner, dim_inner, (1, 3, 3), (1, stride, stride)),
        norm_b=_norm(norm, dim_inner, f"{layer}.norm_b"),
        act_b=nn.ReLU(inplace=True),
        conv_c=_conv(dim_inner, dim_out, (1, 1, 1)),
        norm_c=_norm(norm, dim_out, f"{layer}.norm_c"),
    )
    # pytorchvideo's own init zeroes the gammas so marked, but only of BatchNorms.
    branch2.norm_c.block_final_bn = zero_init_gamma
    if zero_init_gamma:
        nn.init.zeros_(branch2.norm_c.weight)
    project = stride > 1 or dim_in != dim_out
    return Residual(
        branch1_conv=_conv(dim_in, dim_out, (1, 1, 1), (1, stride, stride)) if project else None,
        branch1_norm=_norm(norm, dim_out, f"{layer}.branch1_norm") if project else None,
        branch2=branch2,
        activation=nn.ReLU(inplace=True),
        branch_fusion=torch.add,
    )


def _conv(dim_in: int, dim_out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return Conv3d(dim_in, dim_out, kernel, stride, padding, bias=False)


def _norm(norm: Norm, channels: int, layer: str) -> nn.Module:
    try:
        return norm(channels)
    except InputError as error:
        raise InputError(f"layer {layer}: {error}") from None
