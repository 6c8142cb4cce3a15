"""Launching the norm kernels (`video_gn.kernels.norm_kernels`): how the work on features is divided, and their buffers.

How S is cut into chunks follows from S, C, G and the type alone. So the same input gives the same bits, and a clip has
the same bits alone as among others.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from video_gn.kernels import norm_kernels
from video_gn.kernels.dispatch import on_device

_TILE = 8192  # bytes of a step of a program, of each tensor that it reads
_CHUNK = 16384  # least elements of a program's chunk
_MAX_CHUNKS = 512
_SMALL = 16384  # elements that a program holds at once


class Sets(NamedTuple):
    """How features are read: M sets of S positions, whose C channels are in G groups."""

    sets: int
    positions: int
    channels: int
    groups: int

    @property
    def group_size(self) -> int:
        """D, channels of a group."""
        return self.channels // self.groups


class _Plan(NamedTuple):
    """How the work is divided: a program has `block` groups, and a chunk of S in steps of `rows` positions."""

    padded: int  # D as a power of 2
    block: int  # a power of 2
    blocks: int
    rows: int  # a power of 2
    chunk: int
    chunks: int
    even: bool  # whether blocks have no channels to mask
    warps: int
    merge_block: int  # groups of a program that merges moments, a power of 2
    merge_blocks: int
    merge_rows: int  # chunks of one of its steps, a power of 2


def held(sets: Sets) -> bool:
    """Whether one program can hold all positions of its groups, so that features are read once."""
    return triton.next_power_of_2(sets.positions) * _narrowest(sets) <= _SMALL


def _narrowest(sets: Sets) -> int:
    """Channels of a program: whole groups, and no less than memory moves at once."""
    return max(triton.next_power_of_2(sets.group_size), 16)


@cache
def _plan(sets: Sets, itemsize: int, whole: bool) -> _Plan:
    """For features of so many bytes an element; `whole` for a step that is all of S."""
    padded = triton.next_power_of_2(sets.group_size)
    width = _narrowest(sets) if whole else max(padded, min(256, triton.next_power_of_2(sets.groups) * padded))
    rows = triton.next_power_of_2(sets.positions) if whole else max(_TILE // itemsize // width, 1)
    block = min(width // padded, triton.next_power_of_2(sets.groups))
    width = block * padded
    least = max(_CHUNK // width, 32, triton.cdiv(sets.positions, _MAX_CHUNKS))
    chunk = rows if whole else triton.cdiv(least, rows) * rows
    even = padded == sets.group_size and sets.groups % block == 0
    warps = min(max(rows * width // 512, 1), 16 if whole else 8)
    chunks = triton.cdiv(sets.positions, chunk)
    merge_block = min(triton.next_power_of_2(sets.groups), 8)
    return _Plan(
        padded=padded,
        block=block,
        blocks=triton.cdiv(sets.groups, block),
        rows=rows,
        chunk=chunk,
        chunks=chunks,
        even=even,
        warps=warps,
        merge_block=merge_block,
        merge_blocks=triton.cdiv(sets.groups, merge_block),
        merge_rows=min(triton.next_power_of_2(chunks), 128),
    )


@cache
def _layout(sets: Sets, itemsize: int, whole: bool) -> Mapping[str, Any]:
    plan = _plan(sets, itemsize, whole)
    return {
        "D": sets.group_size,
        "DP": plan.padded,
        "BG": plan.block,
        "R": plan.rows,
        "EVEN": plan.even,
        "num_warps": plan.warps,
        "enable_fp_fusion": True,
    }


def _divided(sets: Sets, x: Tensor, whole: bool) -> tuple[_Plan, Mapping[str, Any]]:
    return _plan(sets, x.element_size(), whole), _layout(sets, x.element_size(), whole)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last_3d)


@on_device
def forward(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, sets: Sets, eps: float, relu: bool,
    running: tuple[Tensor, Tensor] | None = None, momentum: float = 0.1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The normalized features, and their statistics float32 `[2, M, G]`: means and 1 / sqrt(var + eps).

    Args:
        x: `[N, C, T, H, W]` in channels_last_3d.
        weight: Gamma `[C]`.
        bias: Beta `[C]`.
        residual: As `x`, added before the ReLU; or None.
        sets: How `x` is read.
        eps: Added to the variance.
        relu: Whether a ReLU comes last.
        running: Mean and variance `[G]` in float32, to be moved towards those of the first set; or None.
        momentum: How far.
    """
    whole = held(sets)
    plan, layout = _divided(sets, x, whole)
    statistics = x.new_empty((2, sets.sets, sets.groups), dtype=torch.float32)
    follow = (*(running or (statistics, statistics)), momentum)
    _, positions, channels, groups = sets
    if whole:
        y = _like(x)
        norm_kernels.forward_small[(plan.blocks, sets.sets)](
            x, x if residual is None else residual, y, statistics, weight, bias, *follow, *sets[1:], eps,
            RELU=relu, RESIDUAL=residual is not None, RUNNING=running is not None, **layout,
        )  # fmt: skip
        return y, statistics
    parts = x.new_empty((2, sets.sets, plan.chunks, groups), dtype=torch.float32)
    norm_kernels.moments[(plan.blocks, plan.chunks, sets.sets)](
        x, parts, positions, channels, groups, plan.chunk, **layout
    )
    norm_kernels.merge_moments[(plan.merge_blocks, sets.sets)](
        parts, statistics, *follow, positions, groups, sets.group_size, plan.chunk, plan.chunks, eps,
        RUNNING=running is not None, B=plan.merge_block, R=plan.merge_rows, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return apply(x, weight, bias, residual, statistics, sets, relu), statistics


@on_device
def apply(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, statistics: Tensor, sets: Sets, relu: bool
) -> Tensor:
    """As `forward`, by given statistics."""
    plan, layout = _divided(sets, x, False)
    y = _like(x)
    norm_kernels.apply[(plan.blocks, plan.chunks, sets.sets)](
        x, x if residual is None else residual, y, statistics, weight, bias, *sets[1:], plan.chunk,
        RELU=relu, RESIDUAL=residual is not None, **layout,
    )  # fmt: skip
    return y


@on_device
def backward(
    dy: Tensor, x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, statistics: Tensor, sets: Sets,
    relu: bool, fixed: bool = False, affine: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, residual, gamma and beta.

    Args:
        dy: Gradient of `forward`'s features, in channels_last_3d as `x`.
        x: As `forward` had it.
        y: What it returned, where there was a residual and a ReLU; else None.
        weight: Gamma.
        bias: Beta.
        statistics: As `forward` returned them.
        sets: How `x` is read.
        relu: As for `forward`.
        fixed: Whether the statistics were given, and are constants.
        affine: Whether gamma and beta need gradients; if not, nothing is written into theirs.
    """
    whole = held(sets) and not fixed
    plan, layout = _divided(sets, x, whole)
    _, positions, channels, groups = sets
    masked = y is not None  # and so dz differs from dy, and has a taker
    dx, dz = _like(x), _like(x) if masked else dy
    flags = {"RELU": relu, "RESIDUAL": masked}
    if whole:
        totals = x.new_empty((2, sets.sets, channels), dtype=torch.float32)
        norm_kernels.backward_small[(plan.blocks, sets.sets)](
            x, dy, y if masked else x, dz, dx, statistics, weight, bias, totals, positions, channels, groups,
            **flags, **layout,
        )  # fmt: skip
        dweight, dbias = totals.sum(1).to(weight.dtype).unbind()
        return dx, dz, dweight, dbias
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    grid = (plan.blocks, plan.chunks, sets.sets)
    totals = coefficients = dx  # not read
    if affine or masked or not fixed:
        sums = x.new_empty((2, sets.sets, plan.chunks, channels), dtype=torch.float32)
        norm_kernels.reduce[grid](
            x, dy, y if masked else x, dz, statistics, weight, bias, sums, positions, channels, groups, plan.chunk,
            **flags, **layout,
        )  # fmt: skip
        totals = x.new_empty((2, sets.sets, channels), dtype=torch.float32)
        coefficients = x.new_empty((2, sets.sets, groups), dtype=torch.float32)
        norm_kernels.merge_gradients[(plan.blocks, sets.sets, 2)](
            sums, weight, totals, coefficients, *sets, plan.chunks, **layout
        )  # fmt: skip
    norm_kernels.input_gradient[grid](
        x, dz, dx, statistics, weight, bias, totals, coefficients, dweight, dbias, positions, channels, groups,
        plan.chunk, RELU=relu and not masked, FIXED=fixed, AFFINE=affine, **layout,
    )  # fmt: skip
    return dx, dz, dweight, dbias
