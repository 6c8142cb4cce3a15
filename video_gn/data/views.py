"""Views of an open video or image: in training random ones, at test time those of a protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from video_gn.batch import Batch, Box
from video_gn.data import protocols, sampling, transforms
from video_gn.data.decoding.image_reader import ImageFile
from video_gn.data.decoding.reader import Frames, Video


class Seen(NamedTuple):
    """Views of a video, uint8 `[V, T, H, W, 3]`; or all frames `[1, F, H, W, 3]`, and what makes views of them.

    Attributes:
        clips: Views, or frames.
        clip_frames: The frames of each clip, int64 `[clips, T]`.
        crops: Of each of these, as in `Batch`.
    """

    clips: np.ndarray
    clip_frames: np.ndarray | None = None
    crops: Sequence[Box] = ()


class Views(Protocol):
    """Makes views of an open video."""

    def __call__(self, video: Video, rng: np.random.Generator) -> Seen: ...


@dataclass(frozen=True)
class RandomView:
    """Random clips, each with a scale, crop and flip: training, and validation during it (Wu & He 2018, Figure 7)."""

    num_frames: int
    frame_interval: int
    short_side: tuple[int, int]
    crop_size: int
    flip: bool
    num_clips: int = 1
    shrink: bool = False

    def __call__(self, video: Video, rng: np.random.Generator) -> Seen:
        clips = [self._indices(video, rng) for _ in range(self.num_clips)]
        if self.num_clips == 1:
            drawn: list[_Drawn] = []

            def finish(frames: Frames) -> Frames:
                return self._shown(frames, self._draw_once(drawn, video, frames, rng)[0])

            return Seen(video.read(clips[0], finish)[None])
        return Seen(self._several(video, clips, rng))

    def _several(self, video: Video, clips: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """All clips from one pass. What each shows of a part of the frames is made at once: whole ones take memory."""
        out = np.empty((self.num_clips, self.num_frames, self.crop_size, self.crop_size, 3), np.uint8)
        needed, drawn, nothing = np.unique(np.stack(clips)), list[_Drawn](), np.empty(0, np.uint8)
        done = 0

        def finish(frames: Frames) -> Frames:
            nonlocal done
            part = needed[done : done + len(frames)]
            done += len(frames)
            self._draw_once(drawn, video, frames, rng)
            for made, indices, what in zip(out, clips, drawn, strict=True):
                where = np.flatnonzero(np.isin(indices, part))
                if len(where):
                    taken, back = np.unique(indices[where], return_inverse=True)
                    at = np.searchsorted(part, taken)
                    made[where] = np.asarray(self._shown([frames[i] for i in at], what))[back]
            return [nothing] * len(frames)

        video.read(needed, finish)
        return out

    def _indices(self, video: Video, rng: np.random.Generator) -> np.ndarray:
        interval = _interval(self, video)
        start = sampling.random_start(rng, video.num_frames, sampling.span(self.num_frames, interval))
        return sampling.clip_indices(start, self.num_frames, interval, video.num_frames)

    def _draw_once(
        self, drawn: "list[_Drawn]", video: Video, frames: Frames, rng: np.random.Generator
    ) -> "list[_Drawn]":
        """What every clip shows, in the same way of all parts of it."""
        height, width = frames[0].shape[:2]
        while len(drawn) < self.num_clips:
            box = transforms.random_box(rng, height, width, self.short_side, self.crop_size, video.pixel_aspect)
            drawn.append(_Drawn(box, self.flip and rng.random() < 0.5))
        return drawn

    def _shown(self, frames: Frames, drawn: "_Drawn") -> Frames:
        clip = transforms.resize(transforms.crop(frames, drawn.box), self.crop_size, self.crop_size)
        return transforms.flip(clip) if drawn.flipped else clip


class _Drawn(NamedTuple):
    """What a clip shows of its frames."""

    box: Box
    flipped: bool


@dataclass(frozen=True)
class CentreView:
    """The middle clip of a video, and of it the middle crop: validation without chance."""

    num_frames: int
    frame_interval: int
    short_side: int
    crop_size: int
    shrink: bool = False

    def __call__(self, video: Video, rng: np.random.Generator) -> Seen:
        middle = protocols.find_protocol("center-1clip")
        clips = middle.clips(self.num_frames, _interval(self, video), video.num_frames, video.fps)

        def finish(frames: Frames) -> Frames:
            height, width = frames[0].shape[:2]
            box = transforms.centre_box(height, width, self.short_side, self.crop_size, video.pixel_aspect)
            return transforms.resize(transforms.crop(frames, box), self.crop_size, self.crop_size)

        return Seen(video.read(clips[0], finish)[None])


@dataclass(frozen=True)
class ProtocolViews:
    """The frames of every view of a test protocol, from one pass over the video; each is decoded and scaled once."""

    num_frames: int
    frame_interval: int
    short_side: int
    protocol: protocols.Protocol
    shrink: bool = False

    def clips(self, video: Video) -> np.ndarray:
        """The frames of each clip of a video, int64 `[clips, T]`."""
        return self.protocol.clips(self.num_frames, _interval(self, video), video.num_frames, video.fps)

    def __call__(self, video: Video, rng: np.random.Generator) -> Seen:
        clips = self.clips(video)
        needed, where = np.unique(clips, return_inverse=True)
        scale = partial(
            transforms.resize_short_side, short_side=self.short_side, long_side=self.protocol.long_side,
            pixel_aspect=video.pixel_aspect,
        )  # fmt: skip
        frames = video.read(needed, scale)
        return Seen(frames[None], where.reshape(clips.shape), self.protocol.crops(*frames.shape[1:3]))


def _interval(clip: RandomView | CentreView | ProtocolViews, video: Video) -> int:
    """The frame interval at which a video is seen."""
    if not clip.shrink:
        return clip.frame_interval
    return sampling.fitting(clip.num_frames, clip.frame_interval, video.num_frames)


def spread(batch: Batch) -> Batch:
    """The views of a test protocol from the frames of its video, on whatever device they are.

    Frames travel once, though most are in several clips and every crop: a third of the bytes for 30 views.
    """
    if batch.clip_frames is None:
        return batch
    frames = batch.clips[0, 0].permute(1, 2, 3, 0)
    parts = [frames[:, top : top + high, left : left + wide] for top, left, high, wide in batch.crops]
    taken = [_take(part, batch.clip_frames) for part in parts]
    views = taken[0] if len(taken) == 1 else torch.stack(taken, 1).flatten(0, 1)
    return batch._replace(clips=views[None].permute(0, 1, 5, 2, 3, 4), clip_frames=None, crops=())


def _take(frames: Tensor, clip_frames: Tensor) -> Tensor:
    """The frames of each clip, `[clips, T, H, W, 3]`; on the CPU by numpy, which is 2 to 5 times as fast at it."""
    if frames.is_cpu:
        return torch.from_numpy(frames.numpy()[clip_frames.numpy()])
    return frames[clip_frames]


@dataclass(frozen=True)
class RandomImage:
    """A random part of the image and a random flip (Szegedy et al. 2015): torchvision's RandomResizedCrop.

    The part has 8 to 100 % of the image's area, and sides of 3:4 to 4:3.
    """

    crop_size: int
    flip: bool

    def __call__(self, video: Any, rng: np.random.Generator) -> Seen:
        with transforms.torch_draws(rng):
            return Seen(_view(_random_part(self.crop_size, self.flip), video))


@dataclass(frozen=True)
class CentreImage:
    """The middle of the image, its short side scaled before (He et al. 2016: 224 of 256): torchvision's CenterCrop."""

    short_side: int
    crop_size: int

    def __call__(self, video: Any, rng: np.random.Generator) -> Seen:
        return Seen(_view(_middle(self.short_side, self.crop_size), video))


@cache
def _random_part(crop_size: int, flip: bool) -> v2.Compose:
    return v2.Compose([v2.RandomResizedCrop(crop_size), v2.RandomHorizontalFlip(0.5 if flip else 0.0)])


@cache
def _middle(short_side: int, crop_size: int) -> v2.Compose:
    return v2.Compose([v2.Resize(short_side), v2.CenterCrop(crop_size)])


def _view(transform: v2.Compose, file: ImageFile) -> np.ndarray:
    """One view of one frame, uint8 `[1, 1, H, W, 3]`; by Pillow, which is faster here than tensors."""
    return np.array(transform(file.image))[None, None]
