"""The videos of a split, and what is known of them.

`data/check_videos.py` leaves what it finds beside a list: `train.checked.csv` belongs to `train.csv`. A run appends the
videos on which a decoder hung or crashed to a quarantine list (columns path and reason).
"""

import logging
import math
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
# Width of a pixel by its height, or the reverse; what is used is at most 2.91, so others are damaged headers.
WIDEST_PIXEL = 4.0


class Check(NamedTuple):
    """What `data/check_videos.py` found of a video.

    Attributes:
        status: "ok"; "damaged": some frames cannot be decoded, or decode to garbage; "unreadable"; "hang".
        reason: Why it is not ok, in one line.
        backend: Those that read its frames right, in one string with spaces between; empty if none does.
        num_frames: Frames that can be decoded, from the first on.
        size: Bytes of the file when it was checked; -1 if unknown.
        pixel_aspect: Width of a pixel by its height, as frames are shown; None in what a version wrote that did not
            look for it, nor for other things that decord shows otherwise, as mirrored videos.
    """

    status: str
    reason: str = ""
    backend: str = ""
    num_frames: int = 0
    size: int = -1
    pixel_aspect: float | None = 1.0


class Known(NamedTuple):
    """What a reader need not find out about a video.

    Attributes:
        backends: Those that read its frames right.
        num_frames: Frames that can be decoded.
        pixel_aspect: As of `Check`; None has the backend look itself.
    """

    backends: list[str]
    num_frames: int
    pixel_aspect: float | None


class VideoList:
    """Paths and labels of a split, row by row, and what is known of its videos.

    They are in few pieces of memory: of lists of strings each loader worker would come to hold a copy, because to
    count a reference is to write (pytorch issue 13246).

    Args:
        paths: Of the files.
        labels: From 0.
        checks: Findings by row, where the list was checked.

    Attributes:
        labels: int64 `[rows]`; uint8 `[rows, K]` of 0 and 1, where a video may be of several classes.
        set_aside: By row, why a video is not to be opened at all.
        damaged: By row, what is wrong with a video that can be read all the same.
        groups: By row, what no two splits may share, where that is known: a text for each.
    """

    groups: np.ndarray | None = None

    def __init__(
        self, paths: Sequence[str], labels: Sequence[int] | np.ndarray, checks: Mapping[int, Check] | None = None
    ) -> None:
        texts = [os.fsencode(path) for path in paths]
        self._texts, self._ends = b"".join(texts), np.cumsum([0, *map(len, texts)])
        self.labels = np.array(labels, np.uint8 if np.ndim(labels) == 2 else np.int64)
        self._frames, self._backend = np.zeros(len(texts), np.int64), np.zeros(len(texts), "U12")
        self._sizes, self._aspects = np.full(len(texts), -1, np.int64), np.full(len(texts), np.nan)
        self.set_aside: dict[int, str] = {}
        self.damaged: dict[int, str] = {}
        for row, check in (checks or {}).items():
            self._frames[row], self._backend[row], self._sizes[row] = check.num_frames, check.backend, check.size
            if check.pixel_aspect is not None:
                self._aspects[row] = check.pixel_aspect
            if check.status == "damaged" and check.backend:
                self.damaged[row] = check.reason
            elif check.status != "ok":
                self.set_aside[row] = check.reason

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, row: int) -> str:
        """The file of a row."""
        return os.fsdecode(self._texts[self._ends[row] : self._ends[row + 1]])

    def label(self, row: int) -> int | np.ndarray:
        """The class of a row; where there may be several, 0 and 1 for each, float32 `[K]`."""
        return self.labels[row].astype(np.float32) if self.labels.ndim == 2 else int(self.labels[row])

    @property
    def paths(self) -> list[str]:
        """All files."""
        return [self.path(row) for row in range(len(self))]

    def known(self, row: int) -> Known | None:
        """What is known of a video, if it was checked and has the same size."""
        if not self._backend[row] or not self._has_its_size(row):
            return None
        aspect = float(self._aspects[row])
        backends = str(self._backend[row]).split()
        return Known(backends, int(self._frames[row]), None if math.isnan(aspect) else aspect)

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
    return Check(status, row["reason"], found, frames, -1 if size is None else size, _pixel_aspect(row))


def _pixel_aspect(row: dict[str, str]) -> float | None:
    text = row.get("pixel_aspect", "")
    if not text:  # prepare_videos.py writes none, because its copies have square pixels, upright and in usual colours
        return 1.0 if "psnr" in row else None
    try:
        aspect = float(text)
    except ValueError:
        aspect = 0.0
    if not 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        raise ValueError(f"pixel_aspect is {shown(text)}; it has to be from {1 / WIDEST_PIXEL} to {WIDEST_PIXEL:g}")
    return aspect


def whole_number(text: str, most: int) -> int | None:
    """A number from 0 to `most` in decimal digits; None if the text is none."""
    digits = text.lstrip("0") or text[-1:]
    if not text.isdecimal() or len(digits) > len(str(most)):
        return None
    return number if (number := int(digits)) <= most else None


def shown(text: str) -> str:
    """A value as a message shows it: in quotes, and not endless."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
