"""MP4 files that are written."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from video_gn.data.decoding.containers import address


def encode(frames: Iterator[np.ndarray], path: Path) -> None:
    """Writes frames, uint8 `[size, size, 3]`, as H.264 at 30 fps with a keyframe each 12."""
    with create_mp4(path) as container:
        first = next(frames)
        # x264's macroblock tree reads memory that it never wrote in frames this small: about every third file then
        # differs from run to run, though its frames are the same.
        options = {"crf": "23", "preset": "veryfast", "g": "12", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(30), options=options)
        stream.codec_context.thread_count = 1
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
        for frame in (first, *frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def create_mp4(path: Path, options: dict[str, str] | None = None) -> Iterator[Any]:
    """PyAV's container of a new MP4 file, whatever its name; closed in the end. No file may be there."""
    with (
        open(path, "xb") as file,
        av.open(address(str(path), file.fileno()), "w", format="mp4", options=options or {}) as container,
    ):
        yield container
