import time

import pytest
from samples import video_data

from video_gn.data.decoding.open import BACKENDS
from video_gn.data.labels import names_of
from video_gn.data.lists import find_videos, read_list, read_rows
from video_gn.data.rows import Rows
from video_gn.data.video_list import BACKEND_NAMES, NO_LABEL, whole_number
from video_gn.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two classes in folders, and the same videos as a CSV file and as plain lines."""
    for split, name in (("train", "b c"), ("train", "a"), ("val", "a")):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "x 1.mp4").touch()
        (tmp_path / split / name / "notes.txt").touch()
    (tmp_path / "train.csv").write_text("id,label,path\n1,a,train/a/x 1.mp4\n2,b c,train/b c/x 1.mp4\n")
    (tmp_path / "train.txt").write_text("train/a/x 1.mp4 0\n\ntrain/b c/x 1.mp4 1\n")
    return tmp_path


@pytest.mark.parametrize("source", ["train", "train.csv", "train.txt"])
def test_three_forms_of_a_list_say_the_same(source, folder):
    videos = read_list(folder / source, folder, ["a", "b c"])
    assert videos.paths == [str(folder / "train/a/x 1.mp4"), str(folder / "train/b c/x 1.mp4")]
    assert videos.labels.tolist() == [0, 1]


def test_a_pattern_does_not_follow_links_that_lead_back(folder):
    for name in ("one", "two"):
        (folder / "train" / name).symlink_to(folder)
    assert find_videos([f"{folder}/**/*.mp4"]).paths == sorted(map(str, folder.rglob("*.mp4")))
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "y.mp4").touch()
    assert len(find_videos([f"{folder}/*/*/*.mp4"]).paths) == 3


def test_a_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("path,label,label\na.mp4,x,y\n")
    with pytest.raises(InputError, match=r"a\.csv has the column label more than once"):
        read_rows(tmp_path / "a.csv")


def test_a_text_that_is_none(tmp_path):
    with open(tmp_path / "big.csv", "wb") as file:
        file.truncate(60 << 30)
    with pytest.raises(InputError, match=r"big\.csv is larger than 1 GiB"):
        read_rows(tmp_path / "big.csv")


@pytest.mark.parametrize("size", ["abc", "-5", "1e3", "12.0", "9" * 30])
def test_a_size_that_is_none_is_refused(size, folder):
    (folder / "train.checked.csv").write_text(
        f"path,status,reason,backend,num_frames,bytes\ntrain/a/x 1.mp4,ok,,decord,4,{size}\n"
    )
    with pytest.raises(InputError, match=r"bytes is .*; it has to be a number from 0"):
        read_list(folder / "train.csv", folder, ["a", "b c"])


def test_class_names(folder):
    assert names_of(read_rows(folder / "train")) == ["a", "b c"]
    assert names_of(Rows([("x", "2"), ("y", "0")], lines=[1, 2])) == ["0", "1", "2"]
    assert names_of(Rows([("x", "walk"), ("y", "2")], lines=[1, 2])) == ["2", "walk"]
    data = video_data(root=str(folder), train="train.csv")
    assert (data.class_names, data.num_classes) == (["a", "b c"], 2)
    (folder / "classes.txt").write_text("b c\na\n")
    data = video_data(root=str(folder), class_names=str(folder / "classes.txt"))
    assert read_list(folder / "train", folder, data.class_names).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.csv", None, "there is no list or folder .*gone.csv"),
        ("empty.csv", "path,label\n", "names no videos"),
        ("headless.csv", "name,target\na.mp4,0\n", "line 1: 'name,target' is neither .* nor a header that names the"),
        ("short.txt", "a.mp4\n", "line 1: 'a.mp4' is not of the form"),
        ("outside.txt", "a.mp4 0\na.mp4 2\n", r"line 2: 'a.mp4 2': label '2' is outside the 2 classes"),
        ("negative.txt", "a.mp4 -1\n", "line 1: 'a.mp4 -1': label '-1' is neither"),
        ("name.csv", "path,label\na.mp4,c\n", "label 'c' is outside"),
        ("lost.txt", "a.mp4 0\nb.mp4 1\n", "none of 2 files looked for is there"),
        ("name too long.txt", f"{'a' * 300}.mp4 0\n", "none of 1 files looked for is there"),
    ],
)
def test_bad_lists(name, text, words, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_list(tmp_path / name, tmp_path, ["a", "b"])


CHECKED = "path,status,reason,backend,num_frames\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("digits.txt", "a.mp4 0\na.mp4 " + 5000 * "9", r"line 2: 'a.mp4 9{51}\.\.\.': its label .*\(up to 99999\)"),
        ("large.csv", "path,label\na.mp4,99999999\n", "line 2: 'a.mp4,99999999': its label is the number"),
        ("quote.csv", 'path,label\na.mp4,0\n"a.mp4,1\na.mp4,0\n', "line 3: .*is a quote left open"),
        ("quotes.csv", 'path,label\n"a.mp4,0\na.mp4,1\n"a.mp4,0\n', "line 2: .*is a quote left open"),
        ("lines.csv", 'path,label\n"a.mp4,0\na.mp4,1\n",0\n', "line 2: .*over several lines; is a quote left open"),
        ("long.csv", f"path,label\na.mp4,0\n{'a' * 140000},0\n", "line 3: .*field larger than field limit"),
        ("nul.csv", "path,label\na.mp4,0\na\0.mp4,0\n", "line 3: a NUL byte"),
        ("nul.txt", "a.mp4 0\n\0\n", "line 2: a NUL byte"),
        ("utf16.csv", "path,label\na.mp4,0\n".encode("utf-16-le"), "line 1: a NUL byte; save the file as UTF-8"),
        ("cut16.csv", "path,label\na.mp4,0\n".encode("utf-16")[:-1], "begins as UTF-16 and is damaged"),
        (
            "latin.csv",
            "path,label\na.mp4,0\ncafé.mp4,0\n".encode("latin-1"),
            r"line 3: path 'caf\\udce9.mp4' is not UTF-8",
        ),
        ("latin.txt", "a.mp4 0\n\na.mp4 café\n".encode("latin-1"), r"line 3: label 'caf\\udce9' is not UTF-8"),
        ("fewer.csv", "path,label\na.mp4\n", "line 2: 1 cells, and the header names 2 columns"),
        ("more.csv", "path,label\na,b.mp4,0\n", "line 2: 3 cells, .*needs quotes"),
        ("no label.csv", "path,label\na.mp4,\n", "line 2: the label is missing"),
        ("no path.csv", "path,label\n,0\n", "line 2: the path is missing"),
        ("nothing.csv", "", "names no videos"),
        ("other.csv", "name,label\na,walk\n", "line 1: 'name,label' is a header, .* path is missing"),
        (
            "frames.checked.csv",
            CHECKED + "a.mp4,ok,,decord,0\n",
            "line 2: num_frames is '0'; it has to be a number from 1",
        ),
        ("frames.checked.csv", CHECKED + "a.mp4,ok,,decord,-7\n", "line 2: num_frames is '-7'"),
        ("frames.checked.csv", CHECKED + "a.mp4,ok,,pyav,1e3\n", "line 2: num_frames is '1e3'"),
        ("frames.checked.csv", CHECKED + f"a.mp4,ok,,pyav,{'9' * 5000}\n", "line 2: num_frames is '9{57}...'"),
        ("frames.checked.csv", CHECKED + "a.mp4,hang,,,\n", "line 2: num_frames is ''"),
        (
            "backend.checked.csv",
            CHECKED + "a.mp4,ok,,decord,9\nb,ok,,decord os,9\n",
            "line 3: there is no backend 'os'",
        ),
        (
            "status.checked.csv",
            CHECKED + "a.mp4,fine,,decord,9\n",
            "line 2: there is no status 'fine'; there are: ok, d",
        ),
        ("column.checked.csv", "path,status\na.mp4,ok\n", "reason and backend and num_frames are missing"),
        ("quote.checked.csv", CHECKED + 'a.mp4,ok,"x,decord,9\n', "quote.checked.csv, line 2"),
    ],
)
def test_every_slip_in_a_list_is_one_line_that_names_it(name, content, words, tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = tmp_path / name.replace(".checked", "")
    if not source.exists():
        source.write_text("path,label\na.mp4,0\n")
    began = time.monotonic()
    with pytest.raises(InputError, match=words) as caught:
        names_of(read_rows(source))
        read_list(source, tmp_path, ["0", "1"])
    assert name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path\na.mp4\n", "reason is missing"),
        (b"path,reason\na.mp4\n", "line 2: 1 cells"),
        (b"path,reason\na.mp4,\0\n", "line 2: a NUL byte"),
        (b'path,reason\na.mp4,"x\n', "line 2: .*quote left open"),
        (b"", "is empty"),
    ],
)
def test_every_slip_in_a_quarantine_list_too(content, words, folder):
    (folder / "quarantine.csv").write_bytes(content)
    data = video_data(root=str(folder), train="train.csv", val="train.csv")
    with pytest.raises(InputError, match=f"quarantine.csv.*{words}"):
        data.setup("validate")


def test_class_names_that_are_not_text(folder):
    for content, words in (
        (b"a\nb\xe9\n", "line 2: byte 0xe9, which is not UTF-8"),
        (b"a\n\0\n", "line 2: a NUL byte"),
    ):
        (folder / "classes.txt").write_bytes(content)
        with pytest.raises(InputError, match=f"classes.txt, {words}"):
            video_data(root=str(folder), class_names=str(folder / "classes.txt"))


def test_numbers_up_to_the_bound_are_classes():
    every = Rows([("a", str(i)) for i in range(0, 100_000, 2)] + [("a", "99999")], lines=range(50_001))
    assert len(names_of(every)) == 100_000
    assert names_of(Rows([("a", "00002"), ("b", "٠")], lines=[1, 2])) == ["0", "1", "2"]
    assert whole_number("", 9) is whole_number("-1", 9) is whole_number("²", 9) is whole_number("10", 9) is None
    assert whole_number("0", 9) == whole_number("000", 9) == 0 and whole_number("9", 9) == 9


def test_a_byte_order_mark_and_what_a_spreadsheet_leaves_behind(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.csv").write_bytes("\ufeffpath,label\r\na.mp4,é,\r\n,,\r\n\r\n".encode())
    assert read_rows(tmp_path / "a.csv") == [("a.mp4", "é")]


def test_the_backends_are_those_that_decode():
    assert tuple(BACKENDS) == BACKEND_NAMES


def test_videos_to_predict(folder):
    videos = find_videos([str(folder / "train"), "given.mp4"])
    assert videos.paths == [str(folder / "train/a/x 1.mp4"), str(folder / "train/b c/x 1.mp4"), "given.mp4"]
    assert set(videos.labels) == {NO_LABEL}
    (folder / "none").mkdir()
    with pytest.raises(InputError, match="holds no videos"):
        find_videos([str(folder / "none")])
    with pytest.raises(InputError, match="nothing to predict"):
        find_videos([])
