"""Tables of a run that have a row for each epoch: `history.csv` and `speed.csv`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_gn.errors import InputError
from video_gn.files.tables import read_table, write_table

WHOLE = ("epoch", "steps")  # columns of whole numbers; the others are any numbers


def read_epochs(path: Path, columns: Sequence[str], gaps: bool = False) -> list[dict[str, str]]:
    """Rows of such a table; none if it is not there, or empty.

    Args:
        path: The table.
        columns: That it has at least; the first is epoch.
        gaps: Whether a number may be missing.

    Raises:
        InputError: It is not what a run writes.
    """
    rows = read_table(path, columns) if path.is_file() and path.stat().st_size else []
    try:
        for row in rows:
            for name, value in row.items():
                int(value) if name in WHOLE else float(value or ("nan" if gaps else ""))
    except ValueError:
        raise InputError(f"{path} is damaged: it is not what a run wrote; move it away") from None
    return rows


def add_epoch(path: Path, columns: Sequence[str], earlier: Sequence[dict[str, str]], row: Sequence[Any]) -> None:
    """Writes a table with the row of an epoch; rows of it and of later ones are left out."""
    kept = [[before.get(name, "") for name in columns] for before in earlier if int(before["epoch"]) < row[0]]
    write_table(path, columns, [*kept, row])
