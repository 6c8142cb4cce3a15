"""The blocks of a network, from the stem to the head, out of its kernels, strides and norm."""

from math import ceil

import torch
from pytorchvideo.models.head import ResNetBasicHead
from pytorchvideo.models.resnet import ResStage
from torch import nn

from video_gn.errors import InputError
from video_gn.models.architectures import EXPANSION, Arch
from video_gn.models.blocks import (
    Bottleneck,
    Conv3d,
    MaxPool3d,
    NonLocal,
    NormedStage,
    PreActBottleneck,
    PreActResidual,
    Residual,
    Stem,
    WindowPool,
    ZeroPaddedPool,
)
from video_gn.models.evonorm import without_activation
from video_gn.models.norm import Norm


def make_blocks(
    num_classes: int,
    arch: Arch,
    depths: tuple[int, ...],
    width: int,
    norm: Norm,
    dropout: float,
    zero_init_gamma: bool,
    nonlocal_places: tuple[tuple[int, ...], ...],
) -> nn.ModuleList:
    """The stem, the residual stages with the pools between them, and the head.

    Args:
        num_classes: K.
        arch: Kernels and strides.
        depths: Bottlenecks of each stage.
        width: Channels of the stem.
        norm: Makes a norm from the channel count.
        dropout: Before the linear layer.
        zero_init_gamma: Whether gamma of each branch's last norm starts at 0, where the branch ends in one.
        nonlocal_places: Of each stage, the bottlenecks that a non-local block is behind.

    Raises:
        InputError: A norm cannot be of so many channels, or has no gamma; the message names the layer.
    """
    blocks: list[nn.Module] = [_stem(width, arch, norm)]
    dim_in = width
    for stage, num_blocks in enumerate(depths):
        dim_inner = width * 2**stage
        res_blocks = []
        for i in range(num_blocks):
            stride = 2 if i == 0 and stage > 0 else 1
            layer = f"res{stage + 2}.{i}"
            inflated = arch.inflated[stage][i % len(arch.inflated[stage])]
            if arch.preactivated:
                block: Residual = _preact_block(dim_in, dim_inner, stride, inflated, norm, layer)
            else:
                block = _res_block(dim_in, dim_inner, stride, inflated, norm, zero_init_gamma, layer)
            dim_in = dim_inner * EXPANSION
            if i in nonlocal_places[stage]:
                block.nonlocal_block = _nonlocal_block(dim_in, norm, f"{layer}.nonlocal_block")
            res_blocks.append(block)
        if arch.preactivated and stage == len(depths) - 1:
            blocks.append(NormedStage(nn.ModuleList(res_blocks), _norm(norm, dim_in, "the last one")))
        else:
            blocks.append(ResStage(res_blocks=nn.ModuleList(res_blocks)))
        if stage in arch.temporal_pools:
            blocks.append(MaxPool3d((2, 1, 1), (2, 1, 1), (0, 0, 0)))
    head = ResNetBasicHead(
        pool=WindowPool(ceil(224 / arch.spatial_stride(len(depths)))),
        dropout=nn.Dropout(dropout) if dropout else None,
        proj=nn.Linear(dim_in, num_classes),
    )
    return nn.ModuleList([*blocks, head])  # Net initialises convolutions, linear layers and BatchNorms


def _stem(width: int, arch: Arch, norm: Norm) -> Stem:
    pool = ZeroPaddedPool if arch.preactivated else MaxPool3d
    return Stem(
        conv=_conv(3, width, arch.stem_kernel, arch.stem_stride),
        norm=None if arch.preactivated else _norm(norm, width, "stem"),
        activation=None if arch.preactivated else nn.ReLU(inplace=True),
        pool=pool(arch.pool1, arch.pool1_stride, arch.pool1_padding) if arch.pool1 else None,
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
    without_activation(branch2.norm_c)
    # pytorchvideo's own init zeroes the gammas so marked, but only of BatchNorms.
    branch2.norm_c.block_final_bn = zero_init_gamma
    if zero_init_gamma:
        if getattr(branch2.norm_c, "weight", None) is None:
            raise InputError(f"layer {layer}: its norm has no gamma to start at 0; set zero_init_gamma to false")
        nn.init.zeros_(branch2.norm_c.weight)
    project = stride > 1 or dim_in != dim_out
    return Residual(
        branch1_conv=_conv(dim_in, dim_out, (1, 1, 1), (1, stride, stride)) if project else None,
        branch1_norm=without_activation(_norm(norm, dim_out, f"{layer}.branch1_norm")) if project else None,
        branch2=branch2,
        activation=nn.ReLU(inplace=True),
        branch_fusion=torch.add,
    )


def _preact_block(dim_in: int, dim_inner: int, stride: int, inflated: bool, norm: Norm, layer: str) -> Residual:
    dim_out = dim_inner * EXPANSION
    branch2 = PreActBottleneck(
        norm_a=_norm(norm, dim_in, f"{layer}.norm_a"),
        act_a=nn.ReLU(inplace=True),
        conv_a=_conv(dim_in, dim_inner, (3 if inflated else 1, 1, 1)),
        norm_b=_norm(norm, dim_inner, f"{layer}.norm_b"),
        act_b=nn.ReLU(inplace=True),
        conv_b=_conv(dim_inner, dim_inner, (1, 3, 3), (1, stride, stride)),
        norm_c=_norm(norm, dim_inner, f"{layer}.norm_c"),
        conv_c=_conv(dim_inner, dim_out, (1, 1, 1)),
    )
    branch2.norm_c.block_final_bn = False  # a convolution is the last one: pytorchvideo's init leaves its gamma at 1
    project = stride > 1 or dim_in != dim_out
    return PreActResidual(
        branch1_conv=_conv(dim_in, dim_out, (1, 1, 1), (1, stride, stride)) if project else None,
        branch2=branch2,
        branch_fusion=torch.add,
    )


def _nonlocal_block(channels: int, norm: Norm, layer: str) -> NonLocal:
    last = without_activation(_norm(norm, channels, layer))
    if getattr(last, "weight", None) is None:
        raise InputError(f"layer {layer}: its norm has no gamma to start at 0; set nonlocal_blocks to 0")
    within = channels // 2
    return NonLocal(
        conv_theta=Conv3d(channels, within, 1),
        conv_phi=Conv3d(channels, within, 1),
        conv_g=Conv3d(channels, within, 1),
        conv_out=Conv3d(within, channels, 1),
        pool=MaxPool3d((1, 2, 2), (1, 2, 2), (0, 0, 0)),
        norm=last,
    )


def _conv(dim_in: int, dim_out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return Conv3d(dim_in, dim_out, kernel, stride, padding, bias=False)


def _norm(norm: Norm, channels: int, layer: str) -> nn.Module:
    try:
        return norm(channels)
    except InputError as error:
        raise InputError(f"layer {layer}: {error}") from None
