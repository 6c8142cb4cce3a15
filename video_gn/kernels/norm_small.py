"""The norm kernels where registers hold a group of a set: forward and backward in one program each, x is read once."""

import triton.language as tl

from video_gn.kernels.norm_parts import (
    channels_of_block,
    follow_statistics,
    kernel,
    load_affine,
    mask_of_rows,
    normalize,
    passed_by_relu,
    spread_to_channels,
    sums_of_groups,
)


@kernel
def forward_small(
    x, residual, y, statistics, weight, bias, running_mean, running_var, momentum, S, C, G, eps,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr, RUNNING: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr, R: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Statistics and result at once."""
    block, m, M = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    columns, exist = channels_of_block(block, C, D, DP, BG)
    rows = tl.arange(0, R)[:, None]
    mask = mask_of_rows(rows, S, exist, EVEN)
    base = m * S * C
    tile = rows * C + columns
    value = tl.load(x + base + tile, mask=mask, other=0).to(tl.float32)
    total = (S.to(tl.int64) * D).to(tl.float32)
    rough = sums_of_groups(tl.sum(value, 0)[None, :], DP, BG) / total
    off = tl.where(mask, value - spread_to_channels(rough, DP, BG), 0)
    rest = sums_of_groups(tl.sum(off, 0)[None, :], DP, BG) / total  # what rounding left of the mean
    square = sums_of_groups(tl.sum(off * off, 0)[None, :], DP, BG) / total
    center = rough + rest
    variance = tl.maximum(square - rest * rest, 0, propagate_nan=tl.PropagateNan.ALL)
    deviation = 1 / tl.sqrt_rn(variance + eps)
    groups = block * BG + tl.arange(0, BG)
    tl.store(statistics + m * G + groups, center, mask=groups < G)
    tl.store(statistics + (M + m) * G + groups, deviation, mask=groups < G)
    if RUNNING and m == 0:
        unbiased = variance * (total / (total - 1))
        follow_statistics(running_mean, running_var, momentum, center, unbiased, groups, groups < G)
    gamma = tl.load(weight + columns, mask=exist, other=0).to(tl.float32)
    beta = tl.load(bias + columns, mask=exist, other=0).to(tl.float32)
    value = normalize(value, spread_to_channels(center, DP, BG), spread_to_channels(deviation, DP, BG), gamma, beta)
    if RESIDUAL:
        value += tl.load(residual + base + tile, mask=mask, other=0).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + base + tile, value.to(y.dtype.element_ty), mask=mask)


@kernel
def backward_small(
    x, dy, y, dz, dx, statistics, weight, bias, totals, S, C, G,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr, R: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """All gradients at once; those of gamma and beta for each set."""
    block, m, M = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    columns, exist = channels_of_block(block, C, D, DP, BG)
    rows = tl.arange(0, R)[:, None]
    mask = mask_of_rows(rows, S, exist, EVEN)
    base = m * S * C
    tile = rows * C + columns
    mu, deviation, gamma, beta = load_affine(statistics, weight, bias, m, M, columns, exist, G, D)
    value = tl.load(x + base + tile, mask=mask, other=0).to(tl.float32)
    gradient = passed_by_relu(dy + base, value, y + base, tile, mask, mu, deviation, gamma, beta, RELU, RESIDUAL)
    if RELU and RESIDUAL:
        tl.store(dz + base + tile, gradient.to(dz.dtype.element_ty), mask=mask)
    normalized = (value - mu) * deviation
    by_gamma = tl.sum(gradient * normalized, 0)[None, :]
    by_beta = tl.sum(gradient, 0)[None, :]
    tl.store(totals + m * C + columns, by_gamma, mask=exist)
    tl.store(totals + (M + m) * C + columns, by_beta, mask=exist)
    total = (S.to(tl.int64) * D).to(tl.float32)
    c1 = spread_to_channels(sums_of_groups(gamma * by_gamma, DP, BG) / total, DP, BG)
    c2 = spread_to_channels(sums_of_groups(gamma * by_beta, DP, BG) / total, DP, BG)
    gradient = deviation * (gamma * gradient - c2 - normalized * c1)
    tl.store(dx + base + tile, gradient.to(dx.dtype.element_ty), mask=mask)
