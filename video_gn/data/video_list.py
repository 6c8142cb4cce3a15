"""The videos of a split, and what is known of them.

`data/check_videos.py` leaves what it finds beside a list: `train.checked.csv` belongs to `train.csv`. A run appends the
videos on which a decoder hung or crashed to a quarantine list (columns path and reason).
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from video_gn.errors import InputError
from video_gn.files.tables import numbered_rows

log = logging.getLogger(__name__)

NO_LABEL = -1  # of a video that is only predicted
STATUSES = ("ok", "damaged", "unreadable", "hang")
BACKEND_NAMES = ("decord", "pyav")  # the keys of video_gn.data.decoding.open.BACKENDS, which needs more than lists do
MOST_FRAMES = 10**9 - 1
MOST_BYTES = 2**60


class Check(NamedTuple):
    """What `data/check_videos.py` found of a video.

    Attributes:
        status: "ok"; "damaged": some frames cannot be decoded, or decode to garbage; "unreadable"; "hang".
        reason: Why it is not ok, in one line.
        backend: Those that read its frames right, in one string with spaces between; empty if none does.
        num_frames: Frames that can be decoded, from the first on.
        size: Bytes of the file when it was checked; -1 if unknown.
    """

    status: str
    reason: str = ""
    backend: str = ""
    num_frames: int = 0
    size: int = -1


class VideoList:
    """Paths and labels of a split, row by row, and what is known of its videos.

    They are in few pieces of memory: of lists of strings each loader worker would come to hold a copy, because to
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
        self._sizes = np.full(len(texts), -1, np.int64)
        self.set_aside: dict[int, str] = {}
        self.damaged: dict[int, str] = {}
        for row, check in (checks or {}).items():
            self._frames[row], self._backend[row], self._sizes[row] = check.num_frames, check.backend, check.size
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
        """The backends that read a video right, and how many frames it has, if it was checked and has the same size."""
        if not self._backend[row] or not self._has_its_size(row):
            return None
        return str(self._backend[row]).split(), int(self._frames[row])

    def _has_its_size(self, row: int) -> bool:
        try:
            return self._sizes[row] < 0 or os.stat(self.path(row)).st_size == self._sizes[row]
        except OSError:
            return True  # whoever opens it says so


def checked_path(source: Path) -> Path:
    """The file of the findings about a list's or folder's videos."""
    return source.with_name(f"{source.stem if source.suffix else source.name}.checked.csv")


def read_checks(source: Path, paths: Iterable[str]) -> dict[int, Check]:
    """Findings about the videos of a list, by row; paths as they stand in the list.

    Raises:
        InputError: A row is not what check_videos.py writes.
    """
    target = checked_path(source)
    if not target.is_file():
        return {}
    found = {}
    for line, row in numbered_rows(target, ("path", "status", "reason", "backend", "num_frames")):
        try:
            found[row["path"]] = _check(row)
        except ValueError as error:
            raise InputError(f"{target}, line {line}: {error}; remove the file and check again") from None
    checks = {row: found[path] for row, path in enumerate(paths) if path in found}
    log.info("%s: %d of its videos are checked", target, len(checks))
    return checks


def _check(row: dict[str, str]) -> Check:
    status, backends = row["status"], row["backend"].split()
    if status not in STATUSES:
        raise ValueError(f"there is no status {shown(status)}; there are: {', '.join(STATUSES)}")
    if unknown := [name for name in backends if name not in BACKEND_NAMES]:
        raise ValueError(f"there is no backend {shown(unknown[0])}; there are: {', '.join(BACKEND_NAMES)}")
    frames = whole_number(row["num_frames"], MOST_FRAMES)
    least = 1 if status == "ok" or backends else 0
    if frames is None or frames < least:
        raise ValueError(
            f"num_frames is {shown(row['num_frames'])}; it has to be a number from {least} to {MOST_FRAMES}"
        )
    text = row.get("bytes", "")  # a file that was not there has none
    size = whole_number(text, MOST_BYTES)
    if text and size is None:
        raise ValueError(f"bytes is {shown(text)}; it has to be a number from 0 to {MOST_BYTES}")
    found = " ".join(name for name in BACKEND_NAMES if name in backends)
    return Check(status, row["reason"], found, frames, -1 if size is None else size)


def whole_number(text: str, most: int) -> int | None:
    """A number from 0 to `most` in decimal digits; None if the text is none."""
    digits = text.lstrip("0") or text[-1:]
    if not text.isdecimal() or len(digits) > len(str(most)):
        return None
    return number if (number := int(digits)) <= most else None


def shown(text: str) -> str:
    """A value as a message shows it: in quotes, and not endless."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
