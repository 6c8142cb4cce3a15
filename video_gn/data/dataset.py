"""Videos as samples, and batches of them."""

import importlib
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from video_gn.batch import NONE, BadVideo, Batch, Box
from video_gn.compat import shared_memory
from video_gn.data.decoding.damage import find_damage
from video_gn.data.decoding.open import BACKENDS, IMAGE, open_video
from video_gn.data.order import Rows, Shuffled
from video_gn.data.video_list import NO_LABEL, VideoList
from video_gn.data.views import Seen, Views
from video_gn.errors import DecodeError, InputError

REPLACEMENTS = 10  # videos tried in the place of an unreadable one
Drawn = tuple[int, ...]  # what draws follow from
Mix = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, float]]
_REPLACED, _MIXED, _SECOND, _AGAIN = 1, 2, 3, 4  # what is drawn for a row besides its views, by the number after it


class Sample(NamedTuple):
    """One video of a batch; `clips` is uint8 `[V, T, H, W, 3]`, None if it could not be read."""

    clips: np.ndarray | None
    label: int | np.ndarray
    row: int
    failures: list[BadVideo]
    damaged: list[BadVideo]
    fallbacks: list[BadVideo]
    clip_frames: np.ndarray | None = None
    crops: Sequence[Box] = ()
    second: int | np.ndarray | None = None
    share: float = 1.0


class VideoDataset(Dataset[Sample]):
    """Videos as samples, keyed by `(epoch, row)`; a row of None is no video (see `video_gn.data.loader.RowSampler`).

    A row alone is that of the first epoch. One that comes again in an epoch is `(epoch, row, turn)`.

    What is drawn for a video follows from (seed, epoch, row) alone, and its turn.

    Args:
        videos: The list.
        views: Makes the views of an open video.
        seed: Of what is drawn.
        replace: Whether an unreadable video is replaced by another one (training), or only reported.
        inspect: Whether to look for damage in videos that can be read.
        backend: Which one is asked first; the others read what it refuses. `decoding.open.IMAGE` reads images.
        timeout: Seconds after which a loader worker that decodes a video is killed.
        rows: Draws the videos in the place of others.
        mix: Puts another video into the clips of each; None leaves them as they are.
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
        rows: Rows | None = None,
        mix: Mix | None = None,
    ) -> None:
        self.videos, self.views, self.seed = videos, views, seed
        self.rows, self.mix = rows or Shuffled(len(videos)), mix
        self.replace, self.inspect = replace, inspect
        self.backends = [IMAGE] if backend == IMAGE else sorted(BACKENDS, key=lambda name: name != backend)
        if backend == "decord":  # once, and not by each loader worker
            importlib.import_module("video_gn.data.decoding.decord_reader")
        self.timeout = timeout
        self.parent = 0  # the process with which loader workers end; 0 if they need not
        self.in_hand = torch.empty(0, 2, dtype=torch.int64)  # shared with the workers: pid of each, and row in hand

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int | None, ...] | int) -> Sample:
        epoch, row, *turn = key if isinstance(key, tuple) else (0, range(len(self))[key])
        sample = Sample(None, NO_LABEL, NONE, [], [], [])
        if epoch is None or row is None:
            return sample
        drawn: Drawn = (self.seed, epoch, row, *((_AGAIN, int(turn[0] or 0)) if turn else ()))
        chosen, found = self._read_one(row, drawn, sample)
        if found is None:
            return sample._replace(row=row)
        sample = sample._replace(label=self.videos.label(chosen), row=chosen, **found._asdict())
        if self.mix is None:
            return sample
        rng = np.random.default_rng((*drawn, _MIXED))
        second, other = self._read_one(self.rows.another(rng), (*drawn, _SECOND), sample)
        assert other is not None  # in training another one takes its place
        clips, share = self.mix(found.clips, other.clips, rng)
        return sample._replace(clips=clips, second=self.videos.label(second), share=share)

    def _read_one(self, row: int, drawn: Drawn, sample: Sample) -> tuple[int, Seen | None]:
        """A video or, in training, the first readable one in its place: its row, and its views by `drawn`."""
        chosen, others = row, np.random.default_rng((*drawn, _REPLACED))
        for _ in range(1 + REPLACEMENTS):
            if (found := self._read(chosen, drawn, sample)) is not None or not self.replace:
                return chosen, found
            chosen = self.rows.another(others)
        last = f", the last for this reason: {' '.join(sample.failures[-1][::2])}" if sample.failures else ""
        raise InputError(f"{1 + REPLACEMENTS} videos one after the other cannot be read{last}")

    def _read(self, row: int, drawn: Drawn, sample: Sample) -> Seen | None:
        """Views of a video, by the first backend that can; what goes wrong is added to the sample."""
        path, label = self.videos.path(row), self.videos.label(row)
        if row in self.videos.set_aside or (self.replace and row in self.videos.damaged):
            if not self.replace:
                sample.failures.append(BadVideo(path, label, self.videos.set_aside[row]))
            return None
        known = self.videos.known(row)
        refusals: dict[str, str] = {}
        for backend in self.backends:
            if known and backend not in known.backends:
                continue
            try:
                checked = (known.pixel_aspect is not None, *known[1:]) if known else ()
                with self._deadline(row), open_video(path, backend, *checked) as video:
                    found = self.views(video, np.random.default_rng(drawn))
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
        _labels([sample.label for sample in read]),
        torch.tensor([sample.row for sample in read], dtype=torch.int64),
        [failure for sample in samples for failure in sample.failures],
        [damaged for sample in samples for damaged in sample.damaged],
        [fallback for sample in samples for fallback in sample.fallbacks],
        torch.from_numpy(first.clip_frames) if first and first.clip_frames is not None else None,
        first.crops if first else (),
        _labels([sample.second for sample in read]) if first and first.second is not None else None,
        torch.tensor([sample.share for sample in read]) if first and first.second is not None else None,
    )


def _labels(labels: Sequence[Any]) -> Tensor:
    """int64 `[B]`, or float32 `[B, K]`; of no video `[0]`."""
    several = bool(labels) and isinstance(labels[0], np.ndarray)
    return torch.from_numpy(np.stack(labels)) if several else torch.tensor(labels, dtype=torch.int64)


def _stack(clips: list[Tensor]) -> Tensor:
    """In a loader worker, stacked into the memory in which they reach the main process: one copy less."""
    if not clips:
        return torch.empty(0, 1, 0, 0, 0, 3, dtype=torch.uint8)
    if get_worker_info() is None:
        return clips[0][None] if len(clips) == 1 else torch.stack(clips)
    memory = shared_memory(clips[0], sum(clip.numel() for clip in clips))
    return torch.stack(clips, out=memory.resize_(len(clips), *clips[0].shape))
