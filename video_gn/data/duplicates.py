"""Videos that are in two lists, or twice in one."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from video_gn.data.label_sets import SEPARATOR, joined
from video_gn.data.rows import Rows
from video_gn.data.video_list import VideoList, shown
from video_gn.errors import InputError
from video_gn.files.names import as_path

FEW = 10_000  # files that are looked at, one by one; of more the folders alone are: 240,000 on a network take minutes


def same_files(paths: Sequence[str]) -> list[object]:
    """For each path what all names of one file have in common: through links to folders, and of few files any links."""
    if len(paths) <= FEW:
        return [_identity(path) for path in paths]
    real: dict[str, str] = {}
    found: list[object] = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        where = real.get(folder)
        if where is None:
            where = real[folder] = os.path.realpath(folder or ("/" if path[:1] == "/" else "."))
        found.append(f"{where}/{name}")
    return found


def _identity(path: str) -> object:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)  # some systems number no files


def merged(rows: Rows, base: Path) -> Rows:
    """The rows of class folders with each file once, of all the classes whose folders it is in, by whatever links.

    Args:
        rows: Of the folders.
        base: Where their paths begin.

    Raises:
        InputError: A folder's name cannot be that of one class among others.
    """
    if odd := [label for _, label in rows if SEPARATOR in label]:
        raise InputError(
            f"{rows.source}: the class folder {shown(odd[0])} has a {SEPARATOR} in its name, which separates classes "
            "where data.multi_label is true; rename it"
        )
    first: dict[object, int] = {}
    classes: dict[int, list[str]] = {}
    for row, (path, label) in enumerate(rows):
        classes.setdefault(first.setdefault(_identity(str(base / as_path(path))), row), []).append(label)
    found = Rows([(rows[row][0], joined(labels)) for row, labels in classes.items()], rows.source)
    found.notes, found.several = rows.notes, True
    return found


def check_once(rows: Rows, paths: Sequence[str], labels: Sequence[int] | np.ndarray) -> None:
    """Notes the videos that are in a list more than once.

    Raises:
        InputError: One is there with two labels.
    """
    files = same_files(paths)
    if len(set(files)) == len(files):
        return
    first: dict[object, int] = {}
    again = []
    for row, file in enumerate(files):
        before = first.setdefault(file, row)
        if before != row and not np.array_equal(labels[before], labels[row]):
            joining = f"name all its classes in one row, with {SEPARATOR} between"
            remedy = joining if rows.several else "remove one of the two"
            raise InputError(
                f"{rows.where(row)}: this video has the label {shown(rows[row][1])}, and {shown(rows[before][1])} "
                f"in {_place(rows, before)}; a video has one label: {remedy}"
            )
        if before != row:
            again.append((before, row))
    before, row = again[0]
    rows.notes.append(
        f"{rows.source}: {len(again)} of {len(rows)} videos are in it more than once and count each time, e.g. "
        f"{rows[row][0]} ({_place(rows, before)} and {_place(rows, row)})"
    )


def _place(rows: Rows, row: int) -> str:
    return f"line {rows.lines[row]}" if rows.lines else rows[row][0]


def in_both(videos: VideoList, others: VideoList) -> list[str]:
    """Paths of the videos of a list that are in another one too."""
    paths, more = videos.paths, others.paths
    files = same_files([*paths, *more])  # one way for both
    known = set(files[len(paths) :])
    return [path for path, file in zip(paths, files, strict=False) if file in known]
