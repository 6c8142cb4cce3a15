"""Crops and sizes of uint8 frames, in the loader's workers; what is random is drawn from an rng.

Frames are uint8 `[T, H, W, 3]`, or a sequence of `[H, W, 3]`, as they come from the decoder.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from video_gn.batch import Box

LongSide = Callable[[float, float, int], int]  # of long side, short side, and what the short one is scaled to


@contextmanager
def torch_draws(rng: np.random.Generator) -> Iterator[None]:
    """Within it, torchvision's transforms draw by `rng`: they draw from torch's own generator on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        yield


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    short_side: tuple[int, int],
    crop_size: int,
    pixel_aspect: float = 1.0,
) -> Box:
    """The part of the source that a random crop shows: a square, as it is shown.

    Scaling the short side to a uniform integer s of `short_side` (both ends counted) and cropping `crop_size` from
    that is cropping `crop_size * min(height, width) / s` from the source and scaling it to `crop_size`.

    Args:
        rng: Of the scale and the place.
        height: Of the source's frames, in pixels.
        width: As `height`.
        short_side: Smallest and largest s.
        crop_size: Side of the crop, in pixels.
        pixel_aspect: Width of the source's pixels by their height: sides are compared as they are shown, and the part
            is wider or narrower in pixels.
    """
    scaled = int(rng.integers(short_side[0], short_side[1] + 1))
    high, wide = _crop_of(height, width, scaled, crop_size, pixel_aspect)
    return Box(int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1)), high, wide)


def centre_box(height: int, width: int, short_side: int, crop_size: int, pixel_aspect: float = 1.0) -> Box:
    """As `random_box`, in the middle and of one scale."""
    high, wide = _crop_of(height, width, short_side, crop_size, pixel_aspect)
    return Box((height - high) // 2, (width - wide) // 2, high, wide)


def _crop_of(height: int, width: int, scaled: int, crop_size: int, pixel_aspect: float) -> tuple[int, int]:
    """Height and width, in pixels of the source, of a crop of the source with its short side scaled so."""
    short = min(height, width * pixel_aspect)
    side = min(short, crop_size * short / scaled)
    high, wide = (max(1, min(most, round(part))) for most, part in ((height, side), (width, side / pixel_aspect)))
    return high, wide


def crop(frames: np.ndarray | Sequence[np.ndarray], box: Box) -> np.ndarray:
    """The same part of every frame."""
    top, left, height, width = box
    return np.stack([frame[top : top + height, left : left + width] for frame in frames])


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, averaging over the pixels that fall together when it shrinks: uint8 `[T, height, width, 3]`."""
    if frames.shape[1:3] == (height, width):
        return frames
    # Contiguous [T, H, W, 3] is torch's channels_last, for which uint8 has its own vectorised code.
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()


def rounded(long: float, short: float, target: int) -> int:
    """The long side, to the nearest pixel, where the short one is scaled to `target`."""
    return round(long * (target / short))


def resize_short_side(
    frames: np.ndarray | Sequence[np.ndarray],
    short_side: int,
    long_side: LongSide = rounded,
    pixel_aspect: float = 1.0,
) -> np.ndarray | Sequence[np.ndarray]:
    """The whole frames scaled so that their short side has `short_side` pixels; themselves if it has already.

    Args:
        frames: As they are stored, of one size.
        short_side: In pixels, which are square.
        long_side: `(long, short, short_side)` to the long side in pixels, which is no shorter than the short one.
        pixel_aspect: Width of the frames' pixels by their height.
    """
    height, width = frames[0].shape[:2]
    shown = width * pixel_aspect
    if pixel_aspect == 1 and min(height, width) == short_side:
        return frames
    longer = max(short_side, long_side(max(height, shown), min(height, shown), short_side))
    return resize(np.asarray(frames), *((longer, short_side) if height > shown else (short_side, longer)))


def flip(frames: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    # torch's own code for channels_last uint8: a tenth of the time of copying numpy's reversed view.
    return torch.from_numpy(frames).permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1).numpy()
