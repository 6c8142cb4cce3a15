"""Lists of labelled videos: class folders, CSV files, and `path label` lines; and what a user names to predict."""

import glob
import os
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from video_gn.data.video_list import NO_LABEL, VideoList, checked_path, read_checks, shown, whole_number
from video_gn.errors import InputError
from video_gn.files.names import as_label, as_path, as_text, is_utf8
from video_gn.files.tables import numbered_rows
from video_gn.files.text import ESCAPED, read_text

SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
MOST_CLASSES = 100_000


def read_rows(source: Path, suffixes: Set[str] = SUFFIXES, root: Path | None = None) -> list[tuple[str, str]]:
    """Path and label of each video, as they stand: of class folders, a CSV file with header, or `path label` lines.

    Args:
        source: A folder of class folders, or a list file.
        suffixes: Of the files to take from folders.
        root: Where relative paths of a list file begin; None is the file's folder.

    Raises:
        InputError: There is nothing, or it cannot be understood.
    """
    rows: Iterable[tuple[int, str, str]]
    if source.is_dir():
        rows = [
            (0, as_text(str(path.relative_to(source.parent))), as_label(folder.name))
            for folder in sorted(source.iterdir())
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in suffixes
        ]
    elif not source.is_file():
        raise InputError(
            f"there is no list or folder {source}; in a run, data.train, data.val and data.test are below data.root "
            "(--data.root FOLDER)"
        )
    elif source.suffix.lower() == ".csv":
        rows = [(line, row["path"], row["label"].strip()) for line, row in numbered_rows(source, ("path", "label"))]
    else:
        rows = list(_plain_rows(source))
    if not rows:
        raise InputError(f"{source} names no videos")
    if not source.is_dir():
        _check_rows(source, rows, root or source.parent)
    return [(path, label) for _, path, label in rows]


def _plain_rows(source: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(read_text(source, ESCAPED).split("\n"), 1):
        if line.strip():
            path, _, label = line.strip().rpartition(" ")
            if not path:
                raise InputError(f"{source}, line {number}: {shown(line)} is not of the form: path label")
            yield number, path.strip(), label


def _check_rows(source: Path, rows: Iterable[tuple[int, str, str]], root: Path) -> None:
    """Refuses what is no path or no label, and names of no file that come of another encoding or of an open quote."""
    odd = []
    for line, path, label in rows:
        if not path or not label:
            raise InputError(f"{source}, line {line}: the {'label' if path else 'path'} is missing; a row needs both")
        if not is_utf8(label):
            raise InputError(f"{source}, line {line}: label {shown(label)} is not UTF-8; save the list as UTF-8 text")
        if "\n" in path or "\r" in path or not is_utf8(path):
            odd.append((line, path))
    # Files may have such names. Where one is there, the list means it so; a checked list was read before.
    if not odd or checked_path(source).is_file() or any(os.path.isfile(root / as_path(path)) for _, path in odd):
        return
    line, path = odd[0]
    if is_utf8(path):
        raise InputError(f"{source}, line {line}: path {shown(path)} goes over several lines; is a quote left open?")
    raise InputError(
        f"{source}, line {line}: path {shown(path)} is not UTF-8, nor the name of a file; save the list as UTF-8 text"
    )


def names_of(rows: list[tuple[str, str]], source: Path | str = "the list") -> list[str]:
    """Class names that the labels of a training list give: the names sorted, or the numbers from 0 to the largest.

    Args:
        rows: Of `read_rows`.
        source: The list, for messages.

    Raises:
        InputError: A number is too large to be one of a class.
    """
    labels = {label for _, label in rows}
    if not all(label.isdecimal() for label in labels):
        return sorted(labels)
    numbers = {label: whole_number(label, MOST_CLASSES - 1) for label in labels}
    for row, (path, label) in enumerate(rows, 1):
        if numbers[label] is None:
            raise InputError(
                f"{source}, video {row} ({shown(path)}): label {shown(label)}; numbers of classes go from 0 to "
                f"{MOST_CLASSES - 1}: number them from 0 on without gaps, or use names"
            )
    return [str(i) for i in range(max(number for number in numbers.values() if number is not None) + 1)]


def read_list(source: Path, root: Path, class_names: list[str], suffixes: Set[str] = SUFFIXES) -> VideoList:
    """The videos of a split. Labels are class names, or numbers from 0.

    Args:
        source: A folder of class folders, or a list file.
        root: Where relative paths of a list file begin; a folder's own begin at its parent.
        class_names: In the order of their labels.
        suffixes: Of the files to take from folders.

    Raises:
        InputError: As `read_rows`; a label is outside the classes; none of the files is there.
    """
    rows = read_rows(source, suffixes, root)
    number_of = {name: label for label, name in enumerate(class_names)}
    base = source.parent if source.is_dir() else root
    paths, labels = [], []
    for row, (path, text) in enumerate(rows, 1):
        label = number_of.get(text)
        if label is None:
            label = whole_number(text, len(class_names) - 1)
        if label is None:
            raise InputError(
                f"{source}, video {row} ({path}): label {shown(text)} is outside the {len(class_names)} classes "
                f"({', '.join(class_names[:3])}, ...); correct the list, or set data.class_names"
            )
        paths.append(str(base / as_path(path)))
        labels.append(label)
    checks = read_checks(source, (path for path, _ in rows))
    few = paths[:: max(1, len(paths) // 100)]
    if not any(map(os.path.isfile, few)):
        raise InputError(f"{source}: none of {len(few)} files looked for is there, e.g. {few[0]}; is data.root right?")
    return VideoList(paths, labels, checks)


def find_videos(given: list[str], suffixes: Set[str] = SUFFIXES) -> VideoList:
    """Videos to predict: files as they are named, folders with everything below them, patterns (`*.mp4`, `**/*.mp4`).

    Args:
        given: What was named.
        suffixes: Of the files to take from folders.

    Raises:
        InputError: Nothing is given, a folder holds no video, or a pattern fits no file.
    """
    paths: list[str] = []
    for item in given:
        if os.path.isdir(item):
            found = sorted(str(path) for path in Path(item).rglob("*") if path.suffix.lower() in suffixes)
            if not found:
                raise InputError(f"the folder {item} holds no videos ({', '.join(sorted(suffixes))})")
        elif glob.has_magic(item) and not os.path.exists(item):
            found = sorted(_matches(item))
            if not found:
                raise InputError(f"no file fits the pattern {item}")
        else:
            found = [item]
        paths += found
    if not paths:
        raise InputError("there is nothing to predict; name files or folders with --videos")
    return VideoList(paths, [NO_LABEL] * len(paths))


def _matches(pattern: str) -> Iterator[str]:
    """Files of a pattern, hidden ones left out; `**` does not follow links, which may lead back."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    for path in Path(*parts[:first]).glob(str(Path(*parts[first:]))):
        if path.is_file() and not any(part.startswith(".") for part in path.parts[first:]):
            yield str(path)
