"""Launching the norm kernels (`video_gn.kernels.norm_kernels`), and their buffers."""

from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from video_gn.compat import is_fake
from video_gn.kernels.dispatch import on_device
from video_gn.kernels.plan import Plan, Sets, held, layout_of, merging_of, plan_of, summing_of


def _divided(sets: Sets, x: Tensor, whole: bool) -> tuple[Plan, Mapping[str, Any]]:
    return plan_of(sets, x.element_size(), whole), layout_of(sets, x.element_size(), whole)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last_3d)


# What Triton compiled, with the values of its constants, by kernel and all that Triton compiles it for.
_compiled: dict[Hashable, tuple[Any, tuple[Any, ...]]] = {}


def _key(sets: Sets, x: Tensor, *given: Tensor | bool | None) -> Hashable:
    """All of a call that Triton compiles kernels for; None where a tensor is not aligned as PyTorch allocates them."""
    if is_fake(x):
        return None
    key: list[Hashable] = [sets, x.device]
    for one in (x, *given):
        if isinstance(one, Tensor):
            if one.data_ptr() % 16:
                return None
            key.append(one.dtype)
        else:
            key.append(one)
    return tuple(key)


@cache
def _kernel(name: str) -> Any:
    from video_gn.kernels import norm_kernels, norm_small

    return getattr(norm_small if name.endswith("_small") else norm_kernels, name)


def _run(name: str, grid: tuple[int, int, int], key: Hashable, *arguments: Any, **constants: Any) -> None:
    """Launches a kernel; from the second time on without Triton's search for it, which takes most of a launch."""
    if is_fake(arguments[0]):  # which has a shape alone
        return
    place = name, key, constants.get("STAGES")
    known = _compiled.get(place)
    if known is not None:
        known[0][grid](*arguments, *known[1])
        return
    kernel = _kernel(name)
    compiled = kernel[grid](*arguments, **constants)
    if key is not None and compiled is not None:  # the interpreter gives None
        _compiled[place] = compiled, tuple(constants[word] for word in kernel.arg_names[len(arguments) :])


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
            "forward_small", (plan.blocks, sets.sets, 1), key,
            x, x if residual is None else residual, y, statistics, weight, bias, *follow, *sets[1:], float(eps),
            RELU=relu, RESIDUAL=residual is not None, RUNNING=running is not None, **layout,
        )  # fmt: skip
        return y, statistics
    parts = x.new_empty((2, sets.sets, plan.chunks, groups), dtype=torch.float32)
    _run(
        "moments", (plan.blocks, plan.chunks, sets.sets), key,
        x, parts, positions, channels, groups, plan.chunk, **summing_of(sets, x.element_size()),
    )  # fmt: skip
    _run(
        "merge_moments", (plan.merge_blocks, sets.sets, 1), key,
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
        "apply", (plan.blocks, plan.chunks, sets.sets), key,
        x, x if residual is None else residual, y, statistics, weight, bias, *sets[1:], plan.chunk,
        RELU=relu, RESIDUAL=residual is not None, **layout,
    )  # fmt: skip
    return y


@on_device
def backward(
    dy: Tensor, x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, statistics: Tensor, sets: Sets,
    relu: bool, fixed: bool = False, needed: tuple[bool, bool] = (True, True),
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
        needed: Whether x, and whether gamma or beta need gradients; if not, what is given in their place is none.
    """
    whole = held(sets) and not fixed
    plan, layout = _divided(sets, x, whole)
    _, positions, channels, groups = sets
    by_input, affine = needed
    masked = y is not None  # and so dz differs from dy, and has a taker
    dx, dz = _like(x) if by_input or whole else x, _like(x) if masked else dy
    flags = {"RELU": relu, "RESIDUAL": masked}
    key = _key(sets, x, dy, y, weight, bias, statistics, relu, fixed, *needed)
    if whole:
        totals = x.new_empty((2, sets.sets, channels), dtype=torch.float32)
        _run(
            "backward_small", (plan.blocks, sets.sets, 1), key,
            x, dy, y if masked else x, dz, dx, statistics, weight, bias, totals, positions, channels, groups,
            **flags, **layout,
        )  # fmt: skip
        dweight, dbias = totals.sum(1).to(weight.dtype).unbind()
        return dx, dz, dweight, dbias
    grid = (plan.blocks, plan.chunks, sets.sets)
    totals = coefficients = dx  # not read
    if affine or masked or not fixed or not by_input:
        sums = x.new_empty((2, sets.sets, plan.chunks, channels), dtype=torch.float32)
        _run(
            "reduce", grid, key,
            x, dy, y if masked else x, dz, statistics, weight, bias, sums, positions, channels, groups, plan.chunk,
            **flags, **summing_of(sets, x.element_size()),
        )  # fmt: skip
        totals = x.new_empty((2, sets.sets, channels), dtype=torch.float32)
        coefficients = x.new_empty((2, sets.sets, groups), dtype=torch.float32)
        blocks, merging = merging_of(sets, plan.chunks)
        _run(
            "merge_gradients", (blocks, sets.sets, 2), key,
            sums, weight, totals, coefficients, *sets, plan.chunks, **merging,
        )  # fmt: skip
    if not by_input:
        dweight, dbias = totals.sum(1).to(weight.dtype).unbind()
        return dx, dz, dweight, dbias
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    _run(
        "input_gradient", grid, key,
        x, dz, dx, statistics, weight, bias, totals, coefficients, dweight, dbias, positions, channels, groups,
        plan.chunk, RELU=relu and not masked, FIXED=fixed, AFFINE=affine, **layout,
    )  # fmt: skip
    return dx, dz, dweight, dbias
