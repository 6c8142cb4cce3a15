"""What the norm kernels share: a program's place, its channels and groups, and the normalization itself."""

import triton
import triton.language as tl

# Integers whose values make no other code: a clip of another size needs no compilation.
kernel = triton.jit(do_not_specialize=["S", "M", "chunk", "chunks"])


@triton.jit
def place_of_program(BACK: tl.constexpr = False):
    """A program's block of groups, chunk and set, the last ones first if BACK; and how many sets there are."""
    part, m, M = tl.program_id(1), tl.program_id(2).to(tl.int64), tl.num_programs(2).to(tl.int64)
    if BACK:
        part = tl.num_programs(1) - 1 - part
        m = M - 1 - m
    return tl.program_id(0), part, m, M


@triton.jit
def channels_of_block(block, C, D: tl.constexpr, DP: tl.constexpr, BG: tl.constexpr):
    """Channels `[1, BG * DP]` of a block of BG groups of D, padded to DP each; and which of them exist."""
    local = tl.arange(0, BG * DP)[None, :]
    columns = (block * BG + local // DP) * D + local % DP
    return columns if D != DP else block * (BG * DP) + local, (local % DP < D) & (columns < C)


@triton.jit
def mask_of_rows(rows, count, exist, EVEN: tl.constexpr):
    """Which of the next rows are among the `count` that are left, at channels that exist."""
    return rows < count if EVEN else (rows < count) & exist


@triton.jit
def sums_of_groups(values, DP: tl.constexpr, BG: tl.constexpr):
    """Sums over the channels of each group: `[1, BG * DP]` to `[BG]`."""
    return tl.sum(tl.reshape(values, (BG, DP)), 1)


@triton.jit
def spread_to_channels(values, DP: tl.constexpr, BG: tl.constexpr):
    """Values of groups at each of their channels: `[BG]` to `[1, BG * DP]`."""
    return tl.reshape(tl.broadcast_to(values[:, None], (BG, DP)), (1, BG * DP))


@triton.jit
def load_affine(statistics, weight, bias, m, M, columns, exist, G, D: tl.constexpr):
    """Of each channel: mean, 1 / deviation, gamma and beta, `[1, BG * DP]` in float32."""
    group = columns // D
    return (
        tl.load(statistics + m * G + group, mask=exist, other=0),
        tl.load(statistics + (M + m) * G + group, mask=exist, other=0),
        tl.load(weight + columns, mask=exist, other=0).to(tl.float32),
        tl.load(bias + columns, mask=exist, other=0).to(tl.float32),
    )


@triton.jit
def normalize(value, mu, deviation, gamma, beta):
    """As forward and backward compute it, bit-identical, so that they agree on what a ReLU passes."""
    return tl.fma(value - mu, tl.broadcast_to(deviation * gamma, value.shape), tl.broadcast_to(beta, value.shape))


@triton.jit
def follow_statistics(running_mean, running_var, momentum, mean, variance, groups, exist):
    """Moves running statistics towards those of the first set."""
    old = tl.load(running_mean + groups, mask=exist, other=0)
    tl.store(running_mean + groups, old + momentum * (mean - old), mask=exist)
    old = tl.load(running_var + groups, mask=exist, other=0)
    tl.store(running_var + groups, old + momentum * (variance - old), mask=exist)


@triton.jit
def passed_by_relu(
    dy, value, y, tile, mask, mu, deviation, gamma, beta,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """dz: dy where the ReLU passes."""
    gradient = tl.load(dy + tile, mask=mask, other=0).to(tl.float32)
    if RELU:
        if RESIDUAL:
            before = tl.load(y + tile, mask=mask, other=0).to(tl.float32)
        else:
            before = normalize(value, mu, deviation, gamma, beta)
        gradient = tl.where(before <= 0, 0, gradient)  # NaN passes, as in PyTorch
    return gradient
