"""The videos of a split, out of class folders or a list file; and what a user names to predict."""

import glob
import logging
import os
from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np

from video_gn.data.duplicates import check_once, merged
from video_gn.data.folders import SUFFIXES, Scan, is_hidden, read_class_folders
from video_gn.data.labels import note_missing, numbers_of
from video_gn.data.rows import Rows, read_list_file
from video_gn.data.video_list import NO_LABEL, VideoList, read_checks
from video_gn.distributed import first_process
from video_gn.errors import InputError
from video_gn.files.names import as_label, as_path, as_text, from_home

log = logging.getLogger(__name__)


def read_rows(source: Path, suffixes: Set[str] = SUFFIXES, root: Path | None = None, several: bool = False) -> Rows:
    """Path and label of each video, as they are written in a list file, or as class folders have them.

    Args:
        source: A folder of class folders, or a list file.
        suffixes: Of the files to take from folders.
        root: Where relative paths of a list file begin; None is the file's folder.
        several: Whether a label may name several classes; a file in several class folders is of all of them.

    Raises:
        InputError: There is nothing, or it cannot be understood.
    """
    if source.is_dir():
        found = read_class_folders(source, suffixes)
        before = above(source)
        rows = Rows([(as_text(f"{before}{name}/{path}"), as_label(name)) for name, path in found.videos], source)
        rows.notes = found.notes
        rows = merged(rows, source.parent) if several else rows
    elif not source.is_file():
        raise InputError(
            f"there is no list or folder {source}; in a run, data.train, data.val and data.test are below data.root "
            "(--data.root FOLDER), and `video-gn data make-list` writes them for sets that it knows"
        )
    else:
        rows = read_list_file(source, root or source.parent, several)
    if not rows:
        why = f"; {rows.notes[0].removeprefix(f'{source}: ')}" if rows.notes else ""
        layout = " in class folders (CLASS/VIDEO.mp4)" if source.is_dir() else ""
        raise InputError(f"{source} names no videos{layout}{why}")
    return rows


def above(source: Path) -> str:
    """What paths of a folder of class folders begin with, in the rows that are read from it; nothing for a file."""
    return str((source / "x").relative_to(source.parent))[:-1] if source.is_dir() else ""


def read_list(
    source: Path,
    root: Path,
    class_names: list[str],
    suffixes: Set[str] = SUFFIXES,
    rows: Rows | None = None,
    by_number: bool = True,
) -> VideoList:
    """The videos of a split. Labels are class names, or numbers from 0.

    Args:
        source: A folder of class folders, or a list file.
        root: Where relative paths of a list file begin; a folder's own begin at its parent.
        class_names: In the order of their labels.
        suffixes: Of the files to take from folders.
        rows: Of `read_rows`, where they are read already.
        by_number: Whether whole numbers may be places in `class_names`, where these are words.

    Raises:
        InputError: As `read_rows`; a label is outside the classes; a video has two; none of the files is there.
    """
    rows = read_rows(source, suffixes, root) if rows is None else rows
    labels = numbers_of(rows, class_names, by_number)
    paths = _below(source.parent if source.is_dir() else root, rows)
    checks = read_checks(source, (path for path, _ in rows))
    few = paths[:: max(1, len(paths) // 100)]
    if not any(map(os.path.exists, few)):
        raise InputError(f"{source}: none of {len(few)} files looked for is there, e.g. {few[0]}; is data.root right?")
    check_once(rows, paths, labels)
    note_missing(rows, labels, class_names)
    videos = VideoList(paths, labels, checks)
    if groups := rows.columns.get("group"):
        videos.groups = np.array([group or path for group, path in zip(groups, paths, strict=True)])
    return videos


def _below(base: Path, rows: Rows) -> list[str]:
    """The files of rows. Most paths need not be taken apart, which takes a second of 240,000."""
    prefix = str(base / "x")[:-1]
    return [
        prefix + path
        if path.isascii() and path[:1] not in "/." and "//" not in path and "/." not in path and path[-1] != "/"
        else str(base / as_path(path))
        for path, _ in rows
    ]


def find_videos(given: list[str], suffixes: Set[str] = SUFFIXES) -> VideoList:
    """Videos to predict: files as they are named, folders with everything below them, patterns (`*.mp4`, `**/*.mp4`).

    Args:
        given: What was named.
        suffixes: Of the files to take from folders.

    Raises:
        InputError: Nothing is given, a folder holds no video, or a pattern fits no file.
    """
    paths: list[str] = []
    for item in map(from_home, given):
        if os.path.isdir(item):
            found = _in_folder(item, suffixes)
        elif glob.has_magic(item) and not os.path.exists(item):
            found = sorted(_matches(item, suffixes))
            if not found:
                raise InputError(f"no file fits the pattern {item}")
        else:
            found = [item]
        paths += found
    if not paths:
        raise InputError("there is nothing to predict; name files or folders with --videos")
    return VideoList(paths, [NO_LABEL] * len(paths))


def _in_folder(folder: str, suffixes: Set[str]) -> list[str]:
    scan = Scan(suffixes)
    if scan.is_video(folder):
        return [folder]
    found = sorted(str(Path(folder, path)) for path in scan.below(folder))
    notes = scan.notes(folder)
    if not found:
        why = f"; {notes[0].removeprefix(f'{folder}: ')}" if notes else ""
        raise InputError(f"the folder {folder} holds no videos ({', '.join(sorted(suffixes))}){why}")
    if first_process():
        for note in notes:
            log.warning("%s", note)
    return found


def _matches(pattern: str, suffixes: Set[str]) -> Iterator[str]:
    """Files of a pattern, hidden ones left out; `**` does not follow links, which may lead back."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    scan = Scan(suffixes)
    for path in Path(*parts[:first]).glob(str(Path(*parts[first:]))):
        if not any(map(is_hidden, path.parts[first:])) and (path.is_file() or scan.is_video(str(path))):
            yield str(path)
