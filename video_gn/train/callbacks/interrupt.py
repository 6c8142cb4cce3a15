"""What ends a training run early: signals, and a loss that is not finite."""

import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging

from video_gn.errors import InputError
from video_gn.train.compat import cluster_environment, forget_average
from video_gn.train.optim import ends_step

log = logging.getLogger(__name__)
SYNC_STEPS = 4  # optimiser steps from one question to the other processes to the next
TOGETHER = 1.0  # seconds within which one Ctrl-C may come twice: to all of a terminal's processes, and by a parent
GPU_STEPS = 50  # steps after which a GPU's loss is looked at: each look waits for the GPU


class Stopped(Exception):
    """A signal ended the run after a step, with its state saved.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} with everything saved in {path}")
        self.number = number


class Diverged(InputError):
    """Training came to numbers that are not finite.

    Attributes:
        step: The step of the optimiser in which it was seen.
        epoch: Of that step.
    """

    def __init__(self, message: str, step: int, epoch: int) -> None:
        super().__init__(message)
        self.step, self.epoch = step, epoch


class StopAfterStep(pl.Callback):
    """Ends training between two steps, with a checkpoint from which it continues as if it had never stopped.

    SIGTERM (a cluster's pre-emption) and Ctrl-C end it, another Ctrl-C a second or more later at once. Where Lightning
    requeues a SLURM job (`SLURMEnvironment.auto_requeue`, SIGUSR1), its own handler is put off until the step is over:
    it would save a half-updated model. A loss that is not finite ends it, too; weights that are not finite are never
    saved.

    It has to come after the trainer's other callbacks, so that what they keep of the step is saved with it.

    Args:
        run_dir: The run's folder: the checkpoint is `checkpoints/last.ckpt` in it.

    Attributes:
        averaged: The checkpoint of weights that were averaged over training, if they were.
    """

    def __init__(self, run_dir: Path) -> None:
        self.checkpoint = run_dir / "checkpoints" / "last.ckpt"
        self._received, self._since = 0, 0.0  # the signal that came, and when
        self._requeue: Any = None
        self._requeue_signal = 0
        self._before: dict[int, Any] = {}  # who had the signals
        self._swaps = self._trained = False
        self.averaged: Path | None = None
        self._diverged = torch.tensor(-1)  # the first step whose loss was not finite

    # Signals

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._swaps = any(isinstance(one, WeightAveraging) for one in trainer.callbacks)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._diverged = torch.tensor(-1, device=trainer.strategy.root_device)
        if threading.current_thread() is not threading.main_thread():
            return
        self._trainer = trainer
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:  # a shell has its background jobs ignore Ctrl-C
                self._before[number] = signal.signal(number, self._note)
        environment = cluster_environment(trainer)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal or signal.SIGUSR1
            self._requeue = signal.getsignal(self._requeue_signal)
            signal.signal(self._requeue_signal, self._note)

    def _note(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self._received:
            if time.monotonic() - self._since < TOGETHER:
                return
            raise KeyboardInterrupt
        self._received, self._since = number, time.monotonic()
        launcher = self._trainer.strategy.launcher
        if number == signal.SIGTERM and hasattr(launcher, "kill"):  # the processes that Lightning started
            launcher.kill(number)
        if number != self._requeue_signal:
            log.warning("%s: stopping after this step", signal.Signals(number).name)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"].detach()
        waiting = not ends_step(trainer, batch_idx)
        step = trainer.global_step + waiting
        self._diverged = torch.where((self._diverged < 0) & ~loss.isfinite(), step, self._diverged)
        if waiting:  # gradients are not saved
            trainer.should_stop = False  # max_time's, which comes again with the next batch
            return
        asked = is_asked(trainer, batch_idx)
        if trainer.is_last_batch or (trainer.global_step % GPU_STEPS == 0 if loss.is_cuda else asked):
            self._check_loss(trainer, pl_module)
        if asked:
            self._obey(trainer)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._swaps:  # for averaged weights until its end
            return
        if trainer.world_size == 1 or batch_idx % SYNC_STEPS == 0:
            self._obey(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._check_loss(trainer, pl_module)
        tensors = [tensor for tensor in checkpoint["state_dict"].values() if tensor.is_floating_point()]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise self._say_diverged(trainer, pl_module, "a weight", trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._trained = True
        for number, handler in self._before.items():  # from here on they end the process at once: all is saved
            signal.signal(number, handler)
        if received := self._agreed(trainer, 0 if self._received == self._requeue_signal else self._received):
            raise Stopped(received, self.checkpoint)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Keeps weights that a callback put in place when training ended, which no checkpoint has."""
        averaging = [one for one in trainer.callbacks if isinstance(one, StochasticWeightAveraging | WeightAveraging)]
        if not averaging or trainer.fast_dev_run:
            return
        if not self._trained:  # resumed when it was trained to its end: they have not been put in place yet
            for callback in averaging:
                callback.on_train_end(trainer, pl_module)
        self.averaged = self.checkpoint.with_name("averaged.ckpt")
        trainer.save_checkpoint(self.averaged, weights_only=False)
        for callback in averaging:
            if isinstance(callback, WeightAveraging):
                forget_average(callback)
        log.info("the averaged weights, which the figures are of, are in %s", self.averaged)

    # Divergence

    def _check_loss(self, trainer: Any, pl_module: Any) -> None:
        step = int(trainer.strategy.reduce(self._diverged.clone(), reduce_op="max"))
        if step >= 0:
            raise self._say_diverged(trainer, pl_module, "the loss", step)

    def _say_diverged(self, trainer: Any, pl_module: Any, what: str, step: int) -> Diverged:
        kept = f"; the last finite checkpoint is {self.checkpoint}" if self.checkpoint.is_file() else ""
        return Diverged(
            f"training diverged: {what} is not finite at step {step} (epoch {trainer.current_epoch}); try a lower "
            f"model.optimizer.base_lr ({pl_module.optimizer.base_lr:g} now), model.schedule.warmup or "
            f"trainer.gradient_clip_val{kept}",
            step,
            trainer.current_epoch,
        )

    # What stops it

    def _obey(self, trainer: Any) -> None:
        if 0 <= trainer.max_steps <= trainer.global_step:
            return  # it ends by itself; resumed, it would have no step left, and so no end of its epoch
        if not (received := self._agreed(trainer, self._received)):
            return
        self._received = received
        if received == self._requeue_signal:
            self._requeue(received, None)
            self._received = 0
            return
        trainer.save_checkpoint(self.checkpoint, weights_only=False)
        raise Stopped(received, self.checkpoint)

    def _agreed(self, trainer: Any, number: int) -> int:
        """The signal that any of the processes has."""
        if trainer.world_size == 1:  # to ask a GPU is to wait for it
            return number
        return int(trainer.strategy.reduce(torch.tensor(number, device=trainer.strategy.root_device), reduce_op="max"))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        # Where training ends by itself, there is nothing to ask.
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.should_stop:
            self._obey(trainer)


def is_asked(trainer: Any, batch_idx: int) -> bool:
    """Whether the processes of a run ask each other after this batch whether to stop: between two steps, every few."""
    every = 1 if trainer.world_size == 1 else SYNC_STEPS
    return ends_step(trainer, batch_idx) and (trainer.is_last_batch or trainer.global_step % every == 0)
