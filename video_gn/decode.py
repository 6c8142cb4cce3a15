"""Frames out of video files. The only file that imports decord.

A video is opened anew for each sample, read once and closed at once: decord's decoder thread runs ahead without
bound, and a reader made before a fork hangs in the forked worker.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# isort: off
import torch  # noqa: F401  first: where decord is loaded before it, its matrix products crash (dmlc/decord issue 293)
import decord

# isort: on
import av
import numpy as np

from video_gn.errors import DecodeError

decord.logging.set_level(decord.logging.QUIET)  # what matters of it is in the exceptions
_DECORD_ERRORS = (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError)


class Video:
    """An open video; `open_video` makes it.

    Attributes:
        path: The file.
        num_frames: Frames that the container promises, at least 1.
        fps: Mean frames a second.
    """

    def __init__(self, path: str, reader: decord.VideoReader) -> None:
        self.path, self._reader = path, reader
        self.num_frames = len(reader)
        self.fps = float(reader.get_avg_fps())
        _check_index(path, reader)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames `indices` in that order, uint8 RGB `[len(indices), H, W, 3]`; any order, repeats allowed.

        Each frame is decoded once, all of them in one pass, so ask for all that a sample needs in one call.

        Raises:
            DecodeError: A frame cannot be decoded.
        """
        unique, inverse = np.unique(indices, return_inverse=True)
        frames = self._reader.get_batch(unique)
        # pytorchvideo.data switches decord to torch tensors for the whole process.
        array = frames.asnumpy() if hasattr(frames, "asnumpy") else frames.numpy()
        return array if len(unique) == len(inverse) and (np.diff(inverse) > 0).all() else array[inverse]


@contextmanager
def open_video(path: str | Path) -> Iterator[Video]:
    """Opens a video for one read.

    Raises:
        DecodeError: Here or in `Video.read`, whatever the way in which decord fails.
    """
    path = str(path)
    if not Path(path).is_file():
        raise DecodeError(path, "no such file")
    if _is_mpeg_ts(path):
        raise DecodeError(path, "MPEG-TS, in which decord cannot seek; remux it to MP4")
    try:
        # fault_tol=1: a frame that cannot be decoded raises; by default its neighbour is handed out in silence.
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1, fault_tol=1)
        yield Video(path, reader)
    except _DECORD_ERRORS as error:
        raise DecodeError(path, _reason(error)) from None


def find_damage(path: str | Path) -> str | None:
    """What is wrong with a video whose frames may decode all the same, or None.

    Flipped bits are concealed by the decoder, and a file cut short without an index just ends: `Video.read` raises
    for neither. This decodes the whole video once more, with PyAV.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        size = file.seek(0, 2)
    promised = int.from_bytes(head[4:], "little") + 8
    if head[:4] == b"RIFF" and promised > size:
        return f"cut short: {size} of {promised} bytes"
    decoded = damaged = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                decoded += 1
                damaged += frame.is_corrupt
    except (av.FFmpegError, IndexError):
        return f"decoding breaks off after {decoded} frames"
    return f"{damaged} of {decoded} frames are damaged" if damaged else None


def _check_index(path: str, reader: decord.VideoReader) -> None:
    """Refuses files in which decord would hand out wrong frames without an error."""
    if len(reader) < 1:
        raise DecodeError(path, "no frames")
    keys = reader.get_key_indices()
    if len(keys) == 0 or keys[0] != 0:
        raise DecodeError(path, "the first frame is no keyframe")
    times = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))))[:, 0]
    no_times = abs(times[0]) > 1e9  # AVI often has none: harmless as long as nothing has to seek
    if no_times and len(keys) == 1:
        return
    if abs(times[0]) > 0.5 or (np.diff(times) <= 0).any():
        raise DecodeError(path, "its frame times do not increase from 0, so that decord seeks to wrong frames")


_REASONS = {
    "Error sending packet": "damaged: the decoder refuses a packet",
    "run_.load()": "damaged: the decoder refuses a packet",  # the same, seen by another thread
    "wanted index": "no video stream",
    "Error reading": "not a video file, or its index is lost",
    "EOF": "the last frames cannot be decoded",
}


def _reason(error: Exception) -> str:
    """decord's message as one line, without time, C++ source line and stack."""
    for part, reason in _REASONS.items():
        if part in str(error):
            return reason
    if isinstance(error, decord.DECORDLimitReachedError):
        return "a frame cannot be decoded"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0]) if lines else type(error).__name__


def _is_mpeg_ts(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(189)[::188] == b"GG"  # packets of 188 bytes begin with 0x47
