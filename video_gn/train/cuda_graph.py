"""Forward and backward of a call as two CUDA graphs: recorded once, then launched whole, each at once.

A training step of the I3D ResNet-50 launches over 600 kernels, one after the other, for which a slow host needs longer
than the GPU for the step (docs/kernels.md).
"""

import itertools
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from video_gn.compat import copy_all
from video_gn.errors import InputError

_WARM_UP = 3  # calls in which kernels are compiled and convolutions chosen, which no graph can hold


class Graphs:
    """Forward and backward of a call, for inputs of one shape.

    Recording changes no buffer of the network and takes no random number.

    Args:
        net: The network, whose parameters get gradients.
        run: Its call, from an input without gradient to one tensor.
        x: Such an input, on a GPU.

    Raises:
        RuntimeError: What is called cannot be recorded.
    """

    def __init__(self, net: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._run = run
        self._weights = [weight for weight in net.parameters() if weight.requires_grad]
        self._x, self._turn = x.clone(), 0
        before = [buffer.clone() for buffer in net.buffers()]
        try:
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                self._record()
        finally:
            with torch.no_grad():
                for buffer, value in zip(net.buffers(), before, strict=True):
                    buffer.copy_(value)

    def _call(self) -> Tensor:
        """Without the casts of weights that autocast keeps from call to call: a graph would have the old ones."""
        kind = self._x.device.type
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype, enabled, cache_enabled=False):
            return self._run(self._x)

    def _differentiate(self, y: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the parameters, and None for those that have no part in `y`; as Lightning, outside autocast."""
        with torch.autocast(self._x.device.type, enabled=False):
            return torch.autograd.grad(y, self._weights, dy, allow_unused=True)

    def _record(self) -> None:
        stream, pool = torch.cuda.Stream(self._x.device), torch.cuda.graph_pool_handle()
        with _meanwhile(stream):
            for _ in range(_WARM_UP):
                y = self._call()
                used = [gradient is not None for gradient in self._differentiate(y, torch.zeros_like(y))]
            del y
        self._weights = list(itertools.compress(self._weights, used))
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # What other threads do meanwhile, such as the loader's that pins memory, is no part of the graph.
        with torch.cuda.graph(self._forward, pool, stream, capture_error_mode="thread_local"):
            y = self._call()
        # Not in the pool, whose memory the next forward writes over: they become the parameters' own gradients.
        self._gradients = [torch.empty_like(weight) for weight in self._weights]
        self._dy = torch.empty_like(y)
        with torch.cuda.graph(self._backward, pool, stream, capture_error_mode="thread_local"):
            copy_all(self._gradients, self._differentiate(y, self._dy))
        self._y = y.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return _Launch.apply(self, x, *self._weights)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        """The output, and the turn that backward has to name."""
        self._turn += 1
        self._x.copy_(x)
        self._forward.replay()
        return self._y.clone(), self._turn

    def backward(self, dy: Tensor, turn: int) -> list[Tensor]:
        """Gradients of the parameters.

        Raises:
            InputError: Another forward, or this backward, was run since; what it kept is written over.
        """
        if turn != self._turn:
            raise InputError(
                "a backward of the network has to come once, and before its next forward, where it runs as a CUDA "
                "graph; set model.execution.cuda_graph to false"
            )
        self._turn += 1
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            if weight.grad is not None and weight.grad.data_ptr() == gradient.data_ptr():  # they are accumulated
                weight.grad = gradient.clone()
        self._dy.copy_(dy)
        self._backward.replay()
        return [gradient.detach() for gradient in self._gradients]


@contextmanager
def _meanwhile(stream: torch.cuda.Stream) -> Any:
    """What is launched within it is on another stream, after all that was before it and before all that follows."""
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.current_stream(stream.device).wait_stream(stream)


class _Launch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: Graphs, x: Tensor, *weights: Tensor) -> Tensor:  # type: ignore[override]
        ctx.graphs = graphs
        y, ctx.turn = graphs.forward(x)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:  # type: ignore[override]
        return None, None, *ctx.graphs.backward(dy, ctx.turn)
