"""Class folders: what in them is a video, and what is said of the rest."""

import os

import pytest

from video_gn.data.folders import IMAGE_SUFFIXES, SUFFIXES, Scan, frames_of
from video_gn.data.labels import names_of
from video_gn.data.lists import find_videos, read_rows
from video_gn.errors import InputError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_videos_in_folders_of_any_depth_and_in_order(tmp_path):
    make(tmp_path / "train", "b/x.mp4", "a/z.mp4", "a/p/q/2.MTS", "a/p/1.mov", "a/p.mp4", "a/a.webm")
    paths = [path for path, _ in read_rows(tmp_path / "train")]
    inside = ["a/a.webm", "a/p/1.mov", "a/p/q/2.MTS", "a/p.mp4", "a/z.mp4", "b/x.mp4"]
    assert paths == [f"train/{path}" for path in inside]
    assert read_rows(tmp_path / "train").notes == []


def test_what_is_hidden_is_no_video(tmp_path):
    hidden = ("a/._x.mp4", "a/.ipynb_checkpoints/x.mp4", ".git/x.mp4", "__MACOSX/a/x.mp4", "a/@eaDir/x.mp4")
    make(tmp_path / "train", "a/x.mp4", "b/y.mp4", *hidden)
    rows = read_rows(tmp_path / "train")
    assert rows == [("train/a/x.mp4", "a"), ("train/b/y.mp4", "b")] and rows.notes == []
    assert len(find_videos([str(tmp_path / "train")])) == len(find_videos([f"{tmp_path}/train/*/*"])) == 2


def test_folders_that_are_named_like_videos(tmp_path):
    make(tmp_path / "train", "a/x.mp4/clip.mp4", "a/y.mp4/notes")
    (tmp_path / "train/b.mp4").mkdir()
    rows = read_rows(tmp_path / "train")
    assert rows == [("train/a/x.mp4/clip.mp4", "a")]
    assert find_videos([str(tmp_path / "train")]).paths == [f"{tmp_path}/train/a/x.mp4/clip.mp4"]


def test_what_was_passed_over_is_said(tmp_path):
    make(tmp_path / "train", "a/1.mp4", "a/2.rm", "a/3.RM", "b/n/notes.txt", "c/README", "loose.mp4", "x.json")
    make(tmp_path / "train", ".DS_Store", "a/.DS_Store")
    rows = read_rows(tmp_path / "train")
    assert rows == [("train/a/1.mp4", "a")] and names_of(rows) == ["a"]
    source = tmp_path / "train"
    assert sorted(rows.notes) == [
        f"{source}: 1 videos are in no class folder and are left out, e.g. loose.mp4",
        f"{source}: 2 of 3 class folders hold no video, so these are no classes of it: b, c",
        f"{source}: 5 files are passed over (2 .rm, 1 .txt, 1 without a suffix, 1 .json), e.g. {source}/a/2.rm",
    ]


def test_links(tmp_path):
    make(tmp_path, "pool/x.mp4", "pool/deep/y.mp4")
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "train/a/gone.mp4").symlink_to(tmp_path / "nothing")
    (tmp_path / "train/a/x.mp4").symlink_to(tmp_path / "pool/x.mp4")
    (tmp_path / "train/a/up").symlink_to(tmp_path / "train/a")  # leads back
    (tmp_path / "train/a/self").symlink_to("self")
    (tmp_path / "train/b").symlink_to(tmp_path / "pool")
    rows = read_rows(tmp_path / "train")
    assert [path for path, _ in rows] == ["train/a/x.mp4", "train/b/deep/y.mp4", "train/b/x.mp4"]
    assert rows.notes == [f"{tmp_path}/train: 2 links lead nowhere and are left out, e.g. {tmp_path}/train/a/gone.mp4"]


def test_nothing_that_is_meant(tmp_path):
    make(tmp_path, "train/x.mp4", "val/a/x.xyz")
    with pytest.raises(InputError, match=r"train names no videos in class folders .*; 1 videos are in no class folder"):
        read_rows(tmp_path / "train")
    with pytest.raises(InputError, match=r"val names no videos .*1 files are passed over \(1 .xyz\)"):
        read_rows(tmp_path / "val")
    with pytest.raises(InputError, match=r"val holds no videos .*1 files are passed over"):
        find_videos([str(tmp_path / "val")])


def test_images_in_folders_of_any_depth(tmp_path):
    make(tmp_path / "train", "a/1.JPG", "a/n/2.png", "a/n/3.png", "a/v.mp4")
    rows = read_rows(tmp_path / "train", IMAGE_SUFFIXES)
    assert [path for path, _ in rows] == [
        "train/a/1.JPG",
        "train/a/n/2.png",
        "train/a/n/3.png",
    ] and "1 .mp4" in rows.notes[0]


def test_no_file_is_looked_at_by_itself(tmp_path, monkeypatch):
    make(tmp_path, *(f"train/a/v{i}/img_{k}.jpg" for i in range(3) for k in range(4)), "train/a/x.mp4")
    asked = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: asked.append(str(path)) or real(path, **options))
    Scan().below(tmp_path / "train")
    assert asked and not any(path.endswith((".jpg", ".mp4")) for path in asked)


def test_frames_are_in_the_order_of_their_numbers():
    assert frames_of(["f10.jpg", "f9.jpg", "notes.txt", "f0011.JPG"]) == ["f9.jpg", "f10.jpg", "f0011.JPG"]
    assert frames_of(["00002.png", "00001.png"]) == ["00001.png", "00002.png"]
    for names in (["a1.jpg", "b2.jpg"], ["1.jpg", "2.png"], ["1.jpg", "01.jpg"], ["1.jpg", "cover.jpg"], ["a.txt"]):
        assert frames_of(names) == []


def test_the_suffixes_are_in_lower_case():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES | IMAGE_SUFFIXES)
