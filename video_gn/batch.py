"""Batches of videos: the contract between the data's part of a run, which makes them, and the model's.

One sample is one video with all its views, so nothing has to be regrouped by video: V is the number of its clips in
training (1, unless repeated sampling is asked for), and clips x crops at test time.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

NONE = -1  # no row


class BadVideo(NamedTuple):
    """A video that could not be read or is damaged, its label, and why."""

    path: str
    label: int
    reason: str


class Batch(NamedTuple):
    """What the loaders give and the model takes.

    Attributes:
        clips: uint8 RGB `[B, V, 3, T, H, W]`. Where `clip_frames` is given, all frames of one video
            `[1, 1, 3, F, H, W]` instead, until `spread` makes the views of them.
        labels: int64 `[B]`.
        rows: int64 `[B]`, each video's row in its list.
        failures: Unreadable videos met on the way. In training others took their place in `clips`; elsewhere they are
            missing from it (B can be 0) and count as wrong.
        damaged: Videos of `clips` that could be read and are damaged all the same, where that is known.
        fallbacks: Videos of `clips` that the backend asked for refused, and another one read.
        clip_frames: int64 `[clips, T]`, the frames of each clip of a test protocol.
        crops: What is seen of these frames, each `(top, left, height, width)` in pixels and all of one size.
    """

    clips: Tensor
    labels: Tensor
    rows: Tensor
    failures: list[BadVideo]
    damaged: list[BadVideo]
    fallbacks: list[BadVideo]
    clip_frames: Tensor | None = None
    crops: Sequence[tuple[int, int, int, int]] = ()
