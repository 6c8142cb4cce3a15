"""Several labels of a video: as lists and folders have them, divided by class, drawn, and in batches."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from samples import texture, write

from video_gn.batch import as_batch
from video_gn.data.dataset import VideoDataset, collate
from video_gn.data.decoding.open import IMAGE
from video_gn.data.division import Division, by_folder
from video_gn.data.label_sets import by_class, classes_in, in_words, pairs
from video_gn.data.labels import names_of, numbers_of
from video_gn.data.lists import read_rows
from video_gn.data.order import Balanced
from video_gn.data.own import AUTO
from video_gn.data.settings import Augment
from video_gn.data.splits import Splits
from video_gn.data.tools.check_videos import main as check_videos
from video_gn.data.tools.prepare_videos import main as prepare_videos
from video_gn.data.video_list import VideoList
from video_gn.data.views import CentreImage
from video_gn.errors import InputError

LIST = "path,label\n1.mp4,run|dog\n2.mp4,\n3.mp4, cat | run |\n4.mp4,dog|dog\n"
SETS = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]])


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "train.csv").write_text(LIST)
    for i in range(1, 5):
        (tmp_path / f"{i}.mp4").write_text(f"video {i}")
    return tmp_path


def test_a_label_names_several_classes_or_none(listed):
    rows = read_rows(listed / "train.csv", several=True)
    assert names_of(rows) == ["cat", "dog", "run"]
    assert numbers_of(rows, ["cat", "dog", "run"]).tolist() == SETS.tolist()
    (listed / "numbers.csv").write_text("path,label\n1.mp4,0|2\n2.mp4,1\n")
    numbers = read_rows(listed / "numbers.csv", several=True)
    assert names_of(numbers) == ["0", "1", "2"]
    assert numbers_of(numbers, ["cat", "dog", "run"]).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert classes_in(" a|b ||a") == ["a", "b"] and classes_in("") == []
    assert in_words(torch.tensor([1.0, 0, 1]), ["cat", "dog", "run"]) == "cat|run"
    assert in_words(SETS[1], ["cat", "dog", "run"]) == "" and in_words(2, ["a", "b", "c|d"]) == "c|d"


def test_what_cannot_be_is_one_line(listed):
    with pytest.raises(InputError, match=r"line 3: the label is missing"):  # off by default
        read_rows(listed / "train.csv")
    rows = read_rows(listed / "train.csv", several=True)
    with pytest.raises(InputError, match=r"line 4: .* label 'cat' is outside the 2 classes"):
        numbers_of(rows, ["dog", "run"])
    (listed / "twice.csv").write_text("path,label\n1.mp4,run\n1.mp4,dog\n")
    with pytest.raises(InputError, match=r"line 3: .* name all its classes in one row, with \| between"):
        splits = Splits(listed, train="twice.csv", several=True)
        splits.name_classes(None)
        splits.read("twice.csv", "train")
    (listed / "none.csv").write_text("path,label\n1.mp4,\n")
    with pytest.raises(InputError, match="names no class in any of its 1 rows"):
        Splits(listed, train="none.csv", several=True).name_classes(None)
    with pytest.raises(InputError, match=r"data.class_names has 'a\|b', which a label of several classes cannot name"):
        Splits(listed, several=True).name_classes(["a|b", "c"])


def test_labels_that_look_like_several_are_said(listed):
    (listed / "train.csv").write_text(LIST.replace("2.mp4,\n", ""))
    splits = Splits(listed)
    splits.name_classes(None)
    splits.read("train.csv", "train")
    assert any("3 of 3 classes have a | in their names, e.g. cat | run |; if" in note for note in splits._said)


def test_copies_keep_all_classes(tmp_path, capsys):
    """Of a folder whose files are in several class folders: a list of each file once."""
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
    write(tmp_path / "train/a/1.mp4", texture(4), "libx264", {}, range(4))
    os.link(tmp_path / "train/a/1.mp4", tmp_path / "train/b/1.mp4")
    words = [str(tmp_path / "train"), str(tmp_path / "out"), "--workers", "1", "--multi_label"]
    assert prepare_videos(words) == 0
    rows = read_rows(tmp_path / "out/train.csv", several=True)
    assert list(rows) == [("train/a/1.mp4", "a|b")]
    assert check_videos([str(tmp_path / "out/train.csv"), "--workers", "1", "--multi_label"]) == 0


def test_a_file_in_several_class_folders_is_of_all_of_them(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train/a/1.mp4").write_text("x")
    (tmp_path / "train/b/2.mp4").write_text("x")  # the same bytes, and another file
    os.link(tmp_path / "train/a/1.mp4", tmp_path / "train/b/other name.mp4")
    os.symlink(tmp_path / "train/a/1.mp4", tmp_path / "train/c/1.mp4")
    rows = read_rows(tmp_path / "train", several=True)
    assert list(rows) == [("train/a/1.mp4", "a|b|c"), ("train/b/2.mp4", "b")]
    assert numbers_of(rows, ["a", "b", "c"]).tolist() == [[1, 1, 1], [0, 1, 0]]
    (tmp_path / "train/d|e").mkdir()
    (tmp_path / "train/d|e/1.mp4").write_text("y")
    with pytest.raises(InputError, match=r"the class folder 'd\|e' has a \| in its name"):
        read_rows(tmp_path / "train", several=True)
    assert by_folder(["a/x.mp4", "s1/y.mp4"], [["a", "b"], ["b"]]) == ["a/x.mp4", "s1/y.mp4"]


def test_every_class_has_its_shares(rng):
    """As Sechidis et al. 2011: each class is divided nearly as well as if it were the only one."""
    names = list("abcdef")
    sets = rng.random((600, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.03]
    sets[:, 1] |= sets[:, 0] & (rng.random(600) < 0.5)  # which go together
    labels = [[name for name, has in zip(names, row, strict=True) if has] for row in sets]
    videos = [f"{i}.mp4" for i in range(600)]
    splits = Division().divide(labels, videos)
    counted = {part: Counter(name for of, at in zip(labels, splits, strict=True) if at == part for name in of or [""])
               for part in ("train", "val", "test")}  # fmt: skip
    for name in [*names, ""]:
        total = sum(counts[name] for counts in counted.values())
        for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(counted[part][name] - share * total) <= max(1.5, 0.01 * total), (name, part)
    order = rng.permutation(600)
    again = Division().divide([labels[i] for i in order], [videos[i] for i in order])
    assert again == [splits[i] for i in order]
    groups = [f"g{i // 3}" for i in range(600)]
    of_group = dict(zip(groups, Division().divide(labels, groups), strict=True))
    assert Division().divide(labels, groups) == [of_group[group] for group in groups]


def test_a_division_is_read_again_from_its_table(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.mp4").write_text(f"video {i}")
    rows = [f"{i}.mp4,{'|'.join(name for name, n in (('a', 2), ('b', 3)) if i % n == 0)}" for i in range(40)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label", *rows]))
    given = (tmp_path, {".mp4"}, "all.csv", ("train", "val", "test"))
    first = Splits(*given, Division(), None, True)
    first.name_classes(None)
    first.divide()
    lines = [",".join(row) for row in first.own.table()]
    (tmp_path / "split.csv").write_text("\n".join(["path,label,group,split,copy_of", *lines]))
    again = Splits(*given, Division(seed=5), str(tmp_path / "split.csv"), True)
    again.name_classes(first.class_names)
    again.divide()
    for split in ("train", "val", "test"):
        one, other = (splits.read(AUTO, split) for splits in (first, again))
        assert one.paths == other.paths and np.array_equal(one.labels, other.labels) and one.labels.shape[1] == 2


def test_balanced_draws_each_class_as_often(rng):
    sets = np.zeros((60, 3), np.uint8)
    sets[:40, 0], sets[35:50, 1], sets[[0, 41], 2] = 1, 1, 1  # and 10 rows of no class
    assert by_class(sets, 3).tolist() == [40, 15, 2] and len(pairs(sets)[0]) == 57
    balanced = Balanced(sets)
    assert [len(rows) for rows in balanced.classes] == [10, 40, 15, 2]
    rows = balanced.epoch(rng)
    assert len(rows) == 60 and sum(row >= 50 for row in rows) == 15  # a quarter of no class
    one_label = np.array([2, 0, 0, 1])
    single = [rows.tolist() for rows in Balanced(np.eye(3, dtype=np.uint8)[one_label]).classes]
    assert single == [rows.tolist() for rows in Balanced(one_label).classes]


def test_batches_have_a_label_for_each_class(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_text("no image")
    videos = VideoList([str(tmp_path / f"{i}.png") for i in range(4)], SETS)

    def batch(**given):
        dataset = VideoDataset(videos, CentreImage(8, 8), backend=IMAGE, **given)
        return collate([dataset[(0, row)] for row in range(4)])

    plain = batch()
    assert plain.labels.dtype == torch.float32 and plain.labels.tolist() == SETS[:3].tolist()
    (failure,) = plain.failures
    assert failure.path.endswith("3.png") and failure.label.tolist() == [0, 1, 0]
    from video_gn.data.augment import Mixed

    mixed = batch(replace=True, mix=Mixed(Augment(mixup=1.0)))
    assert mixed.labels.shape == mixed.seconds.shape == (4, 3) and mixed.seconds.dtype == torch.float32
    assert as_batch(plain, 3, True) is plain
    with pytest.raises(InputError, match=r"labels \[3, 3\], and model.loss.multi_label is false"):
        as_batch(plain, 3)
    clips = torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8)
    found = as_batch((clips, torch.tensor([[1, 0, 1], [0, 0, 0]])), 3, True)
    assert found.labels.dtype == torch.float32 and found.clips.shape == (2, 1, 3, 4, 8, 8)
    for labels in (torch.tensor([0, 1]), torch.full((2, 3), 2), None):
        with pytest.raises(InputError, match=r"have to be 0 or 1 for each of 3 classes"):
            as_batch((clips, labels), 3, True)
