"""Batches of videos: the contract between the data's part of a run, which makes them, and the model's.

One sample is one video with all its views, so nothing has to be regrouped by video: V is the number of its clips in
training (1, unless repeated sampling is asked for), and clips x crops at test time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from video_gn.errors import InputError

NONE = -1  # no row
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class BadVideo(NamedTuple):
    """A video that could not be read or is damaged, its label (of several classes: float32 `[K]`), and why."""

    path: str
    label: int | np.ndarray
    reason: str


class Box(NamedTuple):
    """A part of a frame, in its pixels."""

    top: int
    left: int
    height: int
    width: int


class Batch(NamedTuple):
    """What the loaders give and the model takes.

    Attributes:
        clips: uint8 RGB `[B, V, 3, T, H, W]`. Where `clip_frames` is given, all frames of one video
            `[1, 1, 3, F, H, W]` instead, until `spread` makes the views of them.
        labels: int64 `[B]`; or float32 `[B, K]` of 0 and 1, where a video may be of several classes, or of none.
        rows: int64 `[B]`, each video's row in its list.
        failures: Unreadable videos met on the way. In training others took their place in `clips`; elsewhere they are
            missing from it (B can be 0) and count as wrong.
        damaged: Videos of `clips` that could be read and are damaged all the same, where that is known.
        fallbacks: Videos of `clips` that the backend asked for refused, and another one read.
        clip_frames: int64 `[clips, T]`, the frames of each clip of a test protocol.
        crops: What is seen of these frames, all of one size.
        seconds: Labels of the videos that are mixed in, in training where that is asked for.
        shares: float32 `[B]`, from 0.5 to 1, how much of each is the video of `labels`; the rest is of `seconds`.
    """

    clips: Tensor
    labels: Tensor
    rows: Tensor
    failures: list[BadVideo]
    damaged: list[BadVideo]
    fallbacks: list[BadVideo]
    clip_frames: Tensor | None = None
    crops: Sequence[Box] = ()
    seconds: Tensor | None = None
    shares: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device, as Lightning asks for it; its own way there looks at each element."""
        free = device.type not in ("cpu", "mps")  # to go on while it is copied
        values: Any = (x.to(device, non_blocking=free) if isinstance(x, Tensor) else x for x in self)
        return Batch(*values)


def as_batch(given: Any, num_classes: int | None = None, several: bool = False) -> Batch:
    """A batch of what other loaders give: clips alone, `(clips, labels)`, or `{"video": clips, "label": labels}`.

    Args:
        given: Clips are uint8 RGB `[B, 3, T, H, W]`, or `[B, V, 3, T, H, W]` with V views of each video; labels are
            integers `[B]`, or 0 and 1 for each class `[B, K]`. A `Batch` is itself.
        num_classes: K, where labels are needed, from 0 to K - 1.
        several: Whether a video may be of several classes, so that labels are `[B, K]`.

    Raises:
        InputError: It is something else.
    """
    if isinstance(given, Batch):
        if num_classes is not None and len(given.labels) and given.labels.ndim != 1 + several:
            raise InputError(
                f"a batch has labels {list(given.labels.shape)}, and model.loss.multi_label is {str(several).lower()}; "
                "it has to be as data.multi_label"
            )
        return given
    if isinstance(given, Mapping):
        given = (given.get("video"), given.get("label"))
    clips, labels = (*given, None)[:2] if isinstance(given, list | tuple) and len(given) in (1, 2) else (given, None)
    if not isinstance(clips, Tensor) or clips.ndim not in (5, 6) or clips.shape[-4] != 3:
        found = f"a tensor {list(clips.shape)}" if isinstance(clips, Tensor) else f"a {type(clips).__name__}"
        raise InputError(
            f"a batch has {found} for clips; it has to be (clips, labels), with clips uint8 [B, 3, T, H, W] and labels "
            "[B]"
        )
    if labels is None:
        labels = torch.full((len(clips),), NONE)
    clips = clips[:, None] if clips.ndim == 5 else clips
    if several and num_classes is not None:
        return Batch(clips, _several(labels, len(clips), num_classes), torch.full((len(clips),), NONE), [], [], [])
    if not isinstance(labels, Tensor) or labels.shape != clips.shape[:1] or labels.dtype not in INTEGERS:
        raise InputError(
            f"a batch of {len(clips)} videos has {_shape(labels)} for labels; they have to be integers [B]"
        )
    if num_classes is not None and ((labels < 0) | (labels >= num_classes)).any():
        raise InputError(
            f"a batch has labels from {labels.min()} to {labels.max()}; those of {num_classes} classes are from 0 to "
            f"{num_classes - 1}, and training and tests need them"
        )
    return Batch(clips, labels.long(), torch.full((len(clips),), NONE), [], [], [])


def _several(labels: Any, videos: int, num_classes: int) -> Tensor:
    """Labels of videos that may be of several classes, checked: float32 `[B, K]`."""
    if not isinstance(labels, Tensor) or labels.shape != (videos, num_classes) or ((labels < 0) | (labels > 1)).any():
        raise InputError(
            f"a batch of {videos} videos has {_shape(labels)} for labels; where model.loss.multi_label is true, they "
            f"have to be 0 or 1 for each of {num_classes} classes, [B, K]"
        )
    return labels.float()


def _shape(labels: Any) -> str:
    return f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
