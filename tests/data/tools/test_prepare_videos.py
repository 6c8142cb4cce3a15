import csv

import numpy as np
import pytest
from conftest import few
from samples import H264, sequential, write

from video_gn.data.decoding.open import open_video
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.lists import read_list
from video_gn.data.reencode import CODECS, Encoding, write_copy
from video_gn.data.tools import check_videos, prepare_videos
from video_gn.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Videos of several kinds in class folders; one is none, and one has another's name but for the ending."""
    folder = tmp_path_factory.mktemp("originals")
    waves = np.indices((360, 480)).sum(0)[..., None] + np.array([0, 60, 120])
    frames = [(127 + 100 * np.sin((waves + 6 * i) / 25)).astype(np.uint8) for i in range(60)]
    (folder / "train/a").mkdir(parents=True)
    (folder / "train/b").mkdir()
    write(folder / "train/a/large.mp4", frames, "libx264", {"x264-params": H264})
    write(folder / "train/a/large.avi", frames, "mpeg4", {"bf": "2", "g": "12", "q:v": "3"})
    write(folder / "train/b/turned.mp4", frames, "libx264", {}, rotation=90)
    write(folder / "train/b/small.mkv", [frame[:96, :128] for frame in frames], "libx264", {})
    (folder / "train/b/none.mp4").write_text("no video")
    (folder / "classes.txt").write_text("a\nb\n")
    return folder


def prepare(root, out, *more):
    return prepare_videos.main([str(root / "train"), str(out), "--root", str(root), "--workers", "2", *more])


@pytest.mark.parametrize("codec", few(CODECS, [*CODECS][:1]))
def test_copies(codec, root, tmp_path, capsys):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*.*")}
    assert prepare(root, tmp_path / "out", "--codec", codec) == 0
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*.*")}
    assert "4 videos prepared, 1 not" in capsys.readouterr().out
    sizes = {
        "a/large.mp4": (256, 342),
        "a/large.avi.mp4": (256, 342),
        "b/turned.mp4": (342, 256),
        "b/small.mp4": (96, 128),
    }
    for name, size in sizes.items():
        path = str(tmp_path / "out/train" / name)
        frames = sequential(path)
        assert frames.shape == (60, *size, 3)
        with LibavVideo.opened(path) as video:
            gops = np.diff([i for i, packet in enumerate(video.packets) if packet.is_keyframe])
            assert (gops <= CODECS[codec][3]).all() and len(gops) >= 1 and not video.has_open_gop
        for backend in ("decord", "pyav"):
            with open_video(path, backend) as video:
                assert np.array_equal(video.read(range(1, 60, 2)), frames[1::2])
    source = sequential(root / "train/b/small.mkv").astype(float)
    copy = sequential(tmp_path / "out/train/b/small.mp4")
    assert 10 * np.log10(255**2 / np.square(source - copy).mean()) > 33


@pytest.mark.slow
def test_the_copies_are_a_checked_list(root, tmp_path):
    prepare(root, tmp_path / "out")
    out = tmp_path / "out"
    videos = read_list(out / "train.csv", out, ["a", "b"])
    assert len(videos) == 5 and videos.labels.tolist() == [0, 0, 1, 1, 1]
    assert [videos.known(row) for row in range(5)].count((["decord", "pyav"], 60, 1.0)) == 4
    with open(out / "train.failed.csv", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["train/b/none.mp4"]
    assert (out / "classes.txt").read_text() == "a\nb\n"
    with open(out / "train.checked.csv", newline="") as file:
        ready = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    assert len(ready) == 4 and all(float(row["psnr"]) > 30 and int(row["bytes_before"]) > 0 for row in ready)
    assert [videos.path(row) for row in videos.set_aside] == [str(out / "train/b/none.mp4")]
    assert next(iter(videos.set_aside.values())).startswith("not prepared: ")
    assert check_videos.main([str(out / "train.csv")]) == 0  # who wants to look at them again can
    assert read_list(out / "train.csv", out, ["a", "b"]).known(0) == (["decord", "pyav"], 60, 1.0)
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert prepare(root, out) == 0  # nor does that keep anybody from going on
    assert made == {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}


def test_each_copy_lies_below_the_folder_and_is_one_files_alone():
    paths = [
        "a.mp4",
        "a.avi.mp4",
        "a.avi",
        "x.mp4",
        "../x.mp4",
        "../../x.mp4",
        "/x.mp4",
        "//tmp/x.mp4",
        "///y//z.avi",
    ]
    names = prepare_videos._target_names(paths)
    assert len(set(names.values())) == len(paths)
    assert not any(name.startswith("/") or ".." in name.split("/") for name in names.values())
    assert names["a.mp4"] == "a.mp4" and names["///y//z.avi"] == "y/z.mp4"
    for path in ("..", ".", "/", "//"):
        with pytest.raises(InputError, match="which is no file"):
            prepare_videos._target_names([path])


def test_goes_on_where_it_was_stopped(root, tmp_path, monkeypatch, capsys):
    real = prepare_videos.run_jobs

    def some(*args):
        for i, result in enumerate(real(*args)):
            if i == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(prepare_videos, "run_jobs", some)
    assert prepare(root, tmp_path / "out") == 130
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mp4")}
    monkeypatch.setattr(prepare_videos, "run_jobs", real)
    assert prepare(root, tmp_path / "out") == 0
    with open(tmp_path / "out/train.checked.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)].count("ok") == 4
    kept = [path for path, time in made.items() if path.stat().st_mtime_ns == time]
    assert len(kept) >= 1 and not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.slow
def test_a_copy_that_is_not_like_its_source_is_thrown_away(root, tmp_path, monkeypatch):
    from video_gn.data import reencode

    def broken(source, target, settings):
        count, samples = write_copy(source, target, settings)
        return count, {i: 255 - pixels for i, pixels in samples.items()}

    monkeypatch.setattr(reencode, "write_copy", broken)
    assert prepare(root, tmp_path / "out") == 0
    assert not list((tmp_path / "out").rglob("*.mp4"))
    monkeypatch.setattr(reencode, "write_copy", lambda *args: (write_copy(*args)[0] + 1, {}))
    assert prepare(root, tmp_path / "out") == 0
    with open(tmp_path / "out/train.failed.csv", newline="") as file:
        assert "has 60 frames, its source 61" in next(csv.DictReader(file))["reason"]


def test_slips(root, tmp_path, capsys):
    assert prepare(root, root) == 2
    assert prepare(root, tmp_path / "out", "--gop", "-1") == 2
    assert prepare(root, tmp_path / "out") == 0
    assert prepare(root, tmp_path / "out", "--short_side", "320") == 2
    err = capsys.readouterr().err
    assert "holds the originals" in err and "have to be above 0" in err and "prepared with short_side 256" in err
    assert Encoding.of(codec="mpeg4").gop == 16


@pytest.mark.parametrize(
    ("name", "rows", "out", "words"),
    [
        ("list.csv", ["a.avi", "copies/a.mp4"], "copies", "would be written over"),
        ("list.csv", ["../a.mp4"], "..", "would be written over"),
        ("copies/list.csv", ["../a.avi"], "copies", "would be written over"),
        ("prepared.csv", ["a.avi"], "copies", "rename the list"),
        ("list.csv", ["a.avi"], "linked", "would be written over"),
        ("list.csv", ["a.avi", "copies/a.mp4.part"], "copies", "would be written over"),
        ("list.csv", ["a.avi", "copies/list.csv.journal"], "copies", "would be written over"),
    ],
)
def test_nothing_of_the_users_is_written_over(name, rows, out, words, root, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "copies").mkdir(parents=True)
    (data / "linked").mkdir()
    (data / "linked/classes.txt").symlink_to("../classes.txt")
    (data / "classes.txt").write_text("x\n")
    for path in ("a.avi", "copies/a.mp4", "copies/a.mp4.part", "copies/list.csv.journal", "../a.mp4"):
        (data / path).write_bytes((root / "train/b/small.mkv").read_bytes())
    (data / name).write_text("path,label\n" + "".join(f"{row},x\n" for row in rows))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert prepare_videos.main([str(data / name), str(data / out), "--root", str(data), "--workers", "1"]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_class_names_are_written_through_no_link(root, tmp_path):
    (tmp_path / "home").write_text("the user's own")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/classes.txt").symlink_to("../home")
    assert prepare(root, tmp_path / "out") == 0
    assert (tmp_path / "home").read_text() == "the user's own"
    assert (tmp_path / "out/classes.txt").read_text() == "a\nb\n"


def test_a_copy_that_cannot_be_written_is_one_row(root, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "a.mp4").mkdir(parents=True)
    names = ["n" * 251 + ".avi", "a.avi", "a.mp4/b.avi", "c.avi"]
    for name in names:
        (data / name).write_bytes((root / "train/b/small.mkv").read_bytes())
    (data / "list.csv").write_text("path,label\n" + "".join(f"{name},x\n" for name in names))
    assert prepare_videos.main([str(data / "list.csv"), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "2 videos prepared, 2 not" in capsys.readouterr().out
    for timeout in ("nan", "inf"):
        words = [str(data / "list.csv"), str(tmp_path / "out"), "--timeout", timeout]
        assert prepare_videos.main(words) == 2 and check_videos.main([words[0], *words[2:]]) == 2
