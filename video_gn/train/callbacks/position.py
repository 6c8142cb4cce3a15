"""Where a training run is, so that one that was stopped at any time continues as if it had not been.

Lightning's own account of its loops depends on the hook in which a checkpoint is saved, and is wrong in some of them:
resumed from an epoch's last batch it forgets the validation, and after a second stop it repeats batches. Here a run
is after a number of videos of an epoch, validated there or not, and Lightning's counters follow from that.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import (
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from torch import Tensor

from video_gn.errors import InputError
from video_gn.rules import plain
from video_gn.train.compat import begin_epoch, enter_epoch
from video_gn.train.configs import flat
from video_gn.weights.upgrade import upgrade_data, upgrade_model

log = logging.getLogger(__name__)


class Position(pl.Callback):
    """Keeps in every checkpoint where the run is, and has a resumed run start there.

    It is counted in videos, so a run may be resumed with another batch size, accumulation or number of processes: it
    takes up the epoch at the same video.

    Attributes:
        epoch: That is being trained.
        batch: How many of its batches are done.
        validated: Whether the validation that is due after them is done.
    """

    def __init__(self) -> None:
        self.epoch = self.batch = 0
        self.validated = False
        self._trainer: Any = None
        self._loaded: dict[str, Any] | None = None
        self._buffers: dict[str, Tensor] = {}  # before the first batch of a step

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._trainer = trainer

    # Keeping count

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        together = trainer.accumulate_grad_batches
        if together > 1 and batch_idx % together == 0:
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.epoch, self.batch, self.validated = trainer.current_epoch, batch_idx + 1, False

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validated = True

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.batch >= trainer.num_training_batches:  # otherwise max_steps or max_time ended it before
            self.epoch, self.batch, self.validated = self.epoch + 1, 0, False

    @property
    def begun(self) -> int:
        """How many epochs were begun."""
        if self._loaded:  # trained to its end before it was resumed
            return self._loaded["epoch"] + (self._loaded["videos"] > 0)
        return self.epoch + (self.batch > 0)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """As plain numbers."""
        if self._loaded:  # nothing was trained since
            return self._loaded
        data, whole = self._trainer.datamodule, self._whole_steps()
        return {
            "epoch": self.epoch,
            "videos": data.videos_done(self.epoch, whole) if self.batch else 0,
            "validated": self.validated or whole < self.batch,
            "steps": self._trainer.global_step,
            "list": data.videos_per_epoch,
            "seed": data.seed,
            "stopped": _stopped_early(self._trainer),
        }

    def _whole_steps(self) -> int:
        """Batches that are done, less those whose gradients wait for the step's others: they are not saved."""
        waiting = self.batch % self._trainer.accumulate_grad_batches
        return self.batch - (waiting if self.batch < self._trainer.num_training_batches else 0)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._loaded:
            return
        whole = self._whole_steps()
        if whole < self.batch:  # BN's averages of batches that will be trained again
            weights = checkpoint["state_dict"]
            weights.update({name: buffer for name, buffer in self._buffers.items() if name in weights})
        state = _counters(trainer, self.epoch, whole, trainer.global_step)
        checkpoint["loops"]["fit_loop"] |= state
        checkpoint["epoch"] = max(0, self.epoch - (self.batch == 0))  # the one that was trained last

    # Resuming

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        kept = checkpoint.get("callbacks", {}).get(self.state_key)
        self._loaded = kept or _of_lightning(trainer, checkpoint["loops"]["fit_loop"])
        trained, limit = self._loaded["epoch"], trainer.max_epochs
        if limit is not None and 0 <= limit < trained:
            raise InputError(f"{trainer.ckpt_path} has trained {trained} epochs, and trainer.max_epochs is {limit}")
        if self._loaded["stopped"] and trainer.early_stopping_callbacks:
            log.info("EarlyStopping has ended this run")
            trainer.should_stop = True
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint.get("callbacks", {}).get(callback.state_key)
            if state and isinstance(callback, ModelCheckpoint) and callback.dirpath:
                _move(state, Path(callback.dirpath))
        changed = [
            f"{part}.{name} {old!r} -> {now[name]!r}"
            for part, before, now in (
                ("model", _before(checkpoint, "hyper_parameters", upgrade_model), flat(pl_module.hparams)),
                (
                    "data",
                    _before(checkpoint, "datamodule_hyper_parameters", upgrade_data),
                    flat(trainer.datamodule.hparams),
                ),
            )
            for name, old in before.items()
            if name in now and plain(now[name]) != plain(old) and name not in ("class_names", "format")
        ]
        if changed:
            log.info("resumed with other settings than before: %s", ", ".join(dict.fromkeys(changed)))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        _check_steps(trainer)
        state, self._loaded = self._loaded, None
        if state is None:
            progress = trainer.fit_loop.epoch_loop.batch_progress.current
            self.epoch, self.batch = trainer.current_epoch, progress.ready
            return
        data, size, batches = trainer.datamodule, videos_per_batch(trainer), int(trainer.num_training_batches)
        videos = state["videos"]
        for name, now in (("list", data.videos_per_epoch), ("seed", data.seed)):
            if videos and state[name] != now:
                what = "an epoch of data.train has {} videos" if name == "list" else "seed_everything is {}"
                raise InputError(
                    f"{what.format(now)}, and was {state[name]} when this checkpoint was saved within an epoch: "
                    "its order would change; resume with the same, or from a checkpoint of the end of an epoch"
                )
        self.epoch, self.validated = state["epoch"], state["validated"]
        total = data.videos_per_epoch
        if total // size > batches:  # limit_train_batches
            total = batches * size
        self.batch = max(0, batches - max(0, total - videos) // size) if videos else 0
        data.origin = (self.epoch, self.batch, videos)
        loop = trainer.fit_loop
        loop.load_state_dict(loop.state_dict() | _counters(trainer, self.epoch, self.batch, state["steps"]))
        if not self.batch:
            begin_epoch(trainer)
        else:
            enter_epoch(trainer, self.validated)
        loop.update_restart_stage()
        for callback in trainer.callbacks if self.batch else ():
            if isinstance(callback, StochasticWeightAveraging):  # it makes its schedule at an epoch's start
                groups = trainer.optimizers[0].param_groups
                rates = [group["lr"] for group in groups]
                callback.on_train_epoch_start(trainer, pl_module)
                for group, rate in zip(groups, rates, strict=True):  # which begins with a step
                    group["lr"] = rate


def _of_lightning(trainer: Any, loop: dict[str, Any]) -> dict[str, Any]:
    """Where a run is whose checkpoint is older than this file, by Lightning's counters at the end of a step."""
    epoch, batch = (loop[name]["current"] for name in ("epoch_progress", "epoch_loop.batch_progress"))
    within = epoch["started"] > epoch["processed"]
    return {
        "epoch": epoch["processed"],
        "videos": batch["processed"] * videos_per_batch(trainer) if within else 0,
        "validated": False,
        "steps": loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"],
        "list": trainer.datamodule.videos_per_epoch,
        "seed": trainer.datamodule.seed,
        "stopped": False,
    }


def _stopped_early(trainer: Any) -> bool:
    """Whether EarlyStopping ends training, which it would forget; not max_time, which may be raised."""
    timers = [one for one in trainer.callbacks if isinstance(one, Timer)]
    in_time = all((left := one.time_remaining()) is None or left > 0 for one in timers)
    return bool(trainer.should_stop and trainer.early_stopping_callbacks and in_time)


def _check_steps(trainer: Any) -> None:
    """Refuses steps longer than an epoch, and validation within one: a stop there could not be resumed exactly."""
    every, batches, epoch = trainer.val_check_batch, trainer.accumulate_grad_batches, trainer.num_training_batches
    if batches > epoch:
        raise InputError(
            f"trainer.accumulate_grad_batches is {batches}, and an epoch has {epoch} batches: no step would have so "
            f"many clips, for which the learning rate is; take at most {epoch}"
        )
    across = trainer.check_val_every_n_epoch is None  # it is counted from epoch to epoch
    if every == math.inf or (every >= epoch and not across):
        return
    if every % batches or (across and epoch % batches):
        raise InputError(
            f"validation comes after every {every} of {epoch} batches (trainer.val_check_interval), and a step has "
            f"{batches} (trainer.accumulate_grad_batches); let it come between two steps, at a multiple of that"
        )


def videos_per_batch(trainer: Any) -> int:
    """Videos of a training batch over all processes."""
    data = trainer.datamodule
    return trainer.world_size * data.batch_size // data.clips_per_video


def _counters(trainer: Any, epoch: int, batch: int, steps: int) -> dict[str, Any]:
    """Lightning's counters after so many epochs, batches of the next one, and steps of the optimiser."""
    batches = int(trainer.num_training_batches)
    started = epoch + (batch > 0)
    epochs = {"ready": started, "started": started, "processed": epoch, "completed": epoch}
    total, current = (
        dict.fromkeys(("ready", "started", "processed", "completed"), count)
        for count in (epoch * batches + batch, batch)
    )
    none = dict.fromkeys(total, 0)
    taken = {"total": {"ready": steps, "completed": steps}, "current": {"ready": 0, "completed": 0}}
    cleared = {part: count | {"started": count["ready"]} for part, count in taken.items()}
    return {
        "epoch_progress": {"total": epochs, "current": epochs},
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {"total": total, "current": current, "is_last_batch": batch >= batches},
        "epoch_loop.scheduler_progress": taken,
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": taken, "zero_grad": cleared}},
        "epoch_loop.val_loop.batch_progress": {"total": none, "current": none, "is_last_batch": False},
    }


def _move(state: dict[str, Any], folder: Path) -> None:
    """Has what a ModelCheckpoint kept name the files in its folder today; files that are not there are forgotten."""

    def here(path: str) -> str:
        found = folder / Path(path).name
        return str(found) if path and found.is_file() else ""

    state["dirpath"] = str(folder)
    state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items() if here(path)}
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = here(state[name])
    if not state["best_model_path"]:
        state["best_model_score"] = None


def _before(checkpoint: Any, key: str, upgrade: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Settings that a checkpoint was saved with, by dotted names."""
    settings = checkpoint.get(key, {})
    return flat(settings if settings.get("format") else upgrade(settings))
