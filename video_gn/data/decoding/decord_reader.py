"""Frames out of video files by decord. The only file that imports it.

A reader is opened for each sample, read once and closed at once: decord's decoder thread runs ahead without bound, and
a reader made before a fork hangs in the forked worker.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

# isort: off
import torch  # first: where decord is loaded before it, its matrix products crash (dmlc/decord issue 293)
import decord

# isort: on
import numpy as np
from torch.utils.data import get_worker_info

from video_gn.data.decoding.containers import CERTAIN, CONTAINERS, OpenFile
from video_gn.data.decoding.display import pixel_aspect
from video_gn.data.decoding.libav import (
    NO_INDEX,
    open_container,
    promised_frames,
    refusing,
    refusing_each,
    video_stream,
)
from video_gn.data.decoding.look import differs, why_not_decord
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.decoding.reader import LARGEST, Finish, Frames, as_they_are, assemble, part_size
from video_gn.errors import DecodeError

decord.logging.set_level(decord.logging.QUIET)  # what matters of it is in the exceptions
SLACK = 1000  # frames
SMALLEST = 32  # bytes of a frame on average, in a file that is too large to count its frames
LARGEST_FRAME = 2 << 20  # pixels, 1920 x 1088: decord decodes ahead without bound, and keeps what it decoded


_LINE = re.compile(rb"^\[[\d:]+\] \S+\.cc:\d+: .*\n?", re.MULTILINE)  # as decord's C++ writes to standard error


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps decord's lines off the screen: it writes why it cannot open a file, and raises it too.

    In loader workers, and where no thread of the user's needs standard error meanwhile.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    alone = get_worker_info() is not None or all(thread.daemon for thread in others)
    if not alone or sys.__stderr__ is None or not hasattr(os, "memfd_create"):  # it was closed; not Linux
        yield
        return
    with open(os.memfd_create("lines"), "w+b") as lines:
        kept = os.dup(2)
        try:
            os.dup2(lines.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            lines.seek(0)
            os.write(2, _LINE.sub(b"", lines.read()))


class DecordVideo:
    """An open video that decord reads.

    Args:
        path: The file.
        checked: Whether decord is known to read the right frames of it, so that nobody has to look.
    """

    pixel_aspect = 1.0
    _reader: Any = None
    _frame_bytes = 0  # of RGB; 0 if nobody looked

    def __init__(self, path: str, checked: bool = False) -> None:
        self.path = path
        self._file = OpenFile(path)
        try:
            if self._file.container not in CERTAIN:
                raise DecodeError(path, f"{CONTAINERS[self._file.container]}, in which decord cannot seek")
            look = None if checked else self._look()
            with refusing(path, _reason):
                self._reader = self._open()
                self.num_frames = len(self._reader)
                self.fps = float(self._reader.get_avg_fps())
                if not checked:
                    self._check_index(look)
        except DecodeError:
            self.close()
            raise

    def read(self, indices: Sequence[int] | np.ndarray, finish: Finish = as_they_are) -> np.ndarray:
        """As `Video.read`."""
        return assemble(indices, lambda wanted: refusing_each(self.path, self._parts(wanted), _reason), finish)

    def _open(self) -> decord.VideoReader:
        # fault_tol=1: a frame that cannot be decoded raises; by default its neighbour is handed out in silence.
        with _hushed():
            return decord.VideoReader(self._file.address, ctx=decord.cpu(0), num_threads=1, fault_tol=1)

    def _parts(self, wanted: np.ndarray) -> Iterator[Frames]:
        reader, self._reader = self._reader or self._open(), None
        parts = np.array_split(wanted, -(-len(wanted) // part_size(len(wanted), self._frame_bytes)))
        for number, part in enumerate(parts, 1):
            batch = reader.get_batch(part)  # it continues where it is
            if number == len(parts):  # while it is open, it decodes on behind what was asked for: a sixth of the time
                reader = None
            # pytorchvideo.data switches decord to torch tensors for the whole process.
            yield (
                batch if isinstance(batch, torch.Tensor) else torch.utils.dlpack.from_dlpack(batch.to_dlpack())
            ).numpy()

    def close(self) -> None:
        """As `Video.close`."""
        self._reader = None
        self._file.close()

    def _look(self) -> "_Look | None":
        """What libav finds in a file: its bounds hold before decord sees the file. Of a large one, the header alone."""
        if self._file.size > LARGEST:
            with refusing(self.path), open_container(self._file) as container:
                stream = video_stream(container, self.path)
                self._bound(
                    stream.width, stream.height, promised_frames(container, stream), self._file.size // SMALLEST
                )
                self.pixel_aspect = pixel_aspect(stream)
                reason = differs(stream.codec_context, next(container.decode(stream), None))
            if reason:
                raise DecodeError(self.path, reason)
            return None
        with LibavVideo.opened(self.path) as video:
            self._bound(video.width, video.height, video.promised, 2 * video.num_frames + SLACK)
            if reason := why_not_decord(video):
                raise DecodeError(self.path, reason)
            self.pixel_aspect = video.pixel_aspect
            return _Look(video.num_frames, video.has_open_gop, video.lacks_times)

    def _bound(self, width: int, height: int, promised: int, most: int) -> None:
        """Refuses what decord would set too much memory aside for."""
        self._frame_bytes = 3 * width * height
        if width * height > LARGEST_FRAME:
            size = f"{width}x{height}"
            raise DecodeError(self.path, f"frames of {size} pixels, of which decord would hold too many in memory")
        if promised > most:
            raise DecodeError(self.path, f"damaged: its header promises {promised} frames, and it holds at most {most}")

    def _check_index(self, look: "_Look | None") -> None:
        """Refuses files in which decord would hand out wrong frames without an error."""
        if self.num_frames < 1:
            raise DecodeError(self.path, "no frames")
        keys = self._reader.get_key_indices()
        if len(keys) == 0 or keys[0] != 0:
            raise DecodeError(self.path, "the first frame is no keyframe")
        if len(keys) > 1:  # it will have to seek
            times = np.asarray(self._reader.get_frame_timestamp(np.arange(self.num_frames)))[:, 0]
            if abs(times[0]) > 0.5 or (np.diff(times) <= 0).any():
                reason = "its frame times do not increase from 0, so that decord seeks to wrong frames"
                raise DecodeError(self.path, reason)
        if look is None:
            return
        if look.lacks_times:
            raise DecodeError(self.path, "B-frames without time stamps, of which decord skips wrong numbers")
        if look.open_gop:
            raise DecodeError(self.path, "open GOPs, in which decord seeks to wrong frames")
        if look.num_frames != self.num_frames:  # an edit list leaves out the rest
            raise DecodeError(self.path, f"decord counts {self.num_frames} frames of {look.num_frames}")


class _Look(NamedTuple):
    """What libav finds in a file."""

    num_frames: int
    open_gop: bool
    lacks_times: bool


_REASONS = {
    "Error sending packet": "damaged: the decoder refuses a packet",
    "run_.load()": "damaged: the decoder refuses a packet",  # the same, seen by another thread
    "wanted index": "no video stream",
    "Error reading": NO_INDEX,
    "from_size == to_size": "decord cannot hand out frames of this width or rotation",
    "EOF": "the last frames cannot be decoded",
    "open codec": "damaged: its codec cannot be opened",
    "Cannot create buffer source": "damaged: its frames have no size or no format",
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
