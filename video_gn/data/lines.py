"""Lines of a path and a label without a header, as PySlowFast, VideoMAE and others write lists."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from video_gn.data.folders import IMAGE_SUFFIXES, SUFFIXES, is_of
from video_gn.data.video_list import shown
from video_gn.errors import InputError
from video_gn.files.names import as_path
from video_gn.files.tables import numbered_cells

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


def line_of(text: str, number: int) -> str:
    """A line by its number, without its end."""
    return text.split("\n", number)[number - 1].strip()


def missing(source: Path, text: str, line: int, what: str, more: str = "") -> str:
    """What is said of a row that lacks its path or its label."""
    shows = f"{shown(line_of(text, line))}{more}"
    return (
        f"{source}, line {line}: the {what} is missing in {shows}; a row needs a path and a label (a class's name, or "
        "a whole number from 0 on): add it, or remove the row"
    )


def read_lines(source: Path, text: str, root: Path) -> Iterator[Row]:
    """Rows of `path label` lines."""
    delimiter, way = _find_way(source, text, root)
    if delimiter:
        for number, cells in numbered_cells(source, text, delimiter):
            if any(cell.strip() for cell in cells):
                if len(cells) < 2:
                    raise InputError(missing(source, text, number, "label"))
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
    if is_header((0, path, label)):
        return 2
    if _SUFFIX_INSIDE.search(f"{label} "):
        return 0
    if is_of(path.strip('"'), SUFFIXES | IMAGE_SUFFIXES):
        return 2
    if _SUFFIX_INSIDE.search(path):  # of `a.mp4 copy 2` the path may be `a.mp4`
        return 2 * os.path.exists(root / as_path(path))
    return int(NUMBER.fullmatch(label) is not None)


def is_header(row: Row) -> bool:
    """Whether a line `path label` is a header, which a space separates."""
    return row[1].lower() in PATH_COLUMNS and row[2].lower() in LABEL_COLUMNS
