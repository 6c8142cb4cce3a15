"""What is changed of training clips beyond crop and flip (`data.augment`): torchvision's transforms, and two mixed.

A draw is the same for all frames of a clip, and follows from the video's (seed, epoch, row) as everything drawn does.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from video_gn.batch import Box
from video_gn.data.decoding.reader import Video
from video_gn.data.settings import Augment
from video_gn.data.transforms import torch_draws
from video_gn.data.views import Seen, Views

GREY = 115  # 0.45 of 255: 0 for a network whose input is normalized as Kinetics'


@dataclass(frozen=True)
class Augmented:
    """Views of which each clip is changed by a draw of its own."""

    views: Views
    augment: Augment

    def __call__(self, video: Video, rng: np.random.Generator) -> Seen:
        seen, change = self.views(video, rng), _transform(self.augment)
        with torch_draws(rng):
            changed = [_by_frames(change, clip) for clip in seen.clips]
        return seen._replace(clips=np.stack(changed))


def augmented(views: Views, augment: Augment) -> Views:
    """Views with what is asked for; themselves where that is nothing."""
    return Augmented(views, augment) if augment.changes_frames else views


@cache
def _transform(augment: Augment) -> v2.Compose:
    strength, steps = augment.color_jitter, list[Any]()
    if augment.rand_augment:
        interpolation, fill = InterpolationMode.BILINEAR, [GREY] * 3
        steps.append(v2.RandAugment(augment.rand_augment, augment.magnitude, interpolation=interpolation, fill=fill))
    if strength or augment.hue:
        steps.append(v2.ColorJitter(strength, strength, strength, augment.hue))
    if augment.random_erasing:
        steps.append(v2.RandomErasing(augment.random_erasing, value=[GREY] * 3))
    return v2.Compose(steps)


def _by_frames(change: v2.Compose, clip: np.ndarray) -> np.ndarray:
    frames: Tensor = change(torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2))
    return frames.permute(0, 2, 3, 1).numpy()


class Mixed:
    """Mixes two videos: mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), both drawn equally often if both are on.

    The share is of the first video, and folded to be from 0.5 to 1: two videos are drawn alike, so that only their
    order differs, and the label with the larger share is always the first one's.

    Args:
        augment: Its settings.
    """

    def __init__(self, augment: Augment) -> None:
        self.augment = augment

    def __call__(self, clips: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """The clips of a video with another's in them, uint8 `[V, T, H, W, 3]`, and the share of the first."""
        cut = self.augment.cutmix > 0 and (not self.augment.mixup or rng.random() < 0.5)
        alpha = self.augment.cutmix if cut else self.augment.mixup
        share = float(rng.beta(alpha, alpha))
        share = max(share, 1 - share)
        if not cut:
            return mixup(clips, others, share), share
        height, width = clips.shape[2:4]
        box = random_tube(rng, height, width, share)
        return cutmix(clips, others, box), 1 - box.height * box.width / (height * width)


def mixup(clips: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """The sum of the clips with that share and the others with the rest, rounded."""
    mixed = np.float32(share) * clips + np.float32(1 - share) * others
    return np.rint(mixed, out=mixed).astype(np.uint8)


def cutmix(clips: np.ndarray, others: np.ndarray, box: Box) -> np.ndarray:
    """The clips with a part of all frames taken from the others."""
    top, left, height, width = box
    mixed = clips.copy()
    mixed[:, :, top : top + height, left : left + width] = others[:, :, top : top + height, left : left + width]
    return mixed


def random_tube(rng: np.random.Generator, height: int, width: int, share: float) -> Box:
    """A part with the rest of the share and the frame's form, about a uniform centre; what is outside is left out."""
    side = (1 - share) ** 0.5
    high, wide = int(height * side), int(width * side)
    top, left = int(rng.integers(height)) - high // 2, int(rng.integers(width)) - wide // 2
    bottom, right = min(top + high, height), min(left + wide, width)
    top, left = max(top, 0), max(left, 0)
    return Box(top, left, bottom - top, right - left)
