"""A user's own folder or list: what is found in it, and how it is divided."""

import logging

import pytest

from video_gn.data.motion12 import Motion
from video_gn.data.own import find_splits
from video_gn.data.video_data import VideoData
from video_gn.errors import InputError


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def classes(root, counts):
    return make(root, *(f"{label}/{i:03}.mp4" for label, count in counts.items() for i in range(count)))


def data(root, **given):
    return VideoData(**{"root": str(root), "train": "auto", "val": "auto", "test": "auto", "batch_size": 1} | given)


def set_up(root, **given):
    made = data(root, **given)
    made.setup("fit")
    made.setup("test")
    return made


def sizes(made):
    return {split: len(made.lists[split]) for split in ("train", "val", "test") if split in made.lists}


def names(made, split):
    return {path.rpartition("/")[2] for path in made.lists[split].paths}


@pytest.mark.parametrize(("files", "found"), [
    (["train/a/1.mp4", "val/a/1.mp4"], {"train": "train", "val": "val"}),
    (["train/a/1.mp4", "valid/a/1.mp4", "testing/a/1.mp4"], {"train": "train", "val": "valid", "test": "testing"}),
    (["train/a/1.mp4", "notes.txt"], {"train": "train"}),
    (["train.csv", "val.csv", "clips/1.mp4"], {"train": "train.csv", "val": "val.csv"}),
    (["train.csv", "val.csv", "train/a/1.mp4", "val/a/1.mp4"], {"train": "train.csv", "val": "val.csv"}),
    (["bus/1.mp4", "car/1.mp4"], {"train": "."}),
    (["train/1.mp4", "car/1.mp4"], {"train": "."}),  # a vehicle
    (["labels.csv", "a/1.mp4"], {"train": "labels.csv"}),
    (["labels.csv", "train.missing.csv", "quarantine.csv", "counts.csv"], {"train": "labels.csv"}),
])  # fmt: skip
def test_what_a_folder_holds(tmp_path, files, found):
    make(tmp_path, *files)
    headers = {"quarantine.csv": "path,reason\n", "counts.csv": "split,label,found\n", "x.missing.csv": "video,label\n"}
    for path in tmp_path.glob("*.csv"):
        path.write_text(headers.get(path.name, "path,label\na/1.mp4,a\n"))
    assert find_splits(tmp_path) == found


def test_slips_in_folders(tmp_path):
    with pytest.raises(InputError, match=r"no folder or list .*nowhere; name that of"):
        data(tmp_path / "nowhere")
    make(tmp_path, "run/one.MP4")
    with pytest.raises(InputError, match=r"run/one.MP4, a single file; name the folder of class folders, or a CSV"):
        data(tmp_path / "run" / "one.MP4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty names no videos in class folders"):
        data(tmp_path / "empty")
    with pytest.raises(InputError, match=r"its 3 videos are all of one class, 'a'; to tell classes apart"):
        set_up(classes(tmp_path / "one", {"a": 3}))
    make(tmp_path / "two", "a.csv", "b.csv")
    for name in "ab":
        (tmp_path / "two" / f"{name}.csv").write_text("path,label\n")
    with pytest.raises(InputError, match=r"holds several lists \(a.csv, b.csv\); name one: --data.root .*a.csv"):
        data(tmp_path / "two")
    classes(tmp_path / "case", {"Fight": 2, "fight": 2})
    with pytest.raises(InputError, match="'Fight' and 'fight' differ in upper and lower case only"):
        data(tmp_path / "case")
    assert data(tmp_path / "case", class_names=["Fight", "fight"]).num_classes == 2
    with pytest.raises(InputError, match=r"data.motion makes the embedded set, and data.train=auto names another list"):
        data(tmp_path / "case", motion=Motion())
    with pytest.raises(
        InputError, match=r"embedded set below data.root, and .*case holds videos of its own, e.g. Fight"
    ):
        VideoData(str(tmp_path / "case"), motion=Motion()).prepare_data()


def test_class_folders_are_divided(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    classes(tmp_path / "set", {"a": 20, "b": 20, "rare": 1})
    with caplog.at_level(logging.INFO):
        made = set_up(tmp_path / "set")
    assert sizes(made) == {"train": 29, "val": 6, "test": 6}
    assert "41 videos of 3 classes are divided: 29 train, 6 val, 6 test; 41 groups" in caplog.text
    assert "set, test: 1 of 3 classes have no video in it: rare" in caplog.text
    assert len({path for split in made.lists.values() for path in split.paths}) == 41
    assert sizes(set_up(tmp_path / "set", val=None)) == {"train": 35, "test": 6}
    assert sizes(set_up(tmp_path / "set", test=None)) == {"train": 35, "val": 6, "test": 6}
    assert sizes(set_up(tmp_path / "set", shares=(0.5, 0.0, 0.5), val=None)) == {"train": 21, "test": 20}
    with pytest.raises(InputError, match="leave none for val"):
        data(tmp_path / "set", shares=(0.9, 0.0, 0.1)).setup("test")  # before anything is trained


def test_splits_that_are_far_from_their_shares(tmp_path, caplog, monkeypatch):
    """Of whole folders, which may be no groups: a line says so, and what to do."""
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    rows = [(f"{folder}/{i}.mp4", f"{'xy'[i % 2]}|all") for folder in "abc" for i in range(10)]
    path = listed(tmp_path, "path,label", rows)
    with caplog.at_level(logging.WARNING):
        assert sizes(set_up(path, multi_label=True)) == {"train": 10, "val": 10, "test": 10}
    assert "groups (their folders) are so large, e.g. a of 10 videos, that val has 33% for 15% and" in caplog.text
    caplog.clear()
    assert sizes(set_up(path, multi_label=True, group=".+")) == {"train": 21, "val": 4, "test": 5}
    assert "so large" not in caplog.text


def test_what_lacks_is_taken_from_training(tmp_path):
    classes(tmp_path / "train", {"a": 20, "b": 20})
    classes(tmp_path / "test", {"a": 3, "b": 3})
    assert sizes(set_up(tmp_path)) == {"train": 34, "val": 6, "test": 6}
    classes(tmp_path / "val", {"a": 2, "b": 2})
    assert sizes(set_up(tmp_path)) == {"train": 40, "val": 4, "test": 6}
    with pytest.raises(InputError, match=r"data.folds is 3, which makes the test a part of the training list"):
        data(tmp_path, folds=3)


def listed(tmp_path, header, rows):
    path = tmp_path / "own.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    make(tmp_path, *(row[0] for row in rows))
    return path


def test_a_list_with_groups_and_splits(tmp_path):
    rows = [(f"v/{i:03}.mp4", "ab"[i % 2], f"person {i // 4}") for i in range(80)]
    made = set_up(listed(tmp_path, "path,label,group", rows))
    assert sizes(made) == {"train": 56, "val": 12, "test": 12}
    groups = {split: set(made.lists[split].groups) for split in made.lists}
    assert len(groups["train"] | groups["val"] | groups["test"]) == sum(map(len, groups.values())) == 20
    assert made.lists["test"].groups[0] == f"person {int(made.lists['test'].path(0)[-7:-4]) // 4}"
    splits = ["train", "validation", "Test", "train"]
    made = set_up(listed(tmp_path, "path,label,split", [(*row[:2], splits[i % 4]) for i, row in enumerate(rows)]))
    assert sizes(made) == {"train": 40, "val": 20, "test": 20}
    assert names(made, "test") == {f"{i:03}.mp4" for i in range(2, 80, 4)}
    no_val = [(*row[:2], "test" if i % 4 == 0 else "train") for i, row in enumerate(rows)]
    assert sizes(set_up(listed(tmp_path, "path,label,split", no_val))) == {"train": 51, "val": 9, "test": 20}
    no_test = [(*row[:2], "val" if i % 4 == 0 else "train") for i, row in enumerate(rows)]
    made = set_up(listed(tmp_path, "path,label,split", no_test))
    assert sizes(made) == {"train": 60, "val": 20, "test": 20} and names(made, "val") == names(made, "test")


def test_a_list_that_several_splits_name(tmp_path, caplog, monkeypatch):
    """Each takes its rows alone: a test on the whole list would be on training videos."""
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    splits = ["train", "validate", "Test", "train"]
    rows = [(f"v/{i:03}.mp4", "ab"[i // 4 % 2], splits[i % 4]) for i in range(24)]
    path = listed(tmp_path, "path,label,split", rows)
    made = set_up(tmp_path, train=path.name, val=path.name, test=path.name)
    assert sizes(made) == {"train": 12, "val": 6, "test": 6}
    assert names(made, "test") == {f"{i:03}.mp4" for i in range(2, 24, 4)}
    assert f"{path}: 6 of its 24 videos are taken, those of test" in caplog.text
    classes(tmp_path / "other", {"a": 2, "b": 2})
    assert sizes(set_up(tmp_path, train=path.name, test="other")) == {"train": 12, "val": 6, "test": 4}
    assert f"{path}: 6 test videos are left out: data has other lists for them, or none" in caplog.text
    with pytest.raises(InputError, match=r"own.csv: its column split has no row with test"):
        rows = [(*row[:2], "train" if row[2] == "Test" else row[2]) for row in rows]
        set_up(tmp_path, train=listed(tmp_path, "path,label,split", rows).name, val=None, test=path.name)


def test_another_list_needs_no_division(tmp_path):
    """Copies are not looked for among the training videos, which need not be there, to test on a list."""
    rows = [(f"v/{i:03}.mp4", "ab"[i % 2]) for i in range(8)]
    path = listed(tmp_path, "path,label", rows)
    classes(tmp_path / "other", {"a": 2, "b": 2})
    made = data(tmp_path, train=path.name, test="other", find_copies=True)
    made.setup("test")
    assert sizes(made) == {"test": 4} and made.splits.own is None


def test_slips_in_columns(tmp_path):
    rows = [(f"v/{i}.mp4", "ab"[i % 2], f"p{i // 4}", "train" if i < 6 else "test") for i in range(12)]
    with pytest.raises(
        InputError, match=r"1 are in several splits, e.g. .p1.: v.4.mp4 is in split train, v.6.mp4 in test; correct"
    ):
        set_up(listed(tmp_path, "path,label,group,split", rows))
    with pytest.raises(InputError, match=r"line 2: .*split 'dev2' is none of: train"):
        set_up(listed(tmp_path, "path,label,split", [(*row[:2], "dev2") for row in rows]))
    with pytest.raises(InputError, match="no row with train"):
        set_up(listed(tmp_path, "path,label,split", [(*row[:2], "test") for row in rows]))
    with pytest.raises(InputError, match=r"column split, and data.folds"):
        set_up(listed(tmp_path, "path,label,split", [(*row[:2], row[3]) for row in rows]), folds=2)
    with pytest.raises(InputError, match="fold '7' is no number from 0 to 2"):
        set_up(listed(tmp_path, "path,label,fold", [(*row[:2], "7") for row in rows]), folds=3)
    with pytest.raises(InputError, match=r"there is no table .*none.csv \(data.split\)"):
        data(tmp_path / "own.csv", split=str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="has no column split"):
        data(tmp_path / "own.csv", split=str(listed(tmp_path, "path,label", [row[:2] for row in rows])))


def test_folds(tmp_path):
    classes(tmp_path, {"a": 20, "b": 20})
    tested = [set_up(tmp_path, folds=5, fold=fold).lists["test"].paths for fold in range(5)]
    made = set_up(tmp_path, folds=5, fold=3)
    assert sizes(made) == {"train": 26, "val": 6, "test": 8}
    assert sorted(path for paths in tested for path in paths) == sorted(str(path) for path in tmp_path.rglob("*.mp4"))
    rows = [(f"v/{i}.mp4", "ab"[i % 2], str(i % 3)) for i in range(12)]
    made = set_up(listed(tmp_path, "path,label,fold", rows), folds=3, fold=1, val=None)
    assert names(made, "test") == {"1.mp4", "4.mp4", "7.mp4", "10.mp4"}


def test_a_table_of_an_earlier_run(tmp_path):
    """The same videos in the same splits, whatever came since."""
    root = classes(tmp_path / "set", {"a": 20, "b": 20})
    made = set_up(root)
    table = tmp_path / "split.csv"
    table.write_text(
        "\n".join(map(",".join, [("path", "label", "group", "split", "copy_of"), *made.splits.own.table()]))
    )
    classes(root, {"a": 40})
    again = set_up(root, split=str(table))
    assert {split: videos.paths for split, videos in again.lists.items()} == {
        split: videos.paths for split, videos in made.lists.items()
    }
    assert again.splits.own.table() == made.splits.own.table()
    assert sizes(set_up(root)) != sizes(made)


def test_a_table_keeps_what_was_found(tmp_path):
    """Groups and copies of a run, also where a copy is in another split, as the list's own column had it."""
    root = classes(tmp_path / "set", {"1": 4, "0": 4})
    rows = [
        (path, path[0], "pair" if path.endswith("3.mp4") else "", split, "1/000.mp4" if path == "1/001.mp4" else "")
        for path in sorted(str(path.relative_to(root)) for path in root.rglob("*.mp4"))
        for split in ["val" if path == "1/001.mp4" else "test" if path[0] == "0" else "train"]
    ]
    table = tmp_path / "split.csv"
    table.write_text("\n".join(map(",".join, [("path", "label", "group", "split", "copy_of"), *rows])))
    own = set_up(root, split=str(table)).splits.own
    assert own.table() == [(*row[:2], row[2] or row[0], *row[3:]) for row in rows]
    assert set_up(root, split=str(table)).class_names == set_up(root).class_names == ["0", "1"]  # folders' names


@pytest.mark.slow
def test_many_classes(tmp_path):
    rows = [(f"v/{i}.mp4", f"class {i % 3000:04}") for i in range(9000)]
    made = data(listed(tmp_path, "path,label", rows))
    made.splits.divide()
    assert made.num_classes == 3000
    assert [len(made.splits.own.places(split)) for split in ("train", "val", "test")] == [3000, 3000, 3000]
