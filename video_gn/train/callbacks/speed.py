"""How fast a run is, and how far, for programs that watch it."""

import time
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from video_gn.files.text import write_json
from video_gn.train.callbacks.bars import asks_each_step

EVERY = 2.0  # seconds from one progress.json to the next
WINDOW = 10.0  # seconds over which the speed that is shown is taken


class Progress(pl.Callback):
    """Measures training's speed, logs it as `train/clips_per_s`, and keeps `progress.json` in the run's folder.

    Time is taken from the end of one step to the end of the next, so that loading counts and validation does not.

    Args:
        run_dir: The run's folder.

    Attributes:
        clips: Of all processes, over the steps that time was taken of.
        seconds: Of these.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "progress.json"
        self.clips, self.seconds = 0, 0.0
        self._recent: deque[tuple[int, float]] = deque()  # clips and seconds of the last steps
        self._last = self._written = 0.0

    @property
    def clips_per_s(self) -> float | None:
        """Mean over the whole run."""
        return self.clips / self.seconds if self.seconds else None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._last = 0.0

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._last = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        now = time.perf_counter()
        if self._last:
            clips, seconds = trainer.world_size * pl_module.clips_per_gpu, now - self._last
            self.clips, self.seconds = self.clips + clips, self.seconds + seconds
            found = torch.tensor(self._moving(clips, seconds))  # Lightning would send a number to the GPU, and wait
            pl_module.log("train/clips_per_s", found, prog_bar=asks_each_step(trainer))
        self._last = now
        if now - self._written > EVERY:
            self._written = now
            self.write(trainer)

    def _moving(self, clips: int, seconds: float) -> float:
        """Clips a second of the last steps, of this one at least."""
        self._recent.append((clips, seconds))
        while len(self._recent) > 1 and sum(one for _, one in self._recent) - self._recent[0][1] >= WINDOW:
            self._recent.popleft()
        return sum(one for one, _ in self._recent) / sum(one for _, one in self._recent)

    @rank_zero_only
    def write(self, trainer: Any) -> None:
        """Writes `progress.json`."""
        if not trainer.fast_dev_run:
            done, total = trainer.global_step, trainer.estimated_stepping_batches
            said = {"steps": done, "of": total, "epoch": trainer.current_epoch, "clips_per_s": self.clips_per_s}
            write_json(self.path, said, None, flush=False)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.write(trainer)
