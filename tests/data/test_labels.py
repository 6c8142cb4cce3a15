"""Which class a label means."""

import logging

import pytest

from video_gn.data.labels import names_of, note_missing, numbers_of
from video_gn.data.lists import read_rows
from video_gn.data.rows import Rows
from video_gn.data.splits import Splits
from video_gn.errors import InputError


def listed(*labels):
    return Rows([(f"{i}.mp4", label) for i, label in enumerate(labels)], lines=range(1, len(labels) + 1))


def folders(*labels):
    return Rows([(f"train/{label}/a.mp4", label) for label in labels], "train")


@pytest.fixture(autouse=True)
def line(monkeypatch):
    """Rows of no file have no text."""
    monkeypatch.setattr(Rows, "where", lambda self, row: f"row {row}")


def test_folders_are_named_and_never_numbered():
    assert names_of(folders("2019", "2020")) == ["2019", "2020"]
    assert names_of(folders("0", "1", "nan", "-1", "1.5")) == ["-1", "0", "1", "1.5", "nan"]
    assert numbers_of(folders("2", "0", "1"), ["0", "1", "2"]) == [2, 0, 1]
    for given in ("2", "00"):
        with pytest.raises(InputError, match=rf"row 0: label '{given}' is outside the 3 classes \(a, b, other"):
            numbers_of(folders(given), ["a", "b", "other"])


def test_numbers_in_a_list():
    assert names_of(listed("0", "1", "2")) == ["0", "1", "2"]
    assert names_of(listed("0", "1", "walk")) == ["0", "1", "walk"]
    few = listed("1", "3", "4", "3")  # a part of a set
    assert names_of(few) == ["0", "1", "2", "3", "4"]
    note_missing(few, [1, 3, 4, 3], names_of(few))
    assert few.notes == ["the list: 2 of 5 classes have no video in it: 0, 2"]
    for years in (("2019", "2020"), ("7",), ("0", "9")):
        with pytest.raises(InputError, match=r"without gaps .* or set data.class_names to the names"):
            names_of(listed(*years))


def test_a_number_means_a_named_class_only_where_that_was_said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    names = ["a", "b", "other"]
    caplog.set_level("INFO")
    assert numbers_of(listed("2", "0"), names) == [2, 0]
    assert "its labels are numbers: 0 is a, as data.class_names has it" in caplog.text
    with pytest.raises(InputError, match=r"label '2' is outside the 3 classes .*only where data.class_names is given"):
        numbers_of(listed("2", "0"), names, by_number=False)
    with pytest.raises(InputError, match="row 1: label '2' is outside"):  # beside words it is a word
        numbers_of(listed("a", "2"), names)
    with pytest.raises(InputError, match="row 2: label '3' is outside"):
        numbers_of(listed("2", "0", "3"), names)


def test_names_that_are_numbers():
    assert numbers_of(listed("2020", "2019"), ["2019", "2020"]) == [1, 0]
    assert numbers_of(listed("2", "1"), ["1", "2", "3"]) == [1, 0]  # names come before places
    with pytest.raises(InputError, match="row 1: label '0' is outside"):
        numbers_of(listed("1", "0"), ["1", "2", "3"])
    assert numbers_of(listed("01", "٠"), ["0", "1"], by_number=False) == [1, 0]
    assert numbers_of(listed("nan", "1e5"), ["1e5", "nan"]) == [1, 0]  # where classes are named so


def test_a_split_takes_numbers_only_with_names_that_are_given(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.csv").write_text("path,label\na.mp4,walk\nb.mp4,other\n")
    (tmp_path / "val.csv").write_text("path,label\na.mp4,0\n")
    splits = Splits(tmp_path)
    splits.name_classes(None)
    with pytest.raises(InputError, match="label '0' is outside the 2 classes"):
        splits.read("val.csv", "val")
    splits.name_classes(["walk", "other"])
    assert splits.read("val.csv", "val").labels.tolist() == [0]
    assert "val.csv: 1 of 2 classes have no video in it: other" in caplog.text
    (tmp_path / "train.csv").write_text("path,label\na.mp4,0\nb.mp4,1\n")
    splits = Splits(tmp_path)
    splits.name_classes(None)
    assert splits.read("val.csv", "val").labels.tolist() == [0]


def test_folders_named_by_numbers_are_in_their_order(tmp_path):
    """As before names were names; and what was trained with 0 to 11 knows 000 to 011."""
    for number in range(12):
        (tmp_path / "train" / str(number)).mkdir(parents=True)
        (tmp_path / "train" / str(number) / "a.mp4").touch()
        (tmp_path / "padded" / f"{number:03}").mkdir(parents=True)
        (tmp_path / "padded" / f"{number:03}" / "a.mp4").touch()
    names = names_of(read_rows(tmp_path / "train"))
    assert names == [str(number) for number in range(12)]
    assert names_of(read_rows(tmp_path / "padded")) == [f"{number:03}" for number in range(12)]
    assert numbers_of(read_rows(tmp_path / "padded"), names) == list(range(12))
