"""Which video a run has in which split: its `split.csv`, and the same in its checkpoints, for a later test."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import pytorch_lightning as pl

from video_gn.data.own import COLUMNS
from video_gn.errors import InputError
from video_gn.files.locks import locked
from video_gn.files.tables import write_table
from video_gn.files.writing import make_folder
from video_gn.rules import shown

FILE = "split.csv"
KEY = "split"  # of it in a checkpoint
MOST = 4096  # characters of a path or a name


class SplitTable(pl.Callback):
    """Writes down how the videos are divided, where a run divides them.

    Args:
        run_dir: The run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        own = trainer.datamodule.splits.own
        if own and trainer.is_global_zero and not trainer.fast_dev_run:
            write_table(self.path, COLUMNS, own.table())

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if own := trainer.datamodule.splits.own:
            checkpoint[KEY] = [list(row) for row in own.table()]


def find_table(content: Any, folder: Path, source: str, trusted: bool) -> str | None:
    """The table of a run's division: the run's own, or else that of a checkpoint, which is written to a file.

    Args:
        content: What is in the checkpoint.
        folder: Of the run, or where results of its checkpoint are written. There the table of a checkpoint that is in
            no run gets a name by its content, since several of them can have results there.
        source: The checkpoint, for messages.
        trusted: Whether it is in the folder of its run: then that run's table comes first, and paths in the
            checkpoint may lead out of the data's folder.

    Returns:
        The file; None if nothing was divided.

    Raises:
        InputError: What the checkpoint has is no such table.
    """
    path = folder / FILE
    table = content.get(KEY)
    if path.is_file() and trusted:
        return str(path)
    if not table:
        return None
    if not isinstance(table, list) or not all(map(_is_row, table)):
        raise InputError(f"{source} has a table of splits that cannot be one; take another checkpoint")
    if not trusted:
        if odd := [row[0] for row in table if _leads_out(row[0])]:
            raise InputError(
                f"{source} names the video {shown(odd[0])}, which is not below data.root; name your lists: "
                "--data.test LIST"
            )
        path = folder / f"split-{hashlib.sha256(repr(table).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}.csv"
    make_folder(folder)
    with locked(folder / "split.lock"):  # of several processes one writes it
        if not path.is_file():
            write_table(path, COLUMNS, table)
    return str(path)


def _is_row(row: Any) -> bool:
    texts = isinstance(row, list | tuple) and len(row) == len(COLUMNS)
    return texts and all(isinstance(cell, str) and len(cell) <= MOST for cell in row) and bool(row[0])


def _leads_out(path: str) -> bool:
    found = PurePosixPath(path)
    return found.is_absolute() or ".." in found.parts or path.startswith("~")
