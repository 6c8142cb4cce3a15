"""The Triton kernels as differentiable functions.

Run eagerly they are `autograd.Function`s, which cost the host least. While `torch.compile` traces, they are the
registered operators `video_gn::norm` and `video_gn::max_pool`, which it can put into its graphs. Both accept features
in any memory order, and return channels_last_3d.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from video_gn.errors import InputError
from video_gn.kernels import launch, max_pool
from video_gn.kernels.dispatch import check_once
from video_gn.kernels.max_pool import Triple
from video_gn.kernels.plan import Sets


def norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    sets: int,
    groups: int,
    eps: float,
    relu: bool,
    statistics: Tensor | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    momentum: float = 0.1,
) -> Tensor:
    """`relu(gamma * (x - mu) / sqrt(var + eps) + beta + residual)`, in the type of `x`.

    Args:
        x: `[N, C, T, H, W]` or `[N, C, H, W]`, float32, bfloat16 or float16.
        weight: Gamma `[C]`.
        bias: Beta `[C]`.
        residual: As `x`, or None for none.
        sets: Parts of N, consecutive and equal, that have statistics of their own: N for GN, 1 for BN.
        groups: Parts of C, likewise: C for BN.
        eps: Added to the variance.
        relu: Whether a ReLU comes last.
        statistics: To be taken in place of the input's own, as constants: float32 `[2, sets, groups]`, means and
            `1 / sqrt(var + eps)`.
        running: BatchNorm's mean and variance `[C]`, which follow the statistics of the first set by `momentum`.
        momentum: Of these.

    Raises:
        InputError: Tensors whose shapes or devices do not fit; the gradient of a gradient.
        NotImplementedError: Given or running statistics while compiling; the compiler fuses plain BatchNorm itself.
    """
    _check(x, weight, bias, residual, sets, groups, running)
    if x.ndim == 4:  # as clips of one frame, which are the same memory
        clips = x[:, :, None], weight, bias, None if residual is None else residual[:, :, None]
        return norm(*clips, sets, groups, eps, relu, statistics, running, momentum)[:, :, 0]
    if torch.compiler.is_compiling():
        if statistics is not None or running is not None:
            raise NotImplementedError("while compiling, the norm takes neither given nor running statistics")
        return _norm(x, weight, bias, residual, sets, groups, eps, relu)[0]
    follow = None if running is None else (*running, momentum)
    return _Norm.apply(x, weight, bias, residual, sets, groups, eps, relu, statistics, follow)


def pool(x: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Max pooling of `[N, C, T, H, W]`, which keeps one byte an output for backward, and not its input."""
    if torch.compiler.is_compiling():
        return _max_pool(x, list(kernel), list(stride), list(padding))[0]
    return _MaxPool.apply(x, kernel, stride, padding)


@contextmanager
def recomputed(y: Tensor) -> Iterator[None]:
    """Within it, a function that keeps `y` for its backward has it computed again there instead.

    For a `y` that `norm` returned eagerly, without a residual; any other is kept.
    """
    node = y.grad_fn
    if not getattr(node, "recomputable", False):
        yield
        return
    storage = StorageWeakRef(y.untyped_storage())

    def pack(kept: Tensor) -> Any:
        return node if StorageWeakRef(kept.untyped_storage()) == storage else kept

    def unpack(kept: Any) -> Tensor:
        return _again(kept) if kept is node else kept

    with saved_tensors_hooks(pack, unpack):
        yield


def _check(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, sets: int, groups: int,
    running: tuple[Tensor, Tensor] | None,
) -> None:  # fmt: skip
    """Refuses what kernels would read or write beyond its end."""
    channels = x.shape[1]
    if len(x) % sets or channels % groups:
        raise InputError(f"{len(x)} clips of {channels} channels cannot be split into {sets} sets of {groups} groups")
    expected = {"weight": (weight, (channels,)), "bias": (bias, (channels,)), "residual": (residual, x.shape)}
    for name, value in zip(("running mean", "running variance"), running or (), strict=False):
        expected[name] = value, (groups,)
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise InputError(f"{name} is {list(tensor.shape)}, and has to be {list(shape)} for x {list(x.shape)}")
        if tensor.device != x.device:
            raise InputError(f"{name} is on {tensor.device}, and x on {x.device}; move the module to {x.device}")


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _sets(x: Tensor, sets: int, groups: int) -> Sets:
    return Sets(sets, x.numel() // (sets * x.shape[1]), x.shape[1], groups)


def _again(ctx: Any) -> Tensor:
    """What `norm` returned, once more, bit-identical."""
    ctx.unpacked = ctx.saved_tensors  # only once: activation checkpointing hands them out one time
    x, weight, bias, statistics, _ = ctx.unpacked
    return launch.apply(x, weight, bias, None, statistics, ctx.sets, ctx.relu)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, sets: int, groups: int, eps: float,
        relu: bool, statistics: Tensor | None, follow: tuple[Tensor, Tensor, float] | None,
    ) -> Tensor:  # fmt: skip
        x, residual = _last(x), None if residual is None else _last(residual.to(x.dtype))
        ctx.sets, ctx.relu, ctx.fixed = _sets(x, sets, groups), relu, statistics is not None
        ctx.residual = residual is not None
        ctx.recomputable, ctx.unpacked = not ctx.residual, None
        if statistics is None:
            running, momentum = (follow[:2], follow[2]) if follow else (None, 0.0)
            y, statistics = launch.forward(x, weight, bias, residual, ctx.sets, eps, relu, running, momentum)
        else:
            y = launch.apply(x, weight, bias, residual, statistics, ctx.sets, relu)
        ctx.save_for_backward(x, weight, bias, statistics, y if relu and ctx.residual else None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        check_once()
        x, weight, bias, statistics, y = ctx.unpacked or ctx.saved_tensors
        ctx.unpacked = None
        needs = ctx.needs_input_grad
        dx, dz, dweight, dbias = launch.backward(
            _last(dy), x, y, weight, bias, statistics, ctx.sets, ctx.relu, ctx.fixed, (needs[0], needs[1] or needs[2])
        )
        gradients = (dx, dweight, dbias, dz if ctx.residual else None)
        return *(gradient if need else None for gradient, need in zip(gradients, needs, strict=False)), *[None] * 6


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:  # type: ignore[override]
        y, index = max_pool.forward(_last(x), kernel, stride, padding)
        ctx.save_for_backward(index)
        ctx.geometry = x.shape[2:], kernel, stride, padding
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        check_once()
        return max_pool.backward(_last(dy), *ctx.saved_tensors, *ctx.geometry), None, None, None


# For torch.compile. A fake implementation and its real one return the same memory order, whatever the input's.


@torch.library.custom_op("video_gn::norm", mutates_args=())
def _norm(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, sets: int, groups: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    residual = None if residual is None else _last(residual.to(x.dtype))
    return launch.forward(_last(x), weight, bias, residual, _sets(x, sets, groups), eps, relu)


@_norm.register_fake
def _(x, weight, bias, residual, sets, groups, eps, relu):
    y = torch.empty_like(x, memory_format=torch.channels_last_3d)
    return y, x.new_empty((2, sets, groups), dtype=torch.float32)


@torch.library.custom_op("video_gn::norm_backward", mutates_args=())
def _norm_backward(
    dy: Tensor, x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, statistics: Tensor, sets: int, groups: int,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    found = _sets(x, sets, groups)
    y = None if y is None else _last(y)
    dx, dz, dweight, dbias = launch.backward(_last(dy), _last(x), y, weight, bias, statistics, found, relu)
    if dweight.untyped_storage().nbytes() > dweight.nbytes:  # an operator's results share no memory
        dweight, dbias = dweight.clone(), dbias.clone()
    return dx, x.new_empty(0) if y is None else dz, dweight, dbias


@_norm_backward.register_fake
def _(dy, x, y, weight, bias, statistics, sets, groups, relu):
    dx = torch.empty_like(x, memory_format=torch.channels_last_3d)
    dz = x.new_empty(0) if y is None else torch.empty_like(dx, memory_format=torch.channels_last_3d)
    return dx, dz, torch.empty_like(weight), torch.empty_like(bias)


def _keep_norm(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, bias, residual, ctx.sets, ctx.groups, _, ctx.relu = inputs
    y, statistics = output
    ctx.residual = residual is not None
    ctx.mark_non_differentiable(statistics)
    ctx.save_for_backward(x, weight, bias, statistics, y if ctx.relu and ctx.residual else None)


def _differentiate_norm(ctx: Any, dy: Tensor, _: Tensor) -> Any:
    x, weight, bias, statistics, y = ctx.saved_tensors
    dx, dz, dweight, dbias = _norm_backward(dy, x, y, weight, bias, statistics, ctx.sets, ctx.groups, ctx.relu)
    residual = (dy if y is None else dz) if ctx.residual else None
    return dx, dweight, dbias, residual, None, None, None, None


_norm.register_autograd(_differentiate_norm, setup_context=_keep_norm)


@torch.library.custom_op("video_gn::max_pool", mutates_args=())
def _max_pool(x: Tensor, kernel: list[int], stride: list[int], padding: list[int]) -> tuple[Tensor, Tensor]:
    return max_pool.forward(_last(x), *map(tuple, (kernel, stride, padding)))  # type: ignore[arg-type]


@_max_pool.register_fake
def _(x, kernel, stride, padding):
    size = max_pool.output_size(x.shape[2:], kernel, stride, padding)
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    return y, torch.empty_like(y, dtype=torch.uint8, memory_format=torch.channels_last_3d)


@torch.library.custom_op("video_gn::max_pool_backward", mutates_args=())
def _max_pool_backward(
    dy: Tensor, index: Tensor, size: list[int], kernel: list[int], stride: list[int], padding: list[int]
) -> Tensor:
    geometry = map(tuple, (size, kernel, stride, padding))
    return max_pool.backward(_last(dy), _last(index), *geometry)  # type: ignore[arg-type]


@_max_pool_backward.register_fake
def _(dy, index, size, kernel, stride, padding):
    shape = (*dy.shape[:2], *size)
    return torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last_3d)


def _keep_pool(ctx: Any, inputs: Any, output: Any) -> None:
    x, *ctx.geometry = inputs
    ctx.size = x.shape[2:]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _differentiate_pool(ctx: Any, dy: Tensor, _: Tensor) -> Any:
    return _max_pool_backward(dy, *ctx.saved_tensors, list(ctx.size), *ctx.geometry), None, None, None


_max_pool.register_autograd(_differentiate_pool, setup_context=_keep_pool)
