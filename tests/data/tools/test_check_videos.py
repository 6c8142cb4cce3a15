import csv
import os
import shutil
import signal
from fractions import Fraction

import numpy as np
import pytest
from conftest import VIDEOS
from samples import texture, write

from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.open import open_video
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.lists import read_list, read_rows
from video_gn.data.motion12 import CLASSES
from video_gn.data.tools import check_videos
from video_gn.data.video_list import checked_path
from video_gn.data.views import RandomView
from video_gn.errors import InputError
from video_gn.files.tables import read_table

NAMES = list(CLASSES)


@pytest.fixture
def root(motion_folder, flipped, tmp_path):
    """Two good videos, one damaged, one cut short, one that is none, one that is missing, and one twice."""
    folder = tmp_path / "root"
    folder.mkdir()
    good = motion_folder / "val" / "slow_up" / "0000.mp4"
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(good, folder / name)
    shutil.copy(flipped, folder / "flipped.mp4")
    (folder / "text.mp4").write_text("no video")
    (folder / "cut.avi").write_bytes(b"RIFF" + (1 << 20).to_bytes(4, "little") + b"AVI " + bytes(100))
    names = ["a.mp4", "b.mp4", "flipped.mp4", "text.mp4", "cut.avi", "gone.mp4", "a.mp4"]
    (folder / "train.csv").write_text(
        "path,label\n" + "".join(f"{name},{NAMES[i % 6]}\n" for i, name in enumerate(names))
    )
    return folder


def rows(root):
    with open(root / "train.checked.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_findings(root, capsys):
    assert check_videos.main([str(root / "train.csv"), "--workers", "2"]) == 0
    found = rows(root)
    assert [row["status"] for row in found] == ["ok", "ok", "damaged", "unreadable", "unreadable", "unreadable", "ok"]
    assert [row["label"] for row in found] == [*NAMES[:6], NAMES[0]]
    good = found[0]
    assert (good["backend"], good["num_frames"], good["keyframes"]) == ("decord pyav", "64", "6")
    assert (good["width"], good["height"], good["fps"], good["rotation"]) == ("64", "64", "30.000", "0")
    assert "frames are damaged" in found[2]["reason"] and found[2]["backend"] == "decord pyav"
    assert found[3]["reason"].startswith("not a video file but text")
    assert found[5]["reason"] == "no such file"
    captured = capsys.readouterr()
    assert (
        "status: 3 ok, 3 unreadable, 1 damaged" in captured.out and "unreadable: text.mp4: not a video" in captured.err
    )
    assert not (root / "train.checked.csv.journal").exists()


def test_the_loader_takes_over_what_was_found(root):
    check_videos.main([str(root / "train.csv")])
    videos = read_list(root / "train.csv", root, NAMES)
    assert videos.known(0) == (["decord", "pyav"], 64, 1.0)
    assert set(videos.set_aside) == {3, 4, 5} and set(videos.damaged) == {2}
    assert checked_path(root / "train") == root / "train.checked.csv"  # of a folder


def test_a_video_that_was_replaced_is_no_longer_checked(root):
    check_videos.main([str(root / "train.csv")])
    videos = read_list(root / "train.csv", root, NAMES)
    with open(videos.path(0), "ab") as file:
        file.write(b"more")
    assert videos.known(0) is None and videos.known(1) is not None


def test_goes_on_where_it_was_stopped_and_checks_only_what_changed(root, monkeypatch, capsys):
    seen = []
    real = check_videos.run_jobs

    def some(function, items, workers, timeout):
        for i, result in enumerate(real(function, items, 1, timeout)):
            if i == 3:
                raise KeyboardInterrupt
            seen.append(result[0])
            yield result

    monkeypatch.setattr(check_videos, "run_jobs", some)
    assert check_videos.main([str(root / "train.csv")]) == 130
    assert "the same command continues" in capsys.readouterr().err and not (root / "train.checked.csv").exists()
    monkeypatch.setattr(check_videos, "run_jobs", lambda *args: record(real(*args), seen))
    assert check_videos.main([str(root / "train.csv")]) == 0
    assert len(seen) == len(set(seen)) == 6
    seen.clear()
    os.utime(root / "b.mp4", (1, 1))
    (root / "gone.mp4").write_bytes((root / "a.mp4").read_bytes())
    assert check_videos.main([str(root / "train.csv")]) == 0
    assert {os.path.basename(path) for path in seen} == {"b.mp4", "gone.mp4"}
    assert rows(root)[5]["status"] == "ok"


def record(results, seen):
    for result in results:
        seen.append(result[0])
        yield result


def test_a_file_under_two_names(root):
    first = read_rows(root / "train.csv")[0]
    (root / "twice.csv").write_text(f"path,label\n{first[0]},{first[1]}\n./{first[0]},{first[1]}\n")
    assert check_videos.main([str(root / "twice.csv")]) == 0
    found = read_table(root / "twice.checked.csv")
    assert [row["path"] for row in found] == [first[0], f"./{first[0]}"] and found[0]["status"] == found[1]["status"]
    (root / "twice.checked.csv").write_text(f"path,bytes\n{first[0]},{os.stat(root / first[0]).st_size}\n")
    assert check_videos.main([str(root / "twice.csv")]) == 0  # what lacks columns is checked again


@pytest.mark.slow
def test_a_hanging_video_costs_its_time_out(root, monkeypatch):
    real = check_videos.decode_all

    def hang(path, missing):
        if path.endswith("b.mp4"):
            while True:
                pass
        return real(path, missing)

    monkeypatch.setattr(check_videos, "decode_all", hang)
    assert check_videos.main([str(root / "train.csv"), "--timeout", "2"]) == 0
    assert [(row["status"], row["reason"]) for row in rows(root)[:2]] == [("ok", ""), ("hang", "hung for 2 s")]


def test_what_memory_did_not_suffice_for_is_checked_again(root, monkeypatch, capsys):
    real = check_videos.decode_all

    def kill(path, missing):
        if path.endswith("b.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, missing)

    monkeypatch.setattr(check_videos, "decode_all", kill)
    assert check_videos.main([str(root / "train.csv"), "--workers", "1"]) == 0
    assert "b.mp4" not in [row["path"] for row in rows(root)]
    out, err = capsys.readouterr()
    assert "1 more are not checked: memory did not suffice; call this again, with fewer --workers" in out
    assert "its process was killed, as Linux does where memory runs out" in err
    names = sorted({label for _, label in read_rows(root / "train.csv")})
    videos = read_list(root / "train.csv", root, names)
    row = next(row for row in range(len(videos)) if videos.path(row).endswith("b.mp4"))
    assert row not in videos.set_aside and videos.known(row) is None
    monkeypatch.setattr(check_videos, "decode_all", real)
    assert check_videos.main([str(root / "train.csv"), "--workers", "1"]) == 0
    assert rows(root)[1]["status"] == "ok"


def test_what_an_earlier_version_could_not_know_is_looked_for(root, tmp_path):
    """Its list says that decord reads a mirrored video right: it is looked at all the same, and PyAV reads it."""
    write(root / "a.mp4", texture(16), "libx264", {}, range(16), rotation=180)
    (root / "old.csv").write_text("path,label\na.mp4,0\n")
    size = os.path.getsize(root / "a.mp4")
    columns = "path,label,status,reason,backend,num_frames,width,height,fps,rotation,keyframes,bytes,modified"
    (root / "old.checked.csv").write_text(f"{columns}\na.mp4,0,ok,,decord pyav,16,128,96,30,180,1,{size},1\n")
    videos = read_list(root / "old.csv", root, ["0"])
    assert videos.known(0) == (["decord", "pyav"], 16, None)
    view = RandomView(4, 1, (64, 64), 32, False)
    sample = VideoDataset(videos, view)[0]
    assert sample.fallbacks[0].reason.startswith("turned by 180")
    with open_video(root / "a.mp4", "pyav") as video:
        assert np.array_equal(sample.clips, view(video, np.random.default_rng((0, 0, 0)))[0])
    assert check_videos.main([str(root / "old.csv")]) == 0  # which checks again what lacks a column
    videos = read_list(root / "old.csv", root, ["0"])
    assert videos.known(0) == (["pyav"], 16, 1.0) and VideoDataset(videos, view)[0].fallbacks == []


def test_the_shape_of_pixels_is_in_the_list(root, capsys):
    write(root / "a.mp4", texture(16), "libx264", {}, range(16), aspect=Fraction(4, 3))
    check_videos.main([str(root / "train.csv")])
    videos = read_list(root / "train.csv", root, NAMES)
    backends, frames, aspect = videos.known(0)
    assert (backends, frames) == (["decord", "pyav"], 16) and aspect == pytest.approx(4 / 3, rel=1e-5)
    text = (root / "train.checked.csv").read_text()
    (root / "train.checked.csv").write_text(text.replace("1.33333", "133"))
    with pytest.raises(InputError, match=r"pixel_aspect is '133'; it has to be from 0.25 to 4"):
        read_list(root / "train.csv", root, NAMES)


def test_a_backend_that_reads_wrong_frames_is_found_out(root, monkeypatch):
    real = LibavVideo.read
    monkeypatch.setattr(LibavVideo, "read", lambda self, indices: real(self, [max(i - 1, 0) for i in indices]))
    check_videos.main([str(root / "train.csv")])
    assert [row["backend"] for row in rows(root)[:2]] == ["decord", "decord"]


def test_slips(root, capsys):
    assert check_videos.main([str(root / "none.csv")]) == 2
    assert check_videos.main([str(root / "train.csv"), "--workers", "0"]) == 2
    err = capsys.readouterr().err
    assert "there is no list or folder" in err and "have to be above 0" in err


@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real clips at {VIDEOS}")
def test_real_clips(tmp_path):
    expected = {
        "derived/remux.ts": ("ok", "pyav"), "derived/mpeg4_bf2.avi": ("ok", "pyav"), "h265_video.mp4": ("ok", "pyav"),
        "av1_video.mkv": ("ok", "decord pyav"), "h264_10bits.mp4": ("ok", "pyav"),
        "decord_rot90.mov": ("ok", "pyav"), "derived/vfr_h264.mp4": ("ok", "decord pyav"),
        "derived/audio_only.mkv": ("unreadable", ""), "damaged/zero_byte.mp4": ("unreadable", ""),
        "damaged/first_keyframe_dropped.mp4": ("unreadable", ""), "decord_corrupted.mp4": ("damaged", ""),
        "damaged/trunc90_moovfront.mp4": ("damaged", ""), "damaged/trunc60_noindex.avi": ("damaged", ""),
        "damaged/bitflip200_mid.mp4": ("damaged", "decord pyav"),
    }  # fmt: skip
    (tmp_path / "l.csv").write_text("path,label\n" + "".join(f"{VIDEOS / name},0\n" for name in expected))
    assert check_videos.main([str(tmp_path / "l.csv")]) == 0
    with open(tmp_path / "l.checked.csv", newline="") as file:
        found = [(row["status"], row["backend"]) for row in csv.DictReader(file)]
    assert dict(zip(expected, found, strict=True)) == expected
