"""Views of an open video or image: in training random ones, at test time those of a protocol."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from video_gn.batch import Batch
from video_gn.data import protocols, sampling, transforms
from video_gn.data.decoding.image_reader import ImageFile
from video_gn.data.decoding.reader import Frames, Video


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
        clips = [self._indices(video, rng) for _ in range(self.num_clips)]
        if self.num_clips == 1:
            drawn: list[_Drawn] = []

            def finish(frames: Frames) -> Frames:
                return self._shown(frames, self._draw_once(drawn, video, frames, rng)[0])

            return video.read(clips[0], finish)[None], None
        return self._several(video, clips, rng), None

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
        clip_span = sampling.span(self.num_frames, self.frame_interval)
        start = sampling.random_start(rng, video.num_frames, clip_span)
        return sampling.clip_indices(start, self.num_frames, self.frame_interval, video.num_frames)

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

    box: transforms.Box
    flipped: bool


@dataclass(frozen=True)
class ProtocolViews:
    """The frames of every view of a test protocol, from one pass over the video; each is decoded and scaled once."""

    num_frames: int
    frame_interval: int
    short_side: int
    protocol: protocols.Protocol

    @property
    def num_crops(self) -> int:
        """Crops of a clip."""
        return self.protocol.num_crops

    def __call__(self, video: Video, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        clips = self.protocol.clips(self.num_frames, self.frame_interval, video.num_frames)
        needed, where = np.unique(clips, return_inverse=True)
        scale = partial(transforms.resize_short_side, short_side=self.short_side, pixel_aspect=video.pixel_aspect)
        frames = video.read(needed, scale)
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


@dataclass(frozen=True)
class RandomImage:
    """A random part of the image and a random flip (Szegedy et al. 2015): torchvision's RandomResizedCrop.

    The part has 8 to 100 % of the image's area, and sides of 3:4 to 4:3.
    """

    crop_size: int
    flip: bool
    num_crops = 1

    def __call__(self, video: Any, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator on the CPU
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            return _view(_random_part(self.crop_size, self.flip), video), None


@dataclass(frozen=True)
class CentreImage:
    """The middle of the image, its short side scaled before (He et al. 2016: 224 of 256): torchvision's CenterCrop."""

    short_side: int
    crop_size: int
    num_crops = 1

    def __call__(self, video: Any, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        return _view(_middle(self.short_side, self.crop_size), video), None


@cache
def _random_part(crop_size: int, flip: bool) -> v2.Compose:
    return v2.Compose([v2.RandomResizedCrop(crop_size), v2.RandomHorizontalFlip(0.5 if flip else 0.0)])


@cache
def _middle(short_side: int, crop_size: int) -> v2.Compose:
    return v2.Compose([v2.Resize(short_side), v2.CenterCrop(crop_size)])


def _view(transform: v2.Compose, file: ImageFile) -> np.ndarray:
    """One view of one frame, uint8 `[1, 1, H, W, 3]`; by Pillow, which is faster here than tensors."""
    return np.array(transform(file.image))[None, None]
