"""Scores of videos by a trained model, without a trainer."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from video_gn.data import protocols
from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.open import IMAGE
from video_gn.data.loader import RowSampler, VideoLoader
from video_gn.data.video_list import VideoList
from video_gn.data.views import CentreImage, ProtocolViews, Views, spread
from video_gn.predict.model_file import Trained


class Scored(NamedTuple):
    """A video and its scores, `[V, K]` of its views in their order; None if it cannot be read, for a reason."""

    row: int
    scores: Tensor | None
    reason: str = ""


def score(
    model: Trained,
    videos: VideoList,
    batch_size: int = 8,
    num_workers: int = 2,
    protocol: str | None = None,
    backend: str = "decord",
) -> Iterator[Scored]:
    """Scores of every view of each video, in the order of the list.

    Args:
        model: Of `open_trained`.
        videos: What to look at.
        batch_size: Clips that go through the network at once; of several videos, where their sizes are equal.
        num_workers: Processes that decode.
        protocol: A name of `video_gn.data.protocols.PROTOCOLS`; None takes the model's.
        backend: Which one decodes.
    """
    clip = model.settings.clip
    loader = VideoLoader(
        VideoDataset(videos, make_views(model, protocol), backend=IMAGE if clip["images"] else backend),
        RowSampler(len(videos), 0, False),
        batch_size if clip["images"] else 1,
        min(num_workers, len(videos)),
    )
    waiting: list[tuple[int, Tensor]] = []

    def scored() -> Iterator[Scored]:
        if not waiting:
            return
        clips = torch.cat([views for _, views in waiting])
        scores = torch.cat([model.scores(part) for part in clips.split(batch_size)])
        parts = scores.split([len(views) for _, views in waiting])
        yield from (Scored(row, part) for (row, _), part in zip(waiting, parts, strict=True))
        waiting.clear()

    given = 0
    for batch in loader:
        batch = spread(batch)
        failed = {failure.path: failure.reason for failure in batch.failures}
        views = dict(zip(batch.rows.tolist(), batch.clips, strict=True))
        ends = given + len(views) + len(batch.failures)
        for row in range(given, ends):
            if row not in views:
                yield from scored()
                yield Scored(row, None, failed[videos.path(row)])
                continue
            if waiting and waiting[0][1].shape[2:] != views[row].shape[2:]:
                yield from scored()
            waiting.append((row, views[row]))
            if sum(len(one) for _, one in waiting) >= batch_size:
                yield from scored()
        given = ends
    yield from scored()


def make_views(model: Trained, protocol: str | None) -> Views:
    """The views in which a model sees a video or an image: of a protocol by name, or of its own."""
    clip = model.settings.clip
    if clip["images"]:
        return CentreImage(clip["test_short_side"], clip["crop_size"])
    named = protocols.find_protocol(protocol or clip["test_protocol"])
    shrink = bool(clip.get("shrink"))
    return ProtocolViews(clip["num_frames"], clip["frame_interval"], clip["test_short_side"], named, shrink)
