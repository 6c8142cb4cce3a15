#!/usr/bin/env python
"""How long large lists and class folders take to read, and how much memory clips of a 4K video take; all is made here.

Memory is the peak of a process of its own that reads one view, and of one that reads nothing.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
from machine import cpu_name

from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.protocols import find_protocol
from video_gn.data.splits import Splits
from video_gn.data.views import ProtocolViews, RandomView, Views
from video_gn.errors import DecodeError

VIEWS: dict[str, Views] = {
    "64 frames": RandomView(64, 1, (256, 320), 224, True),
    "4 clips of 32": RandomView(32, 1, (256, 320), 224, True, num_clips=4),
    "gn-10clip of 32 x 2": ProtocolViews(32, 2, 256, find_protocol("gn-10clip")),
}


def seconds_of(root: Path, train: str) -> float:
    """CPU time from a list to the class names and the videos of a split."""
    began = time.process_time()
    splits = Splits(root, train=train)
    splits.name_classes(None)
    splits.read(train, "train")
    return time.process_time() - began


def make_list(root: Path, rows: int) -> None:
    """A CSV list of 400 classes; every hundredth file is there."""
    lines = [f"train/class {i % 400:03}/video {i:06}.mp4,class {i % 400:03}" for i in range(rows)]
    for line in lines[:: max(1, rows // 100)]:
        path = root / line.partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "train.csv").write_text("\n".join(["path,label", *lines]) + "\n")


def make_folders(root: Path, files: int) -> None:
    """Class folders, 400 of them."""
    for i in range(files):
        path = root / "folders" / f"class {i % 400:03}" / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def make_video(path: Path, frames: int, width: int, height: int) -> None:
    """An H.264 video of moving noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width + 8 * frames), np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "35", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            grey = np.ascontiguousarray(noise[:, 8 * i : 8 * i + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
        container.mux(stream.encode())


def peak(path: str, backend: str, view: str) -> int:
    """Most bytes that this process had resident, once it has read a view, or nothing for no name of one.

    As in training: what one backend refuses, the other one reads.
    """
    for name in sorted(BACKENDS, key=lambda name: name != backend):
        try:
            with open_video(path, name) as video:
                if view:
                    VIEWS[view](video, np.random.default_rng(0))
                break
        except DecodeError:
            continue
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def alone(job: Callable[[], int]) -> int:
    """What a process of its own says, which begins with nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(job).result()


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Prints the figures, and returns them: seconds, and bytes by backend and view."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=240_000, help="of the list")
    parser.add_argument("--files", type=int, default=24_000, help="in class folders")
    parser.add_argument("--frames", type=int, default=140, help="of the video")
    parser.add_argument("--size", type=int, nargs=2, default=(3840, 2160), help="of the video, in pixels")
    given = parser.parse_args(args)
    found: dict[str, Any] = {"memory": {}}
    print(f"{cpu_name()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_list(root, given.rows)
        make_folders(root, given.files)
        for name, source, count in (("list", "train.csv", given.rows), ("folders", "folders", given.files)):
            found[name] = min(seconds_of(root, source) for _ in range(3))
            print(f"{source}: {count} videos in {found[name]:.2f} s")
        video = root / "large.mp4"
        make_video(video, given.frames, *given.size)
        for backend in BACKENDS:
            sizes = {view: alone(partial(peak, str(video), backend, view)) for view in ("", *VIEWS)}
            found["memory"][backend] = sizes
            shown = ", ".join(f"{view or 'nothing'} {size / 1e6:.0f} MB" for view, size in sizes.items())
            print(f"{backend}, {given.size[0]} x {given.size[1]}: {shown}")
    return found


if __name__ == "__main__":
    main()
