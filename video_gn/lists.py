"""Lists of labelled videos: class folders, CSV files, and `path label` lines; and what is known of their videos.

`data/check_videos.py` leaves what it finds beside a list: `train.checked.csv` belongs to `train.csv`. A run appends the
videos on which a decoder hung or crashed to a quarantine list (columns path and reason).
"""

import csv
import glob
import logging
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from video_gn.errors import InputError
from video_gn.files import read_table

log = logging.getLogger(__name__)

SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
NO_LABEL = -1  # of a video that is only predicted


class Check(NamedTuple):
    """What `data/check_videos.py` found of a video.

    Attributes:
        status: "ok"; "damaged": some frames cannot be decoded, or decode to garbage; "unreadable"; "hang".
        reason: Why it is not ok, in one line.
        backend: Those that read its frames right, in one string with spaces between; empty if none does.
        num_frames: Frames that can be decoded, from the first on.
    """

    status: str
    reason: str = ""
    backend: str = ""
    num_frames: int = 0


class VideoList:
    """Paths and labels of a split, row by row, and what is known of its videos.

    They lie in few pieces of memory: of lists of strings each loader worker would come to hold a copy, because to
    count a reference is to write (pytorch issue 13246).

    Args:
        paths: Of the files.
        labels: From 0.
        checks: Findings by row, where the list was checked.

    Attributes:
        labels: int64 `[rows]`.
        set_aside: By row, why a video is not to be opened at all.
        damaged: By row, what is wrong with a video that can be read all the same.
    """

    def __init__(self, paths: Sequence[str], labels: Sequence[int], checks: Mapping[int, Check] | None = None) -> None:
        texts = [os.fsencode(path) for path in paths]
        self._texts, self._ends = b"".join(texts), np.cumsum([0, *map(len, texts)])
        self.labels = np.array(labels, np.int64)
        self._frames, self._backend = np.zeros(len(texts), np.int64), np.zeros(len(texts), "U12")
        self.set_aside: dict[int, str] = {}
        self.damaged: dict[int, str] = {}
        for row, check in (checks or {}).items():
            self._frames[row], self._backend[row] = check.num_frames, check.backend
            if check.status == "damaged" and check.backend:
                self.damaged[row] = check.reason
            elif check.status != "ok":
                self.set_aside[row] = check.reason

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, row: int) -> str:
        """The file of a row."""
        return os.fsdecode(self._texts[self._ends[row] : self._ends[row + 1]])

    @property
    def paths(self) -> list[str]:
        """All files."""
        return [self.path(row) for row in range(len(self))]

    def known(self, row: int) -> tuple[list[str], int] | None:
        """The backends that read a video right, and how many frames it has, if it was checked."""
        return (str(self._backend[row]).split(), int(self._frames[row])) if self._backend[row] else None


def checked_path(source: Path) -> Path:
    """Where the findings about a list's or folder's videos lie."""
    return source.with_name(f"{source.stem if source.suffix else source.name}.checked.csv")


def read_checks(source: Path, paths: Iterable[str]) -> dict[int, Check]:
    """Findings about the videos of a list, by row; paths as they stand in the list."""
    table = read_table(checked_path(source))
    if not table:
        return {}
    try:
        found = {
            row["path"]: Check(row["status"], row["reason"], row["backend"], int(row["num_frames"])) for row in table
        }
    except (KeyError, ValueError) as error:
        raise InputError(f"{checked_path(source)} is not what check_videos.py writes ({error}); check again") from None
    checks = {row: found[path] for row, path in enumerate(paths) if path in found}
    log.info("%s: %d of its videos are checked", checked_path(source), len(checks))
    return checks


def read_rows(source: Path, suffixes: Set[str] = SUFFIXES) -> list[tuple[str, str]]:
    """Path and label of each video, as they stand: of class folders, a CSV file with header, or `path label` lines.

    Args:
        source: A folder of class folders, or a list file.
        suffixes: Of the files to take from folders.

    Raises:
        InputError: There is nothing, or it cannot be understood.
    """
    if source.is_dir():
        rows = [
            (str(path.relative_to(source.parent)), folder.name)
            for folder in sorted(source.iterdir())
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in suffixes
        ]
    elif not source.is_file():
        raise InputError(
            f"there is no list or folder {source}; in a run, data.train, data.val and data.test lie below data.root"
        )
    elif source.suffix.lower() == ".csv":
        with open(source, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if not {"path", "label"} <= set(table.fieldnames or ()):
                raise InputError(f"{source} needs a header that names the columns path and label")
            rows = [(row["path"], (row["label"] or "").strip()) for row in table]
    else:
        rows = []
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                path, _, label = line.strip().rpartition(" ")
                if not path:
                    raise InputError(f"{source}, line {number}: {line!r} is not of the form: path label")
                rows.append((path.strip(), label))
    if not rows:
        raise InputError(f"{source} names no videos")
    return rows


def names_of(rows: list[tuple[str, str]]) -> list[str]:
    """Class names that the labels of a training list give: the names sorted, or the numbers from 0 to the largest."""
    labels = {label for _, label in rows}
    if all(label.isdecimal() for label in labels):
        return [str(i) for i in range(max(map(int, labels)) + 1)]
    return sorted(labels)


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
    rows = read_rows(source, suffixes)
    number_of = {name: label for label, name in enumerate(class_names)}
    base = source.parent if source.is_dir() else root
    paths, labels = [], []
    for row, (path, text) in enumerate(rows, 1):
        label = number_of.get(text)
        if label is None and text.isdecimal() and int(text) < len(class_names):
            label = int(text)
        if label is None:
            raise InputError(
                f"{source}, video {row} ({path}): label {text!r} is outside the {len(class_names)} classes "
                f"({', '.join(class_names[:3])}, ...); mend the list, or set data.class_names"
            )
        paths.append(str(base / path))
        labels.append(label)
    checks = read_checks(source, (path for path, _ in rows))
    few = paths[:: max(1, len(paths) // 100)]
    if not any(Path(path).is_file() for path in few):
        raise InputError(
            f"{source}: none of {len(few)} files looked for is there, {few[0]} for one; is data.root right?"
        )
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
        if Path(item).is_dir():
            found = sorted(str(path) for path in Path(item).rglob("*") if path.suffix.lower() in suffixes)
            if not found:
                raise InputError(f"the folder {item} holds no videos ({', '.join(sorted(suffixes))})")
        elif glob.has_magic(item) and not Path(item).exists():
            found = sorted(path for path in glob.glob(item, recursive=True) if Path(path).is_file())
            if not found:
                raise InputError(f"no file fits the pattern {item}")
        else:
            found = [item]
        paths += found
    if not paths:
        raise InputError("there is nothing to predict; name files or folders with --videos")
    return VideoList(paths, [NO_LABEL] * len(paths))
