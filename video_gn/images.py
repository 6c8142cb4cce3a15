"""Images in the place of videos: each is a video of one frame, and its views are torchvision's of ImageNet.

So ImageNet pre-training is this project's training with `data.images`: the same order, resumption, exact evaluation and
account of bad files.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from video_gn.errors import DecodeError
from video_gn.libav import Finish, as_they_are


class ImageFile:
    """An image as a video of one frame, decoded by Pillow.

    Args:
        path: JPEG, PNG or what else Pillow reads; grey and CMYK ones become RGB.

    Raises:
        DecodeError: It is no image, or is damaged or cut short.
    """

    num_frames, fps = 1, 0.0

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with warnings.catch_warnings(), Image.open(path) as image:
                warnings.simplefilter("ignore")  # of odd EXIF entries and palettes
                self._frame = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DecodeError(path, f"not an image, or damaged: {str(error).split(path)[0].strip()}") from None

    def read(self, indices: Sequence[int] | np.ndarray, finish: Finish = as_they_are) -> np.ndarray:
        """As `video_gn.decode.Video.read`."""
        return np.asarray(finish([self._frame for _ in indices]))

    def close(self) -> None:
        """As `video_gn.decode.Video.close`."""


@dataclass(frozen=True)
class RandomImage:
    """A random part of the image and a random flip (Szegedy et al. 2015): torchvision's RandomResizedCrop.

    The part has 8 to 100 % of the image's area, and sides of 3:4 to 4:3.
    """

    crop_size: int
    flip: bool
    num_crops = 1

    def __call__(self, video: Any, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        flips = v2.RandomHorizontalFlip(0.5 if self.flip else 0.0)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own
            torch.manual_seed(int(rng.integers(2**63)))
            return _apply([v2.RandomResizedCrop(self.crop_size, antialias=True), flips], video), None


@dataclass(frozen=True)
class CentreImage:
    """The middle of the image, its short side scaled before (He et al. 2016: 224 of 256): torchvision's CenterCrop."""

    short_side: int
    crop_size: int
    num_crops = 1

    def __call__(self, video: Any, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        return _apply([v2.Resize(self.short_side, antialias=True), v2.CenterCrop(self.crop_size)], video), None


def _apply(transforms: list[v2.Transform], image: ImageFile) -> np.ndarray:
    """One view of one frame, uint8 `[1, 1, H, W, 3]`."""
    frame = torch.from_numpy(image.read([0])[0].copy()).permute(2, 0, 1)
    return v2.Compose(transforms)(frame).permute(1, 2, 0).contiguous().numpy()[None, None]
