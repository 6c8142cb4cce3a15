"""Views of videos, and batches of them.

The contract between the data's half of a run and the model's (`video_gn/classifier.py`) is `Batch`. One sample is one
video with all its views, so nothing ever has to be regrouped by video: V is the number of its clips in training (1,
unless repeated sampling is asked for), and clips x crops at test time.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from video_gn import sampling, transforms
from video_gn.decode import BACKENDS, IMAGE, Video, open_video
from video_gn.errors import DecodeError, InputError
from video_gn.libav import Finish, Frames, find_damage
from video_gn.lists import NO_LABEL, VideoList

REPLACEMENTS = 10  # videos tried in the place of an unreadable one
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
        num_crops: Crops of each of these clips.
    """

    clips: Tensor
    labels: Tensor
    rows: Tensor
    failures: list[BadVideo]
    damaged: list[BadVideo]
    fallbacks: list[BadVideo]
    clip_frames: Tensor | None = None
    num_crops: int = 1


class Sample(NamedTuple):
    """One video of a batch; `clips` is uint8 `[V, T, H, W, 3]`, None if it could not be read."""

    clips: np.ndarray | None
    label: int
    row: int
    failures: list[BadVideo]
    damaged: list[BadVideo]
    fallbacks: list[BadVideo]
    clip_frames: np.ndarray | None = None
    num_crops: int = 1


# Views of an open video


class Views(Protocol):
    """Makes views: uint8 `[V, T, H, W, 3]`, or all frames `[1, F, H, W, 3]` and which of them make each clip."""

    @property
    def num_crops(self) -> int:
        """Crops of each clip of a protocol."""

    def __call__(self, video: Video, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]: ...


@dataclass(frozen=True)
class RandomView:
    """Random clips, each with a scale, crop and flip: training, and validation during it (Wu & He 2018, Figure 7)."""

    num_frames: int
    frame_interval: int
    short_side: tuple[int, int]
    crop_size: int
    flip: bool
    num_clips: int = 1
    num_crops = 1

    def __call__(self, video: Video, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        if self.num_clips == 1:
            return video.read(self._indices(video, rng), self._finish(rng))[None], None
        clips = [self._indices(video, rng) for _ in range(self.num_clips)]
        needed, where = np.unique(np.stack(clips), return_inverse=True)
        frames = video.read(needed)
        parts = where.reshape(self.num_clips, -1)
        return np.stack([np.asarray(self._finish(rng)(frames[clip])) for clip in parts]), None

    def _indices(self, video: Video, rng: np.random.Generator) -> np.ndarray:
        clip_span = sampling.span(self.num_frames, self.frame_interval)
        start = sampling.random_start(rng, video.num_frames, clip_span)
        return sampling.clip_indices(start, self.num_frames, self.frame_interval, video.num_frames)

    def _finish(self, rng: np.random.Generator) -> Finish:
        """Crops, scales and flips all parts of a clip in the same way."""
        drawn: list[tuple[tuple[int, int, int], bool]] = []

        def finish(frames: Frames) -> Frames:
            if not drawn:
                height, width = frames[0].shape[:2]
                box = transforms.random_box(rng, height, width, self.short_side, self.crop_size)
                drawn.append((box, self.flip and rng.random() < 0.5))
            box, flipped = drawn[0]
            clip = transforms.resize(transforms.crop(frames, box), self.crop_size, self.crop_size)
            return transforms.flip(clip) if flipped else clip

        return finish


@dataclass(frozen=True)
class ProtocolViews:
    """The frames of every view of a test protocol, from one pass over the video; each is decoded and scaled once."""

    num_frames: int
    frame_interval: int
    short_side: int
    protocol: sampling.Protocol

    @property
    def num_crops(self) -> int:
        """Crops of a clip."""
        return self.protocol.num_crops

    def __call__(self, video: Video, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        clips = self.protocol.clips(self.num_frames, self.frame_interval, video.num_frames)
        needed, where = np.unique(clips, return_inverse=True)
        frames = video.read(needed, partial(transforms.resize_short_side, short_side=self.short_side))
        return frames[None], where.reshape(clips.shape)


def spread(batch: Batch) -> Batch:
    """The views of a test protocol from the frames of its video, on whatever device they are.

    Frames travel once, though most are in several clips and every crop: a third of the bytes for 30 views.
    """
    if batch.clip_frames is None:
        return batch
    frames = batch.clips[0, 0].permute(1, 2, 3, 0)
    crops = [frames] if batch.num_crops == 1 else transforms.three_crops(frames)
    taken = [_take(crop, batch.clip_frames) for crop in crops]
    views = taken[0] if len(taken) == 1 else torch.stack(taken, 1).flatten(0, 1)
    return batch._replace(clips=views[None].permute(0, 1, 5, 2, 3, 4), clip_frames=None)


def _take(frames: Tensor, clip_frames: Tensor) -> Tensor:
    """The frames of each clip, `[clips, T, H, W, 3]`; on the CPU by numpy, which is 2 to 5 times as fast at it."""
    if frames.is_cpu:
        return torch.from_numpy(frames.numpy()[clip_frames.numpy()])
    return frames[clip_frames]


# Samples


class VideoViews(Dataset[Sample]):
    """Videos as samples, keyed by `(epoch, row)`; a row of None is no video (see `video_gn.loader.RowSampler`).

    What is drawn for a video follows from (seed, epoch, row) alone.

    Args:
        videos: The list.
        views: Makes the views of an open video.
        seed: Of what is drawn.
        replace: Whether an unreadable video is replaced by another one (training), or only reported.
        inspect: Whether to look for damage in videos that can be read.
        backend: Which one is asked first; the others read what it refuses. `video_gn.decode.IMAGE` reads images.
        timeout: Seconds after which a loader worker that decodes a video is killed.
    """

    def __init__(
        self,
        videos: VideoList,
        views: Views,
        seed: int = 0,
        replace: bool = False,
        inspect: bool = False,
        backend: str = "decord",
        timeout: float = 60.0,
    ) -> None:
        self.videos, self.views, self.seed = videos, views, seed
        self.replace, self.inspect = replace, inspect
        self.backends = [IMAGE] if backend == IMAGE else sorted(BACKENDS, key=lambda name: name != backend)
        self.timeout = timeout
        self.parent = 0  # the process with which loader workers end; 0 if they need not
        self.in_hand = torch.empty(0, 2, dtype=torch.int64)  # shared with the workers: pid of each, and row in hand

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int | None]) -> Sample:
        epoch, row = key
        if row is None:
            return Sample(None, NO_LABEL, NONE, [], [], [])
        sample = Sample(None, NO_LABEL, NONE, [], [], [])
        pick = np.random.default_rng((self.seed, epoch, row, 1))
        chosen = row
        for _ in range(1 + REPLACEMENTS):
            if (found := self._read(chosen, (self.seed, epoch, row), sample)) is not None:
                clips, clip_frames = found
                label = int(self.videos.labels[chosen])
                return sample._replace(
                    clips=clips, label=label, row=chosen, clip_frames=clip_frames, num_crops=self.views.num_crops
                )
            if not self.replace:
                return sample._replace(row=row)
            chosen = int(pick.integers(len(self.videos)))
        last = f", the last for this reason: {' '.join(sample.failures[-1][::2])}" if sample.failures else ""
        raise InputError(f"{1 + REPLACEMENTS} videos one after the other cannot be read{last}")

    def _read(self, row: int, key: tuple[int, int, int], sample: Sample) -> tuple | None:
        """Views of a video, by the first backend that can; what goes wrong is added to the sample."""
        path, label = self.videos.path(row), int(self.videos.labels[row])
        if row in self.videos.set_aside or (self.replace and row in self.videos.damaged):
            if not self.replace:
                sample.failures.append(BadVideo(path, label, self.videos.set_aside[row]))
            return None
        known = self.videos.known(row)
        refusals: dict[str, str] = {}
        for backend in self.backends:
            if known and backend not in known[0]:
                continue
            try:
                with self._deadline(row), open_video(path, backend, *((True, known[1]) if known else ())) as video:
                    found = self.views(video, np.random.default_rng(key))
                    damage = self.videos.damaged.get(row) or (find_damage(path) if self.inspect else None)
            except DecodeError as error:
                refusals.setdefault(error.reason, backend)
                continue
            if damage:
                sample.damaged.append(BadVideo(path, label, damage))
            if refusals:
                sample.fallbacks.append(BadVideo(path, label, _told(refusals)))
            return found
        sample.failures.append(BadVideo(path, label, _told(refusals)))
        return None

    @contextmanager
    def _deadline(self, row: int) -> Iterator[None]:
        """Has the kernel kill this loader worker if it takes too long: a decoder that hangs hears nothing else."""
        worker = get_worker_info()
        if worker is None or not len(self.in_hand):
            yield
            return
        self.in_hand[worker.id, 1] = row
        signal.setitimer(signal.ITIMER_REAL, self.timeout)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.in_hand[worker.id, 1] = NONE


def _told(refusals: dict[str, str]) -> str:
    return "; ".join(
        reason if i == 0 else f"{backend}: {reason}" for i, (reason, backend) in enumerate(refusals.items())
    )


def collate(samples: list[Sample]) -> Batch:
    """A batch of those that could be read; the clips keep the memory order of frames, channels last."""
    read = [sample for sample in samples if sample.clips is not None]
    first = read[0] if read else None
    return Batch(
        _stack([torch.from_numpy(sample.clips) for sample in read]).permute(0, 1, 5, 2, 3, 4),
        torch.tensor([sample.label for sample in read], dtype=torch.int64),
        torch.tensor([sample.row for sample in read], dtype=torch.int64),
        [failure for sample in samples for failure in sample.failures],
        [damaged for sample in samples for damaged in sample.damaged],
        [fallback for sample in samples for fallback in sample.fallbacks],
        torch.from_numpy(first.clip_frames) if first and first.clip_frames is not None else None,
        first.num_crops if first else 1,
    )


def _stack(clips: list[Tensor]) -> Tensor:
    """In a loader worker, stacked into the memory in which they reach the main process: one copy less."""
    if not clips:
        return torch.empty(0, 1, 0, 0, 0, 3, dtype=torch.uint8)
    if get_worker_info() is None:
        return clips[0][None] if len(clips) == 1 else torch.stack(clips)
    storage = clips[0]._typed_storage()._new_shared(sum(clip.numel() for clip in clips))
    return torch.stack(clips, out=clips[0].new(storage).resize_(len(clips), *clips[0].shape))
