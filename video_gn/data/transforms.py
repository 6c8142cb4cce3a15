"""Crops and sizes of uint8 frames, in the loader's workers; what is random is drawn from an rng.

Frames are uint8 `[T, H, W, 3]`, or a sequence of `[H, W, 3]`, as they come from the decoder.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch


def random_box(
    rng: np.random.Generator, height: int, width: int, short_side: tuple[int, int], crop_size: int
) -> tuple[int, int, int]:
    """The square of the source that a random crop shows: `(top, left, side)` in pixels.

    Scaling the short side to a uniform integer s of `short_side` (both ends counted) and cropping `crop_size` from
    that is cropping `crop_size * min(height, width) / s` from the source and scaling it to `crop_size`.
    """
    short = min(height, width)
    scaled = int(rng.integers(short_side[0], short_side[1] + 1))
    side = max(1, min(short, round(crop_size * short / scaled)))
    return int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1)), side


def crop(frames: np.ndarray | Sequence[np.ndarray], box: tuple[int, int, int]) -> np.ndarray:
    """The square `(top, left, side)` of every frame."""
    top, left, side = box
    return np.stack([frame[top : top + side, left : left + side] for frame in frames])


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, averaging over the pixels that fall together when it shrinks: uint8 `[T, height, width, 3]`."""
    if frames.shape[1:3] == (height, width):
        return frames
    # Contiguous [T, H, W, 3] is torch's channels_last, for which uint8 has its own vectorised code.
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()


def resize_short_side(
    frames: np.ndarray | Sequence[np.ndarray],
    short_side: int,
    long_side: Callable[[float, float, int], int] = lambda long, short, target: round(long * (target / short)),
) -> np.ndarray | Sequence[np.ndarray]:
    """The whole frames scaled so that their short side has `short_side` pixels; themselves if it has already.

    Args:
        frames: Of one size.
        short_side: In pixels.
        long_side: `(long, short, short_side)` to the long side in pixels, which is no shorter than the short one.
    """
    height, width = frames[0].shape[:2]
    if min(height, width) == short_side:
        return frames
    longer = max(short_side, long_side(max(height, width), min(height, width), short_side))
    return resize(np.asarray(frames), *((longer, short_side) if height > width else (short_side, longer)))


def flip(frames: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    # torch's own code for channels_last uint8: a tenth of the time of copying numpy's reversed view.
    return torch.from_numpy(frames).permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1).numpy()
