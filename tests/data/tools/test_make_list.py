import csv
import os
import shutil

import pytest

from video_gn.data.lists import read_list
from video_gn.data.motion12 import CLASSES
from video_gn.data.tools import make_list


@pytest.fixture
def root(tmp_path):
    """CVDF's layout: annotations, and videos flat or in folders; one is missing."""
    (tmp_path / "annotations").mkdir()
    header = "label,youtube_id,time_start,time_end,split\n"
    rows = ["riding a bike,-a_B,1,11,train", "archery,xyz,95,105,train", "archery,gone,0,10,train"]
    (tmp_path / "annotations/train.csv").write_text(header + "\n".join(rows) + "\n")
    (tmp_path / "annotations/val.csv").write_text(header + "archery,v,7,17,val\n")
    for name in ("train/-a_B_000001_000011.mp4", "train/archery/xyz_000095_000105.mp4", "val/v_000007_000017.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_lists_name_what_is_there_and_what_is_missing(root, capsys):
    assert make_list.main([str(root)]) == 0
    assert "train: 3 expected, 2 found, 1 missing\nval: 1 expected, 1 found, 0 missing" in capsys.readouterr().out
    names = (root / "classes.txt").read_text().splitlines()
    assert names == ["archery", "riding a bike"]
    videos = read_list(root / "train.csv", root, names)
    assert videos.paths == [
        str(root / "train/-a_B_000001_000011.mp4"),
        str(root / "train/archery/xyz_000095_000105.mp4"),
    ]
    assert videos.labels.tolist() == [1, 0]
    assert (root / "train.missing.csv").read_text().splitlines() == ["video,label", "gone_000000_000010,archery"]


def test_slips(root, capsys):
    make_list.main([str(root)])
    before = (root / "train.csv").read_text()
    assert make_list.main([str(root)]) == 2 and "--overwrite" in capsys.readouterr().err
    assert (root / "train.csv").read_text() == before
    assert make_list.main([str(root), "--overwrite"]) == 0
    (root / "annotations/val.csv").write_text("a,b\n")
    assert (
        make_list.main([str(root), "--overwrite"]) == 2
        and "columns youtube_id and time_start and time_end" in capsys.readouterr().err
    )
    (root / "annotations/val.csv").write_text("label,youtube_id,time_start,time_end\na,v,x,17\n")
    assert make_list.main([str(root), "--overwrite"]) == 2 and "line 2: time_start" in capsys.readouterr().err
    (root / "annotations/val.csv").unlink()
    (root / "annotations/train.csv").unlink()
    assert make_list.main([str(root), "--overwrite"]) == 2 and "there is no" in capsys.readouterr().err


def test_counts_by_class_and_files_of_no_row(root, capsys):
    """Kinetics-600's and -700's test split has no labels; CVDF keeps some videos in a folder of replacements."""
    (root / "annotations/test.csv").write_text("youtube_id,time_start,time_end,split\nt,1,11,test\n")
    (root / "replacement").mkdir()
    (root / "replacement/gone_000000_000010.mp4").touch()
    (root / "train/stray.mp4").touch()
    assert make_list.main([str(root)]) == 0
    out = capsys.readouterr().out
    assert "gives no labels; left out" in out
    assert "train: 3 expected, 3 found, 0 missing; 1 files belong to none" in out
    assert "val: 1 expected, 1 found, 0 missing; no video of 1 classes, e.g. riding a bike" in out
    assert (root / "train.unlisted.csv").read_text().splitlines() == ["path", "train/stray.mp4"]
    counts = (root / "counts.csv").read_text().splitlines()
    assert counts[:2] == ["split,label,expected,found,missing", "train,archery,2,2,0"]
    assert "val,riding a bike,0,0,0" in counts


@pytest.mark.parametrize("name", ["a\nb", " ", "a\x1b[31m"])
def test_a_class_that_no_list_can_name(name, motion_folder, tmp_path, capsys):
    folder = tmp_path / "train" / name
    folder.mkdir(parents=True)
    (folder / "x.mp4").touch()
    assert make_list.main([str(tmp_path)]) == 2
    assert "names of classes are text in one line" in capsys.readouterr().err
    assert not (tmp_path / "train.csv").exists()


@pytest.mark.parametrize("label", ["a\nb", "", " ", "a\x1b[31m"])
def test_a_label_of_a_missing_video_that_no_list_can_name(label, root, capsys):
    with open(root / "annotations/train.csv", "a", newline="") as file:
        csv.writer(file).writerow([label, "lost", 0, 10, "train"])
    assert make_list.main([str(root)]) == 2
    assert "names of classes are text in one line" in capsys.readouterr().err
    assert not (root / "train.csv").exists() and not (root / "classes.txt").exists()


def test_class_folders(motion_folder, tmp_path, capsys):
    for split in ("train", "val"):
        shutil.copytree(motion_folder / split, tmp_path / split)
    (tmp_path / "val/loose.mp4").touch()
    assert make_list.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "train: 24 expected, 24 found, 0 missing\n" in out and "1 files belong to none" in out
    names = (tmp_path / "classes.txt").read_text().splitlines()
    assert names == sorted(CLASSES)
    assert len(read_list(tmp_path / "val.csv", tmp_path, names)) == 24
    (tmp_path / "train/slow_up/nested").mkdir()
    os.rename(tmp_path / "train/slow_up/0000.mp4", tmp_path / "train/slow_up/nested/0000.MTS")
    for name in ("._x.mp4", "notes.txt"):
        (tmp_path / "train/slow_up" / name).touch()
    assert make_list.main([str(tmp_path), "--overwrite"]) == 0
    said = capsys.readouterr()
    assert "train: 24 expected, 24 found" in said.out and "1 files are passed over (1 .txt)" in said.err
    assert "train/slow_up/nested/0000.MTS,slow_up" in (tmp_path / "train.csv").read_text()
    shutil.rmtree(tmp_path / "train")
    assert make_list.main([str(tmp_path), "--overwrite"]) == 2 and "there is no" in capsys.readouterr().err
