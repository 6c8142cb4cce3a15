"""Views of videos, and batches of them.

The contract between the data's half of a run and the model's (`video_gn/classifier.py`) is `Batch`. One sample is one
video with all its views: V is 1 in training, and clips x crops at test time, so nothing ever has to be regrouped by
video.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from video_gn import sampling, transforms
from video_gn.decode import find_damage, open_video
from video_gn.errors import DecodeError, InputError
from video_gn.lists import NO_LABEL, VideoList

REPLACEMENTS = 10  # videos tried in the place of an unreadable one


class BadVideo(NamedTuple):
    """A video that could not be read or is damaged, its label, and why."""

    path: str
    label: int
    reason: str


class Batch(NamedTuple):
    """What the loaders give and the model takes.

    Attributes:
        clips: uint8 RGB `[B, V, 3, T, H, W]`.
        labels: int64 `[B]`.
        rows: int64 `[B]`, each video's row in its list.
        failures: Unreadable videos met on the way. In training others took their place in `clips`; elsewhere they are
            missing from it (B can be 0) and count as wrong.
        damaged: Videos of `clips` that could be read and are damaged all the same, where that was looked for.
    """

    clips: Tensor
    labels: Tensor
    rows: Tensor
    failures: list[BadVideo]
    damaged: list[BadVideo]


class Sample(NamedTuple):
    """One video of a batch; `clips` is uint8 `[V, T, H, W, 3]`, None if it could not be read."""

    clips: np.ndarray | None
    label: int
    row: int
    failures: list[BadVideo]
    damaged: list[BadVideo]


# Views of a video: uint8 [V, T, H, W, 3]


@dataclass(frozen=True)
class RandomView:
    """One random clip, scale, crop and flip: training, and validation during it (Wu & He 2018, Figure 7)."""

    num_frames: int
    frame_interval: int
    short_side: tuple[int, int]
    crop_size: int
    flip: bool

    def __call__(self, path: str, rng: np.random.Generator) -> np.ndarray:
        with open_video(path) as video:
            clip_span = sampling.span(self.num_frames, self.frame_interval)
            start = sampling.random_start(rng, video.num_frames, clip_span)
            frames = video.read(sampling.clip_indices(start, self.num_frames, self.frame_interval, video.num_frames))
        box = transforms.random_box(rng, frames.shape[1], frames.shape[2], self.short_side, self.crop_size)
        clip = transforms.resize(transforms.crop(frames, box), self.crop_size, self.crop_size)
        return np.ascontiguousarray(transforms.flip(clip) if self.flip and rng.random() < 0.5 else clip)[None]


@dataclass(frozen=True)
class ProtocolViews:
    """Every view of a test protocol, from one pass over the video; each frame is decoded and scaled once."""

    num_frames: int
    frame_interval: int
    short_side: int
    protocol: sampling.Protocol

    def __call__(self, path: str, rng: np.random.Generator) -> np.ndarray:
        with open_video(path) as video:
            total = video.num_frames
            starts = self.protocol.clip_starts(total, sampling.span(self.num_frames, self.frame_interval))
            clips = [sampling.clip_indices(s, self.num_frames, self.frame_interval, total) for s in starts]
            needed, where = np.unique(np.stack(clips), return_inverse=True)
            # In parts, so that a worker never holds a whole video at its source's size: as fast, same pixels.
            parts = np.array_split(needed, ceil(len(needed) / 16))
            frames = np.concatenate([transforms.resize_short_side(video.read(part), self.short_side) for part in parts])
        crops = [frames] if self.protocol.num_crops == 1 else transforms.three_crops(frames)
        return np.stack([crop[clip] for clip in where.reshape(len(starts), -1) for crop in crops])


class VideoViews(Dataset[Sample]):
    """Videos as samples, keyed by `(epoch, row)`; a row of None is no video (see `RowSampler`).

    Args:
        videos: The list.
        views: Makes the views of a video from its path and an rng.
        seed: Of the rng, with the epoch and the row.
        replace: Whether an unreadable video is replaced by another one (training), or only reported.
        inspect: Whether to look for damage in videos that can be read.
    """

    def __init__(
        self,
        videos: VideoList,
        views: Callable[[str, np.random.Generator], np.ndarray],
        seed: int = 0,
        replace: bool = False,
        inspect: bool = False,
    ) -> None:
        self.videos, self.views, self.seed = videos, views, seed
        self.replace, self.inspect = replace, inspect

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int | None]) -> Sample:
        epoch, row = key
        if row is None:
            return Sample(None, NO_LABEL, -1, [], [])
        rng = np.random.default_rng((self.seed, epoch, row))
        failures: list[BadVideo] = []
        for _ in range(1 + REPLACEMENTS):
            path, label = self.videos.paths[row], self.videos.labels[row]
            try:
                clips = self.views(path, rng)
                damage = find_damage(path) if self.inspect else None
                return Sample(clips, label, row, failures, [BadVideo(path, label, damage)] if damage else [])
            except DecodeError as error:
                failures.append(BadVideo(path, label, error.reason))
            if not self.replace:
                return Sample(None, label, row, failures, [])
            row = int(rng.integers(len(self.videos)))
        raise InputError(
            f"{len(failures)} videos one after the other cannot be read, the last for this reason: "
            f"{failures[-1].path}: {failures[-1].reason}"
        )


def collate(samples: list[Sample]) -> Batch:
    """A batch of those that could be read; the clips keep the memory order of frames, channels last."""
    read = [sample for sample in samples if sample.clips is not None]
    clips = (
        torch.stack([torch.from_numpy(sample.clips) for sample in read])
        if read
        else torch.empty(0, 1, 0, 0, 0, 3, dtype=torch.uint8)
    )
    return Batch(
        clips.permute(0, 1, 5, 2, 3, 4),
        torch.tensor([sample.label for sample in read], dtype=torch.int64),
        torch.tensor([sample.row for sample in read], dtype=torch.int64),
        [failure for sample in samples for failure in sample.failures],
        [damaged for sample in samples for damaged in sample.damaged],
    )
