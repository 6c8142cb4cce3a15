"""Less kept for backward, and computed again there: activation checkpointing (Chen et al. 2016) of residual blocks.

What is computed again is bit-identical to what was: with the running statistics and the random numbers of then.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from pytorchvideo.models.resnet import ResBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.resnet import BasicBlock
from torchvision.ops import StochasticDepth

from video_gn.compat import Dropout
from video_gn.errors import InputError
from video_gn.models.blocks import Bottleneck

# What may be computed again: nothing; what convolutions read after a norm and ReLU of the kernels; residual blocks.
WAYS = ("none", "norms", "blocks")
_BLOCKS: tuple[Any, ...] = (ResBlock, BasicBlock)


class Recomputed(nn.Module):
    """A block that in training keeps its input alone, and runs again in backward."""

    def forward(self, *inputs: Tensor) -> Tensor:
        run = super().forward
        if not self.training or not torch.is_grad_enabled():
            return run(*inputs)
        draws = draws_numbers(self.modules())
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=draws, context_fn=self._contexts)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (type(self).__mro__[2],), self.__dict__

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Of the first run and of the second."""
        return nullcontext(), _AsBefore(self)


class _AsBefore:
    """Within it, buffers of a module are copies of what they were when it was made."""

    def __init__(self, module: nn.Module) -> None:
        self._then = [
            (layer, name, buffer.clone())
            for layer in module.modules()
            if layer.training
            for name, buffer in layer.named_buffers(recurse=False)
        ]
        self._now: list[Tensor] = []

    def __enter__(self) -> None:
        self._now = [layer.get_buffer(name) for layer, name, _ in self._then]
        for layer, name, buffer in self._then:
            setattr(layer, name, buffer.clone())

    def __exit__(self, *error: object) -> None:
        for (layer, name, _), buffer in zip(self._then, self._now, strict=True):
            setattr(layer, name, buffer)


def _empty(kind: type) -> Any:
    """A block of a class, without its contents: by it blocks are copied and pickled."""
    made: Any = _recomputed(kind)
    return made.__new__(made)


@cache
def _recomputed(kind: type) -> type:
    return type(kind.__name__, (Recomputed, kind), {"__module__": kind.__module__})


def set_recompute(net: nn.Module, way: str) -> None:
    """Sets what a network computes again in backward, so as not to keep it.

    Args:
        net: The network.
        way: One of `WAYS`: "none"; "norms", what the second and third convolution of each block read, where the norms
            run on the kernels; "blocks", all within a residual block.

    Raises:
        InputError: There is no such way, or the network has no such part.
    """
    if way not in WAYS:
        raise InputError(f"recompute is {way!r}; it has to be one of: {', '.join(WAYS)}")
    ours = [module for module in net.modules() if isinstance(module, Bottleneck)]
    blocks = residual_blocks(net)
    for known, found, having in (("norms", ours, "bottlenecks of ResNet3d"), ("blocks", blocks, "residual blocks")):
        if way == known and not found:
            others = "blocks or none" if blocks else "none"
            raise InputError(f"recompute is {way}, and {type(net).__name__} has no {having}; take {others}")
    for module in ours:
        module.recompute = way == "norms"
    for block in blocks:
        kind = type(block)
        plain = kind.__mro__[2] if isinstance(block, Recomputed) else kind
        block.__class__ = _recomputed(plain) if way == "blocks" else plain


def ways_of(net: nn.Module, kernels: bool) -> list[str]:
    """Those of `WAYS` by which a network keeps less than by "none", and that.

    Args:
        net: The network.
        kernels: Whether its norms run on the kernels.
    """
    norms = kernels and any(isinstance(module, Bottleneck) for module in net.modules())
    return ["none", *(["norms"] if norms else []), *(["blocks"] if residual_blocks(net) else [])]


def residual_blocks(net: nn.Module) -> list[nn.Module]:
    """The residual blocks of a network of this project, pytorchvideo or torchvision, none within another."""
    return [module for module in net.modules() if isinstance(module, _BLOCKS)]


def draws_numbers(modules: Iterable[nn.Module]) -> bool:
    """Whether some of them take random numbers in training."""
    return any(
        getattr(module, "drop_path", 0) or (isinstance(module, (Dropout, StochasticDepth)) and module.p)
        for module in modules
    )
