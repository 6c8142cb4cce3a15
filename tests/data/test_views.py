from pathlib import Path

import numpy as np
import pytest
import torch

from video_gn.batch import BadVideo
from video_gn.data import protocols, transforms
from video_gn.data.dataset import VideoDataset, collate
from video_gn.data.decoding.open import open_video
from video_gn.data.lists import read_list
from video_gn.data.loader import RowSampler, VideoLoader
from video_gn.data.motion12 import CLASSES
from video_gn.data.video_list import VideoList
from video_gn.data.views import ProtocolViews, RandomView, spread

TRAIN_VIEW = RandomView(8, 4, (40, 48), 32, flip=True)


@pytest.fixture(scope="session")
def videos(motion_folder):
    return read_list(motion_folder / "train.csv", motion_folder, list(CLASSES))


def look(views, path, rng):
    with open_video(path) as video:
        return views(video, rng)[0]


def batches(videos, workers, view=TRAIN_VIEW, seed=0, epoch=0, replace=True):
    sampler = RowSampler(len(videos), seed, replace)
    return list(
        VideoLoader(VideoDataset(videos, view, seed, replace), sampler, 5, workers, position=lambda: (epoch, 0))
    )


def test_a_batch_keeps_the_contract(videos):
    batch = batches(videos, 0)[0]
    assert batch.clips.shape == (5, 1, 3, 8, 32, 32) and batch.clips.dtype == torch.uint8
    assert batch.clips[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert batch.labels.tolist() == [videos.labels[row] for row in batch.rows]
    assert batch.failures == []


def test_what_is_drawn_follows_from_seed_epoch_and_row_alone(videos):
    alone, two = batches(videos, 0), batches(videos, 2)
    for a, b in zip(alone, two, strict=True):
        assert torch.equal(a.clips, b.clips) and torch.equal(a.rows, b.rows)
    by_row = [
        {
            row: clip
            for batch in batches(videos, 0, epoch=e, seed=s)
            for row, clip in zip(batch.rows.tolist(), batch.clips, strict=True)
        }
        for e, s in ((0, 0), (1, 0), (0, 1))
    ]
    assert not any(torch.equal(by_row[0][row], by_row[k][row]) for k in (1, 2) for row in range(len(videos)))


def test_random_view_is_the_frames_crop_and_flip_that_were_drawn(videos):
    """Written out from the parts, in the order in which they are drawn."""
    path = videos.path(0)
    view = look(TRAIN_VIEW, path, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    start = int(rng.integers(0, 64 - 29 + 1))
    with open_video(path) as video:
        frames = video.read([start + 4 * i for i in range(8)])
    top, left, side, _ = transforms.random_box(rng, 64, 64, (40, 48), 32)
    expected = transforms.resize(frames[:, top : top + side, left : left + side], 32, 32)
    if rng.random() < 0.5:
        expected = expected[:, :, ::-1]
    assert np.array_equal(view, expected[None])


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_views_of_one_read_are_those_of_separate_reads(name, videos, rng):
    protocol = protocols.PROTOCOLS[name]
    views = VideoDataset(videos, ProtocolViews(8, 4, 40, protocol))
    views = spread(collate([views[0, 3]])).clips[0].permute(0, 2, 3, 4, 1).numpy()
    expected = []
    for indices in protocol.clips(8, 4, 64):
        with open_video(videos.path(3)) as video:
            frames = transforms.resize_short_side(video.read(indices), 40, protocol.long_side)
        boxes = protocol.crops(*frames.shape[1:3])
        assert len(boxes) == (3 if "30view" in name else 1)
        expected += [frames[:, top : top + high, left : left + wide] for top, left, high, wide in boxes]
    assert np.array_equal(views, np.stack(expected))
    assert len(views) == {"center-1clip": 1}.get(name, 30 if "30view" in name else 10)


def test_a_static_clip_repeats_one_frame(videos, rng):
    clip = look(RandomView(6, 0, (32, 32), 32, flip=False), videos.path(0), rng)[0]
    assert all(np.array_equal(frame, clip[0]) for frame in clip)


def with_damage(videos, tmp_path, rows):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    return VideoList([str(bad) if i in rows else p for i, p in enumerate(videos.paths)], videos.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_an_unreadable_video_and_says_so(workers, videos, tmp_path):
    damaged = with_damage(videos, tmp_path, {2, 9})
    found = batches(damaged, workers)
    failures = [failure for batch in found for failure in batch.failures]
    assert len(failures) >= 2 and {failure.label for failure in failures} <= {videos.labels[2], videos.labels[9]}
    assert all(Path(failure.path).name == "bad.mp4" and "not a video" in failure.reason for failure in failures)
    assert sum(len(batch.labels) for batch in found) == len(videos)  # every place is taken
    for batch in found:
        assert batch.labels.tolist() == [videos.labels[row] for row in batch.rows.tolist()]
        assert not {2, 9} & set(batch.rows.tolist())
    again = batches(damaged, 0)
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(found, again, strict=True))


def test_evaluation_never_replaces_an_unreadable_video(videos, tmp_path):
    damaged = with_damage(videos, tmp_path, {0, 1, 2, 3, 4, 9})
    found = batches(damaged, 0, replace=False)
    assert found[0].clips.shape[0] == 0 and len(found[0].failures) == 5  # a whole batch of them
    rows = [row for batch in found for row in batch.rows.tolist()]
    assert rows == [row for row in range(len(videos)) if row not in {0, 1, 2, 3, 4, 9}]
    assert found[1].failures == [BadVideo(damaged.path(9), videos.labels[9], found[1].failures[0].reason)]


def test_no_video_makes_an_empty_batch(videos):
    batch = collate([VideoDataset(videos, TRAIN_VIEW)[0, None]])
    assert len(batch.clips) == len(batch.labels) == len(batch.failures) == 0
