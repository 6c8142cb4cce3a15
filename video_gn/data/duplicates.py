"""Videos that are in two lists, or twice in one."""

import os
from collections.abc import Sequence

from video_gn.data.rows import Rows
from video_gn.data.video_list import VideoList, shown
from video_gn.errors import InputError

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


def check_once(rows: Rows, paths: Sequence[str], labels: Sequence[int]) -> None:
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
        if labels[before] != labels[row]:
            raise InputError(
                f"{rows.where(row)}: this video has the label {shown(rows[row][1])}, and {shown(rows[before][1])} "
                f"in {_place(rows, before)}; a video has one label: remove one of the two"
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
