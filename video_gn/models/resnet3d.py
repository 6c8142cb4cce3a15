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

from math import ceil

import torch
from pytorchvideo.models.head import ResNetBasicHead
from pytorchvideo.models.net import Net
from pytorchvideo.models.resnet import ResStage
from torch import nn

from video_gn.errors import InputError
from video_gn.models.architectures import DEPTHS, EXPANSION, GEOMETRIES, MAX_WIDTH, Geometry
from video_gn.models.blocks import Bottleneck, Conv3d, MaxPool3d, Residual, Stem, WindowPool
from video_gn.models.norm import Norm


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
        norm: Makes a layer from its number of channels (`video_gn.models.norm.make_norm`).
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
