"""CSV tables, and tables that are being made row by row."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from video_gn.errors import InputError
from video_gn.files.text import ESCAPED, read_text, write_text
from video_gn.files.writing import not_a_link


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file, as `write_text`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(path, text.getvalue())


def spreadsheet(cell: str) -> str:
    """A cell that a spreadsheet takes for text: before one that begins as a formula does there is an apostrophe.

    Control characters are written as `\\x1b`: people look at tables in terminals, too.

    Only for tables that people open, and of which the program reads no names back that it looks up.
    """
    cell = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: found[0].encode("unicode_escape").decode("ascii"), cell)
    # Also behind a semicolon, which separates cells in many countries, and in full width.
    return re.sub(r"(^|;)(?=[=+@\uff1d\uff0b\uff0d\uff20-]|\\[tr])", r"\1'", cell)


def read_table(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none if there is no such file.

    Args:
        path: The file.
        columns: That it has to have.

    Raises:
        InputError: As `numbered_rows`.
    """
    return [row for _, row in numbered_rows(path, columns)] if path.is_file() else []


def numbered_rows(path: Path, columns: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The first line and the cells of each row of a CSV file with a header.

    Args:
        path: The file, UTF-8; other bytes become lone surrogates, as in file names.
        columns: That it has to have.

    Raises:
        InputError: It lacks a column, or a row cannot be taken apart; names the line.
    """
    header: list[str] | None = None
    for line, cells in numbered_cells(path, read_text(path, ESCAPED)):
        if header is None:
            header = cells
            if twice := [name for name in dict.fromkeys(header) if name and header.count(name) > 1]:
                raise InputError(f"{path} has the column {' and '.join(twice)} more than once")
            if missing := [name for name in columns if name not in header]:
                raise InputError(
                    f"{path} needs a header that names the columns {' and '.join(columns)}; {' and '.join(missing)} "
                    f"{'is' if len(missing) == 1 else 'are'} missing"
                )
        elif any(cell.strip() for cell in cells):
            check_count(path, line, cells, len(header))
            yield line, dict(zip(header, cells, strict=False))
    if header is None and (missing := list(columns)):
        raise InputError(f"{path} is empty; it needs a header that names the columns {' and '.join(missing)}")


def numbered_cells(path: Path, text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The first line and the cells of each row of CSV text, empty rows too.

    Args:
        path: Where it is from, for messages.
        text: The rows.
        delimiter: Between cells.

    Raises:
        InputError: A row cannot be taken apart; names the line.
    """
    line = 1
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            hint = "; is a quote left open?" if "end of data" in str(error) or "expected after" in str(error) else ""
            raise InputError(f"{path}, line {line}: this row cannot be read as CSV ({error}){hint}") from None
        if cells is None:
            return
        yield line, cells
        line = reader.line_num + 1


def check_count(path: Path, line: int, cells: Sequence[str], columns: int) -> None:
    """Raises InputError for a row that has fewer cells than there are columns, or more that are not empty."""
    if len(cells) < columns or any(cells[columns:]):
        raise InputError(
            f"{path}, line {line}: {len(cells)} cells, and the header names {columns} columns; a cell with a comma "
            f"needs quotes around it: {','.join(cells)[:80]!r}"
        )


def journal_of(table: Path) -> Path:
    """Where the rows of a table are while it is being made."""
    return table.with_name(f"{table.name}.journal")


class Journal:
    """Rows of a table that is being made, kept beside it from the first on, so that who is stopped can continue.

    Args:
        table: The file that the table will be.
        columns: Of the table. A journal with others starts empty.

    Attributes:
        rows: Those that an earlier start left.
    """

    def __init__(self, table: Path, columns: Sequence[str]) -> None:
        self.path = journal_of(table)
        self._columns, header = columns, ",".join(columns) + "\r\n"
        left = self.path.read_bytes() if self.path.is_file() else b""
        whole = left[: left.rfind(b"\n") + 1].decode(errors=ESCAPED)  # the last line may have been cut
        write_text(self.path, whole if whole.startswith(header) else header)
        self.rows = read_table(self.path)

    def __enter__(self) -> "Journal":
        self._file = open(self.path, "a", newline="", encoding="utf-8", errors=ESCAPED, opener=not_a_link)
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
