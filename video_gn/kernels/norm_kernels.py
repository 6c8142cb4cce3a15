"""Triton kernels: normalization, then optionally a residual sum and a ReLU, forward and backward.

Features `[N, C, T, H, W]` in channels_last_3d are read in place as `[M, S, C]`: M sets of S positions. GN, LN and IN
have one set a clip (M = N, S = T H W); BN has one for all clips that share statistics, and a group for each channel.
Each set has G groups of D = C / G channels with one mean and one variance.

| kernel            | reads and writes                                      | bytes an element in bf16; with residual |
|-------------------|-------------------------------------------------------|-----------------------------------------|
| `moments`         | x; mean and squares of a chunk of S, by group         | 2; 2                                    |
| `merge_moments`   | those; mean and 1 / sqrt(var + eps)                   |                                         |
| `apply`           | x, residual; y                                        | 4; 6                                    |
| `reduce`          | x, dy, y; sums of dz and dz x^ of a chunk, dz         | 4; 8                                    |
| `merge_gradients` | those; sums by channel, weighted means by group       |                                         |
| `input_gradient`  | x, dy or dz; dx, gradients of gamma and beta          | 6; 6                                    |
| `forward_small`   | all of forward, where registers hold a group of a set | 4; 6                                    |
| `backward_small`  | all of backward, likewise                             | 6; 10                                   |

x^ is the normalized x, and dz is dy where the ReLU passes: the residual's gradient. Without a residual the ReLU's mask
is computed again from x, so that backward does not need y.

Sums are taken in float32 about the first position of a chunk, and merged in a fixed order (Chan et al. 1983) without
atomics. `apply` and `input_gradient` begin at the end of the features, which the kernel before them has left in the
cache. Offsets are 64-bit. A program works on BG groups, each padded to DP channels, and on `chunk` positions in steps
of R, of which STAGES are in flight.
"""

import triton.language as tl

from video_gn.kernels.norm_parts import (
    channels_of_block,
    follow_statistics,
    kernel,
    load_affine,
    mask_of_rows,
    normalize,
    passed_by_relu,
    place_of_program,
    spread_to_channels,
    sums_of_groups,
)


@kernel
def moments(
    x, parts, S, C, G, chunk,
    D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr, R: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squares about it of each group, over a chunk."""
    block, part, m, M = place_of_program()
    columns, exist = channels_of_block(block, C, D, DP, BG)
    rows = tl.arange(0, R)[:, None]
    tile = rows * C + columns
    count = tl.minimum(chunk, S - part * chunk)
    x += (m * S + part * chunk) * C
    shift = tl.load(x + columns, mask=exist, other=0).to(tl.float32)
    first = tl.zeros((R, BG * DP), tl.float32)
    second = tl.zeros((R, BG * DP), tl.float32)
    for start in tl.range(0, count, R, num_stages=STAGES):
        mask = mask_of_rows(rows, count - start, exist, EVEN)
        value = tl.load(x + tile, mask=mask, other=0).to(tl.float32)
        value = tl.where(mask, value - shift, 0)
        first += value
        second += value * value
        x += R * C
    n = count.to(tl.float32)
    first = tl.sum(first, 0)[None, :]
    second = tl.sum(second, 0)[None, :] - first * first / n  # about each channel's own mean
    second = tl.maximum(second, 0, propagate_nan=tl.PropagateNan.ALL)
    mean = shift + first / n
    group_mean = sums_of_groups(tl.where(exist, mean, 0), DP, BG) / D
    off = tl.where(exist, mean - spread_to_channels(group_mean, DP, BG), 0)
    square = sums_of_groups(second + n * off * off, DP, BG)
    groups = block * BG + tl.arange(0, BG)
    place = (m * tl.num_programs(1) + part) * G + groups
    tl.store(parts + place, group_mean, mask=groups < G)
    tl.store(parts + M * tl.num_programs(1) * G + place, square, mask=groups < G)


@kernel
def merge_moments(
    parts, statistics, running_mean, running_var, momentum, S, G, D, chunk, chunks, eps,
    RUNNING: tl.constexpr, B: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Statistics of each group from those of its chunks; and BN's running ones."""
    block, m, M = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1).to(tl.int64)
    groups = (block * B + tl.arange(0, B))[None, :]
    rows = tl.arange(0, R)[:, None]
    means = parts + m * chunks * G + groups
    squares = means + M * chunks * G
    total = (S.to(tl.int64) * D).to(tl.float32)
    shift = tl.load(means, mask=groups < G, other=0)
    first = tl.zeros((R, B), tl.float32)
    for start in range(0, chunks, R):
        part = start + rows
        mask = (part < chunks) & (groups < G)
        n = (tl.minimum(chunk, S - part * chunk) * D).to(tl.float32)
        value = tl.load(means + part * G, mask=mask, other=0)
        first += tl.where(mask, n * (value - shift), 0)
    center = shift + tl.sum(first, 0)[None, :] / total
    second = tl.zeros((R, B), tl.float32)
    for start in range(0, chunks, R):
        part = start + rows
        mask = (part < chunks) & (groups < G)
        n = (tl.minimum(chunk, S - part * chunk) * D).to(tl.float32)
        off = tl.load(means + part * G, mask=mask, other=0) - center
        second += tl.where(mask, tl.load(squares + part * G, mask=mask, other=0) + n * off * off, 0)
    square = tl.sum(second, 0)[None, :]
    statistics += m * G + groups
    tl.store(statistics, center, mask=groups < G)
    tl.store(statistics + M * G, 1 / tl.sqrt_rn(square / total + eps), mask=groups < G)
    if RUNNING and m == 0:
        follow_statistics(running_mean, running_var, momentum, center, square / (total - 1), groups, groups < G)


@kernel
def apply(
    x, residual, y, statistics, weight, bias, S, C, G, chunk,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr, R: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Normalizes by given statistics."""
    block, part, m, M = place_of_program(BACK=True)
    columns, exist = channels_of_block(block, C, D, DP, BG)
    rows = tl.arange(0, R)[:, None]
    mu, deviation, gamma, beta = load_affine(statistics, weight, bias, m, M, columns, exist, G, D)
    count = tl.minimum(chunk, S - part * chunk)
    base = (m * S + part * chunk) * C
    tile = rows * C + columns
    for start in tl.range(0, count, R, num_stages=STAGES):
        mask = mask_of_rows(rows, count - start, exist, EVEN)
        value = tl.load(x + base + tile, mask=mask, other=0).to(tl.float32)
        value = normalize(value, mu, deviation, gamma, beta)
        if RESIDUAL:
            value += tl.load(residual + base + tile, mask=mask, other=0).to(tl.float32)
        if RELU:
            value = tl.maximum(value, 0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(y + base + tile, value.to(y.dtype.element_ty), mask=mask)
        base += R * C


@kernel
def reduce(
    x, dy, y, dz, statistics, weight, bias, sums, S, C, G, chunk,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr, R: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums of a chunk for the gradients, and dz."""
    block, part, m, M = place_of_program()
    columns, exist = channels_of_block(block, C, D, DP, BG)
    rows = tl.arange(0, R)[:, None]
    mu, deviation, gamma, beta = load_affine(statistics, weight, bias, m, M, columns, exist, G, D)
    count = tl.minimum(chunk, S - part * chunk)
    base = (m * S + part * chunk) * C
    tile = rows * C + columns
    by_beta = tl.zeros((R, BG * DP), tl.float32)
    by_gamma = tl.zeros((R, BG * DP), tl.float32)
    for start in tl.range(0, count, R, num_stages=STAGES):
        mask = mask_of_rows(rows, count - start, exist, EVEN)
        value = tl.load(x + base + tile, mask=mask, other=0).to(tl.float32)
        gradient = passed_by_relu(dy + base, value, y + base, tile, mask, mu, deviation, gamma, beta, RELU, RESIDUAL)
        if RELU and RESIDUAL:
            tl.store(dz + base + tile, gradient.to(dz.dtype.element_ty), mask=mask)
        by_beta += gradient
        by_gamma += gradient * ((value - mu) * deviation)
        base += R * C
    parts = tl.num_programs(1)
    place = (m * parts + part) * C + columns
    tl.store(sums + place, tl.sum(by_gamma, 0)[None, :], mask=exist)
    tl.store(sums + M * parts * C + place, tl.sum(by_beta, 0)[None, :], mask=exist)


@kernel
def merge_gradients(
    sums, weight, totals, coefficients, M, S, C, G, chunks,
    D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr, R: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Totals of each channel from the sums of chunks, and what each group's dx takes of them."""
    block, m, which = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    columns, exist = channels_of_block(block, C, D, DP, BG)
    rows = tl.arange(0, R)[:, None]
    sums += (which * M + m) * chunks * C
    total = tl.zeros((R, BG * DP), tl.float32)
    for start in range(0, chunks, R):
        mask = mask_of_rows(rows, chunks - start, exist, EVEN)
        total += tl.load(sums + (start + rows) * C + columns, mask=mask, other=0)
    by_channel = tl.sum(total, 0)[None, :]
    tl.store(totals + (which * M + m) * C + columns, by_channel, mask=exist)
    gamma = tl.load(weight + columns, mask=exist, other=0).to(tl.float32)
    groups = block * BG + tl.arange(0, BG)
    by_group = sums_of_groups(gamma * by_channel, DP, BG) / (S.to(tl.int64) * D).to(tl.float32)
    tl.store(coefficients + (which * M + m) * G + groups, by_group, mask=groups < G)


@kernel
def input_gradient(
    x, dy, dx, statistics, weight, bias, totals, coefficients, dweight, dbias, S, C, G, chunk,
    RELU: tl.constexpr, FIXED: tl.constexpr, AFFINE: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr, R: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx; and the gradients of gamma and beta, in the programs of the first chunk."""
    block, part, m, M = place_of_program(BACK=True)
    columns, exist = channels_of_block(block, C, D, DP, BG)
    rows = tl.arange(0, R)[:, None]
    if AFFINE and ((part == 0) & (m == 0)):  # one program for each channel: the sums over sets
        by_gamma = tl.zeros((1, BG * DP), tl.float32)
        by_beta = tl.zeros((1, BG * DP), tl.float32)
        for i in range(0, M):
            by_gamma += tl.load(totals + i * C + columns, mask=exist, other=0)
            by_beta += tl.load(totals + (M + i) * C + columns, mask=exist, other=0)
        tl.store(dweight + columns, by_gamma.to(dweight.dtype.element_ty), mask=exist)
        tl.store(dbias + columns, by_beta.to(dbias.dtype.element_ty), mask=exist)
    mu, deviation, gamma, beta = load_affine(statistics, weight, bias, m, M, columns, exist, G, D)
    if not FIXED:
        group = m * G + columns // D
        c1 = tl.load(coefficients + group, mask=exist, other=0)
        c2 = tl.load(coefficients + M * G + group, mask=exist, other=0)
    count = tl.minimum(chunk, S - part * chunk)
    base = (m * S + part * chunk) * C
    tile = rows * C + columns
    for start in tl.range(0, count, R, num_stages=STAGES):
        mask = mask_of_rows(rows, count - start, exist, EVEN)
        if FIXED and not RELU:
            gradient = tl.load(dy + base + tile, mask=mask, other=0).to(tl.float32) * gamma
        else:
            value = tl.load(x + base + tile, mask=mask, other=0).to(tl.float32)
            gradient = gamma * passed_by_relu(dy + base, value, x, tile, mask, mu, deviation, gamma, beta, RELU, False)
            if not FIXED:
                gradient -= c2 + (value - mu) * deviation * c1
        tl.store(dx + base + tile, (deviation * gradient).to(dx.dtype.element_ty), mask=mask)
        base += R * C
