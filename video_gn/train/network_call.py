"""How a network is called: its kernels, memory order and compilation, and in training its CUDA graphs."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn

from video_gn.compat import hooked
from video_gn.errors import InputError
from video_gn.kernels.dispatch import check, triton_runs
from video_gn.models.blocks import select_kernels
from video_gn.models.known import is_known
from video_gn.models.recompute import Recomputed, draws_numbers, set_recompute
from video_gn.models.resnet3d import ResNet3d
from video_gn.train.cuda_graph import Graphs
from video_gn.train.settings import Execution

# Values that a layer computes with, and a callback may change.
_VALUES = ("training", "p", "momentum", "eps", "r_max", "d_max", "kernels", "recompute", "drop_path")

# Up to which side of clips a CPU is faster in channels_last_3d: at 32 and 112 it is, and not at 224 (docs/kernels.md).
_SMALL_SIDE = 160

log = logging.getLogger(__name__)


class _Recorded(NamedTuple):
    """Graphs, all that they take for granted, and what that names by its identity, which lives as long."""

    graphs: Graphs
    state: list[Any]
    alive: Sequence[Any]


class NetworkCall:
    """The call of a network.

    Args:
        net: The network.
        normalize: Of its input, from uint8 to floats.
        execution: How it is run.
        batch_size: Clips per GPU in a training step; fewer are never called by graphs.
        side: Of the training crop, in pixels.

    Attributes:
        execution: How it is run.
        norm_kernels: What the norms run on, in words; empty until it is known.
        graphed: Whether the last training step was by CUDA graphs.
        normalize: Of its input, from uint8 to floats.
    """

    def __init__(
        self, net: nn.Module, normalize: Callable[[Tensor], Tensor], execution: Execution, batch_size: int, side: int
    ) -> None:
        select_kernels(net, execution.kernels)
        set_recompute(net, execution.recompute)
        self.execution, self._net, self.normalize, self._batch_size = execution, net, normalize, batch_size
        self._side = side
        self.norm_kernels, self.graphed = "", False
        self._device_type = ""  # where calls are recorded; empty for nowhere
        self._recorded: _Recorded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_recorded": None}  # a copy has a network of its own

    def prepare(self, strategy: Strategy, trains: bool) -> None:
        """Prepares the network for where it will run.

        Args:
            strategy: The trainer's.
            trains: Whether for training.

        Raises:
            InputError: It cannot be run so there.
        """
        execution, device = self.execution, strategy.root_device
        before, self.norm_kernels = self.norm_kernels, check(execution.kernels, device)
        if self.norm_kernels != before:  # once where a test follows training
            log.info(self.norm_kernels)
        if trains and execution.recompute == "norms" and not triton_runs(execution.kernels, device):
            log.warning(
                "model.execution.recompute is norms, which keeps less only where the norms run on the Triton kernels; "
                "blocks does everywhere"
            )
        order = self._order(device, strategy.precision_plugin.precision == "32-true")
        self._net.to(memory_format=order)  # type: ignore[call-overload]
        if execution.compile:
            self._net.compile()
        self.end()
        if not trains:
            return
        self.graphed = False
        by_itself = not execution.compile and _is_ours(self._net)
        wanted = by_itself if execution.cuda_graph is None else execution.cuda_graph
        if wanted and not self._refused(_obstacle(strategy)):
            self._device_type = device.type

    def end(self) -> None:
        """Ends training: nothing is recorded any more, and the graphs' memory is free."""
        self._device_type, self._recorded = "", None

    def __call__(self, clips: Tensor) -> Tensor:
        """What the network gives for clips uint8 `[N, 3, T, H, W]`.

        Raises:
            InputError: It is to be recorded, and cannot be.
        """
        trains = torch.is_grad_enabled() and self._net.training
        if not trains or clips.device.type != self._device_type or len(clips) % self._batch_size:
            return self._run(clips)
        modules, parameters = list(self._net.modules()), list(self._net.parameters())
        if self._refused(_hindrance(modules, parameters)):
            self._recorded = None
        elif (state := self._state(clips, modules, parameters)) != (self._recorded and self._recorded.state):
            self._recorded = None  # its memory is needed
            if graphs := self._record(clips):
                self._recorded = _Recorded(graphs, state, (modules, parameters))
        self.graphed = self._recorded is not None
        return self._recorded.graphs(clips) if self._recorded else self._run(clips)

    def _refused(self, reason: str | None) -> bool:
        """Whether there is a reason why there are no graphs, which is an error where they are demanded."""
        if reason and self.execution.cuda_graph:
            raise InputError(f"model.execution.cuda_graph is true, and {reason}; take null, for where it can be")
        return reason is not None

    def _run(self, clips: Tensor) -> Tensor:
        order = self._order(clips.device, not torch.is_autocast_enabled(clips.device.type))
        return self._net(self.normalize(clips).contiguous(memory_format=order))

    def _order(self, device: torch.device, exact: bool) -> torch.memory_format:
        """Memory order of activations, which are in float32 where they are `exact`."""
        execution = self.execution
        free = device.type == "cpu" and execution.channels_last is None and execution.kernels == "auto" and exact
        if free and isinstance(self._net, ResNet3d) and self._side <= _SMALL_SIDE:
            return torch.channels_last_3d
        return execution.layout(device)

    def _state(self, clips: Tensor, modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> list[Any]:
        """All that graphs take for granted: sizes, types, objects, addresses and values."""
        kind = clips.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        buffers = [buffer.data_ptr() for buffer in self._net.buffers()]
        weights = [(id(weight), weight.data_ptr(), weight.requires_grad) for weight in parameters]
        layers = [(id(module), *map(vars(module).get, _VALUES)) for module in modules]
        return [clips.shape, clips.dtype, autocast, buffers, weights, layers]

    def _record(self, clips: Tensor) -> Graphs | None:
        """Graphs of the call; None where there is too little memory."""
        try:
            return Graphs(self._net, self._run, clips)
        except torch.OutOfMemoryError:
            if self.execution.cuda_graph:
                raise
            self._device_type = ""
            log.warning("there is too little memory to record CUDA graphs; kernels are launched one by one")
            return None
        except RuntimeError as error:  # older versions of PyTorch cannot compute on after it
            raise InputError(
                f"the network cannot be recorded as a CUDA graph: {str(error).partition(chr(10))[0]}; set "
                "model.execution.cuda_graph to false"
            ) from None


def seed_step(model: Any, batch_idx: int) -> None:
    """Has dropout follow from (seed, epoch, batch, process), so that a resumed run has the same one."""
    key = (model.seed, model.trainer.current_epoch, batch_idx, model.trainer.global_rank)
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    if model.device.type == "cpu":  # for GPUs that are not used, PyTorch would note each seed and who asked for it
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _is_ours(net: nn.Module) -> bool:
    """Whether all of a network is known to compute the same things in every step."""
    known = ("torch", "torchvision", "pytorchvideo", "fvcore", "video_gn")
    return is_known(net) and all(type(module).__module__.partition(".")[0] in known for module in net.modules())


def _obstacle(strategy: Strategy) -> str | None:
    """Why there can be no CUDA graphs; None where there can."""
    if strategy.root_device.type != "cuda":
        return "there is no CUDA device"
    if torch.version.hip:
        return "graphs are untried on AMD's GPUs"
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
        return f"they are untried with {type(strategy).__name__}"
    return None


def _hindrance(modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> str | None:
    """Why the next step cannot be by graphs; None where it can."""
    if hooked(modules, parameters):
        return "there are hooks on the network, which a graph does not call"
    if any(isinstance(module, nn.SyncBatchNorm) for module in modules):
        return "BatchNorm exchanges statistics between processes (trainer.sync_batchnorm)"
    if any(vars(module).get("momentum", 0) is None for module in modules):
        return "BatchNorm averages over all batches, whose number is no part of a graph"
    recomputed = [module for module in modules if isinstance(module, Recomputed) and module.training]
    if any(draws_numbers(module.modules()) for module in recomputed):
        return "blocks with dropout or stochastic depth are recomputed, which is to ask for the random numbers' state"
    if torch.is_anomaly_enabled():
        return "PyTorch looks for anomalies (trainer.detect_anomaly), which is to ask the GPU"
    return None
