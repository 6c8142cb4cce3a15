import importlib.util

import pytest
from conftest import REPO

from video_gn.lists import read_list

_spec = importlib.util.spec_from_file_location("make_list", REPO / "data" / "make_list.py")
make_list = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_list)


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
    assert make_list.main([str(root), "--overwrite"]) == 2 and "needs the columns" in capsys.readouterr().err
    (root / "annotations/val.csv").unlink()
    assert make_list.main([str(root), "--overwrite"]) == 2 and "there is no" in capsys.readouterr().err
