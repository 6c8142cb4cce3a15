import csv
from functools import partial

import av
import numpy as np
import pytest
from children import assert_children_end

from video_gn.data.motion12 import CLASSES, Motion, _offsets, prepare, render
from video_gn.errors import InputError
from video_gn.files.locks import locked


def test_a_set_is_whole_and_labelled(motion_folder, motion):
    for split, count in (("train", motion.train_per_class), ("val", motion.val_per_class)):
        rows = list(csv.DictReader((motion_folder / f"{split}.csv").read_text().splitlines()))
        assert len(rows) == 12 * count
        for row in rows:
            assert row["path"].split("/")[1] == CLASSES[int(row["label"])]
            assert (motion_folder / row["path"]).is_file()
    assert (motion_folder / "classes.txt").read_text().split() == list(CLASSES)
    with av.open(str(motion_folder / "train/fast_up/0000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, stream.frames) == ("h264", 64, 64, 64)


def test_same_seed_same_bytes_and_a_half_made_set_is_finished(motion_folder, motion, tmp_path):
    folder = tmp_path / motion.folder
    victims = ["train/slow_left/0001.mp4", "val/up_then_down/0000.mp4"]
    for path in motion_folder.rglob("*.mp4"):  # as an interrupt would leave it: files missing, one half-written
        name = path.relative_to(motion_folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if str(name) not in victims:
            (folder / name).hardlink_to(path)
    (folder / f"{victims[0]}.part").write_bytes(b"half")
    kept = (folder / "train/slow_left/0000.mp4").stat().st_ino
    assert prepare(tmp_path, motion) == folder
    assert (folder / "train/slow_left/0000.mp4").stat().st_ino == kept
    for name in (*victims, "train.csv", "val.csv", "classes.txt"):
        assert (folder / name).read_bytes() == (motion_folder / name).read_bytes()
    assert not list(folder.rglob("*.part"))


def test_an_uneven_set():
    even, uneven = Motion(), Motion(imbalance=50)
    assert even.folder == "motion12-fad146e2" != uneven.folder
    counts = [sum(label == k for _, label in uneven.videos()["train"]) for k in range(12)]
    assert counts == [50, 35, 25, 17, 12, 8, 6, 4, 3, 2, 1, 1] and len(uneven.videos()["val"]) == 240
    assert set(uneven.videos()["train"]) < set(even.videos()["train"])  # the same files


@pytest.mark.long
@pytest.mark.slow
def test_every_file_is_the_same_each_time(tmp_path):
    """60 files, made twice by processes with different memory behind them."""
    motion = Motion(train_per_class=4, val_per_class=1)
    made = []
    for run in range(2):
        ballast = [bytes(5000 + i) for i in range(777 * run)]
        folder = prepare(tmp_path / str(run), motion)
        made.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.mp4")})
        del ballast
    assert len(made[0]) == 60
    assert [path for path in made[0] if made[0][path] != made[1].get(path)] == []


def test_a_set_is_finished_after_its_maker_was_killed(tmp_path):
    """No child of it is left to hold the lock."""
    large = Motion(train_per_class=200)
    assert_children_end(partial(prepare, tmp_path, large), 1)
    with locked(tmp_path / large.folder / "lock", patience=0):
        pass
    assert not (tmp_path / large.folder / "classes.txt").exists()


def test_other_parameters_lie_elsewhere():
    assert len({Motion().folder, Motion(seed=1).folder, Motion(size=128).folder}) == 3


def test_train_and_val_differ(motion_folder):
    a, b = (motion_folder / split / "fast_up" / "0000.mp4" for split in ("train", "val"))
    assert a.read_bytes() != b.read_bytes()


def test_wagon_wheel(rng):
    """Every 8th frame, a fast texture has moved half its period: right and left are the same positions."""
    right, left = (_offsets(Motion(), CLASSES.index(f"fast_{side}"), rng, 16.0)[:, 0] for side in ("right", "left"))
    for offsets, sign in ((right, 1), (left, -1)):
        per_period = np.diff(offsets[::8]) / 16.0
        assert np.all(np.abs(per_period - sign * 0.5) < 0.05)  # 0.46 to 0.54 of a period: +x is -(1 - x)
        assert np.all(np.sign(np.diff(offsets[::4])) == sign) and np.abs(np.diff(offsets[::4]) / 16).max() < 0.28


def test_texture_is_periodic(rng):
    """A period of exactly lambda: moved by one, the texture is the same."""
    from video_gn.data.motion12 import Waves

    waves = Waves(rng, 16.0, 1, np.full(3, 0.5), 0.2)
    y, x = np.mgrid[:64, :64].astype(np.float32)
    np.testing.assert_allclose(waves(x, y), waves(x + 16, y), atol=1e-4)
    np.testing.assert_allclose(waves(x, y), waves(x, y - 16), atol=1e-4)
    assert np.abs(waves(x, y) - waves(x + 8, y)).max() > 0.01


@pytest.mark.parametrize("name", CLASSES)
def test_displacement_is_the_label(name, rng):
    offsets = _offsets(Motion(), CLASSES.index(name), rng, 16.0)
    parts = name.split("_then_") if "_then_" in name else [name.split("_")[1]]
    signs = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
    peak = offsets[np.abs(offsets).sum(1).argmax()] if len(parts) == 2 else offsets[-1]
    assert tuple(np.sign(peak).astype(int)) == signs[parts[0]]
    if len(parts) == 2:
        assert np.abs(peak).max() <= 0.45 * 16
        moving = np.flatnonzero(np.abs(np.diff(offsets, axis=0)).sum(1))
        assert 20 <= len(moving) <= 22 and np.diff(moving).max() >= 26


def test_frames(rng):
    frames = list(render(Motion(size=32, num_frames=48), 0, rng))
    assert len(frames) == 48 and frames[0].shape == (32, 32, 3) and frames[0].dtype == np.uint8
    assert np.abs(frames[0].astype(int) - frames[20]).mean() > 1


@pytest.mark.parametrize("options", [{"size": 63}, {"size": 8}, {"num_frames": 10}, {"train_per_class": 0}])
def test_bad_parameters(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Motion(**options)
