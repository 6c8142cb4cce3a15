"""What an open video is, and how its frames are put together from the parts in which they are decoded."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

LARGEST = 1 << 30  # bytes of a file, which is held in memory while it is open

WHOLE, PART = 64, 8  # a clip of up to so many frames is one part; more come in parts that stay in a core's cache
PART_BYTES = 128 << 20  # of RGB frames in a part, if that is more than one

Frames = np.ndarray | Sequence[np.ndarray]  # [H, W, 3] each
Finish = Callable[[Frames], Frames]


def as_they_are(frames: Frames) -> Frames:
    """Frames at their source's size."""
    return frames


def part_size(frames: int, frame_bytes: int = 0) -> int:
    """How many of so many frames are decoded before something is made of them."""
    size = frames if frames <= WHOLE else PART
    return max(1, min(size, PART_BYTES // frame_bytes)) if frame_bytes else size


class Video(Protocol):
    """An open video; `open_video` makes it.

    Attributes:
        path: The file.
        num_frames: Frames of the video, at least 1.
        fps: Mean frames a second.
        pixel_aspect: Width of a pixel by its height, as frames are shown: what is made of them has square pixels.
    """

    path: str
    num_frames: int
    fps: float
    pixel_aspect: float

    def read(self, indices: Sequence[int] | np.ndarray, finish: Finish = as_they_are) -> np.ndarray:
        """The frames `indices` in that order, uint8 RGB `[len(indices), H, W, 3]`; any order, repeats allowed.

        Each frame is decoded once, all of them in one pass, so ask for all that a sample needs in one call.

        Args:
            indices: Frames, counted from 0 as they are shown.
            finish: What to make of each part of the frames, at most 64 `[H, W, 3]` in ascending order, as soon as they
                are decoded: as many, which are then given instead.

        Raises:
            DecodeError: A frame cannot be decoded.
        """

    def close(self) -> None:
        """Lets go of the file."""


def assemble(
    indices: Sequence[int] | np.ndarray, parts: Callable[[np.ndarray], Iterable[Frames]], finish: Finish
) -> np.ndarray:
    """The frames `indices`, of which `parts` decodes each once in ascending order and `finish` makes what is kept."""
    unique, inverse = np.unique(indices, return_inverse=True)
    out, done = np.empty(0), 0
    for part in parts(unique):
        finished = finish(part)
        if len(part) == len(unique):
            out = np.asarray(finished)
            break
        if not done:
            out = np.empty((len(unique), *finished[0].shape), np.uint8)
        for frame in finished:
            out[done] = frame
            done += 1
    return out if np.array_equal(inverse, np.arange(len(unique))) else out[inverse]
