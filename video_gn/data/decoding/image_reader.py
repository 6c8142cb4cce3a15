"""Images in the place of videos: each is a video of one frame, and its views are torchvision's of ImageNet.

So ImageNet pre-training is this project's training with `images`: the same order, resumption, exact evaluation and
account of bad files.
"""

import os
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from video_gn.data.decoding.reader import Finish, as_they_are
from video_gn.errors import DecodeError

# Pillow looks at the content, whatever the name, and knows some 40 formats: EPS, among them, it hands to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
LARGEST = 89_000_000  # pixels; what a small file claims is believed no further
_TURNS = {  # how an image is to be turned, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
NARROWEST = 32  # times as long as wide: scaled to a short side, longer ones would not fit into memory


class ImageFile:
    """An image as a video of one frame, decoded by Pillow.

    Args:
        path: In one of `FORMATS`. Grey and CMYK ones become RGB, 16 bits 8, and floating-point values from 0 to 1 are
            black to white; of an animation or of several pages, it is the first; transparency is left out.

    Attributes:
        image: Pillow's, RGB, turned as its EXIF orientation says.

    Raises:
        DecodeError: It is no image, is damaged or cut short, has more than `LARGEST` pixels, or values whose range it
            does not say.
    """

    num_frames, fps, pixel_aspect = 1, 0.0, 1.0

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
                    self.image = _upright(image, _rgb(image, path))
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


def _rgb(image: Image.Image, path: str) -> Image.Image:
    """The image in 8 bits of RGB; Pillow would cut off what is above 255."""
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        lowest, highest = values.min(), values.max()
        if not 0 <= lowest <= highest <= 1:  # nor if some are NaN
            words = f"floating-point values from {lowest:g} to {highest:g}; only those from 0 to 1 are read"
            raise DecodeError(path, f"{words}: scale them, or save it with 8 or 16 bits")
        grey = values * np.float32(255) + np.float32(0.5)
    elif image.mode == "I" and image.format == "TIFF":
        raise DecodeError(path, "whole numbers of 32 bits or with a sign, of unknown range; save it with 8 or 16 bits")
    else:
        # 16 bits; TIFF knows 12 too. Of PNG and PPM, Pillow may hold the same in 32 bits.
        white = (1 << tags.get(_BITS, (16,))[0]) - 1
        grey = (values.astype(np.int64).clip(0, white) * 510 + white) // (2 * white)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """The RGB image, turned as the file's EXIF data says, unless they are damaged."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the image itself is sound
        return rgb
    return rgb if turn is None else rgb.transpose(turn)
