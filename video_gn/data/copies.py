"""Videos that show the same: equal files, re-encodings, and cuts of one recording that overlap.

A network that has seen one of them knows the other, so that they may not be in two splits. What is compared is how a
small grey picture changes within a fifth of a second, at several points of a video: the background, which all videos of
one camera have in common, cancels out. Two videos are copies where enough of these points of one are found in the
other, all of them shifted by the same time. Videos in which nothing moves are compared by their bytes alone.
"""

import hashlib
import logging
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from video_gn.console import progress
from video_gn.data.cues import say_of_labels
from video_gn.data.decoding.damage import decode_all
from video_gn.data.decoding.frames_reader import FrameFolder
from video_gn.data.protocols import FPS
from video_gn.data.video_list import VideoList
from video_gn.distributed import first_process
from video_gn.errors import DecodeError, InputError
from video_gn.files.writing import make_folder, replacing
from video_gn.processes import Ended, run_jobs

log = logging.getLogger(__name__)
SIDE = 16  # of the grey pictures, in pixels
STEP = 0.1  # seconds from one picture to the next
LAG = 2  # pictures over which a change is taken
LONGEST = 600  # pictures of a video that are looked at: its first minute
ALL, LEAST = 500_000, 50  # pictures of all videos that are compared, and at least so many of each: they take under 2 GB
POINTS = 12  # of a video that are looked for in the others
FEWEST = 3  # of these that have to be found
LEAST_CHANGE = 1.0  # root mean square of a change, in grey levels, below which nothing moves
LIKE = 0.6  # correlation of two changes that are the same
LIKE_PICTURE = 0.9  # of the pictures
MOST_VIDEOS = 10_000  # of a list: to compare them takes the square of their number
CHUNK, TILE = 512, 16_384  # points that are compared with so many pictures at once
LONG = 10  # chunks from which on it takes so long that a bar is shown
TIMEOUT = 120.0  # seconds for a video


class Signature(NamedTuple):
    """What is kept of a video.

    Attributes:
        pictures: uint8 `[N, SIDE, SIDE]`, every tenth of a second; none where it cannot be read.
        digest: Of its bytes.
    """

    pictures: np.ndarray
    digest: str


def copies_of(videos: VideoList, trainer: Any = None) -> list[tuple[int, int]]:
    """Pairs of rows of a list whose videos show the same; the first process finds them, and says what labels look like.

    Args:
        videos: The list.
        trainer: Lightning's, by which other processes get them.
    """
    if len(videos) > MOST_VIDEOS:
        log.warning("%d videos are too many to look for copies among them (data.find_copies)", len(videos))
        return []
    found: list[tuple[int, int]] = []
    if first_process():
        kept = read_signatures(videos.paths, len(os.sched_getaffinity(0)), cache_folder())
        found = find_copies(kept)
        say_of_labels([signature.pictures for signature in kept], videos.labels)
    return trainer.strategy.broadcast(found) if trainer else found


def find_copies(kept: Sequence[Signature]) -> list[tuple[int, int]]:
    """Pairs of places of videos that show the same, in whole or in part; the first place is the smaller one."""
    return sorted({*_equal(kept), *_alike(kept)})


def read_signatures(paths: Sequence[str], workers: int, cache: Path | None = None) -> list[Signature]:
    """The signature of each video.

    Args:
        paths: The files.
        workers: Processes that read them.
        cache: A folder for what was seen of them, by which a file that is the same is not read again.
    """
    states = {path: _state(path) for path in dict.fromkeys(paths)}
    above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    file = (cache or Path()) / f"{hashlib.sha256(os.fsencode(above)).hexdigest()[:16]}.npz"
    found = {
        path: kept
        for path, (state, kept) in (_cached(file) if cache else {}).items()
        if state and states.get(path) == state
    }
    todo = [path for path in states if path not in found]
    jobs = run_jobs(signature, todo, workers, TIMEOUT)
    with progress(jobs, "looking for copies among the videos", len(todo), unit=" videos", disable=not todo) as bar:
        found |= {path: result for path, result in bar if not isinstance(result, Ended)}
    if cache and todo:  # without those of which the reading ended, which another time may not
        _keep(file, {path: (states[path], kept) for path, kept in found.items()})
    return [found.get(path) or Signature(_none(), "") for path in paths]


def cache_folder() -> Path:
    """Where this user's machine keeps what can be found again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "video_gn", "copies")


def _state(path: str) -> str:
    """What changes with a file; nothing for a folder of frames, of which each could change."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return "" if os.path.isdir(path) else f"{found.st_size} {found.st_mtime_ns}"


def _cached(file: Path) -> dict[str, tuple[str, Signature]]:
    """By path, the state of the file that was seen, and its signature; nothing where the cache cannot be read."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            names, states, digests, counts = (kept[name].tolist() for name in ("paths", "states", "digests", "counts"))
            parts = np.split(kept["pictures"], np.cumsum(counts)[:-1])
        if len({len(names), len(states), len(digests), len(parts)}) > 1 or parts[0].shape[1:] != (SIDE, SIDE):
            return {}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}
    rows = zip(names, states, parts, digests, strict=True)
    return {name: (state, Signature(part, digest)) for name, state, part, digest in rows}


def _keep(file: Path, found: Mapping[str, tuple[str, Signature]]) -> None:
    """Writes the cache, where it can be written."""
    signatures = [kept for _, kept in found.values()]
    if not signatures:
        return
    with suppress(InputError, OSError):
        make_folder(file.parent)
        with replacing(file) as part, open(part, "xb") as out:
            np.savez_compressed(
                out,
                paths=list(found),
                states=[state for state, _ in found.values()],
                digests=[kept.digest for kept in signatures],
                counts=[len(kept.pictures) for kept in signatures],
                pictures=np.concatenate([kept.pictures for kept in signatures]),
            )


def signature(path: str) -> Signature:
    """The signature of a video; in a child process."""
    try:
        pictures = list(islice(_pictures(path), LONGEST))
    except DecodeError:
        pictures = []
    return Signature(np.stack(pictures) if pictures else _none(), _digest(Path(path)))


def _none() -> np.ndarray:
    return np.empty((0, SIDE, SIDE), np.uint8)


def _pictures(path: str) -> Iterator[np.ndarray]:
    if os.path.isdir(path):
        video = FrameFolder(path)
        for frame in video.read(np.arange(0, video.num_frames, round(STEP * FPS))[:LONGEST]):
            yield np.array(Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
        return
    due = None
    for number, picture in enumerate(decode_all(path)):
        time = number / FPS if picture.time is None else picture.time
        due = time if due is None else due
        if time + 1e-6 >= due:
            small = picture.reformat(SIDE, SIDE, "gray", interpolation="AREA").to_ndarray()
            while time + 1e-6 >= due:  # several times where there are fewer pictures than that
                yield small
                due += STEP


def _digest(path: Path) -> str:
    """Of a file's bytes; nothing of a folder of frames, and of a file that is not there or may not be read."""
    with suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _equal(kept: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for place, one in enumerate(kept):
        if one.digest and (other := first.setdefault(one.digest, place)) != place:
            yield other, place


def _alike(kept: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    """Pairs of which enough points of one are found in the other, shifted by one time."""
    changes, pictures, owner, when = [], [], [], []
    most = max(LEAST, ALL // max(1, len(kept)))
    for place, one in enumerate(kept):
        found, times = _changes(one.pictures[:most])
        changes.append(found)
        pictures.append(_normal(one.pictures[times]))
        owner.append(np.full(len(found), place))
        when.append(times)
    of_all, look, whose, time = map(np.concatenate, (changes, pictures, owner, when))
    points = np.concatenate([_spread(np.flatnonzero(whose == place)) for place in range(len(kept))])
    votes: dict[tuple[int, int], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    parts = range(0, len(points), CHUNK)
    for begin in progress(parts, "comparing them", len(parts), leave=False, disable=len(parts) < LONG):
        part = points[begin : begin + CHUNK]
        for first in range(0, len(of_all), TILE):
            i, j = np.nonzero(of_all[part] @ of_all[first : first + TILE].T > LIKE)
            i, j = part[i], j + first
            alike = (whose[i] != whose[j]) & (np.einsum("nd,nd->n", look[i], look[j]) > LIKE_PICTURE)
            for point, found in zip(i[alike], j[alike], strict=True):
                votes[int(whose[point]), int(whose[found])][int(time[found] - time[point])].add(int(point))
    for (a, b), shifts in votes.items():
        best = max(len(shifts[s] | shifts.get(s + 1, set())) for s in list(shifts))
        asked = int((whose[points] == a).sum())
        if best >= min(FEWEST, max(2, asked)):
            yield min(a, b), max(a, b)


def _changes(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How pictures change where something moves, normal vectors float32 `[M, SIDE * SIDE]`, and at which of them."""
    if len(pictures) <= LAG:
        return _normal(_none()), np.empty(0, np.int64)
    later, before = pictures[LAG:].astype(np.float32), pictures[:-LAG].astype(np.float32)
    moves = np.flatnonzero((later - before).std((1, 2)) >= LEAST_CHANGE)
    return _normal((later - before)[moves]), moves


def _normal(pictures: np.ndarray) -> np.ndarray:
    """Pictures as vectors of mean 0 and length 1, float32 `[N, SIDE * SIDE]`: their products are correlations."""
    flat = pictures.reshape(len(pictures), SIDE * SIDE).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _spread(places: np.ndarray) -> np.ndarray:
    """Up to `POINTS` of them, evenly."""
    return places[np.unique(np.linspace(0, len(places) - 1, POINTS).astype(int))] if len(places) else places
