"""Folders of frame images as videos."""

import os

import numpy as np
import pytest
from PIL import Image
from samples import video_data

from video_gn.data.decoding.damage import find_damage
from video_gn.data.decoding.frames_reader import FrameFolder
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.lists import find_videos, read_list, read_rows
from video_gn.data.tools import check_videos, prepare_videos
from video_gn.errors import DecodeError
from video_gn.files.tables import read_table


def make(folder, count=12, name="img_{:05d}.png", first=1, size=(24, 32)):
    """A folder of frames, and what is in them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    frames = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(first + i))
    return frames


@pytest.mark.parametrize("name", ["img_{:05d}.png", "frame{}.bmp", "{}.ppm", "a.b-{:03d}.PNG"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_frame_is_the_image(backend, name, tmp_path):
    frames = make(tmp_path / "v", 12, name, first=5)  # 9 comes before 10
    (tmp_path / "v" / "notes.txt").touch()
    (tmp_path / "v" / "._img_00001.png").touch()
    with open_video(tmp_path / "v", backend) as video:
        assert (video.num_frames, video.fps) == (12, 30.0)
        for indices in ([0], [11, 3, 3, 0], range(12)):
            assert np.array_equal(video.read(indices), frames[list(indices)])


def test_only_the_frames_asked_for_are_decoded_and_in_parts(tmp_path, monkeypatch):
    frames = make(tmp_path / "v", 12)
    (tmp_path / "v/img_00003.png").write_text("no image")
    parts = []
    monkeypatch.setattr("video_gn.data.decoding.reader.WHOLE", 4)
    monkeypatch.setattr("video_gn.data.decoding.reader.PART", 2)
    video = FrameFolder(str(tmp_path / "v"))
    wanted = [11, 0, 4, 5, 6]
    assert np.array_equal(video.read(wanted, lambda part: parts.append(len(part)) or part), frames[wanted])
    assert parts == [2, 2, 1]
    with pytest.raises(DecodeError, match=r"frame 2 \(img_00003.png\): not an image, or damaged"):
        video.read([0, 2])
    assert find_damage(str(tmp_path / "v")).startswith("frame 2 (img_00003.png): not an image")


def test_what_is_no_video(tmp_path):
    make(tmp_path / "v", 2)
    make(tmp_path / "w", 2, "a{}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "v/img_00003.png")
    with pytest.raises(DecodeError, match=r"frames change from 32x24 to 8x8 pixels \(img_00003.png\)"):
        FrameFolder(str(tmp_path / "v")).read([0, 2])
    (tmp_path / "w/b1.png").write_bytes((tmp_path / "w/a1.png").read_bytes())
    for folder in ("w", "."):
        with pytest.raises(DecodeError, match="a folder, and not one of frames: numbered images of one name"):
            FrameFolder(str(tmp_path / folder))
    assert find_damage(str(tmp_path / "v")).startswith("frames change")


@pytest.fixture
def root(tmp_path):
    """Two classes of folders of frames, and a list of them."""
    for split in ("train", "val"):
        for label in ("dark", "light"):
            for i in range(2):
                make(tmp_path / split / label / f"v{i}" / "rgb")
    make(tmp_path / "train/dark/one", 1)  # a single image is none
    (tmp_path / "list.txt").write_text("train/dark/v0/rgb dark\ntrain/light/v1/rgb light\n")
    return tmp_path


def test_in_class_folders_and_in_lists(root):
    rows = read_rows(root / "train")
    assert rows == [(f"train/{label}/v{i}/rgb", label) for label in ("dark", "light") for i in range(2)]
    assert rows.notes == [f"{root}/train: 1 files are passed over (1 .png), e.g. {root}/train/dark/one/img_00001.png"]
    assert len(read_list(root / "list.txt", root, ["dark", "light"])) == 2
    assert find_videos([str(root)]).paths == sorted(
        str(root / s / c / v / "rgb") for s in ("train", "val") for c in ("dark", "light") for v in ("v0", "v1")
    )
    assert find_videos([str(root / "val/dark/v0/rgb")]).paths == [str(root / "val/dark/v0/rgb")]
    assert find_videos([f"{root}/val/*/*/rgb"]).paths == find_videos([str(root / "val")]).paths
    clip = {"num_frames": 4, "frame_interval": 2, "short_side": (24, 24), "crop_size": 16}
    data = video_data(root=str(root), train="train", val="val", batch_size=4, num_workers=0, inspect=True, **clip,
                      test_short_side=24, test_protocol="center-1clip")  # fmt: skip
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.clips.shape == (4, 1, 3, 4, 16, 16) and sorted(batch.labels.tolist()) == [0, 0, 1, 1]
    data.setup("test")
    for batch in data.test_dataloader():
        assert not batch.failures and not batch.damaged and batch.clips.shape == (1, 1, 3, 4, 24, 32)


def test_the_tools(root, capsys):
    (root / "train/light/v1/rgb/img_00002.png").write_text("no image")
    assert check_videos.main([str(root / "list.txt"), "--workers", "1"]) == 0
    good, bad = read_table(root / "list.checked.csv")
    assert (good["status"], good["backend"], good["num_frames"], good["width"]) == ("ok", "decord pyav", "12", "32")
    assert bad["status"] == "damaged" and bad["reason"].startswith("frame 1 (img_00002.png): not an image")
    videos = read_list(root / "list.txt", root, ["dark", "light"])
    assert videos.known(0)[:2] == (["decord", "pyav"], 12) and set(videos.set_aside) == {1}
    Image.new("RGB", (32, 24)).save(root / "train/dark/v0/rgb/img_00013.png")
    os.utime(root / "train/dark/v0/rgb", (0, 12345))
    assert check_videos.main([str(root / "list.txt"), "--workers", "1"]) == 0  # what has changed is checked again
    assert read_table(root / "list.checked.csv")[0]["num_frames"] == "13"
    assert prepare_videos.main([str(root / "list.txt"), str(root / "copies")]) == 2
    assert "error: 2 of 2 videos are folders of frames, e.g. train/dark/v0/rgb; they need no" in capsys.readouterr().err
    assert not (root / "copies").exists()
