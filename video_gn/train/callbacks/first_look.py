"""A look at the data before hours of training: its table, and a picture of the first clips; settings for loggers."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import yaml
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only

from video_gn.batch import as_batch
from video_gn.data.contact_sheet import CLIPS, Labelled, labelled, sheet
from video_gn.data.summary import described, remarks, summarize
from video_gn.errors import InputError
from video_gn.files.text import read_text, write_json
from video_gn.files.writing import replacing

log = logging.getLogger(__name__)
DATA_FILE, CLIPS_FILE = "data.json", "training_clips.jpg"


class FirstLook(pl.Callback):
    """Writes `data.json`, what the lists have in them, and `training_clips.jpg`, the first clips that training gets.

    The clips are those of the first epoch's first batches themselves, so that nothing is read or drawn for the picture.
    A resumed run keeps both files. Every logger gets the settings, and those that take pictures get this one.

    Args:
        run_dir: The run's folder.
        config: The resolved configuration, as YAML.
    """

    def __init__(self, run_dir: Path, config: str) -> None:
        self.folder, self.config = run_dir, config
        self._clips: list[Labelled] = []
        self._wanted = 0

    @rank_zero_only
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fast_dev_run:
            return
        settings = _in_utf8(yaml.safe_load(self.config))
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)
        self._wanted = 0 if (self.folder / CLIPS_FILE).exists() else CLIPS
        data, path = trainer.datamodule, self.folder / DATA_FILE
        if not path.exists():
            found = summary_of(data)
            for split, its in found.items():
                log.info("%s", described(split, its))
            for line in remarks(found, data.class_names):
                log.warning("%s", line)
            write_json(path, {"format": 1, "splits": found, "class_names": data.class_names})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if len(self._clips) < self._wanted:
            self._clips += labelled(as_batch(batch), pl_module.class_names, self._wanted - len(self._clips))
            if len(self._clips) == self._wanted:
                self._show(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._clips:  # fewer than were wanted
            self._show(trainer)

    def _show(self, trainer: Any) -> None:
        picture = sheet(self._clips)
        self._clips, self._wanted = [], 0
        save(picture, self.folder / CLIPS_FILE)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # W&B's and its like
                logger.log_image("training clips", [picture])
            elif hasattr(logger.experiment, "add_image"):  # TensorBoard's
                logger.experiment.add_image("training clips", np.asarray(picture), 0, dataformats="HWC")


def summary_of(data: Any, splits: Sequence[str] = ("train", "val", "test")) -> dict[str, Any]:
    """What is in those lists of a data module that are read, as `video_gn.data.summary.summarize`."""
    lists = {split: data.lists[split] for split in splits if split in data.lists}
    return summarize(lists, data.num_classes, data.backend, data.hparams.get("clip"), data.seed)


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture in the format that its name says."""
    with replacing(path, flush=False) as part:
        picture.save(part, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)


def read_summary(folder: Path) -> dict[str, Any]:
    """A run's `data.json` by split; empty where it is not there, or is not what a run writes."""
    try:
        found = json.loads(read_text(folder / DATA_FILE))["splits"]
        return found if all(isinstance(its["by_class"], list) for its in found.values()) else {}
    except (InputError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _in_utf8(value: Any) -> Any:
    """Settings with other bytes escaped, which loggers do not take."""
    if isinstance(value, dict):
        return {name: _in_utf8(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_in_utf8(part) for part in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
