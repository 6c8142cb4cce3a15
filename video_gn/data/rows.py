"""Rows of list files: CSV with a header, and `path label` lines without one; separated by whatever they are.

What is written decides, not the file's suffix: a header is known by its columns' names, and in lines without one the
separator is the one behind which labels are.
"""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from video_gn.data.folders import IMAGE_SUFFIXES, SUFFIXES, is_of
from video_gn.data.label_sets import classes_in
from video_gn.data.lines import (
    DELIMITERS,
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SAMPLE,
    Row,
    is_header,
    line_of,
    missing,
    read_lines,
)
from video_gn.data.video_list import checked_path, shown
from video_gn.errors import InputError
from video_gn.files.names import as_path, from_home, is_utf8
from video_gn.files.tables import check_count, numbered_cells
from video_gn.files.text import ESCAPED, read_text

EXTRA = ("group", "split", "fold", "copy_of")  # columns about how a list is divided (`video_gn.data.own`)


class Rows(list[tuple[str, str]]):
    """Path and label of each video, as they are in a list file or a folder of class folders.

    Args:
        rows: The pairs.
        source: Where they are from.
        lines: Of the list file; none for a folder.

    Attributes:
        notes: What is to be said of the source, in a line each.
        columns: Of `EXTRA`, those that the list has: a text for each row.
        called: The list as notes name it.
        several: Whether a label names several classes, or none (`data.multi_label`).
        named: Whether labels are folders' names, and never numbers.
    """

    def __init__(self, rows: Sequence[tuple[str, str]], source: Path | str = "the list", lines: Sequence[int] = ()):
        super().__init__(rows)
        self.source, self.lines = Path(source), lines
        self.notes: list[str] = []
        self.columns: dict[str, list[str]] = {}
        self.called = str(source)
        self.several, self.named = False, not lines

    def take(self, places: Sequence[int], called: str) -> "Rows":
        """Some of the rows, as a list that notes call so."""
        found = Rows([self[i] for i in places], self.source, [self.lines[i] for i in places] if self.lines else ())
        found.columns = {name: [cells[i] for i in places] for name, cells in self.columns.items()}
        found.called, found.several, found.named = called, self.several, self.named
        return found

    def classes_of(self, row: int) -> list[str]:
        """The classes that a row's label names."""
        return classes_in(self[row][1]) if self.several else [self[row][1]]

    @property
    def classes(self) -> set[str]:
        """Those of all rows."""
        labels = {label for _, label in self}
        return {name for label in labels for name in classes_in(label)} if self.several else labels

    def where(self, row: int) -> str:
        """A row as messages name it: its line with its number, or the video."""
        if not self.lines:
            return f"{self.source}, {shown(self[row][0])}"
        number = self.lines[row]
        return f"{self.source}, line {number}: {shown(line_of(_text(self.source), number))}"


class _Header(NamedTuple):
    line: int  # its number; 0 if there is none
    delimiter: str
    path: int
    label: int
    columns: int
    extra: dict[str, int]


def read_list_file(source: Path, root: Path, several: bool = False) -> Rows:
    """The rows of a list file; those that are empty are left out.

    Args:
        source: The file.
        root: Where its relative paths begin.
        several: Whether a label names several classes; it may be empty then.

    Raises:
        InputError: It cannot be understood, or a row lacks its path or its label; names the line.
    """
    text = _text(source)
    header = _find_header(source, text, root)
    found = list(_with_header(source, text, header) if header else read_lines(source, text, root))
    _check(source, text, found, root, several)
    if header is None and (odd := {label for *_, label in found if is_of(label, SUFFIXES)}):
        line = next(line for line, _, label in found if label in odd)
        raise InputError(missing(source, text, line, "label", ", which ends with the name of a file"))
    if header is None and found and is_header(found[0]):
        found = found[1:]
    rows = [(path if _is_plain(path) else _as_found(path, root), label) for _, path, label in found]
    read = Rows(rows, source, [line for line, *_ in found])
    read.several = several
    if header and header.extra:
        cells = dict(numbered_cells(source, text, header.delimiter))
        read.columns = {name: [cells[line][at].strip() for line in read.lines] for name, at in header.extra.items()}
    return read


def is_list(source: Path, root: Path) -> bool:
    """Whether a CSV file has a header with a path and a label, and is not what `make_list` found missing."""
    try:
        return not source.name.endswith(".missing.csv") and _find_header(source, _text(source), root) is not None
    except InputError:
        return False


def _text(source: Path) -> str:
    text = read_text(source, ESCAPED)
    if "\r" not in text or ("\n" in text and '"' in text):
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as old spreadsheets end lines, some of them or all


def _find_header(source: Path, text: str, root: Path) -> _Header | None:
    """The header, if the first line that is not empty is one."""
    lines = enumerate(text.split("\n", SAMPLE)[:SAMPLE], 1)
    number, first = next(((number, line.strip("\r\n")) for number, line in lines if line.strip()), (0, ""))
    delimiters = DELIMITERS
    if re.fullmatch(r"sep=.", first, re.IGNORECASE):  # Excel's own first line
        delimiters = first[-1]
        number, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    first = first.strip()
    best: tuple[int, str, list[str]] = (0, "", [])
    for delimiter in delimiters:
        cells = next(csv.reader([re.split(r"[\r\n]", first[:9999])[0]], delimiter=delimiter), [])
        names = [cell.strip().lower() for cell in cells]
        known = sum(name in PATH_COLUMNS or name in LABEL_COLUMNS for name in names)
        if known > best[0]:
            best = known, delimiter, names
    _, delimiter, names = best
    path, label = (
        next((column for column in known if column in names), None) for known in (PATH_COLUMNS, LABEL_COLUMNS)
    )
    values = any(
        name.isdecimal() or "/" in name or is_of(name, SUFFIXES | IMAGE_SUFFIXES) or os.path.isdir(root / name)
        for name in names
        if name
    )
    if not names or ((path is None or label is None) and values):
        return None
    if path is None or label is None:
        raise InputError(
            f"{source}, line {number}: {shown(first)} is a header, which has to name the columns path and label; "
            f"{'path' if path is None else 'label'} is missing (known are, in any case: {', '.join(PATH_COLUMNS)}; "
            f"{', '.join(LABEL_COLUMNS)})"
        )
    if twice := [name for name in (path, label) if names.count(name) > 1]:
        raise InputError(f"{source} has the column {twice[0]} more than once")
    extra = {name: names.index(name) for name in EXTRA if name in names}
    return _Header(number, delimiter, names.index(path), names.index(label), len(names), extra)


def _with_header(source: Path, text: str, header: _Header) -> Iterator[Row]:
    _, delimiter, at_path, at_label, columns, _ = header
    for line, cells in numbered_cells(source, text, delimiter):
        if line > header.line:
            if len(cells) == columns:
                path, label = cells[at_path], cells[at_label].strip()
                if path and label:  # most rows: nothing more need be looked at
                    yield line, path, label
                    continue
            if any(cell.strip() for cell in cells):
                check_count(source, line, cells, columns)
                yield line, cells[at_path], cells[at_label].strip()


def _check(source: Path, text: str, rows: Sequence[Row], root: Path, several: bool) -> None:
    """Refuses what is no path or no label, and names of no file that come of another encoding or of an open quote."""
    for line, path, label in rows:
        if not path or not (label or several) or path.isspace():
            raise InputError(missing(source, text, line, "path" if label else "label"))
    odd = []
    if not is_utf8(text):
        for line, path, label in rows:
            if not is_utf8(label):
                raise InputError(f"{source}, line {line}: label {_no_utf8(label)}; save the list as UTF-8 text")
            if not is_utf8(path):
                odd.append((line, path))
    if '"' in text:
        odd += [(line, path) for line, path, _ in rows if "\n" in path or "\r" in path]
    # Files may have such names. Where one is there, the list means it so; a checked list was read before.
    if not odd or checked_path(source).is_file() or any(os.path.exists(root / as_path(path)) for _, path in odd):
        return
    line, path = min(odd)
    if is_utf8(path):
        raise InputError(f"{source}, line {line}: path {shown(path)} goes over several lines; is a quote left open?")
    raise InputError(
        f"{source}, line {line}: path {_no_utf8(path)}, nor the name of a file; save the list as UTF-8 text"
    )


def _no_utf8(text: str) -> str:
    windows = text.encode(errors=ESCAPED).decode("cp1252", "replace")
    return f"{shown(text)} is not UTF-8 (it is {shown(windows)} in Windows-1252)"


def _is_plain(path: str) -> bool:
    """Whether a path is as most are, and need not be looked for."""
    if "\\" in path or path[0] in ' ~"' or path[-1] == " ":
        return False
    return " " not in path or not path.rpartition(" ")[2].isdecimal()


def _as_found(path: str, root: Path) -> str:
    """A path as it is written, or as the file is there that it must mean."""
    ways = (
        path,
        path.strip().strip('"'),
        path.strip().replace("\\", "/"),
        from_home(path),
    )
    counted = re.sub(r"\s+\d+$", "", path)  # a folder of frames, and how many there are
    if counted != path and not os.path.exists(root / as_path(path)) and os.path.isdir(root / as_path(counted)):
        return counted
    return next((way for way in dict.fromkeys(ways) if way and os.path.exists(root / as_path(way))), path)
