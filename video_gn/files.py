"""Small files that are whole or not there."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a file in one go, over one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file, as `write_text`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(path, text.getvalue())


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none if there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Journal:
    """Rows of a table that is being made, kept beside it from the first on, so that who is stopped can go on.

    Args:
        table: The file that the table will be.
        columns: Of the table. A journal with others is begun anew.

    Attributes:
        rows: Those that an earlier start left.
    """

    def __init__(self, table: Path, columns: Sequence[str]) -> None:
        self.path = table.with_name(f"{table.name}.journal")
        self._columns, header = columns, ",".join(columns) + "\r\n"
        left = self.path.read_bytes() if self.path.is_file() else b""
        whole = left[: left.rfind(b"\n") + 1].decode()  # the last line may have been cut
        write_text(self.path, whole if whole.startswith(header) else header)
        self.rows = read_table(self.path)

    def __enter__(self) -> "Journal":
        self._file = open(self.path, "a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns)
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row."""
        self._writer.writerow(row)
        self._file.flush()

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def remove(self) -> None:
        """The table is written."""
        self.path.unlink()
