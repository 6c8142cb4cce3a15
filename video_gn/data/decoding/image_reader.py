"""Images in the place of videos: each is a video of one frame, and its views are torchvision's of ImageNet.

So ImageNet pre-training is this project's training with `images`: the same order, resumption, exact evaluation and
account of bad files.
"""

import os
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from video_gn.data.decoding.reader import Finish, as_they_are
from video_gn.errors import DecodeError

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
        """As `video_gn.data.decoding.open.Video.read`."""
        frame = np.asarray(self.image)
        return np.asarray(finish([frame for _ in indices]))

    def close(self) -> None:
        """As `video_gn.data.decoding.open.Video.close`."""
