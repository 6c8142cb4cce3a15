"""What is changed of training clips: the same in all frames, and the same wherever and whenever it is drawn."""

import numpy as np
import pytest
import torch
from conftest import few
from PIL import Image
from samples import video_data
from torchvision.transforms import v2

from video_gn.batch import Box
from video_gn.data.augment import GREY, Augmented, Mixed, augmented, cutmix, mixup, random_tube
from video_gn.data.image_data import ImageData
from video_gn.data.settings import Augment, Clip, Evaluation, Loading
from video_gn.data.video_data import VideoData
from video_gn.data.views import CentreView, RandomView, Seen
from video_gn.errors import InputError

EACH = [{"color_jitter": 0.4}, {"hue": 0.3}, {"rand_augment": 2, "magnitude": 15}, {"random_erasing": 1.0}]


@pytest.fixture
def clips(rng):
    """Two clips of 3 frames."""
    return rng.integers(0, 256, (2, 3, 24, 32, 3), dtype=np.uint8)


def changed(clips, seed=0, **settings):
    return Augmented(lambda video, rng: Seen(clips), Augment(**settings))(None, np.random.default_rng(seed)).clips


@pytest.mark.parametrize("settings", EACH)
def test_all_frames_of_a_clip_are_changed_alike(settings, clips):
    still = np.repeat(clips[:, :1], 3, 1)
    differ = 0
    for seed in range(6):
        found = changed(still, seed, **settings)
        assert found.dtype == np.uint8 and found.shape == still.shape
        assert (found == found[:, :1]).all()
        assert np.array_equal(found, changed(still, seed, **settings))
        differ += not np.array_equal(found, still)
    assert differ >= 4
    same = np.stack([still[0], still[0]])
    drawn = [changed(same, seed, **settings) for seed in range(6)]
    assert any(not np.array_equal(*pair) for pair in drawn)  # each clip by its own draw


def test_what_is_drawn_for_the_clip_itself_stays(clips):
    """Torchvision's draws come after it, and leave torch's own generator as it was."""
    seen = []

    def views(video, rng):
        seen.append(int(rng.integers(2**40)))
        return Seen(clips)

    state = torch.random.get_rng_state()
    Augmented(views, Augment(color_jitter=0.4))(None, np.random.default_rng(3))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert seen == [int(np.random.default_rng(3).integers(2**40))]
    assert augmented(views, Augment(mixup=1.0)) is views


def test_color_jitter_is_torchvisions(clips):
    torch.manual_seed(int(np.random.default_rng(0).integers(2**63)))
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    expected = [jitter(torch.from_numpy(clip).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy() for clip in clips]
    assert np.array_equal(changed(clips, color_jitter=0.4, hue=0.1), np.stack(expected))


def test_erased_is_grey_in_one_part_of_all_frames(clips):
    found = changed(clips, random_erasing=1.0)
    for clip, before in zip(found, clips, strict=True):
        erased = (clip != before).any(-1)
        assert erased.any() and (clip[erased] == GREY).all()
        assert (erased.any(0) == erased.mean(0).round()).all()


# Two videos in one


def test_mixup_and_cutmix_are_torchvisions(clips, rng, monkeypatch):
    others = rng.integers(0, 256, clips.shape, dtype=np.uint8)
    pair = torch.from_numpy(np.stack([clips, others])).permute(0, 1, 2, 5, 3, 4)  # [2, V, T, C, H, W]
    labels = torch.tensor([0, 1])
    transform = v2.MixUp(num_classes=2)
    monkeypatch.setattr(transform, "make_params", lambda _: {"lam": 0.7})
    expected, shares = transform(pair.flatten(1, 3).float(), labels)
    found = mixup(clips, others, 0.7)
    assert (
        np.abs(found.astype(float) - expected[0].reshape(pair.shape[1:]).permute(0, 1, 3, 4, 2).numpy()).max() <= 0.51
    )
    assert shares[0].tolist() == pytest.approx([0.7, 0.3])

    transform = v2.CutMix(num_classes=2)
    monkeypatch.setattr(
        transform, "make_params", lambda _: {"box": (5, 2, 15, 12), "lam_adjusted": 1 - 100 / (24 * 32)}
    )
    expected, shares = transform(pair.flatten(1, 3), labels)
    assert np.array_equal(
        cutmix(clips, others, Box(2, 5, 10, 10)), expected[0].reshape(pair.shape[1:]).permute(0, 1, 3, 4, 2).numpy()
    )


@pytest.mark.parametrize("settings", [{"mixup": 0.3}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}])
def test_the_share_is_of_the_first_video_and_the_larger_one(settings, rng):
    """A video of ones with one of zeros: the mean is the share, but for what rounding leaves."""
    ones, zeros = np.full((2, 3, 20, 30, 3), 200, np.uint8), np.zeros((2, 3, 20, 30, 3), np.uint8)
    mixed, cut = Mixed(Augment(**settings)), 0
    for _ in range(200):
        found, share = mixed(ones, zeros, rng)
        assert 0.5 <= share <= 1 and found.mean() / 200 == pytest.approx(share, abs=0.5 / 200)
        assert (found == found[:1, :1]).all()
        cut += set(np.unique(found)) == {0, 200}
    assert cut == pytest.approx(200 if "mixup" not in settings else 0 if "cutmix" not in settings else 100, abs=30)


def test_shares_are_of_the_folded_beta_distribution(rng):
    mixed, pixel = Mixed(Augment(mixup=1.0)), np.zeros((1, 1, 1, 1, 3), np.uint8)
    shares = [mixed(pixel, pixel, rng)[1] for _ in range(4000)]
    assert np.mean(shares) == pytest.approx(0.75, abs=0.01) and np.quantile(shares, 0.1) == pytest.approx(
        0.55, abs=0.01
    )


def test_a_tube_is_inside_and_at_most_its_share(rng):
    for _ in range(500):
        share = 0.5 + rng.random() / 2
        top, left, height, width = random_tube(rng, 20, 30, share)
        assert top >= 0 and left >= 0 and top + height <= 20 and left + width <= 30
        assert height * width <= (1 - share) * 600 + 1e-9


# Out of the loaders


@pytest.fixture
def uneven(tmp_path, rng):
    """9 dark images and 3 light ones, one of which cannot be read."""
    for label, count in (("dark", 9), ("light", 3)):
        folder = tmp_path / "set" / "train" / label
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 128, (24, 24, 3)) + 100 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "set" / "train" / "light" / "1.png").write_text("no image")
    return tmp_path / "set"


def image_data(root, **settings):
    data = ImageData(str(root), val=None, crop_size=16, short_side=20, batch_size=2, loading=Loading(num_workers=0),
                     **settings)  # fmt: skip
    data.setup("fit")
    return data


def by_key(data, rank=0, world=1):
    """What the loader gives of an epoch, by row and turn."""
    loader = data.train_dataloader()
    loader._order.rank, loader._order.world_size = rank, world
    found, failures = [], []
    for batch in loader:
        found += zip(batch.rows.tolist(), batch.clips, batch.labels, batch.seconds, batch.shares, strict=True)
        failures += batch.failures
    return found, failures


def test_what_is_mixed_follows_from_the_video_alone(uneven):
    settings = {"augment": Augment(mixup=0.5, cutmix=0.5, color_jitter=0.3), "sampling": "balanced"}
    whole, failures = by_key(image_data(uneven, **settings))
    ranks = [by_key(image_data(uneven, **settings), rank, 2)[0] for rank in range(2)]
    assert len(whole) == 12
    for i, (row, clip, *targets) in enumerate(whole):
        other_row, other_clip, *others = ranks[i % 2][i // 2]
        assert row == other_row and torch.equal(clip, other_clip) and targets == others
    assert {video.path for video in failures} == {str(uneven / "train" / "light" / "1.png")}
    data = image_data(uneven, **settings)
    labels = data.lists["train"].labels
    assert all(labels[row] == label for row, _, label, *_ in whole)
    assert {int(second) for *_, second, _ in whole} == {0, 1}
    bad = data.lists["train"].paths.index(str(uneven / "train" / "light" / "1.png"))
    assert bad not in {row for row, *_ in whole}


def test_a_video_that_comes_again_is_seen_otherwise(uneven):
    data = image_data(uneven, sampling="balanced")
    dataset = data.train_dataloader().videos
    row = next(row for row, label in enumerate(data.lists["train"].labels) if label == 1)
    once, again, third = (dataset[key].clips for key in ((0, row), (0, row, 1), (0, row, 2)))
    assert not np.array_equal(once, again) and not np.array_equal(again, third)
    assert np.array_equal(again, dataset[0, row, 1].clips)


def test_the_other_video_is_mixed_in_as_it_is_drawn(uneven):
    plain, mixes = image_data(uneven), image_data(uneven, augment=Augment(mixup=1.0))
    plain, mixes = (data.train_dataloader().videos for data in (plain, mixes))
    for row in (0, 1, 2, 3):
        sample = mixes[5, row]
        rng = np.random.default_rng((0, 5, row, 2))
        second = mixes.rows.another(rng)
        other = plain._read(second, (0, 5, row, 3), sample)
        if other is None:
            continue
        clips, share = Mixed(Augment(mixup=1.0))(plain[5, row].clips, other.clips, rng)
        assert np.array_equal(sample.clips, clips) and sample.share == share
        assert sample.second == plain.videos.labels[second]


@pytest.mark.parametrize("workers", few([0, 2], (0,)))
def test_several_clips_of_a_video_have_one_partner(workers, motion_folder):
    data = video_data(root=str(motion_folder), val=None, num_frames=4, frame_interval=2, short_side=(40, 48),
                      crop_size=32, num_workers=workers, batch_size=4, clips_per_video=2,
                      augment=Augment(mixup=0.4, cutmix=0.4))  # fmt: skip
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    data.close()
    assert batch.clips.shape == (2, 2, 3, 4, 32, 32) and batch.seconds.shape == batch.shares.shape == (2,)
    assert batch.shares.dtype == torch.float32 and batch.seconds.dtype == torch.int64


def test_classes_are_counted_as_they_are_drawn(uneven):
    counts, drawn = image_data(uneven).class_counts()
    assert counts.tolist() == [9, 3] and drawn.tolist() == [0.75, 0.25]
    assert image_data(uneven, sampling="balanced").class_counts()[1].tolist() == [0.5, 0.5]


# The middle, in validation


class Still:
    """20 frames in which each pixel says where and when it is."""

    num_frames, fps, pixel_aspect = 20, 30.0, 1.0

    def __init__(self, height, width):
        t, y, x = np.meshgrid(np.arange(20), np.arange(height), np.arange(width), indexing="ij")
        self.frames = np.stack([t, y, x], -1).astype(np.uint8)

    def read(self, indices, finish):
        return np.asarray(finish([self.frames[i] for i in indices]))


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24)])
def test_center_is_the_middle_clip_and_crop(height, width):
    view = CentreView(num_frames=4, frame_interval=2, short_side=24, crop_size=16)
    clips, *_ = view(Still(height, width), np.random.default_rng(0))
    assert clips.shape == (1, 4, 16, 16, 3)
    assert clips[0, :, 0, 0, 0].tolist() == [6, 8, 10, 12]  # (20 - 7) // 2
    top, left = (height - 16) // 2, (width - 16) // 2
    assert clips[0, 0, :, 0, 1].tolist() == list(range(top, top + 16))
    assert clips[0, 0, 0, :, 2].tolist() == list(range(left, left + 16))


def test_validation_is_random_or_the_middle():
    clip = Clip(4, 2, short_side=(24, 32), crop_size=16)
    assert isinstance(VideoData(class_names=["a", "b"], clip=clip).validation_view, RandomView)
    data = VideoData(class_names=["a", "b"], clip=clip, evaluation=Evaluation(short_side=24, validation="center"))
    assert data.validation_view == CentreView(4, 2, 24, 16)
    assert data.seen["val"] == {"protocol": "center-1crop", "views": "the middle clip x the middle 16 of short side 24"}
    with pytest.raises(InputError, match=r"short_side is 12; data\.clip\.crop_size=16 has to fit in it"):
        VideoData(class_names=["a"], clip=clip, evaluation=Evaluation(short_side=12, validation="center"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"mixup": -1}, "mixup is -1"), ({"hue": 0.6}, "hue is 0.6"), ({"rand_augment": 1.5}, "rand_augment is 1.5")],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(InputError, match=words):
        Augment(**settings)
