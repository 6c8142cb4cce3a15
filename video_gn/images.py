"""Images in the place of videos: each is a video of one frame, and its views are torchvision's of ImageNet.

So ImageNet pre-training is this project's training with `data.images`: the same order, resumption, exact evaluation and
account of bad files.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.transforms import v2

from video_gn.errors import DecodeError
from video_gn.libav import Finish, as_they_are

# Pillow looks at the content, whatever the name, and knows some 40 formats: EPS, among them, it hands to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
LARGEST = 89_000_000  # pixels; what a small file claims is believed no further
NARROWEST = 32  # times as long as wide: scaled to a short side, longer ones would not fit into memory


class ImageFile:
    """An image as a video of one frame, decoded by Pillow.

    Args:
        path: In one of `FORMATS`; grey and CMYK ones become RGB.

    Attributes:
        image: Pillow's, RGB.

    Raises:
        DecodeError: It is no image, is damaged or cut short, or has more than `LARGEST` pixels.
    """

    num_frames, fps = 1, 0.0

    def __init__(self, path: str) -> None:
        self.path = path
        if not os.path.isfile(path):
            raise DecodeError(path, "no such file")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd EXIF entries and palettes
                with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
                    if image.width * image.height > LARGEST:
                        rule = f"at most {LARGEST // 10**6} megapixels are read; scale it down"
                        raise DecodeError(path, f"an image of {image.width}x{image.height} pixels: {rule}")
                    if max(image.size) > NARROWEST * min(image.size):
                        rule = f"sides of at most 1:{NARROWEST} are read"
                        raise DecodeError(path, f"an image of {image.width}x{image.height} pixels: {rule}")
                    self.image = image.convert("RGB")
        except DecodeError:
            raise
        except UnidentifiedImageError:
            raise DecodeError(path, f"not an image, or damaged: none of {', '.join(FORMATS)}") from None
        except Exception as error:  # on damaged content, Pillow fails in every way
            lines = str(error).splitlines()
            reason = lines[0].strip() if lines else type(error).__name__
            raise DecodeError(path, f"not an image, or damaged: {reason}") from None

    def read(self, indices: Sequence[int] | np.ndarray, finish: Finish = as_they_are) -> np.ndarray:
        """As `video_gn.decode.Video.read`."""
        frame = np.asarray(self.image)
        return np.asarray(finish([frame for _ in indices]))

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
