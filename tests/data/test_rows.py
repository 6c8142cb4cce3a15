"""Rows of list files, however they are written."""

import os

import pytest

from video_gn.data.labels import names_of
from video_gn.data.lists import read_rows
from video_gn.errors import InputError

EXPECTED = [("a b.mp4", "riding a bike"), ("c,d.mp4", "walk")]
NUMBERS = [("a b.mp4", "1"), ("c.mp4", "0")]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('path,label\na b.mp4,riding a bike\n"c,d.mp4",walk\n', EXPECTED),
        ("path;label\r\na b.mp4;riding a bike\r\nc,d.mp4;walk\r\n;\r\n", EXPECTED),
        ("path\tlabel\na b.mp4\triding a bike\n\nc,d.mp4\twalk\n \t \n", EXPECTED),
        ("sep=;\nLabel;Path\nriding a bike;a b.mp4\nwalk;c,d.mp4\n", EXPECTED),
        ("\n id, Video_Path ,n, CLASS\n7,a b.mp4,3,riding a bike\n,,,\n8,\"c,d.mp4\",,walk\n", EXPECTED),
        ("path,label\ra b.mp4,riding a bike\r\"c,d.mp4\",walk\r", EXPECTED),
        ("a b.mp4 riding a bike\nc,d.mp4 walk\n", EXPECTED),
        ("a b.mp4\triding a bike\nc,d.mp4\twalk\n", EXPECTED),
        ("a b.mp4;riding a bike\nc,d.mp4;walk\n", EXPECTED),
        ('a b.mp4,riding a bike\n"c,d.mp4",walk\n,\n', EXPECTED),
        ("a b.mp4, riding a bike\nc,d.mp4,walk\n", EXPECTED),
        ("a b.mp4 1\nc.mp4 0\n", NUMBERS),
        ("a b.mp4,1\n\nc.mp4,0\n,,\n", [("a b.mp4", "1"), ("c.mp4", "0")]),
        ("a b.mp4\t1\nc.mp4\t0\n", NUMBERS),
        ("path label\na b.mp4 1\nc.mp4 0\n", NUMBERS),
        ('"a b.mp4" 1\n"c.mp4" 0\n', NUMBERS),
        ("File,action\na b.mp4,1\nc.mp4,0\n", NUMBERS),
        ("video_path,path,class,label\nx,a b.mp4,x,1\nx,c.mp4,x,0\n", NUMBERS),
        ("a b.mp4,action\nc.mp4,label\n", [("a b.mp4", "action"), ("c.mp4", "label")]),
        ("a b.mp4, 1\nc.mp4 ,0\n", NUMBERS),
        ("c.mp4 1;2\nc,d.mp4 0\n", [("c.mp4", "1;2"), ("c,d.mp4", "0")]),
        ("c.mp4, a b.mp4 0\nc.mp4 1\n", [("c.mp4, a b.mp4", "0"), ("c.mp4", "1")]),
        ("c.mp4, a b.mp4 0\n", [("c.mp4, a b.mp4", "0")]),
        ("c.mp4 lane 2\na b.mp4 lane 1\n", [("c.mp4", "lane 2"), ("a b.mp4", "lane 1")]),
        ("a b (1) 1\nc.mp4 copy 0\n", [("a b (1)", "1"), ("c.mp4 copy", "0")]),
        ("c.mp4 copy walk\nc.mp4 run\n", [("c.mp4 copy", "walk"), ("c.mp4", "run")]),
        ("x/a,walk\nx/b c,run fast\n", [("x/a", "walk"), ("x/b c", "run fast")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
def test_every_form_is_read(name, text, rows, tmp_path):
    if "x/a,walk" in text and name == "list.txt":
        text = text.replace("b c", "b_c").replace("run fast", "run")
        rows = [("x/a", "walk"), ("x/b_c", "run")]
    for file in ("a b.mp4", "c.mp4", "c,d.mp4", "c.mp4 copy"):
        (tmp_path / file).touch()
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read_rows(tmp_path / name) == rows


def test_names_of_folders_and_classes_without_a_header(tmp_path):
    """Nothing but the file's suffix says what separates them."""
    for name, rows in (("a.csv", [("x y", "walk"), ("x z", "run")]), ("a.txt", [("x", "y,walk"), ("x", "z,run")])):
        (tmp_path / name).write_text("x y,walk\nx z,run\n")
        assert read_rows(tmp_path / name) == rows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path,label\na.mp4,walk\nb.mp4,\n", "line 3: the label is missing in 'b.mp4,'"),
        ("path;label\na.mp4;walk\n;walk\n", "line 3: the path is missing in ';walk'"),
        ("path,label\na.mp4,walk\nb.mp4,  \n", "line 3: the label is missing in 'b.mp4,'"),
        ('label,path\nwalk,a.mp4\nrun," "\n', "line 3: the path is missing in 'run,\" \"'"),
        ("a.mp4,0\nb.mp4\nc.mp4,1\n", "line 2: the label is missing in 'b.mp4'"),
        ("a.mp4 0\nc d.mp4\nb.mp4 0\n", "line 2: the label is missing in 'c d.mp4', which ends with the name"),
        ("walk,a.mp4\nrun,b.mp4\n", "line 1: the label is missing in 'walk,a.mp4', which ends with the name of a file"),
        ("a.mp4 0\nb.mp4\n", "line 2: 'b.mp4' is not of the form: path label"),
        ("a.mp4\nb.mp4\n", "line 1: 'a.mp4' is not of the form"),
        ("path,label,note\na.mp4,walk,x\nb.mp4,run\n", "line 3: 2 cells, and the header names 3 .*'b.mp4,run'"),
        ("path\na.mp4\n", "line 1: 'path' is a header, .* label is missing"),
        ("label,youtube_id\nwalk,abc\n", "line 1: 'label,youtube_id' is a header, .* path is missing"),
        ("clip target\na.mp4 walk\nb.mp4 run\n", "line 1: 'clip target' is neither"),
    ],
)
def test_what_is_missing_is_named_by_its_line(text, line, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=f"a.txt, {line}"):
        read_rows(tmp_path / "a.txt")


@pytest.mark.parametrize("label", ["-1", "1.0", "nan", "NaN", "-3.5", "1e3", "+2", "<NA>", "#N/A", "0 120"])
@pytest.mark.parametrize("end", ["\n", "\r"])
@pytest.mark.parametrize("form", ["path,label\na.mp4,0\nb.mp4,{}\n", "a.mp4 0\n\nb.mp4 {}\n", "a.mp4,0\n\nb.mp4,{}\n"])
def test_numbers_that_are_of_no_class(form, end, label, tmp_path):
    (tmp_path / "a.csv").write_text(form.format(label).replace("\n", end), newline="")
    with pytest.raises(InputError, match=r"a.csv, line 3: 'b.mp4.*: label .* neither a class's name nor a whole"):
        names_of(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_paths_as_windows_writes_them(name, tmp_path):
    (tmp_path / "x").mkdir()
    for file in ("x/a.mp4", "x/c d.mp4", "x\\b.mp4"):
        (tmp_path / file).touch()
    (tmp_path / name).write_text("path,label\nx\\a.mp4,0\nx\\c d.mp4,0\nx\\b.mp4,0\nx\\gone.mp4,0\n")
    expected = ["x/a.mp4", "x/c d.mp4", "x\\b.mp4", "x\\gone.mp4"]  # a file that is named so keeps its name
    assert [path for path, _ in read_rows(tmp_path / name)] == expected
    assert read_rows(tmp_path / name, root=tmp_path / "elsewhere")[0] == ("x\\a.mp4", "0")


def test_paths_that_are_written_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "frames").mkdir()
    for file in (" a.mp4", "b.mp4", "~c.mp4"):
        (tmp_path / file).touch()
    (tmp_path / "a.csv").write_text("path,label\n a.mp4,0\n b.mp4 ,0\n~/b.mp4,0\n~c.mp4,0\n")
    assert [path for path, _ in read_rows(tmp_path / "a.csv")] == [" a.mp4", "b.mp4", f"{tmp_path}/b.mp4", "~c.mp4"]
    (tmp_path / "a.txt").write_text("frames 120 3\n")  # mmaction's lists of frames say how many there are
    assert read_rows(tmp_path / "a.txt") == [("frames", "3")]


def test_names_in_other_encodings(tmp_path):
    """A file's name is bytes: where there is such a file the list means it; a label is text."""
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4"), "wb"):
        pass
    (tmp_path / "a.csv").write_bytes("path;label\ncafé.mp4;x\n".encode("latin-1"))
    ((path, _),) = read_rows(tmp_path / "a.csv")
    assert os.fsencode(path) == b"caf\xe9.mp4"
    (tmp_path / "b.csv").write_bytes("path;label\na.mp4;x\nb.mp4;café\n".encode("cp1252"))
    with pytest.raises(
        InputError, match=r"line 3: label 'caf\\udce9' is not UTF-8 \(it is 'café' in Windows-1252\); save"
    ):
        read_rows(tmp_path / "b.csv")


def test_links_and_files_are_not_looked_for_one_by_one(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"x/{i} b.mp4,c d\n" for i in range(50)))
    monkeypatch.setattr(os.path, "exists", lambda path: pytest.fail(f"looked for {path}"))
    assert len(read_rows(tmp_path / "a.csv")) == 50


@pytest.mark.parametrize("text", ["path,label\rv/a.mp4,walk\nv/b.mp4,run\n", "path,label\r\nv/a.mp4,walk\rv/b.mp4,run"])
def test_line_ends_of_several_kinds(text, tmp_path):
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert list(read_rows(tmp_path / "list.csv", root=tmp_path)) == [("v/a.mp4", "walk"), ("v/b.mp4", "run")]


@pytest.mark.parametrize("separator", [" ", "\t", ";"])
def test_excels_own_first_line(separator, tmp_path):
    rows = ["path,label", "a.mp4,walk"]
    (tmp_path / "list.csv").write_text("\n".join([f"sep={separator}", *(row.replace(",", separator) for row in rows)]))
    assert list(read_rows(tmp_path / "list.csv", root=tmp_path)) == [("a.mp4", "walk")]


def test_a_class_with_the_name_of_a_column(tmp_path):
    """Beside a folder of frames that is there it is a label."""
    (tmp_path / "clip1").mkdir()
    (tmp_path / "list.csv").write_text("clip1,file\nclip2,walk\n")
    assert list(read_rows(tmp_path / "list.csv", root=tmp_path)) == [("clip1", "file"), ("clip2", "walk")]
