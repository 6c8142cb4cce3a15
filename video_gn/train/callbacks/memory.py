"""The memory of a training step: counted as training begins, and on a GPU what was used as it ends."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch

from video_gn.distributed import first_process
from video_gn.errors import InputError
from video_gn.kernels.dispatch import triton_runs
from video_gn.models.recompute import ways_of
from video_gn.train.memory.advice import needs, setting_of, weights_of, what_fits
from video_gn.train.memory.count import GIB, clip_of, count_clips, count_ways

log = logging.getLogger(__name__)


class StepMemory(pl.Callback):
    """Says what a step of this training takes, counted as it begins, and what would fit where it is too much.

    Attributes:
        counted: Bytes; None where nothing was counted.
    """

    def __init__(self) -> None:
        self.counted: int | None = None
        self._in_training = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if not first_process():
            return
        clip = clip_of(trainer.datamodule.hparams)
        clips, setting = pl_module.clips_per_gpu, setting_of(pl_module, trainer)
        try:
            size = weights_of(pl_module, trainer) + count_clips(pl_module.net, clips, clip, setting)
        except Exception as error:  # training does not need it, and a network of others may ask for numbers
            log.info("the memory of a step is not counted: %s", str(error).partition("\n")[0])
            return
        self.counted = size
        log.info("%s", needs(clips, size, trainer.strategy.root_device))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            used = (torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB)
            log.info("GPU memory of the training: at most %.2f GiB allocated, %.2f reserved", *used)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._in_training = trainer.training  # which the trainer soon forgets

    def advice(self, trainer: Any, pl_module: Any) -> str | None:
        """What to set where a training step had too little memory; None where it was no training step."""
        if not self._in_training:
            return None
        try:
            return self._advice(trainer, pl_module)
        except Exception:  # a network that cannot be counted, or a GPU that does not answer any more
            return f"data.batch_size={pl_module.clips_per_gpu} clips are too many; take fewer"

    def _advice(self, trainer: Any, pl_module: Any) -> str:
        execution, clips, device = pl_module.call.execution, pl_module.clips_per_gpu, trainer.strategy.root_device
        available = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
            available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        way, known = execution.recompute, ways_of(pl_module.net, triton_runs(execution.kernels, device))
        clip, ways = clip_of(trainer.datamodule.hparams), list(dict.fromkeys([way, *known]))
        found = count_ways(pl_module.net, clip, setting_of(pl_module, trainer), weights_of(pl_module, trainer), ways)
        there = "" if available is None else f", and there are {available / GIB:.2f}"
        fits = what_fits(clips, trainer.accumulate_grad_batches, found, way, available)
        return f"{needs(clips, found[way].needs(clips), device)}{there}; take {fits}"


def out_of_memory(trainer: Any, pl_module: Any) -> InputError:
    """What to say where a run had too little memory."""
    callbacks = (callback for callback in trainer.callbacks if isinstance(callback, StepMemory))
    advice = next((said for callback in callbacks if (said := callback.advice(trainer, pl_module))), None)
    clips = pl_module.clips_per_gpu
    as_it_is = f"evaluation takes data.batch_size={clips} clips at once, in its own size; take fewer"
    return InputError(f"out of memory on {trainer.strategy.root_device}: {advice or as_it_is}")
