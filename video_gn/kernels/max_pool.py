"""Launching the max pools (`video_gn.kernels.pool_kernels`), and their buffers."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from video_gn.compat import is_fake
from video_gn.kernels.dispatch import on_device
from video_gn.kernels.plan import cdiv, next_power_of_2

Triple = tuple[int, int, int]
_TILE = 2048  # outputs, or in backward inputs, of a program
_WARPS = 4


def output_size(size: tuple[int, ...], kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    """T, H and W of the pooled features."""
    t, h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    return t, h, w


def _empty(like: Tensor, size: Triple, dtype: torch.dtype) -> Tensor:
    """As a tensor, but of another T, H and W, in channels_last_3d."""
    shape = (*like.shape[:2], *size)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last_3d)


def _launch(
    kernel: str, over: Tensor, *arguments: Any, sizes: tuple[Any, Any], geometry: tuple[Triple, Triple, Triple]
) -> None:
    """Launches a kernel over the positions of a tensor; `sizes` are T, H and W of its input and output."""
    if is_fake(over):  # which has a shape alone
        return
    from video_gn.kernels import pool_kernels

    clips, channels, *size = over.shape
    block = min(next_power_of_2(channels), 256)
    rows = max(_TILE // block, 1)
    names = ("KT", "KH", "KW", "ST", "SH", "SW", "PT", "PH", "PW")
    constants = dict(zip(names, sum(geometry, ()), strict=True))
    wide = channels * max(prod(one) for one in sizes) >= 2**31
    getattr(pool_kernels, kernel)[(cdiv(prod(size), rows), cdiv(channels, block), clips)](
        *arguments, *sizes[0], *sizes[1], channels, **constants, BC=block, R=rows, WIDE=wide, num_warps=_WARPS,
        enable_fp_fusion=True,
    )  # fmt: skip


@on_device
def forward(x: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> tuple[Tensor, Tensor]:
    """Maxima of `[N, C, T, H, W]` in channels_last_3d, and their places in the windows, uint8."""
    size = output_size(tuple(x.shape[2:]), kernel, stride, padding)
    y, index = _empty(x, size, x.dtype), _empty(x, size, torch.uint8)
    _launch("pool_forward", y, x, y, index, sizes=(x.shape[2:], size), geometry=(kernel, stride, padding))
    return y, index


@on_device
def backward(
    dy: Tensor, index: Tensor, size: tuple[int, int, int], kernel: Triple, stride: Triple, padding: Triple
) -> Tensor:
    """Gradient of `forward`'s input, whose T, H and W are `size`."""
    dx = _empty(dy, size, dy.dtype)
    _launch("pool_backward", dx, dy, index, dx, sizes=(size, dy.shape[2:]), geometry=(kernel, stride, padding))
    return dx
