"""Decodes every video of a list and writes what was found beside it: LIST.checked.csv.

Each video is decoded from its first frame to its last, then a few clips are read from it by each backend and compared
with that, for a decoder can hand out wrong frames without an error. This happens in child processes: a file on which
a decoder hangs costs its time-out, one on which it crashes costs nothing, and both are named.

The loader uses what is found by itself: `train.checked.csv` belongs to `train.csv` (or to a folder `train` of
class folders). After a stop, run the same command again; called again later, it checks only what is new or has changed.

Status of a video: ok; damaged (some frames cannot be decoded, or decode to garbage: not used for training; evaluated
only if all frames decode); unreadable; hang.
"""

import argparse
import math
import os
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter

from video_gn.console import exit_code, printable, progress
from video_gn.data.decoding.damage import breaks_off, concealed, decode_all, find_cut
from video_gn.data.decoding.display import orientation, rgb
from video_gn.data.decoding.frames_reader import FrameFolder
from video_gn.data.decoding.libav import refusing
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.lists import read_rows
from video_gn.data.video_list import checked_path
from video_gn.errors import DecodeError, InputError
from video_gn.files.names import as_path
from video_gn.files.tables import Journal, read_table, write_table
from video_gn.processes import KILLED, Ended, run_jobs

COLUMNS = (
    "path", "label", "status", "reason", "backend", "num_frames", "width", "height", "fps", "rotation",
    "pixel_aspect", "keyframes", "bytes", "modified",
)  # fmt: skip
READS = (0.15, 0.5, 0.85)  # where in a video the clips that are compared begin


def main(args: list[str] | None = None, prog: str | None = None) -> int:
    """Runs the command line; returns 2 with one line for what the user can correct, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="list file (path,label), or a folder of class folders")
    parser.add_argument("--root", type=Path, help="where paths of the list begin; default: the list's folder")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="child processes; default: one a core")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that a video may take; default: 60")
    parser.add_argument("--multi_label", action="store_true", help="a video may be of several classes, or of none")
    given = parser.parse_args(args)
    root = given.root or given.list.parent
    return exit_code(
        lambda: check_list(given.list, root, given.workers, given.timeout, given.multi_label),
        "stopped; the same command continues from here",
    )


def check_list(source: Path, root: Path, workers: int, timeout: float, several: bool = False) -> None:
    """Checks the videos of a list and writes the findings.

    Raises:
        InputError: There is no list, or the numbers make no sense.
    """
    if workers < 1 or not 0 < timeout < math.inf:
        raise InputError(f"--workers is {workers} and --timeout {timeout:g}; both have to be above 0 and finite")
    rows = read_rows(source, root=root, several=several)
    for note in rows.notes:
        print(printable(note), file=sys.stderr)
    target = checked_path(source)
    journal = Journal(target, COLUMNS)
    earlier = [*read_table(target, COLUMNS[:1]), *journal.rows]
    # prepare_videos.py writes fewer columns; and what memory did not suffice for is no finding about a video.
    known = {row["path"]: row for row in earlier if row.keys() >= set(COLUMNS) and row["reason"] != KILLED}
    found = {path: known[path] for path, _ in rows if path in known and _same(known[path], root / as_path(path))}
    todo = [path for path, _ in dict(rows).items() if path not in found]
    names: dict[str, list[str]] = {}  # a file may stand in a list under several
    for path in todo:
        names.setdefault(str(root / as_path(path)), []).append(path)
    jobs = run_jobs(check_video, names, workers, timeout)
    with journal, progress(jobs, printable(f"checking {source}"), len(todo), unit=" videos") as bar:
        for full, result in bar:
            finding = _ended(full, result) if isinstance(result, Ended) else result
            for path in names[full]:
                found[path] = finding | {"path": path}
                journal.add(found[path])
            if finding["status"] != "ok":
                bar.write(printable(f"{finding['status']}: {names[full][0]}: {finding['reason']}"), file=sys.stderr)
    table = [found[path] | {"label": label} for path, label in rows if found[path]["reason"] != KILLED]
    write_table(target, COLUMNS, [[row[column] for column in COLUMNS] for row in table])
    journal.remove()
    for column in ("status", "backend"):
        counts = Counter(row[column] or "none" for row in table)
        print(f"{column}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    print(printable(f"{len(table)} videos, {len(todo)} of them checked now: {target}"))
    if left := len(rows) - len(table):
        print(f"{left} more are not checked: memory did not suffice; call this again, with fewer --workers")


def check_video(path: str) -> dict[str, Any]:
    """What is to be said of a video; in a child process."""
    finding = _blank(path)
    if os.path.isdir(path):
        return finding | _check_frames(path)
    if not os.path.isfile(path):
        return finding | {"reason": "no such file"}
    return _check_file(path, finding)


def _check_file(path: str, finding: dict[str, Any]) -> dict[str, Any]:
    """What is to be said of a file, beside what is said so far."""
    checksums: list[int] = []
    missing: list[int] = []
    corrupt, ordered, time, reformatter = 0, True, None, VideoReformatter()
    try:
        with refusing(path):
            for picture in decode_all(path, missing):
                pixels = np.ascontiguousarray(rgb(picture, reformatter))
                checksums.append(zlib.crc32(pixels.data))
                corrupt += picture.is_corrupt
                ordered &= None in (time, picture.pts) or picture.pts > time
                time = picture.pts
                if len(checksums) == 1:
                    height, width, _ = pixels.shape
                    finding |= {"width": width, "height": height, "rotation": str(orientation(picture))}
            broken = find_cut(path)
    except DecodeError as error:
        broken = breaks_off(error, len(checksums))
    total = finding["num_frames"] = len(checksums)
    if not checksums or broken:
        return finding | {"status": "damaged" if checksums else "unreadable", "reason": broken or "no frames"}
    damage = concealed(corrupt, len(missing), total)
    right = [backend for backend in BACKENDS if _reads_right(path, backend, checksums, damage is not None)]
    try:
        with LibavVideo.opened(path) as video:
            finding |= {"fps": f"{video.fps:.3f}", "keyframes": video.num_keyframes}
            finding["pixel_aspect"] = f"{video.pixel_aspect:.6g}"
            if not (ordered or video.lacks_times) and "pyav" in right:  # it may be right where it was compared
                right.remove("pyav")
    except DecodeError as error:
        finding["reason"] = error.reason
    finding["backend"] = " ".join(right)
    if damage:
        return finding | {"status": "damaged", "reason": damage}
    if not right:
        return finding | {"reason": finding["reason"] or "no backend reads its frames right"}
    return finding | {"status": "ok"}


def _check_frames(path: str) -> dict[str, Any]:
    """What is to be said of a folder of frames."""
    try:
        video = FrameFolder(path)
        height, width, _ = video.read([0])[0].shape
    except DecodeError as error:
        return {"reason": error.reason}
    count = video.num_frames
    finding = {"num_frames": count, "width": width, "height": height, "rotation": 0, "keyframes": count}
    finding["pixel_aspect"] = f"{video.pixel_aspect:g}"
    if damage := video.find_damage():
        return finding | {"status": "damaged", "reason": damage}
    return finding | {"status": "ok", "backend": " ".join(BACKENDS)}


def _reads_right(path: str, backend: str, checksums: list[int], damaged: bool) -> bool:
    """Whether a few clips are what a sequential decode gives; if that has damaged frames, whether they can be read."""
    total = len(checksums)
    for begin in READS:
        indices = np.unique(np.minimum(int(begin * total) + np.arange(0, 8, 2), total - 1))
        try:
            with open_video(path, backend, num_frames=total) as video:
                frames = video.read(indices)
        except DecodeError:
            return False
        sums = [zlib.crc32(np.ascontiguousarray(frame).data) for frame in frames]
        if not damaged and sums != [checksums[i] for i in indices]:
            return False
    return True


def _blank(path: str) -> dict[str, Any]:
    there = os.stat(path) if os.path.exists(path) else None
    return dict.fromkeys(COLUMNS, "") | {
        "status": "unreadable",
        "num_frames": 0,
        "bytes": there.st_size if there and os.path.isfile(path) else "",  # of a folder they say nothing
        "modified": int(there.st_mtime) if there else "",
    }


def _ended(path: str, ended: Ended) -> dict[str, Any]:
    return _blank(path) | {"status": "hang" if ended.hung else "unreadable", "reason": ended.reason}


def _same(row: dict[str, str], path: Path) -> bool:
    """Whether a file is still the one that was checked."""
    now = _blank(str(path))
    return all(str(now[column]) == row.get(column) for column in ("bytes", "modified"))
