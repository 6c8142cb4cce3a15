"""Launching the norm kernels (`video_gn.kernels.norm_kernels`): how the work on features is divided, and their buffers.

How S is cut into chunks follows from S, C, G and the type alone. So the same input gives the same bits, and a clip has
the same bits alone as among others.
"""

from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from video_gn.kernels import norm_kernels, norm_small
from video_gn.kernels.dispatch import on_device

_TILE = 8192  # bytes of a step of a program, of each tensor that it reads; a kernel that only sums takes half
_CHUNK = 16384  # least elements of a program's chunk
_MAX_CHUNKS = 512
_SMALL = 16384  # elements that a program holds at once
_MERGED = 4096  # sums that a program which merges gradients adds up in a step


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


@cache
def _summing(sets: Sets, itemsize: int) -> Mapping[str, Any]:
    """Layout of the kernels that only sum, `moments` and `reduce`: more programs at once hide more of their loads."""
    layout = _layout(sets, itemsize, False)
    return {**layout, "R": max(layout["R"] // 2, 1), "num_warps": max(layout["num_warps"] // 2, 1)}


@cache
def _merging(sets: Sets, chunks: int) -> tuple[int, Mapping[str, Any]]:
    """Blocks of groups and layout of `merge_gradients`: narrow, so that many programs have few steps each."""
    padded = triton.next_power_of_2(sets.group_size)
    block = min(max(32 // padded, 1), triton.next_power_of_2(sets.groups))
    rows = min(triton.next_power_of_2(chunks), max(_MERGED // (block * padded), 1))
    even = padded == sets.group_size and sets.groups % block == 0
    layout = {"D": sets.group_size, "DP": padded, "BG": block, "R": rows, "EVEN": even}
    return triton.cdiv(sets.groups, block), {**layout, "num_warps": 4, "enable_fp_fusion": True}


def _divided(sets: Sets, x: Tensor, whole: bool) -> tuple[_Plan, Mapping[str, Any]]:
    return _plan(sets, x.element_size(), whole), _layout(sets, x.element_size(), whole)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last_3d)


# What Triton compiled, with the values of its constants, by kernel and all that Triton compiles it for.
_compiled: dict[Hashable, tuple[Any, tuple[Any, ...]]] = {}


def _key(sets: Sets, x: Tensor, *given: Tensor | bool | None) -> Hashable:
    """All of a call that Triton compiles kernels for; None where a tensor is not aligned as PyTorch allocates them."""
    key: list[Hashable] = [sets, x.device]
    for one in (x, *given):
        if isinstance(one, Tensor):
            if one.data_ptr() % 16:
                return None
            key.append(one.dtype)
        else:
            key.append(one)
    return tuple(key)


def _run(kernel: Any, grid: tuple[int, int, int], key: Hashable, *arguments: Any, **constants: Any) -> None:
    """Launches a kernel; from the second time on without Triton's search for it, which takes most of a launch."""
    known = _compiled.get((kernel, key))
    if known is not None:
        known[0][grid](*arguments, *known[1])
        return
    compiled = kernel[grid](*arguments, **constants)
    if key is not None and compiled is not None:  # the interpreter gives None
        _compiled[kernel, key] = compiled, tuple(constants[name] for name in kernel.arg_names[len(arguments) :])


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
    key = _key(sets, x, weight, bias, residual, relu, *(running or ()))
    statistics = x.new_empty((2, sets.sets, sets.groups), dtype=torch.float32)
    follow = (*(running or (statistics, statistics)), float(momentum))
    _, positions, channels, groups = sets
    if whole:
        y = _like(x)
        _run(
            norm_small.forward_small, (plan.blocks, sets.sets, 1), key,
            x, x if residual is None else residual, y, statistics, weight, bias, *follow, *sets[1:], float(eps),
            RELU=relu, RESIDUAL=residual is not None, RUNNING=running is not None, **layout,
        )  # fmt: skip
        return y, statistics
    parts = x.new_empty((2, sets.sets, plan.chunks, groups), dtype=torch.float32)
    _run(
        norm_kernels.moments, (plan.blocks, plan.chunks, sets.sets), key,
        x, parts, positions, channels, groups, plan.chunk, **_summing(sets, x.element_size()),
    )  # fmt: skip
    _run(
        norm_kernels.merge_moments, (plan.merge_blocks, sets.sets, 1), key,
        parts, statistics, *follow, positions, groups, sets.group_size, plan.chunk, plan.chunks, float(eps),
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
    key = _key(sets, x, weight, bias, residual, statistics, relu)
    _run(
        norm_kernels.apply, (plan.blocks, plan.chunks, sets.sets), key,
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
    key = _key(sets, x, dy, y, weight, bias, statistics, relu, fixed, affine)
    if whole:
        totals = x.new_empty((2, sets.sets, channels), dtype=torch.float32)
        _run(
            norm_small.backward_small, (plan.blocks, sets.sets, 1), key,
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
        _run(
            norm_kernels.reduce, grid, key,
            x, dy, y if masked else x, dz, statistics, weight, bias, sums, positions, channels, groups, plan.chunk,
            **flags, **_summing(sets, x.element_size()),
        )  # fmt: skip
        totals = x.new_empty((2, sets.sets, channels), dtype=torch.float32)
        coefficients = x.new_empty((2, sets.sets, groups), dtype=torch.float32)
        blocks, merging = _merging(sets, plan.chunks)
        _run(
            norm_kernels.merge_gradients, (blocks, sets.sets, 2), key,
            sums, weight, totals, coefficients, *sets, plan.chunks, **merging,
        )  # fmt: skip
    _run(
        norm_kernels.input_gradient, grid, key,
        x, dz, dx, statistics, weight, bias, totals, coefficients, dweight, dbias, positions, channels, groups,
        plan.chunk, RELU=relu and not masked, FIXED=fixed, AFFINE=affine, **layout,
    )  # fmt: skip
    return dx, dz, dweight, dbias
