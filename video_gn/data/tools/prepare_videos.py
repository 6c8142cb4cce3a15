"""Re-encodes the videos of a list for training: small frames, short GOPs, a codec that is quick to decode.

Every frame of a source becomes one frame of its copy, at the short side asked for (never larger than it was), turned
as it is to be shown, at a constant rate. Each copy is decoded again: it has to have as many frames as the source, and
they have to look like it. Sources are not touched.

Writes OUT/PATH.mp4 for each PATH of the list, OUT/LIST.csv with the same labels, and OUT/LIST.checked.csv, so that the
loader knows the copies' frames; OUT/LIST.failed.csv names what could not be prepared. Those rows stay in the list, and
are known as bad: others take their places in training, and in evaluation they count as wrong. Stopped at any time, the
same command continues.
"""

import argparse
import itertools
import math
import os
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from video_gn.console import exit_code, printable, progress
from video_gn.data.decoding.open import BACKENDS
from video_gn.data.lists import read_rows
from video_gn.data.reencode import CODECS, Encoding, prepare_video
from video_gn.data.video_list import checked_path
from video_gn.errors import DecodeError, InputError
from video_gn.files.names import as_path
from video_gn.files.tables import Journal, journal_of, read_table, write_table
from video_gn.files.writing import OF_ONE_FILE, UNWRITABLE, part_of, replacing, unwritable
from video_gn.processes import Ended, run_jobs

NOTE = "prepared.csv"  # in the folder of the copies: the settings of all of them
SIZES = (256, 320)
COLUMNS = ("path", "label", "reason")


def main(args: list[str] | None = None, prog: str | None = None) -> int:
    """Runs the command line; returns 2 with one line for what the user can correct, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, help="list file (path,label), or a folder of class folders")
    parser.add_argument("out", type=Path, help="folder of the copies; a later run's data.root")
    parser.add_argument("--root", type=Path, help="where paths of the list begin; default: the list's folder")
    parser.add_argument("--short_side", type=int, default=256, choices=SIZES, help="pixels; default: 256")
    parser.add_argument("--codec", default="h264", choices=CODECS, help="default: h264; mpeg4 is faster and larger")
    defaults = {name: (quality, gop) for name, (_, _, quality, gop) in CODECS.items()}
    parser.add_argument("--quality", type=int, help=f"less is better; h264's CRF, mpeg4's quantiser: {defaults}")
    parser.add_argument("--gop", type=int, help="frames from keyframe to keyframe; defaults: as above, second")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="child processes; default: one a core")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds that a video may take; default: 300")
    parser.add_argument("--multi_label", action="store_true", help="a video may be of several classes, or of none")
    given = parser.parse_args(args)
    settings = Encoding.of(given.short_side, given.codec, given.quality, given.gop)
    root = given.root or given.list.parent
    return exit_code(
        lambda: prepare_list(given.list, root, given.out, settings, given.workers, given.timeout, given.multi_label),
        "stopped; the same command continues from here",
    )


def prepare_list(
    source: Path, root: Path, out: Path, settings: Encoding, workers: int, timeout: float, several: bool = False
) -> None:
    """Prepares the videos of a list.

    Raises:
        InputError: There is no list, or copies would replace originals, or be among others of other settings.
    """
    if workers < 1 or not 0 < timeout < math.inf or min(settings.gop, settings.quality) < 1:
        raise InputError(
            f"--workers {workers}, --timeout {timeout:g}, --quality {settings.quality} and --gop {settings.gop} "
            "all have to be above 0 and finite"
        )
    rows = read_rows(source, root=root, several=several)
    for note in rows.notes:
        print(printable(note), file=sys.stderr)
    if folders := [path for path, _ in rows if os.path.isdir(root / as_path(path))]:
        raise InputError(
            f"{len(folders)} of {len(rows)} videos are folders of frames, e.g. {folders[0]}; they need no preparation "
            "and are read as they are: leave them out of this list"
        )
    if out.resolve() == root.resolve():
        raise InputError(f"{out} holds the originals; name another folder for the copies")
    target = out / f"{source.stem if source.suffix else source.name}.csv"
    names = _target_names([path for path, _ in rows])
    failures, classes = target.with_suffix(".failed.csv"), out / "classes.txt"
    tables = [target, journal_of(target), checked_path(target), failures, out / NOTE, classes]
    _check_nothing_of_the_users(
        [source, root / "classes.txt", *(root / as_path(path) for path in names)],
        [*tables, *(out / as_path(name) for name in names.values())],
    )
    if target == out / NOTE:
        raise InputError(
            f"the list is called {source.name}, and {target} says how the copies were made; rename the list"
        )
    _note_settings(out, settings)
    fields = ["path", "status", "reason", "backend", "num_frames", "psnr", "bytes_before", "bytes"]
    journal = Journal(target, fields)
    done = {row["path"]: row for row in [*read_table(checked_path(target), ("path", "status")), *journal.rows]}
    todo = [path for path, name in names.items() if name not in done or not os.path.isfile(out / as_path(name))]
    failed: list[tuple[str, str]] = []
    jobs = run_jobs(
        partial(_job, settings), ((root / as_path(p), out / as_path(names[p]), p) for p in todo), workers, timeout
    )
    with journal, progress(jobs, printable(f"preparing {source}"), len(todo), unit=" videos") as bar:
        for (_, _, path), result in bar:
            if isinstance(result, Ended | str):
                failed.append((path, result.reason if isinstance(result, Ended) else result))
                bar.write(printable(f"not prepared: {path}: {failed[-1][1]}"), file=sys.stderr)
            else:
                done[names[path]] = result | {"path": names[path]}
                journal.add(done[names[path]])
    write_table(target, ("path", "label"), [(names[path], label) for path, label in rows])
    missing = dict.fromkeys(fields, "") | {"status": "unreadable", "num_frames": "0"}
    for path, reason in failed:
        done[names[path]] = missing | {"path": names[path], "reason": f"not prepared: {reason}"}
    found = [(done[names[path]], label) for path, label in rows]
    table = [[*(row.get(field, "") for field in fields), label] for row, label in found]  # check_videos.py has less
    write_table(checked_path(target), [*fields, "label"], table)
    labels = dict(rows)
    write_table(failures, COLUMNS, [(path, labels[path], reason) for path, reason in failed])
    if (root / "classes.txt").is_file():
        with replacing(classes) as part:  # it may be a link
            shutil.copyfile(root / "classes.txt", part)
    journal.remove()
    _sum_up(target, [row for row, _ in found if row["status"] == "ok"], len(failed))


def _job(settings: Encoding, item: tuple[Path, Path, str]) -> dict[str, Any] | str:
    source, target, _ = item
    if not os.path.isfile(source):
        return "no such file"
    try:
        found = prepare_video(str(source), str(target), settings)
        return {"status": "ok", "reason": "", "backend": " ".join(BACKENDS)} | found
    except DecodeError as error:
        return error.reason
    except (OSError, av.FFmpegError) as error:
        if error.errno in UNWRITABLE - OF_ONE_FILE:  # nor can any other
            raise InputError(unwritable(target, OSError(error.errno, error.strerror))) from None
        return f"cannot be written: {error.strerror}"
    finally:
        with suppress(OSError):
            part_of(target).unlink(missing_ok=True)


def _check_nothing_of_the_users(originals: list[Path], written: list[Path]) -> None:
    """Raises InputError where a file would be written that is the list or one of its videos, under whatever name."""
    theirs = {_same(path): path for path in originals}
    for path in [*written, *map(part_of, written)]:
        if (found := theirs.get(_same(path))) is not None:
            raise InputError(f"{path} would be written over {found}; name another folder for the copies")


def _same(path: Path) -> tuple[int, int] | str:
    """What two names of one file have in common, be it there or not."""
    try:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    except OSError:
        return os.path.realpath(path)


def _target_names(paths: list[str]) -> dict[str, str]:
    """Where each copy is below the folder of the copies."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in sorted(dict.fromkeys(paths), key=lambda path: not path.endswith(".mp4")):
        parts = [part for part in path.split("/") if part not in ("", "..", ".")]
        if not parts:
            raise InputError(f"the list names {path!r}, which is no file")
        inside = "/".join(parts)
        name = f"{os.path.splitext(inside)[0]}.mp4"
        for end in itertools.count(1):  # a.avi beside a.mp4
            if name not in taken:
                break
            name = f"{inside}{'' if end == 1 else f'-{end}'}.mp4"
        names[path] = name
        taken.add(name)
    return {path: names[path] for path in paths}


def _note_settings(out: Path, settings: Encoding) -> None:
    """One folder holds copies of one kind."""
    noted = out / NOTE
    values = [str(value) for value in settings]
    there = read_table(noted)
    if there and list(there[0].values()) != values:
        was = ", ".join(f"{name} {value}" for name, value in there[0].items())
        raise InputError(f"{out} holds videos prepared with {was}; take these settings, or another folder")
    if not there:
        write_table(noted, Encoding._fields, [values])


def _sum_up(target: Path, rows: list[dict[str, Any]], failed: int) -> None:
    print(printable(f"{len(rows)} videos prepared, {failed} not: {target}"))
    if rows := [row for row in rows if row.get("psnr")]:
        sizes = [[int(row[key]) for row in rows if str(row[key]).isdecimal()] for key in ("bytes_before", "bytes")]
        before, after = map(sum, sizes)
        psnr = np.mean([float(row["psnr"]) for row in rows])
        print(f"{before / 1e6:.1f} MB became {after / 1e6:.1f} MB; mean PSNR {psnr:.1f} dB against the scaled source")
