from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from video_gn import sampling, transforms
from video_gn.decode import open_video
from video_gn.errors import InputError
from video_gn.kinetics import (
    NO_LABEL,
    Failure,
    KineticsData,
    ProtocolViews,
    RandomView,
    RowSampler,
    VideoList,
    VideoViews,
    collate,
    find_videos,
    names_of,
    read_list,
    read_rows,
)
from video_gn.motion import CLASSES

# Lists


@pytest.fixture
def folder(tmp_path):
    """Two classes in folders, and the same videos as a CSV file and as plain lines."""
    for split, name in (("train", "b c"), ("train", "a"), ("val", "a")):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "x 1.mp4").touch()
        (tmp_path / split / name / "notes.txt").touch()
    (tmp_path / "train.csv").write_text("id,label,path\n1,a,train/a/x 1.mp4\n2,b c,train/b c/x 1.mp4\n")
    (tmp_path / "train.txt").write_text("train/a/x 1.mp4 0\n\ntrain/b c/x 1.mp4 1\n")
    return tmp_path


@pytest.mark.parametrize("source", ["train", "train.csv", "train.txt"])
def test_three_forms_of_a_list_say_the_same(source, folder):
    videos = read_list(folder / source, folder, ["a", "b c"])
    assert videos.paths == [str(folder / "train/a/x 1.mp4"), str(folder / "train/b c/x 1.mp4")]
    assert videos.labels == [0, 1]


def test_class_names(folder):
    assert names_of(read_rows(folder / "train")) == ["a", "b c"]
    assert names_of([("x", "2"), ("y", "0")]) == ["0", "1", "2"]
    assert names_of([("x", "walk"), ("y", "2")]) == ["2", "walk"]
    data = KineticsData(root=str(folder), train="train.csv")
    assert (data.class_names, data.num_classes) == (["a", "b c"], 2)
    (folder / "classes.txt").write_text("b c\na\n")
    data = KineticsData(root=str(folder), class_names=str(folder / "classes.txt"))
    assert read_list(folder / "train", folder, data.class_names).labels == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.csv", None, "there is no list or folder .*gone.csv"),
        ("empty.csv", "path,label\n", "names no videos"),
        ("headless.csv", "a.mp4,0\n", "header that names the columns path and label"),
        ("short.txt", "a.mp4\n", "line 1: 'a.mp4' is not of the form"),
        ("outside.txt", "a.mp4 0\na.mp4 2\n", r"video 2 \(a.mp4\): label '2' is outside the 2 classes"),
        ("negative.txt", "a.mp4 -1\n", "label '-1' is outside"),
        ("name.csv", "path,label\na.mp4,c\n", "label 'c' is outside"),
        ("lost.txt", "a.mp4 0\nb.mp4 1\n", "none of 2 files looked for is there"),
    ],
)
def test_bad_lists(name, text, words, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_list(tmp_path / name, tmp_path, ["a", "b"])


def test_videos_to_predict(folder):
    videos = find_videos([str(folder / "train"), "given.mp4"])
    assert videos.paths == [str(folder / "train/a/x 1.mp4"), str(folder / "train/b c/x 1.mp4"), "given.mp4"]
    assert set(videos.labels) == {NO_LABEL}
    (folder / "none").mkdir()
    with pytest.raises(InputError, match="holds no videos"):
        find_videos([str(folder / "none")])
    with pytest.raises(InputError, match="nothing to predict"):
        find_videos([])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 64, "frame_interval": 8}, "span 505 raw frames, more than data.max_span=300"),
        ({"crop_size": 300}, "short_side is"),
        ({"short_side": (300, 260)}, "short_side is"),
        ({"test_protocol": "x"}, "protocols are"),
        ({"class_names": ["a", "a"]}, "a more than once"),
        ({"class_names": "nofile.txt"}, "no file nofile.txt"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(InputError, match=words):
        KineticsData(**({"class_names": ["a", "b"]} | options))


# The sampler


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 2, 7, 12])
def test_evaluation_deals_every_row_once(total, world_size):
    ranks = [list(RowSampler(total, int, 0, False, rank, world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1  # equally many steps
    assert all(len(rank) == len(RowSampler(total, int, 0, False, 0, world_size)) for rank in ranks)
    rows = [row for rank in ranks for _, row in rank]
    assert sorted(row for row in rows if row is not None) == list(range(total))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_deals_a_permutation_up_to_the_even_split(world_size):
    def epoch_rows(epoch, seed=0):
        ranks = [list(RowSampler(20, lambda: epoch, seed, True, rank, world_size)) for rank in range(world_size)]
        assert {len(rank) for rank in ranks} == {20 // world_size}
        assert {e for rank in ranks for e, _ in rank} == {epoch}
        return [row for rank in ranks for _, row in rank]

    first, second = epoch_rows(0), epoch_rows(1)
    assert len(set(first)) == len(first) == 20 // world_size * world_size
    assert first == epoch_rows(0) and first != second and first != epoch_rows(0, seed=1)
    if world_size == 3:  # the rest is another one each epoch
        assert len({frozenset(set(range(20)) - set(epoch_rows(e))) for e in range(5)}) > 1


def test_ranks_share_one_permutation():
    whole = [row for _, row in RowSampler(20, int, 0, True)]
    parts = [[row for _, row in RowSampler(20, int, 0, True, rank, 2)] for rank in range(2)]
    assert parts == [whole[0::2], whole[1::2]]


# Samples

TRAIN_VIEW = RandomView(8, 4, (40, 48), 32, flip=True)


@pytest.fixture(scope="session")
def videos(motion_folder):
    return read_list(motion_folder / "train.csv", motion_folder, list(CLASSES))


def batches(videos, workers, view=TRAIN_VIEW, seed=0, epoch=0, replace=True):
    sampler = RowSampler(len(videos), lambda: epoch, seed, replace)
    dataset = VideoViews(videos, view, seed, replace)
    return list(DataLoader(dataset, 5, sampler=sampler, num_workers=workers, collate_fn=collate))


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
    path = videos.paths[0]
    view = TRAIN_VIEW(path, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    start = int(rng.integers(0, 64 - 29 + 1))
    with open_video(path) as video:
        frames = video.read([start + 4 * i for i in range(8)])
    top, left, side = transforms.random_box(rng, 64, 64, (40, 48), 32)
    expected = transforms.resize(frames[:, top : top + side, left : left + side], 32, 32)
    if rng.random() < 0.5:
        expected = expected[:, :, ::-1]
    assert np.array_equal(view, expected[None])


@pytest.mark.parametrize("name", sampling.PROTOCOLS)
def test_views_of_one_read_are_those_of_separate_reads(name, videos, rng):
    protocol = sampling.PROTOCOLS[name]
    views = ProtocolViews(8, 4, 40, protocol)(videos.paths[3], rng)
    expected = []
    for start in protocol.clip_starts(64, 29):
        with open_video(videos.paths[3]) as video:
            frames = transforms.resize_short_side(video.read((start + 4 * np.arange(8)) % 64), 40)
        expected += [frames] if protocol.num_crops == 1 else transforms.three_crops(frames)
    assert np.array_equal(views, np.stack(expected))
    assert len(views) == protocol.num_views


def test_a_static_clip_repeats_one_frame(videos, rng):
    clip = RandomView(6, 0, (32, 32), 32, flip=False)(videos.paths[0], rng)[0]
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
    assert found[1].failures == [Failure(damaged.paths[9], videos.labels[9], found[1].failures[0].reason)]


def test_training_ends_where_nothing_can_be_read(videos, tmp_path):
    with pytest.raises(InputError, match="11 videos one after the other cannot be read"):
        batches(with_damage(videos, tmp_path, set(range(len(videos)))), 0)


def test_no_video_makes_an_empty_batch(videos):
    batch = collate([VideoViews(videos, TRAIN_VIEW)[0, None]])
    assert len(batch.clips) == len(batch.labels) == len(batch.failures) == 0


# The module


def test_too_few_videos_for_a_step(data_root, motion):
    data = KineticsData(root=str(data_root), motion=motion, batch_size=100, max_span=64)
    connector = SimpleNamespace(use_distributed_sampler=False)
    data.trainer = SimpleNamespace(world_size=1, _accelerator_connector=connector)
    with pytest.raises(InputError, match="24 training videos do not fill one step of 100 clips"):
        data.setup("fit")
    connector.use_distributed_sampler = True
    with pytest.raises(InputError, match="use_distributed_sampler has to be false"):
        data.setup("fit")


def test_hyper_parameters_are_plain_and_complete(data_root, motion):
    data = KineticsData(root=str(data_root), motion=motion, videos=["x.mp4"])
    assert data.hparams["class_names"] == list(CLASSES) and "videos" not in data.hparams
    assert data.hparams["motion"]["train_per_class"] == 2
    again = KineticsData(**{k: v for k, v in data.hparams.items() if k != "motion"})
    assert again.class_names == data.class_names
