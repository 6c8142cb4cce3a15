"""The account of bad videos in the run's folder, and the end of a training with too many of them."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from video_gn.distributed import gather
from video_gn.errors import InputError
from video_gn.files.tables import read_table, write_table
from video_gn.train.callbacks.interrupt import is_asked

COLUMNS = ("path", "stage", "status", "reason")
FEW = 5  # bad videos of a small list, of which a hundredth would be none


def allowed(max_bad: float, total: int) -> float:
    """How many videos of a training list may be unreadable: a fraction, and of a small list a few."""
    return max(max_bad * total, min(FEW, max(1, total / 10))) if max_bad else 0


class BadVideos(pl.Callback):
    """Keeps `bad_videos.csv`, and ends training where the list has more unreadable videos than `data.loading.max_bad`.

    The table has the videos met by all processes: unreadable, damaged, or read by another backend than asked for. It is
    written with every checkpoint, and at the end of an evaluation.

    It has to come after the trainer's other callbacks, so that what they keep of the last step is saved with it.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path, self.checkpoint = run_dir / "bad_videos.csv", run_dir / "checkpoints" / "last.ckpt"
        self._rows: dict[tuple[str, str], list[str]] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:  # those of the run that is resumed
            rows = read_table(self.path, COLUMNS)
            self._rows = {(row["path"], row["stage"]): [row[name] for name in COLUMNS] for row in rows}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not is_asked(trainer, batch_idx):
            return
        data = trainer.datamodule
        count, total = len(data.failures.get("train", ())), len(data.lists["train"])
        if trainer.world_size > 1:  # else there is nobody to ask, and to ask a GPU is to wait for it
            bad = torch.tensor(count, device=trainer.strategy.root_device)
            count = int(trainer.strategy.reduce(bad, reduce_op="sum"))
        if count <= (most := allowed(data.loading.max_bad, total)):
            return
        # Several may have met the same one: it comes again, or is drawn in the place of others.
        count = len(set().union(*gather(trainer, set(data.failures.get("train", ())))))
        if count <= most:
            return
        trainer.save_checkpoint(self.checkpoint, weights_only=False)
        raise InputError(
            f"{count} of {total} training videos cannot be read, more than data.loading.max_bad="
            f"{data.loading.max_bad:g} allows of so many ({int(most)}); they are named in {self.path}. See what is "
            "wrong (video-gn data check names all of them), or raise data.loading.max_bad, and resume with --ckpt_path "
            "last"
        )

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.write(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.write(trainer)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.write(trainer)

    def write(self, trainer: Any) -> None:
        """Adds what all processes met to the table."""
        data = trainer.datamodule
        mine = [
            (video.path, stage, status, video.reason)
            for status, stages in (("bad", data.failures), ("damaged", data.damaged), ("other backend", data.fallbacks))
            for stage, videos in stages.items()
            for video in videos.values()
        ]
        known = len(self._rows)
        for part in gather(trainer, mine):
            self._rows.update({(row[0], row[1]): list(row) for row in part})
        if trainer.is_global_zero and len(self._rows) > known and not trainer.fast_dev_run:
            write_table(self.path, COLUMNS, self._rows.values())
