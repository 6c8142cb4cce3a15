"""Triton kernels: max pooling in channels_last_3d whose indices take one byte, not eight, and whose gradient adds up
in a fixed order.

An index is the place of the maximum in its window, counted along T, H, W. Of equal values the first is taken, and NaN
is passed on, as PyTorch does.
"""

import triton
import triton.language as tl


@triton.jit
def tile_of_program(S, C, BC: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr):
    """Positions `[R, 1]` and channels `[1, BC]` of a program, which of them exist, and its clip."""
    rows = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    if WIDE:  # a clip has 2**31 elements or more
        rows = rows.to(tl.int64)
    columns = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    return rows, columns, (rows < S) & (columns < C), tl.program_id(2).to(tl.int64)


@triton.jit
def pool_forward(
    x, y, index, T, H, W, OT, OH, OW, C,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BC: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The largest of each window, and its place in it."""
    rows, columns, exist, n = tile_of_program(OT * OH * OW, C, BC, R, WIDE)
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
def pool_backward(
    dy, index, dx, T, H, W, OT, OH, OW, C,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ST: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BC: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The sum of the gradients of those windows of which a position is the largest."""
    rows, columns, exist, n = tile_of_program(T * H * W, C, BC, R, WIDE)
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
