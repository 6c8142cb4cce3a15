"""What is said of a data set before it is trained on."""

import numpy as np
import pytest
from PIL import Image
from samples import H264, texture, write

from video_gn.data import summary
from video_gn.data.summary import described, read_header, remarks, summarize
from video_gn.data.video_list import VideoList
from video_gn.errors import DecodeError

CLIP = {"num_frames": 8, "frame_interval": 2}  # 15 frames from first to last


@pytest.fixture
def videos(tmp_path):
    """Two wide videos, of 20 and 10 frames; a portrait one by its rotation; one that is none."""
    options = {"x264-params": H264}
    write(tmp_path / "long.mp4", texture(20), "libx264", options, times=range(20))
    write(tmp_path / "short.mp4", texture(10), "libx264", options, times=range(10))
    write(tmp_path / "phone.mov", texture(20), "libx264", options, times=range(20), rotation=90)
    (tmp_path / "bad.mp4").write_text("no video")
    return [str(tmp_path / name) for name in ("long.mp4", "short.mp4", "phone.mov", "bad.mp4")]


def test_headers_by_hand(videos, tmp_path):
    assert tuple(read_header(videos[0])) == (20, 30.0, 128, 96)
    assert tuple(read_header(videos[2])) == (20, 30.0, 96, 128)
    with pytest.raises(DecodeError, match="not a video file"):
        read_header(videos[3])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert tuple(read_header(str(tmp_path / "turned.jpg"), "image")) == (1, 0.0, 20, 30)
    (tmp_path / "frames").mkdir()
    for i in range(3):
        Image.new("RGB", (12, 34)).save(tmp_path / "frames" / f"img_{i}.png")
    assert tuple(read_header(str(tmp_path / "frames"))) == (3, 30.0, 12, 34)


def test_a_summary_and_what_is_odd_by_hand(videos):
    train = VideoList(videos * 5, [0] * 19 + [2])
    train.groups = np.array(["a", "b"] * 10)
    found = summarize({"train": train, "val": VideoList(videos[:1], [1])}, 3, clip=CLIP)
    said = found["train"]
    assert said["by_class"] == [19, 0, 1] and said["groups"] == 2 and said["groups_by_class"] == [2, 0, 1]
    assert said["looked_at"] == 20 and said["unreadable"] == 5 and said["portrait"] == 5 and said["landscape"] == 10
    assert said["frames"] == [10, 20, 20] and said["fps"] == [30, 30, 30] and said["looped"] == 5 and said["span"] == 15
    assert said["sizes"] == [[128, 96, 10], [96, 128, 5]]
    assert described("train", said) == (
        "train: 20 videos of 2 classes (1 to 19 each), 2 groups, 10 to 20 frames, 30 a second, most 128x96"
    )
    shrunk = summarize({"train": train}, 3, clip=CLIP | {"shrink": True})["train"]
    assert shrunk["span"] == 8 and shrunk["looped"] == 0
    lines = remarks(found, ["a", "b", "c"])
    words = ["95 % of the train videos are of class a", "1 of 3 classes have no train video: b", "5 of 20 train videos",
             "shorter than a clip of 15 frames", "5 of 20 train videos that were looked at cannot be read",
             "100 % of the val videos are of class b", "2 of 3 classes have no val video: a, c"]  # fmt: skip
    assert len(lines) == 7 and all(word in line for word, line in zip(words, lines, strict=True))


def test_nothing_is_said_of_an_even_set(motion_folder):
    paths = sorted(map(str, motion_folder.rglob("*.mp4")))
    videos = VideoList(paths, np.arange(len(paths)) % 4)
    videos.set_aside[0] = "its decoder hung"
    found = summarize({"train": videos}, 4, clip=CLIP)
    assert remarks(found, list("abcd")) == []
    assert found["train"]["known_bad"] == 1 and found["train"]["looked_at"] == len(paths) - 1


def test_the_sample_is_bounded(videos, monkeypatch):
    """A list of 240,000 videos takes no longer; and a slow disk is waited for a while only."""
    many = VideoList(videos[:1] * 240_000, np.zeros(240_000, np.int64))
    monkeypatch.setattr(summary, "SAMPLE", 7)
    found = summarize({"train": many}, 1, clip=CLIP)["train"]
    assert found["looked_at"] == 7 and found["videos"] == 240_000
    assert described("train", found).endswith("(headers of 7)")
    monkeypatch.setattr(summary, "SECONDS", 0.0)
    assert summarize({"train": many}, 1)["train"]["looked_at"] == 1
