"""The same video twice in a list, or in two of them."""

import os

import pytest
from samples import video_data

from video_gn.data import duplicates, splits
from video_gn.data.lists import read_list, read_rows
from video_gn.errors import InputError


@pytest.fixture
def root(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def listed(root, *rows):
    (root / "a.csv").write_text("path,label\n" + "\n".join(rows))
    rows = read_rows(root / "a.csv")
    read_list(root / "a.csv", root, ["x", "y"], rows=rows)
    return rows.notes


@pytest.mark.parametrize("few", [0, 100])
def test_twice_in_a_list(few, root, monkeypatch):
    monkeypatch.setattr(duplicates, "FEW", few)
    assert listed(root, "a.mp4,x", "b.mp4,x", "gone.mp4,x", "lost.mp4,y") == []
    (note,) = listed(root, "a.mp4,x", "b.mp4,y", f"{root}/a.mp4,x", "./b.mp4,y")
    assert note.endswith(
        f"2 of 4 videos are in it more than once and count each time, e.g. {root}/a.mp4 (line 2 and line 4)"
    )
    with pytest.raises(
        InputError, match=r"a.csv, line 4: './a.mp4,y': this video has the label 'y', and 'x' in line 2"
    ):
        listed(root, "a.mp4,x", "b.mp4,y", "./a.mp4,y")
    (root / "link").symlink_to(root)
    with pytest.raises(InputError, match=r"line 3: 'link/a.mp4,y': this video has the label 'y', and 'x' in line 2"):
        listed(root, "a.mp4,x", "link/a.mp4,y")


def test_links_are_the_same_file(root):
    os.link(root / "a.mp4", root / "hard.mp4")
    (root / "soft.mp4").symlink_to(root / "b.mp4")
    (note,) = listed(root, "a.mp4,x", "hard.mp4,x", "b.mp4,y", "soft.mp4,y")
    assert "2 of 4 videos" in note


def test_in_class_folders(root):
    for name in ("x", "y"):
        (root / "train" / name).mkdir(parents=True)
    (root / "train/x/1.mp4").touch()
    (root / "train/y/2.mp4").symlink_to(root / "train/x/1.mp4")
    with pytest.raises(InputError, match=r"train, 'train/y/2.mp4': .* label 'y', and 'x' in train/x/1.mp4"):
        read_list(root / "train", root, ["x", "y"])


@pytest.fixture
def said(monkeypatch):
    """What is logged of lists."""
    lines = []
    monkeypatch.setattr(splits.log, "warning", lambda form, *values: lines.append(form % values))
    return lines


def test_videos_of_two_splits(root, said):
    (root / "train.csv").write_text("path,label\na.mp4,x\nb.mp4,y\n")
    (root / "val.csv").write_text("path,label\nc.mp4,x\n./b.mp4,y\n")
    (root / "test.csv").write_text("path,label\na.mp4,x\n")
    data = video_data(root=str(root), test="test.csv", batch_size=1)
    for stage in ("fit", "fit", "test"):
        data.setup(stage)
    assert [line for line in said if "training videos too" in line] == [
        f"1 of 2 val videos are training videos too, e.g. {root}/b.mp4: figures on them are too good",
        f"1 of 1 test videos are training videos too, e.g. {root}/a.mp4: figures on them are too good",
    ]


def test_only_the_first_process_says_it(root, said, monkeypatch):
    monkeypatch.setattr("video_gn.data.splits.first_process", lambda: False)
    (root / "train.csv").write_text("path,label\na.mp4,x\na.mp4,x\n")
    video_data(root=str(root), val="train.csv", batch_size=1).setup("fit")
    assert not said
