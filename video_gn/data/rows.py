"""Rows of list files: CSV with a header, and `path label` lines without one; separated by whatever they are.

What is written decides, not the file's suffix: a header is known by its columns' names, and in lines without one the
separator is the one behind which labels are.
"""

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from video_gn.data.folders import IMAGE_SUFFIXES, SUFFIXES, is_of
from video_gn.data.video_list import checked_path, shown
from video_gn.errors import InputError
from video_gn.files.names import as_path, from_home, is_utf8
from video_gn.files.tables import check_count, numbered_cells
from video_gn.files.text import ESCAPED, read_text

# Names of columns, in any case; the first of them that a header has is taken.
PATH_COLUMNS = ("path", "video_path", "file_path", "filepath", "filename", "file", "video")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "action")
DELIMITERS = ",;\t"
SAMPLE = 200  # lines by which the separator is found
_ONE = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"
NUMBER = re.compile(rf"{_ONE}([\s,;]+{_ONE})*|[-+]?nan|<NA>|#N/A", re.IGNORECASE)
_ENDINGS = "|".join(sorted((suffix[1:] for suffix in SUFFIXES | IMAGE_SUFFIXES), key=len, reverse=True))
_SUFFIX_INSIDE = re.compile(rf"\.(?:{_ENDINGS})[\s,;]", re.IGNORECASE)
_BEHIND_SUFFIX = re.compile(rf'(.*\.(?:{_ENDINGS}))"?[ \t]+(\S.*)', re.IGNORECASE)

Row = tuple[int, str, str]  # line, path, label
Way = Callable[[str], tuple[str, str] | None]


class Rows(list[tuple[str, str]]):
    """Path and label of each video, as they are in a list file or a folder of class folders.

    Args:
        rows: The pairs.
        source: Where they are from.
        lines: Of the list file; none for a folder.

    Attributes:
        notes: What is to be said of the source, in a line each.
    """

    def __init__(self, rows: Sequence[tuple[str, str]], source: Path | str = "the list", lines: Sequence[int] = ()):
        super().__init__(rows)
        self.source, self.lines = Path(source), lines
        self.notes: list[str] = []

    @property
    def named(self) -> bool:
        """Whether labels are folders' names, and never numbers."""
        return not self.lines

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


def line_of(text: str, number: int) -> str:
    """A line by its number, without its end."""
    return text.split("\n", number)[number - 1].strip()


def read_list_file(source: Path, root: Path) -> Rows:
    """The rows of a list file; those that are empty are left out.

    Args:
        source: The file.
        root: Where its relative paths begin.

    Raises:
        InputError: It cannot be understood, or a row lacks its path or its label; names the line.
    """
    text = _text(source)
    header = _find_header(source, text)
    found = list(_with_header(source, text, header) if header else _without_header(source, text, root))
    _check(source, text, found, root)
    if header is None and (odd := {label for *_, label in found if is_of(label, SUFFIXES)}):
        line = next(line for line, _, label in found if label in odd)
        raise InputError(_missing(source, text, line, "label"))
    if header is None and found and _is_header(found[0]):
        found = found[1:]
    rows = [(path if _is_plain(path) else _as_found(path, root), label) for _, path, label in found]
    return Rows(rows, source, [line for line, *_ in found])


def _text(source: Path) -> str:
    text = read_text(source, ESCAPED)
    return text if "\n" in text else text.replace("\r", "\n")  # as old spreadsheets end lines


def _find_header(source: Path, text: str) -> _Header | None:
    """The header, if the first line that is not empty is one."""
    lines = enumerate(text.split("\n", SAMPLE)[:SAMPLE], 1)
    number, first = next(((number, line.strip()) for number, line in lines if line.strip()), (0, ""))
    delimiters = DELIMITERS
    if re.fullmatch(r"sep=.", first, re.IGNORECASE):  # Excel's own first line
        delimiters = first[-1]
        number, first = next(((number, line.strip()) for number, line in lines if line.strip()), (0, ""))
    best: tuple[int, str, list[str]] = (0, "", [])
    for delimiter in delimiters:
        names = [cell.strip().lower() for cell in next(csv.reader([first[:9999]], delimiter=delimiter), [])]
        known = sum(name in PATH_COLUMNS or name in LABEL_COLUMNS for name in names)
        if known > best[0]:
            best = known, delimiter, names
    _, delimiter, names = best
    path, label = (
        next((column for column in known if column in names), None) for known in (PATH_COLUMNS, LABEL_COLUMNS)
    )
    values = any(name.isdecimal() or "/" in name or is_of(name, SUFFIXES | IMAGE_SUFFIXES) for name in names)
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
    return _Header(number, delimiter, names.index(path), names.index(label), len(names))


def _with_header(source: Path, text: str, header: _Header) -> Iterator[Row]:
    _, delimiter, at_path, at_label, columns = header
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


def _without_header(source: Path, text: str, root: Path) -> Iterator[Row]:
    """Rows of `path label` lines."""
    delimiter, way = _find_way(source, text, root)
    if delimiter:
        for number, cells in numbered_cells(source, text, delimiter):
            if any(cell.strip() for cell in cells):
                if len(cells) < 2:
                    raise InputError(_missing(source, text, number, "label"))
                yield number, delimiter.join(cells[:-1]), cells[-1].strip()
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found = way(line.strip())
            if found is None:
                raise InputError(f"{source}, line {number}: {shown(line.strip())} is not of the form: path label")
            yield number, *found


def _find_way(source: Path, text: str, root: Path) -> tuple[str, Way]:
    """The delimiter of lines without a header, if they have one, and how else a line is taken apart.

    It is the one by which most lines of a sample make most sense.
    """
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    sample = list(islice(((number, line) for number, line in lines if line), SAMPLE))
    ways: list[Way] = [*(partial(_at_last, end) for end in DELIMITERS), _at_space, _behind_suffix]
    sense = [[_sense(way(line), root) for _, line in sample] for way in ways]
    best = max(range(4), key=lambda i: sum(sense[i]))
    if 0 in sense[best] and sum(map(bool, sense[-1])) > sum(map(bool, sense[best])):
        best = 4
    if not any(sense[best]):  # names of folders, and of classes
        order = [0, 1, 2, 3] if source.suffix.lower() == ".csv" else [3, 0, 1, 2]
        best = next((i for i in order if all(ways[i](line) for _, line in sample)), 3)
    if len(sample) > 1 and not sense[best][0] and all(sense[best][1:]):
        number, first = sample[0]
        found = ways[best](first)
        if found is None or not os.path.exists(root / as_path(found[0])):
            raise InputError(
                f"{source}, line {number}: {shown(first)} is neither a path and a label nor a header that names the "
                "columns path and label; name them so, or remove the line"
            )
    return DELIMITERS[best : best + 1], ways[best]


def _at_last(separator: str, line: str) -> tuple[str, str] | None:
    path, _, label = line.rpartition(separator)
    return (path.strip(), label.strip()) if path else None


def _at_space(line: str) -> tuple[str, str] | None:
    at = max(line.rfind(" "), line.rfind("\t"))
    return (line[:at].strip(), line[at + 1 :]) if at > 0 else None


def _behind_suffix(line: str) -> tuple[str, str] | None:
    """For labels of several words: the label is what comes behind the last path."""
    found = _BEHIND_SUFFIX.fullmatch(line)
    return (found[1].strip(), found[2]) if found else _at_space(line)


def _sense(found: tuple[str, str] | None, root: Path) -> int:
    """How much a line that is taken apart so looks like a path and a label: 2, 1 or 0."""
    if found is None or not all(found):
        return 0
    path, label = found
    if _is_header((0, path, label)):
        return 2
    if label[0] in DELIMITERS or _SUFFIX_INSIDE.search(f"{label} "):
        return 0
    if is_of(path.strip('"'), SUFFIXES | IMAGE_SUFFIXES):
        return 2
    if _SUFFIX_INSIDE.search(path):  # of `a.mp4 copy 2` the path may be `a.mp4`
        return 2 * os.path.exists(root / as_path(path))
    return int(NUMBER.fullmatch(label) is not None)


def _is_header(row: Row) -> bool:
    """Whether a line `path label` is a header, which a space separates."""
    return row[1].lower() in PATH_COLUMNS and row[2].lower() in LABEL_COLUMNS


def _check(source: Path, text: str, rows: Sequence[Row], root: Path) -> None:
    """Refuses what is no path or no label, and names of no file that come of another encoding or of an open quote."""
    for line, path, label in rows:
        if not path or not label or path.isspace():
            raise InputError(_missing(source, text, line, "path" if label else "label"))
    odd = []
    if not is_utf8(text):
        for line, path, label in rows:
            if not is_utf8(label):
                raise InputError(f"{source}, line {line}: label {shown(label)} is not UTF-8; save the list as UTF-8")
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
        f"{source}, line {line}: path {shown(path)} is not UTF-8, nor the name of a file; save the list as UTF-8 text"
    )


def _missing(source: Path, text: str, line: int, what: str) -> str:
    return (
        f"{source}, line {line}: the {what} is missing in {shown(line_of(text, line))}; a row needs a path and a label "
        "(a class's name, or a whole number from 0 on): add it, or remove the row"
    )


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
