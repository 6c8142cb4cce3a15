"""How fast a run is, and how far, for programs that watch it."""

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from video_gn.errors import InputError
from video_gn.files.text import read_text, write_json
from video_gn.train.epoch_table import add_epoch, read_epochs

SPEED_FILE = "speed.csv"
COLUMNS = ("epoch", "steps", "seconds", "clips_per_s", "lr")
EVERY = 2.0  # seconds from one progress.json to the next
WINDOW = 10.0  # seconds over which the speed that is shown is taken


class Progress(pl.Callback):
    """Measures training's speed, shows it as `train/clips_per_s`, and keeps `progress.json` in the run's folder.

    Time is taken from the end of one step to the end of the next, so that loading counts and validation does not.
    `speed.csv` has a row for each epoch: steps, seconds since training began (those of all its starts, with
    validation), clips a second, and learning rate at its end. It is apart from `history.csv`, which is the same however
    often a run was stopped.

    Args:
        run_dir: The run's folder.

    Attributes:
        clips: Of all processes, over the steps that time was taken of.
        seconds: Of these.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path, self.table = run_dir / "progress.json", run_dir / SPEED_FILE
        self.clips, self.seconds = 0, 0.0
        self._before, self._began = 0.0, time.perf_counter()  # seconds of earlier starts, and when this one began
        self._of_epoch = (0, 0.0)  # clips and seconds up to its start
        self._recent = deque([(0, 0.0)])  # clips and seconds before the last steps, and after each of them
        self._last = self._written = 0.0

    @property
    def clips_per_s(self) -> float | None:
        """Mean over the whole run."""
        return self.clips / self.seconds if self.seconds else None

    @property
    def elapsed(self) -> float:
        """Seconds since training began, those of all its starts."""
        return self._before + time.perf_counter() - self._began

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        read_speed(self.table)  # before hours of work that it would have no place for

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._before = seconds_of(self.path) if trainer.ckpt_path else 0.0
        self._began = time.perf_counter()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._of_epoch = (self.clips, self.seconds)  # also of one that is resumed within

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._last, self._of_epoch = 0.0, (self.clips, self.seconds)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        clips, seconds = (now - before for now, before in zip((self.clips, self.seconds), self._of_epoch, strict=True))
        speed, rate = clips / seconds if seconds else float("nan"), trainer.optimizers[0].param_groups[-1]["lr"]
        new = (trainer.current_epoch, trainer.global_step, f"{self.elapsed:.1f}", f"{speed:.4g}", f"{rate:.6g}")
        if trainer.is_global_zero and not trainer.fast_dev_run:
            add_epoch(self.table, COLUMNS, read_speed(self.table), new)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._last = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        now = time.perf_counter()
        if self._last:
            clips, seconds = trainer.world_size * pl_module.clips_per_gpu, now - self._last
            self.clips, self.seconds = self.clips + clips, self.seconds + seconds
            pl_module.step_figures.show(trainer, {"train/clips_per_s": torch.tensor(self._moving())})
        self._last = now
        if now - self._written > EVERY:
            self._written = now
            self.write(trainer)

    def _moving(self) -> float:
        """Clips a second of the last steps, of this one at least."""
        self._recent.append((self.clips, self.seconds))
        while len(self._recent) > 2 and self.seconds - self._recent[1][1] >= WINDOW:
            self._recent.popleft()
        clips, seconds = self._recent[0]
        return (self.clips - clips) / (self.seconds - seconds)

    @rank_zero_only
    def write(self, trainer: Any) -> None:
        """Writes `progress.json`."""
        if not trainer.fast_dev_run:
            done, total = trainer.global_step, trainer.estimated_stepping_batches
            said = {"steps": done, "of": total, "epoch": trainer.current_epoch, "clips_per_s": self.clips_per_s}
            write_json(self.path, said | {"seconds": round(self.elapsed, 1)}, None, flush=False)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.write(trainer)


def seconds_of(path: Path) -> float:
    """How long a run had trained when it wrote its `progress.json`; 0 where that is not there, or cannot be read."""
    try:
        return max(0.0, float(json.loads(read_text(path))["seconds"]))
    except (InputError, ValueError, TypeError, KeyError, RecursionError):
        return 0.0


def read_speed(path: Path) -> list[dict[str, str]]:
    """Rows of a run's `speed.csv`; none if it is not there, or empty.

    Raises:
        InputError: It is not what a run writes.
    """
    return read_epochs(path, COLUMNS)
