"""Counts the memory of a training step, with tensors that have shapes and types and no memory.

Forward is run as on a GPU, under its autocast rules and with its kernels, and what is kept for backward is added up,
block by block; so are parameters, gradients and the optimizer's state. Not counted: workspaces of cuDNN, and memory
that is reserved and not used (docs/kernels.md has what was counted beside what was measured).
"""

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from video_gn.compat import shapes_alone
from video_gn.models.blocks import select_kernels
from video_gn.models.input import Normalize
from video_gn.models.recompute import WAYS, residual_blocks, set_recompute
from video_gn.train.optim import Optimizer
from video_gn.train.settings import Execution

GIB = 2**30
# A card of 80 GB held 280 clips where 0.274 GB each were counted, and 227 where 0.334 were (an H100; docs/kernels.md).
USABLE, CONTEXT = 0.9, GIB // 2  # of what is left when CUDA has its own
_TRIED = 4, 8  # clips

Storages = dict[StorageWeakRef, int]  # bytes


class Clip(NamedTuple):
    """Size of a training clip: T frames of `side` x `side` pixels."""

    frames: int
    side: int


def clip_of(data: Mapping[str, Any]) -> Clip:
    """Of a data module's settings."""
    video = data.get("clip")
    return Clip(video["num_frames"], video["crop_size"]) if video else Clip(1, data["crop_size"])


class Setting(NamedTuple):
    """What a step's memory depends on besides network and clips.

    Attributes:
        precision: Lightning's word: 32-true, bf16-mixed, 16-mixed, 64-true.
        execution: How the network is run.
        device: Type of the device, "cuda" or "cpu".
    """

    precision: str
    execution: Execution
    device: str = "cuda"

    @property
    def mixed(self) -> torch.dtype | None:
        """Type that autocast takes; None without it."""
        return {"bf16": torch.bfloat16, "16": torch.float16}.get(self.precision.removesuffix("-mixed"))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return torch.float64 if self.precision.startswith("64") else torch.float32


@dataclass(frozen=True)
class Counted:
    """Bytes of a training step on one device.

    Attributes:
        weights: Parameters, gradients and the optimizer's state.
        parts: As backward comes to each part of the network: bytes however many clips there are, and of each clip.
    """

    weights: int
    parts: Sequence[tuple[int, int]]

    def needs(self, clips: int) -> int:
        """Bytes with so many clips."""
        return self.weights + max(fixed + clips * each for fixed, each in self.parts)

    def fits(self, available: float) -> int:
        """Clips whose step needs no more bytes than are available."""
        left = available - self.weights
        return max(min(int((left - fixed) // each) for fixed, each in self.parts if each), 0)


@dataclass
class Part:
    """A residual block, or what is between two of them.

    Attributes:
        input: Of a block.
        kept: For backward.
    """

    input: Storages = field(default_factory=dict)
    kept: Storages = field(default_factory=dict)

    @property
    def gradients(self) -> int:
        """Bytes of gradients alive at once in its backward: of a norm's output, input and, in a block, residual."""
        return (3 if self.input else 2) * max(self.kept.values(), default=0)


def usable(gigabytes: float) -> float:
    """Bytes of a card that training can have, of the GB that it is sold by."""
    return USABLE * (gigabytes * GIB - CONTEXT)


def count_ways(
    net: nn.Module, clip: Clip, setting: Setting, weights: int, ways: Iterable[str] = WAYS
) -> dict[str, Counted]:
    """Counts a training step of a network for words of `model.execution.recompute`, by steps of a few clips.

    Args:
        net: The network, on any device; it stays as it is.
        clip: Size of a clip.
        setting: How it is run.
        weights: As `count_weights` gives them.
        ways: The words.
    """
    found = {}
    kept: dict[bool, list[list[Part]]] = {}
    for way in ways:
        norms = way == "norms"
        kept[norms] = kept.get(norms) or [parts(net, clips, clip, setting, norms) for clips in _TRIED]
        lines = []
        for few, many in zip(*(alive(each, way) for each in kept[norms]), strict=True):
            each = (many - few) // (_TRIED[1] - _TRIED[0])
            lines.append((few - _TRIED[0] * each, each + _images(clip)))
        found[way] = Counted(weights, lines)
    return found


def count_clips(net: nn.Module, clips: int, clip: Clip, setting: Setting) -> int:
    """Bytes of so many clips, and of activations and their gradients, in a step by the setting's own recomputing."""
    way = setting.execution.recompute
    return clips * _images(clip) + max(alive(parts(net, clips, clip, setting, way == "norms"), way))


def _images(clip: Clip) -> int:
    """Bytes of a clip in uint8, and of the next step's."""
    return 2 * 3 * clip.frames * clip.side**2


def count_weights(net: nn.Module, dtype: torch.dtype, optimizer: Optimizer, processes: int = 1) -> int:
    """Bytes of parameters, buffers, gradients and the optimizer's state.

    Args:
        net: The network.
        dtype: Of the parameters in training.
        optimizer: What moves them.
        processes: Of the run; where there are several, DDP has a copy of all gradients.
    """
    weights = sum(_bytes(weight, dtype) for weight in net.parameters())
    trained = sum(_bytes(weight, dtype) for weight in net.parameters() if weight.requires_grad)
    gradients = trained * (2 if processes > 1 else 1)
    return weights + gradients + sum(map(_bytes, net.buffers())) + _state(net, dtype, optimizer)


def alive(parts: list[Part], recompute: str) -> list[int]:
    """Bytes of activations and their gradients, as backward comes to each part, by what is recomputed."""
    before: Storages = {}
    found = []
    for part in parts:
        found.append(sum((before | part.input | part.kept).values()) + part.gradients)
        # A frozen block keeps nothing, and is not computed again.
        before |= part.input if recompute == "blocks" and part.input and part.kept else part.kept
    return found


def parts(net: nn.Module, clips: int, clip: Clip, setting: Setting, norms: bool) -> list[Part]:
    """What the parts of a network keep for backward, from the first layer on; without weights, blocks in full.

    Args:
        net: The network.
        clips: How many.
        clip: Size of one.
        setting: How the network is run.
        norms: Whether with `model.execution.recompute=norms`.
    """
    order = setting.execution.layout(torch.device(setting.device))
    found = [Part()]
    held: list[Tensor] = []  # so that no other takes their storage's place

    def pack(tensor: Tensor) -> Tensor:
        if (storage := _storage(tensor)).keys().isdisjoint(weights):
            found[-1].kept |= storage
            held.append(tensor)
        return tensor

    with _shapes_alone():
        twin = _twin(net, setting.device, setting.dtype, order)
        if setting.device == "cuda" and setting.execution.kernels == "auto":
            select_kernels(twin, "triton")  # convolutions without memory do not keep the order that auto asks for
        set_recompute(twin, "norms" if norms else "none")
        weights = {key for tensor in (*twin.parameters(), *twin.buffers()) for key in _storage(tensor)}
        for block in residual_blocks(twin):
            block.register_forward_pre_hook(lambda _, inputs: found.append(Part(_storage(inputs[0]))))
            block.register_forward_hook(lambda *_: found.append(Part()))
        images = torch.empty(clips, 3, clip.frames, clip.side, clip.side, dtype=torch.uint8, device=setting.device)
        x = Normalize((0.5,) * 3, (0.5,) * 3)(images).to(setting.dtype).contiguous(memory_format=order)
        with _autocast(setting), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = twin(x)
        del y
    return found


def count_flops(net: nn.Module, clip: Clip, recompute: str) -> int:
    """Operations of a training step for one clip, forward and backward: two for each multiplication and addition."""
    with _shapes_alone(), FlopCounterMode(display=False) as counter:
        twin = _twin(net, "cpu", torch.float32, torch.contiguous_format)
        set_recompute(twin, "blocks" if recompute == "blocks" else "none")
        twin(torch.empty(1, 3, clip.frames, clip.side, clip.side)).sum().backward()
    return counter.get_total_flops()


def _state(net: nn.Module, dtype: torch.dtype, optimizer: Optimizer) -> int:
    """Bytes of an optimizer's state."""
    trained = [weight.shape for weight in net.parameters() if weight.requires_grad]
    with _shapes_alone():
        weights = [nn.Parameter(torch.empty(shape, dtype=dtype)) for shape in trained]
        for weight in weights:
            weight.grad = torch.empty_like(weight)
        if not weights:
            return 0
        made = optimizer.make([{"params": weights}], 0.1)
        made.step()
        return sum(_bytes(value) for state in made.state.values() for value in state.values() if torch.is_tensor(value))


@contextmanager
def _shapes_alone() -> Iterator[None]:
    """Within it, tensors are made without memory, and no random number is taken."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what fails is raised, too
    try:
        with shapes_alone(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no such device
            yield
    finally:
        logger.setLevel(level)


def _twin(net: nn.Module, device: str, dtype: torch.dtype, order: torch.memory_format) -> nn.Module:
    """A network as another one, whose tensors have no memory."""

    def alike(tensor: Tensor) -> Tensor:
        new = torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype, device=device)
        new = new.contiguous(memory_format=order) if tensor.ndim == 5 else new
        return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new

    twin = copy.deepcopy(net, {id(tensor): alike(tensor) for tensor in (*net.parameters(), *net.buffers())})
    for layer in twin.modules():
        if isinstance(layer, nn.SyncBatchNorm):  # which would wait for the other processes
            layer.__class__ = nn.BatchNorm3d  # type: ignore[assignment]
    return twin


@contextmanager
def _autocast(setting: Setting) -> Iterator[None]:
    """As `torch.autocast`, which would look for the device."""
    kind = setting.device
    before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    torch.set_autocast_enabled(kind, setting.mixed is not None)
    torch.set_autocast_dtype(kind, setting.mixed or before[1])
    try:
        yield
    finally:
        torch.set_autocast_enabled(kind, before[0])
        torch.set_autocast_dtype(kind, before[1])
        torch.clear_autocast_cache()


def _storage(tensor: Tensor) -> Storages:
    storage = tensor.untyped_storage()
    return {StorageWeakRef(storage): storage.nbytes()}


def _bytes(tensor: Tensor, dtype: torch.dtype | None = None) -> int:
    return tensor.numel() * (dtype.itemsize if dtype and tensor.is_floating_point() else tensor.element_size())
