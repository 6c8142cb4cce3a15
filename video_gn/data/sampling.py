"""Which frames make a clip. Integers only: frames are raw frames of the video, counted from 0.

A clip is `num_frames` frames, `frame_interval` apart (2 = every other frame); its span is the number of raw frames
from its first to its last. An interval of 0 repeats one frame, which shows what a model gets from a single image.
"""

import numpy as np


def span(num_frames: int, frame_interval: int) -> int:
    """Raw frames from a clip's first to its last, both counted."""
    return (num_frames - 1) * frame_interval + 1


def fitting(num_frames: int, frame_interval: int, total: int) -> int:
    """The largest frame interval up to a given one at which a clip fits into the video; at least 1, or 0 if it is."""
    return min(frame_interval, max(1, (total - 1) // max(1, num_frames - 1)))


def random_start(rng: np.random.Generator, total: int, clip_span: int) -> int:
    """Start of a training clip, uniform over every start that fits; 0 where the video is shorter than the clip."""
    return int(rng.integers(0, max(total - clip_span, 0) + 1))


def clip_indices(start: int, num_frames: int, frame_interval: int, total: int) -> np.ndarray:
    """The clip's frames, int64 `[num_frames]`; past the end of the video it continues from the beginning."""
    return (start + np.arange(num_frames, dtype=np.int64) * frame_interval) % total
