"""Test protocols by name: which clips and crops of a video are seen when it is tested."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from video_gn.data.sampling import clip_indices, span
from video_gn.errors import InputError


def _over_valid_starts(num_clips: int, total: int, clip_span: int) -> list[int]:
    last = max(total - clip_span, 0)
    return [i * last // (num_clips - 1) for i in range(num_clips)]


def _over_valid_starts_open(num_clips: int, total: int, clip_span: int) -> list[int]:
    last = max(total - clip_span, 0)
    return [i * last // num_clips for i in range(num_clips)]


def _over_all_frames(num_clips: int, total: int, clip_span: int) -> list[int]:
    return [i * total // num_clips for i in range(num_clips)]


def _middle(num_clips: int, total: int, clip_span: int) -> list[int]:
    return [max(total - clip_span, 0) // 2]


@dataclass(frozen=True)
class Protocol:
    """How a video is seen at test time. The field's "10 clips" are not one protocol; each has its name here.

    Attributes:
        num_clips: Clips of a video.
        num_crops: Crops of a clip: 1 is the whole frame at the test's short side, over which the network slides;
            3 are squares of the test's short side at both ends and in the middle of the long side.
        starts: `(num_clips, total, span)` to the starts of the clips; a clip that runs over the end is looped.
        source: Where the protocol is from.
        even: Whether starts are rounded down to even frames where the frame interval is even: half of the video's
            frames then do for all clips.
    """

    num_clips: int
    num_crops: int
    starts: Callable[[int, int, int], list[int]]
    source: str
    even: bool = False

    @property
    def num_views(self) -> int:
        """Views of a video: clips x crops."""
        return self.num_clips * self.num_crops

    def clips(self, num_frames: int, frame_interval: int, total: int) -> np.ndarray:
        """The frames of each clip of a video of `total` frames, int64 `[num_clips, num_frames]`."""
        starts = self.starts(self.num_clips, total, span(num_frames, frame_interval))
        step = 2 if self.even and frame_interval and frame_interval % 2 == 0 else 1
        return np.stack([clip_indices(start // step * step, num_frames, frame_interval, total) for start in starts])


PROTOCOLS: dict[str, Protocol] = {
    # GN says "regularly sampled" and no more: here the first clip begins with the video, and the last ends with it, or
    # one frame before.
    "gn-10clip": Protocol(10, 1, _over_valid_starts, "Wu & He 2018, section 4.3", even=True),
    "nonlocal-30view": Protocol(10, 3, _over_all_frames, "video-nonlocal-net: starts floor(i * N / 10)"),
    "slowfast-30view": Protocol(10, 3, _over_valid_starts_open, "PySlowFast: starts i * (N - L) / 10"),
    "mmaction2-30view": Protocol(10, 3, _over_valid_starts, "MMAction2: starts i * (N - L) / 9"),
    "center-1clip": Protocol(1, 1, _middle, "one clip in the middle: quick looks"),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        InputError: There is none.
    """
    if name not in PROTOCOLS:
        raise InputError(f"there is no test protocol {name!r}; the protocols are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
