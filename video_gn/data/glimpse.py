"""A few small frames of some videos of a list, for people to look at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.reader import Frames, Video
from video_gn.data.loader import RowSampler, VideoLoader
from video_gn.data.transforms import resize
from video_gn.data.video_list import VideoList
from video_gn.data.views import Seen

FRAMES = 8


class Glimpse(NamedTuple):
    """What there is to see of a video.

    Attributes:
        row: Of its list.
        frames: uint8 `[T, H, W, 3]`; None where it cannot be read.
        reason: Why not.
    """

    row: int
    frames: np.ndarray | None
    reason: str = ""


@dataclass(frozen=True)
class FewFrames:
    """Frames from the whole of a video, its long side scaled down to some pixels; one of an image."""

    num_frames: int
    long_side: int

    def __call__(self, video: Video, rng: np.random.Generator) -> Seen:
        count = min(self.num_frames, video.num_frames)
        # The middles of equal parts: the first and the last frame are often black.
        where = ((np.arange(count) + 0.5) * video.num_frames / count).astype(np.int64)

        def scale(frames: Frames) -> Frames:
            height, width = frames[0].shape[:2]
            shown = width * video.pixel_aspect
            by = min(1.0, self.long_side / max(height, shown))
            return resize(np.asarray(frames), max(1, round(height * by)), max(1, round(shown * by)))

        return Seen(video.read(where, scale)[None])


class _Chosen(RowSampler):
    """Rows that are named, in their order."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(len(rows), 0, False)
        self._rows = list(rows)

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        for row in self._rows[self.first :]:
            yield 0, row


def glimpses(
    videos: VideoList,
    rows: Sequence[int],
    backend: str = "decord",
    num_workers: int = 0,
    timeout: float = 60.0,
    long_side: int = 192,
) -> Iterator[Glimpse]:
    """What there is to see of some videos of a list, in the order of the rows.

    They are read as a test reads them: by another backend where one refuses, and by workers, which may hang or crash.

    Args:
        videos: The list.
        rows: Which of them.
        backend: The one that is asked first, or `video_gn.data.decoding.open.IMAGE`.
        num_workers: Loader processes.
        timeout: Seconds that a video may take in one of them.
        long_side: In pixels; smaller videos keep their size.
    """
    samples = VideoDataset(videos, FewFrames(FRAMES, long_side), backend=backend, timeout=timeout)
    loader = VideoLoader(samples, _Chosen(rows), num_workers=min(num_workers, len(rows)))
    try:
        for row, batch in zip(rows, loader, strict=True):
            if len(batch.clips):
                yield Glimpse(row, batch.clips[0, 0].permute(1, 2, 3, 0).numpy())
            else:
                yield Glimpse(row, None, batch.failures[0].reason if batch.failures else "it cannot be read")
    finally:
        loader.close()
