"""The last figures of each epoch, as rows of the run's `history.csv`."""

import statistics
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from video_gn.train.epoch_table import add_epoch, read_epochs

HISTORY_FILE = "history.csv"
COLUMNS = ("epoch", "train/epoch_loss", "train/epoch_top1", "val/loss", "val/top1", "val/top5")
MEANS = ("val/mean_class_accuracy", "val/macro_f1")  # which runs of before have not
MAP = "val/map"  # one more, where a video may be of several classes
MEDIAN_OF = 5  # epochs


class History(pl.Callback):
    """Adds an epoch's row at its end; a resumed run's rows take the places of those behind it.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / HISTORY_FILE

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        read_history(self.path)  # before hours of work that it would have no place for

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        figures = {f"train/{name}": value for name, value in pl_module.training_means().items()}  # of all processes
        validation = pl_module.results.get("val", {})
        if validation.get("epoch") == trainer.current_epoch:  # not one of an earlier epoch
            figures |= {f"val/{name}": value for name, value in validation.items()}
        columns = (*COLUMNS, *MEANS, *([MAP] if pl_module.loss.multi_label else []))
        row = [trainer.current_epoch, *(f"{figures[name]:.6g}" if name in figures else "" for name in columns[1:])]
        if trainer.is_global_zero and not trainer.fast_dev_run:
            add_epoch(self.path, columns, read_history(self.path), row)


def read_history(path: Path) -> list[dict[str, str]]:
    """Rows of a run's `history.csv`; none if it is not there, or empty.

    Raises:
        InputError: It is not what a run writes.
    """
    return read_epochs(path, COLUMNS, gaps=True)


def medians(path: Path) -> dict[str, Any] | None:
    """Medians of the validation's figures over the last epochs (of 5: Wu & He 2018, section 4.1)."""
    rows = read_history(path)[-MEDIAN_OF:]
    if len(rows) < MEDIAN_OF or not all(row["val/top1"] for row in rows):
        return None
    return {
        "epochs": [int(row["epoch"]) for row in rows],
        **{name: statistics.median(float(row[f"val/{name}"]) for row in rows) for name in ("top1", "top5")},
    }
