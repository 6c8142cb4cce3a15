"""Triton kernels: max pooling in channels_last_3d whose indices take one byte, not eight, and whose gradient adds up
in a fixed order.

An index is the place of the maximum in its window, counted along T, H, W. Of equal values the first is taken, and NaN
is passed on, as PyTorch does.
"""

from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from video_gn.kernels.dispatch import on_device

Triple = tuple[int, int, int]
_TILE = 2048  # outputs, or in backward inputs, of a program
_WARPS = 4


@triton.jit
def _tile(S, C, BC: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr):
    """Positions `[R, 1]` and channels `[1, BC]` of a program, which of them exist, and its clip."""
    rows = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    if WIDE:  # a clip has 2**31 elements or more
        rows = rows.to(tl.int64)
    columns = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    return rows, columns, (rows < S) & (columns < C), tl.program_id(2).to(tl.int64)


@triton.jit
def _forward(
    x, y, index, T, H, W, OT, OH, OW, C,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BC: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    rows, columns, exist, n = _tile(OT * OH * OW, C, BC, R, WIDE)
    t = rows // (OH * OW) * ST - PT
    h = rows // OW % OH * SH - PH
    w = rows % OW * SW - PW
    x += n * T * H * W * C
    best = tl.full((R, BC), float("-inf"), tl.float32)
    place = tl.zeros((R, BC), tl.int32)
    for k in tl.static_range(KT * KH * KW):
        i, j, o = t + k // (KH * KW), h + k // KW % KH, w + k % KW
        inside = (i >= 0) & (i < T) & (j >= 0) & (j < H) & (o >= 0) & (o < W)
        offset = ((i * H + j) * W + o) * C + columns
        value = tl.load(x + offset, mask=inside & exist, other=float("-inf")).to(tl.float32)
        taken = (value > best) | (value != value)
        best = tl.where(taken, value, best)
        place = tl.where(taken, k, place)
    offset = n * OT * OH * OW * C + rows * C + columns
    tl.store(y + offset, best.to(y.dtype.element_ty), mask=exist)
    tl.store(index + offset, place.to(tl.uint8), mask=exist)


@triton.jit
def _backward(
    dy, index, dx, T, H, W, OT, OH, OW, C,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BC: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    rows, columns, exist, n = _tile(T * H * W, C, BC, R, WIDE)
    t = rows // (H * W) + PT
    h = rows // W % H + PH
    w = rows % W + PW
    dy += n * OT * OH * OW * C
    index += n * OT * OH * OW * C
    # The windows that a position is in: the last of each axis, and those before it.
    NT: tl.constexpr = (KT + ST - 1) // ST
    NH: tl.constexpr = (KH + SH - 1) // SH
    NW: tl.constexpr = (KW + SW - 1) // SW
    total = tl.zeros((R, BC), tl.float32)
    for k in tl.static_range(NT * NH * NW):
        i, j, o = t // ST - k // (NH * NW), h // SH - k // NW % NH, w // SW - k % NW
        a, b, c = t - i * ST, h - j * SH, w - o * SW  # the position's place in that window
        inside = (i >= 0) & (i < OT) & (j >= 0) & (j < OH) & (o >= 0) & (o < OW) & (a < KT) & (b < KH) & (c < KW)
        offset = ((i * OH + j) * OW + o) * C + columns
        place = tl.load(index + offset, mask=inside & exist, other=0).to(tl.int32)
        value = tl.load(dy + offset, mask=inside & exist, other=0).to(tl.float32)
        total += tl.where(place == (a * KH + b) * KW + c, value, 0)
    tl.store(dx + n * T * H * W * C + rows * C + columns, total.to(dx.dtype.element_ty), mask=exist)


def output_size(size: tuple[int, ...], kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    """T, H and W of the pooled features."""
    t, h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    return t, h, w


def _empty(like: Tensor, size: Triple, dtype: torch.dtype) -> Tensor:
    """As a tensor, but of another T, H and W, in channels_last_3d."""
    shape = (*like.shape[:2], *size)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last_3d)


def _launch(kernel, over: Tensor, *arguments, sizes: tuple[Any, Any], geometry: tuple[Triple, Triple, Triple]) -> None:
    """Launches a kernel over the positions of a tensor; `sizes` are T, H and W of its input and output."""
    clips, channels, *size = over.shape
    block = min(triton.next_power_of_2(channels), 256)
    rows = max(_TILE // block, 1)
    names = ("KT", "KH", "KW", "ST", "SH", "SW", "PT", "PH", "PW")
    constants = dict(zip(names, sum(geometry, ()), strict=True))
    wide = channels * max(prod(one) for one in sizes) >= 2**31
    kernel[(triton.cdiv(prod(size), rows), triton.cdiv(channels, block), clips)](
        *arguments, *sizes[0], *sizes[1], channels, **constants, BC=block, R=rows, WIDE=wide, num_warps=_WARPS,
        enable_fp_fusion=True,
    )  # fmt: skip


@on_device
def forward(x: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> tuple[Tensor, Tensor]:
    """Maxima of `[N, C, T, H, W]` in channels_last_3d, and their places in the windows, uint8."""
    size = output_size(tuple(x.shape[2:]), kernel, stride, padding)
    y, index = _empty(x, size, x.dtype), _empty(x, size, torch.uint8)
    _launch(_forward, y, x, y, index, sizes=(x.shape[2:], size), geometry=(kernel, stride, padding))
    return y, index


@on_device
def backward(
    dy: Tensor, index: Tensor, size: tuple[int, int, int], kernel: Triple, stride: Triple, padding: Triple
) -> Tensor:
    """Gradient of `forward`'s input, whose T, H and W are `size`."""
    dx = _empty(dy, size, dy.dtype)
    _launch(_backward, dx, dy, index, dx, sizes=(size, dy.shape[2:]), geometry=(kernel, stride, padding))
    return dx
