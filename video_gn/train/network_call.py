"""How a network is called: its kernels, memory order and compilation, and in training its CUDA graphs."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn

from video_gn.compat import hooked
from video_gn.errors import InputError
from video_gn.kernels.dispatch import check
from video_gn.models.contract import settings_of
from video_gn.models.norm import NORMS
from video_gn.train.cuda_graph import Graphs
from video_gn.train.settings import Execution

log = logging.getLogger(__name__)


class NetworkCall:
    """The call of a network.

    Args:
        net: The network.
        normalize: Of its input, from uint8 to floats.
        execution: How it is run.
        batch_size: Clips per GPU in a training step; fewer are never called by graphs.

    Attributes:
        execution: How it is run.
        norm_kernels: What the norms run on, in words; empty until it is known.
        graphed: Whether the last training step was by CUDA graphs.
    """

    def __init__(
        self, net: nn.Module, normalize: Callable[[Tensor], Tensor], execution: Execution, batch_size: int
    ) -> None:
        self.execution, self._net, self._normalize, self._batch_size = execution, net, normalize, batch_size
        self.norm_kernels, self.graphed, self._records = "", False, False
        self.forget()

    def forget(self) -> None:
        """Gives the memory of graphs back; a next training step records them again."""
        self._graphs: Graphs | None = None
        self._recorded: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_graphs": None, "_recorded": []}  # a copy has a network of its own

    def prepare(self, strategy: Strategy) -> None:
        """Prepares the network for where it will run.

        Raises:
            InputError: It cannot be run so there.
        """
        execution, device = self.execution, strategy.root_device
        before, self.norm_kernels = self.norm_kernels, check(execution.kernels, device)
        if self.norm_kernels != before:  # once where a test follows training
            log.info(self.norm_kernels)
        self._net.to(memory_format=execution.layout(device))  # type: ignore[call-overload]
        if execution.compile:
            self._net.compile()
        ours = settings_of(self._net).get("norm") in NORMS
        reason = "" if device.type == "cuda" else "there is no CUDA device"
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            reason = f"{type(strategy).__name__} moves parameters"
        if reason and execution.cuda_graph:
            raise InputError(f"model.execution.cuda_graph is true, and {reason}; take null, for where it can be")
        wanted = ours and not execution.compile if execution.cuda_graph is None else execution.cuda_graph
        self._records = wanted and not reason

    def __call__(self, clips: Tensor) -> Tensor:
        """What the network gives for clips uint8 `[N, 3, T, H, W]`.

        Raises:
            InputError: CUDA graphs are demanded, and it cannot be recorded.
        """
        if not (self._records and torch.is_grad_enabled() and self._net.training) or len(clips) % self._batch_size:
            return self._run(clips)
        modules = list(self._net.modules())
        if any(map(hooked, modules)):  # which graphs would not call
            return self._run(clips)
        state = self._state(clips, modules)
        if state != self._recorded:
            self.forget()
            self._record(clips, modules)
            self._recorded = state if self._graphs else []
        self.graphed = self._graphs is not None
        return self._graphs(clips) if self._graphs else self._run(clips)

    def _run(self, clips: Tensor) -> Tensor:
        return self._net(self._normalize(clips).contiguous(memory_format=self.execution.layout(clips.device)))

    def _state(self, clips: Tensor, modules: list[nn.Module]) -> list[Any]:
        """All that graphs take for granted: addresses, types and modes."""
        kind = clips.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        parameters = [(one.data_ptr(), one.requires_grad) for one in self._net.parameters()]
        buffers = [one.data_ptr() for one in self._net.buffers()]
        return [clips.shape, autocast, parameters, buffers, [one.training for one in modules]]

    def _record(self, clips: Tensor, modules: list[nn.Module]) -> None:
        try:
            if any(isinstance(one, nn.SyncBatchNorm) for one in modules):
                raise RuntimeError("BatchNorm's statistics are exchanged between processes")
            self._graphs = Graphs(self._net, self._run, clips)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            if self.execution.cuda_graph:
                raise InputError(
                    f"model.execution.cuda_graph is true, and the network cannot be recorded: {reason}; set it to false"
                ) from None
            self._records = False
            log.warning("no CUDA graph can be recorded, so kernels are launched one by one: %s", reason)
