"""Checkpoints that are whole or not there."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from video_gn.errors import InputError
from video_gn.files.writing import replacing

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class EpochCheckpoint(Checkpoint):
    """Saves `last.ckpt` at each epoch's end, also of an epoch that is broken off, where nothing else does.

    It has to come after the trainer's other checkpoints: what it saves knows the best one so far.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder, LAST)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path, weights_only=False)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside the one that it replaces, and replaces it when all is on disk.

    Lightning's own would write to TMPDIR and then copy over the old file wherever that is another disk, so that a kill
    or a full disk leaves neither. The checkpoint before `last.ckpt` stays as `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        with replacing(path) as part:
            with open(part, "xb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:
                    if isinstance(error.__context__, OSError):  # a full disk, seen by torch as a wrong position
                        raise error.__context__ from None
                    raise
            if path.name == LAST and path.is_file():
                # A file system without hard links keeps none.
                with suppress(InputError), replacing(path.with_name(PREVIOUS), flush=False) as link:
                    link.unlink(missing_ok=True)
                    os.link(path, link)
        return None
