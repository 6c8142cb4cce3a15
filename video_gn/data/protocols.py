"""Test protocols by name: which clips and crops of a video are seen when it is tested.

Those with a project's name take the frames and the crops that this project's code takes, to the same frame and pixel.
Pixels are scaled by our own resize, which averages where it shrinks; theirs do not. N is the number of frames of a
video, T of a clip, s its interval, and L = (T - 1) s + 1 its span.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from video_gn.batch import Box
from video_gn.data.sampling import clip_indices, span
from video_gn.data.transforms import LongSide, rounded
from video_gn.errors import InputError

FPS = 30.0  # frames a second to which PySlowFast's intervals refer (DATA.TARGET_FPS)
WIDEST = np.float32(1.6)  # of a frame of `nonlocal-10clip`: long side to short side


class Sizes(NamedTuple):
    """Of a clip and of the video that it is from.

    Attributes:
        total: N, frames of the video.
        num_frames: T, frames of the clip.
        interval: s, raw frames from one of them to the next; 0 repeats one.
        fps: Frames of the video a second; 0 where nobody knows, which is taken for 30.
    """

    total: int
    num_frames: int
    interval: int
    fps: float

    @property
    def spare(self) -> int:
        """N - L, the last start of a clip that ends with the video, at least 0."""
        return max(self.total - span(self.num_frames, self.interval), 0)

    def at(self, starts: list[int]) -> np.ndarray:
        """The frames of clips with these starts, int64 `[clips, T]`; one that runs over the end is looped."""
        return np.stack([clip_indices(start, self.num_frames, self.interval, self.total) for start in starts])


def _gn(sizes: Sizes) -> np.ndarray:
    """Even starts where the interval is even: half of the video's frames then do for all clips."""
    step = 2 if sizes.interval and sizes.interval % 2 == 0 else 1
    return sizes.at([i * sizes.spare // 9 // step * step for i in range(10)])


def _nonlocal(sizes: Sizes) -> np.ndarray:
    return sizes.at([i * sizes.total // 10 for i in range(10)])


def _slowfast(sizes: Sizes) -> np.ndarray:
    """Spans T s / 30 seconds; what is over the end is the last frame. In float32, as theirs."""
    length = max(1.0, sizes.num_frames * sizes.interval / FPS * (sizes.fps or FPS))
    spare = max(sizes.total - length, 0.0)
    starts = [spare * i / 10 for i in range(10)]
    frames = [torch.linspace(at, at + length - 1, sizes.num_frames, dtype=torch.float32) for at in starts]
    return torch.stack(frames).clamp(0, sizes.total - 1).long().numpy()


def _mmaction2(sizes: Sizes) -> np.ndarray:
    if sizes.num_frames == 1:  # the middle of each tenth
        tenth = sizes.total / 10.0
        return (np.arange(10) * tenth + tenth / 2.0).astype(np.int64)[:, None]
    return sizes.at(np.round(np.arange(10) * (sizes.spare / 9.0)).astype(int).tolist())


def _centre(sizes: Sizes) -> np.ndarray:
    return sizes.at([sizes.spare // 2])


# What is cropped of a frame of so many pixels, height and width


def _whole(height: int, width: int) -> list[Box]:
    return [Box(0, 0, height, width)]


def _along(height: int, width: int, starts: list[int]) -> list[Box]:
    """Squares of the short side along the long one."""
    side = min(height, width)
    return [Box(at, 0, side, side) if height > width else Box(0, at, side, side) for at in starts]


def _three_to_the_ends(height: int, width: int) -> list[Box]:
    spare = abs(height - width)
    return _along(height, width, [0, math.ceil(spare / 2), spare])


def _three_by_half(height: int, width: int) -> list[Box]:
    """The last is a pixel short of the end where the rest is odd."""
    half = abs(height - width) // 2
    return _along(height, width, [0, half, 2 * half])


def _capped(height: int, width: int) -> list[Box]:
    """The whole frame, or the middle of one that is longer than 1.6 to 1."""
    short = min(height, width)
    longest = int(WIDEST * np.float32(short)) if np.float32(max(height, width)) / np.float32(short) > WIDEST else 10**9
    high, wide = min(height, longest), min(width, longest)
    return [Box((height - high) // 2, (width - wide) // 2, high, wide)]


# The long side of a frame whose short side is scaled to `target`


def _floor(long: float, short: float, target: int) -> int:
    return math.floor(float(long) / short * target)


def _half_up(long: float, short: float, target: int) -> int:
    return int(long * float(target / short) + 0.5)


def _float32(long: float, short: float, target: int) -> int:
    return int(np.float32(long) * (np.float32(target) / np.float32(short)))


@dataclass(frozen=True)
class Protocol:
    """How a video is seen at test time. The field's "10 clips" are not one protocol; each has its name here.

    Attributes:
        frames: The frames of each clip, int64 `[clips, T]`.
        crops: `(height, width)` of frames, whose short side is the test's, to what is seen of them, all of one size.
            Over one that is larger than the training crop the network slides.
        long_side: `(long, short, target)` to the long side of frames whose short side is scaled to `target`, in pixels.
        says: Clips, starts and crops in words, as they are beside results.
        source: Where the protocol is from.
    """

    frames: Callable[[Sizes], np.ndarray]
    crops: Callable[[int, int], list[Box]]
    long_side: LongSide
    says: str
    source: str

    def clips(self, num_frames: int, frame_interval: int, total: int, fps: float = FPS) -> np.ndarray:
        """The frames of each clip of a video of `total` frames, int64 `[clips, num_frames]`."""
        return self.frames(Sizes(total, num_frames, frame_interval, fps))


PROTOCOLS: dict[str, Protocol] = {
    # GN says "regularly sampled" and no more: here the first clip begins with the video, and the last ends with it, or
    # one frame before. The paper's own may be `nonlocal-10clip`, what its authors' released code does.
    "gn-10clip": Protocol(
        _gn, _whole, rounded, "10 clips from i (N - L) / 9 x whole frames", "Wu & He 2018, section 4.3"
    ),
    "nonlocal-10clip": Protocol(
        _nonlocal, _capped, _float32, "10 clips from i N / 10 x whole frames up to 1.6 : 1",
        "video-nonlocal-net at c253ed5 (2019), customized_video_io.cc and customized_video_input_op.h",
    ),
    "nonlocal-30view": Protocol(
        _nonlocal, _three_by_half, _float32, "10 clips from i N / 10 x 3 crops",
        "video-nonlocal-net at c253ed5 (2019), with multi-crop testing",
    ),
    # Where PySlowFast seeks by time stamps, before it takes these frames of what it decoded, a clip begins up to one
    # frame later.
    "slowfast-30view": Protocol(
        _slowfast, _three_to_the_ends, _floor, "10 clips of T s / 30 seconds from i (N - T s) / 10 x 3 crops",
        "PySlowFast at 287ec00 (2026), decoder.py: get_start_end_idx, temporal_sampling; transform.py: uniform_crop",
    ),
    "mmaction2-30view": Protocol(
        _mmaction2, _three_by_half, _half_up, "10 clips from i (N - L) / 9 rounded x 3 crops",
        "MMAction2 1.2.0 at 4d6c934 (2023): SampleFrames without target_fps, ThreeCrop",
    ),
    "center-1clip": Protocol(_centre, _whole, rounded, "1 clip in the middle x whole frames", "for quick looks"),
}  # fmt: skip


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        InputError: There is none.
    """
    if name not in PROTOCOLS:
        raise InputError(f"there is no test protocol {name!r}; the protocols are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
