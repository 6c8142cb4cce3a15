"""What ends a training run early, and what it leaves behind: signals, and too many bad videos."""

import copy
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment

from video_gn.errors import InputError
from video_gn.files import read_table, write_table
from video_gn.report import gather

log = logging.getLogger(__name__)
SYNC_STEPS = 4  # optimiser steps from one question to the other processes to the next
BAD_COLUMNS = ("path", "stage", "status", "reason")


class Stopped(Exception):
    """A signal ended the run after a step, with its state saved.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} with everything saved in {path}")
        self.number = number


class StopAfterStep(pl.Callback):
    """Ends training between two steps, with a checkpoint from which it goes on as if it had never stopped.

    SIGTERM (a cluster's pre-emption) and Ctrl-C end it, a second Ctrl-C at once. Where Lightning requeues a SLURM job
    (`SLURMEnvironment.auto_requeue`, SIGUSR1), its own handler is put off until the step is over: it would save a
    half-updated model. A training list with too many bad videos ends it, too (`data.max_bad`).

    Args:
        run_dir: The run's folder: the checkpoint is `checkpoints/last.ckpt` in it, the bad videos are in
            `bad_videos.csv`.
        save_epochs: Whether the end of each epoch is saved in it, too, because nobody else does.
    """

    def __init__(self, run_dir: Path, save_epochs: bool = False) -> None:
        self.save_epochs = save_epochs
        self.checkpoint, self.bad_videos = run_dir / "checkpoints" / "last.ckpt", run_dir / "bad_videos.csv"
        self._received = 0
        self._requeue: Any = None
        self._requeue_signal = 0
        self._loops: Any = None
        self._bad: dict[tuple[str, str], list[str]] = {}

    # Signals

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:  # those of the run that goes on
            rows = read_table(self.bad_videos, BAD_COLUMNS)
            self._bad = {(row["path"], row["stage"]): [row[name] for name in BAD_COLUMNS] for row in rows}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._trainer = trainer
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:  # a shell has its background jobs ignore Ctrl-C
                signal.signal(number, self._note)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal or signal.SIGUSR1
            self._requeue = signal.getsignal(self._requeue_signal)
            signal.signal(self._requeue_signal, self._note)

    def _note(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self._received:
            raise KeyboardInterrupt
        self._received = number
        launcher = self._trainer.strategy.launcher
        if number == signal.SIGTERM and hasattr(launcher, "kill"):  # the processes that Lightning started
            launcher.kill(number)
        if number != self._requeue_signal:
            log.warning("%s: stopping after this step", signal.Signals(number).name)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # What a checkpoint says of the loops is right between two steps, not in the middle of a validation.
        self._loops = copy.deepcopy(trainer._checkpoint_connector._get_loops_state_dict())
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return  # gradients are not saved
        if trainer.world_size == 1 or trainer.global_step % SYNC_STEPS == 0 or trainer.is_last_batch:
            self._obey(trainer)
            self._count_bad(trainer)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._loops is not None:
            batch_idx = args[2]
            if trainer.world_size == 1 or batch_idx % SYNC_STEPS == 0:
                self._obey(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.validating and self._received:
            checkpoint["loops"] = self._loops

    def _obey(self, trainer: Any) -> None:
        received = int(trainer.strategy.reduce(torch.tensor(self._received, device=trainer.strategy.root_device),
                                               reduce_op="max"))  # fmt: skip
        if not received:
            return
        self._received = received
        if received == self._requeue_signal:
            self._requeue(received, None)
            self._received = 0
            return
        self._save(trainer)
        raise Stopped(received, self.checkpoint)

    def _save(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.checkpoint)
        self.write_bad_videos(trainer)

    # Bad videos

    def _count_bad(self, trainer: Any) -> None:
        data = trainer.datamodule
        bad = torch.tensor(len(data.failures.get("train", ())), device=trainer.strategy.root_device)
        count, total = int(trainer.strategy.reduce(bad, reduce_op="sum")), len(data.lists["train"])
        if count <= data.max_bad * total:
            return
        self._save(trainer)
        raise InputError(
            f"{count} of {total} training videos cannot be read, more than data.max_bad={data.max_bad:g} of them; they "
            f"are named in {self.bad_videos}. See what is wrong (data/check_videos.py names all of them), or raise "
            f"data.max_bad, and go on by --ckpt_path {self.checkpoint}"
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.write_bad_videos(trainer)
        if self.save_epochs and not trainer.fast_dev_run:
            trainer.save_checkpoint(self.checkpoint)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.write_bad_videos(trainer)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.write_bad_videos(trainer)

    def write_bad_videos(self, trainer: Any) -> None:
        """Adds the videos met by all processes: unreadable, damaged, or read by another backend than asked for."""
        data = trainer.datamodule
        mine = [
            (video.path, stage, status, video.reason)
            for status, stages in (("bad", data.failures), ("damaged", data.damaged), ("other backend", data.fallbacks))
            for stage, videos in stages.items()
            for video in videos.values()
        ]
        known = len(self._bad)
        for part in gather(trainer, mine):
            self._bad.update({(row[0], row[1]): list(row) for row in part})
        if trainer.is_global_zero and len(self._bad) > known and not trainer.fast_dev_run:
            write_table(self.bad_videos, BAD_COLUMNS, self._bad.values())
