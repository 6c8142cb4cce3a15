"""Videos that show the same: found whatever their encoding, and no others in front of the same background."""

import logging
import shutil

import numpy as np
import pytest
from conftest import VIDEOS
from samples import H264, write

from video_gn.data import copies
from video_gn.data.copies import _cached, cache_folder, copies_of, read_signatures
from video_gn.data.video_list import VideoList
from video_gn.processes import Ended


def find_copies(*given):
    return copies.find_copies(read_signatures(*given))


def scene(seed, count=90, background=0):
    """A disc on a path of its own over a background of texture, which others share."""
    rng = np.random.default_rng(background)
    ground = np.kron(rng.integers(0, 200, (12, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    path = np.array((48, 64)) + np.cumsum(np.random.default_rng((7, seed)).normal(0, 3, (count, 2)), 0)
    y, x = np.mgrid[:96, :128]
    frames = []
    for top, left in path:
        frame = ground.copy()
        frame[(y - top % 96) ** 2 + (x - left % 128) ** 2 < 220] = 255
        frames.append(frame)
    return frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Of one scene a copy, a small re-encoding, at half the rate and two cuts; others before the same background."""
    folder = tmp_path_factory.mktemp("videos")
    frames = scene(0)
    made = {
        "whole": (frames, range(90)),
        "small": ([np.ascontiguousarray(frame[::2, ::2]) for frame in frames], range(90)),
        "slow": (frames[::2], range(0, 90, 2)),
        "first": (frames[:60], range(60)),
        "last": (frames[35:], range(55)),
        "same place": (scene(1), range(90)),
        "same place too": (scene(2), range(90)),
        "still": ([frames[0]] * 40, range(40)),
        "other still": ([frames[0]] * 40, range(40)),
        "elsewhere": (scene(3, background=1), range(90)),
    }
    for name, (pictures, times) in made.items():
        crf = "crf=38" if name in ("small", "other still") else "crf=20"
        write(folder / f"{name}.mp4", pictures, "libx264", {"x264-params": H264, "crf": crf[4:]}, times)
    shutil.copy(folder / "same place.mp4", folder / "equal.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_copies_and_no_others(videos):
    names = sorted(path.stem for path in videos.iterdir())
    pairs = find_copies([str(videos / f"{name}.mp4") for name in names], 2)
    found = {frozenset((names[a], names[b])) for a, b in pairs}
    alike = ["whole", "small", "slow", "first", "last"]
    expected = {frozenset((a, b)) for a in alike for b in alike if a != b} | {frozenset(("equal", "same place"))}
    assert found == expected and all(a < b for a, b in pairs)


def test_what_was_seen_is_kept(videos, tmp_path, monkeypatch):
    paths = [str(videos / f"{name}.mp4") for name in ("whole", "small", "elsewhere", "broken")]
    first = find_copies(paths, 1, tmp_path)
    assert first == [(0, 1)] and len(list(tmp_path.iterdir())) == 1
    asked = []
    monkeypatch.setattr(copies, "run_jobs", lambda function, items, *_: asked.extend(items) or iter(()))
    assert find_copies(paths, 1, tmp_path) == first and asked == []
    monkeypatch.undo()
    shutil.copy(videos / "whole.mp4", tmp_path / "now.mp4")
    changed = [str(tmp_path / "now.mp4"), *paths]
    assert find_copies(changed, 1, tmp_path / "other") == [(0, 1), (0, 2), (1, 2)]
    shutil.copy(videos / "elsewhere.mp4", tmp_path / "now.mp4")
    assert find_copies(changed, 1, tmp_path / "other") == [(0, 3), (1, 2)]
    for path in (tmp_path / "other").iterdir():
        path.write_bytes(b"damaged")
    assert find_copies(changed, 1, tmp_path / "other") == [(0, 3), (1, 2)]


def test_bytes_of_the_cache_that_changed(videos, tmp_path):
    """Each of them by itself, as a damaged disk has it: what cannot be unpacked is read from the videos again."""
    paths = [str(videos / f"{name}.mp4") for name in ("whole", "small")]
    assert find_copies(paths, 1, tmp_path) == [(0, 1)]
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in range(200, len(whole), len(whole) // 12):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        _cached(file)
    file.write_bytes(whole)
    assert set(_cached(file)) == set(paths)


def test_a_reader_that_ended_is_asked_again(videos, tmp_path, monkeypatch):
    """A crowded machine ends it, and an empty signature of then would be taken for the video's for ever."""
    paths = [str(videos / f"{name}.mp4") for name in ("whole", "small")]
    ended, run_jobs = Ended("took too long", True), copies.run_jobs

    def jobs(*given):
        return ((path, ended if "small" in path else kept) for path, kept in run_jobs(*given))

    monkeypatch.setattr(copies, "run_jobs", jobs)
    assert find_copies(paths, 1, tmp_path) == []
    monkeypatch.undo()
    assert find_copies(paths, 1, tmp_path) == [(0, 1)]


def test_a_video_that_is_not_there(videos, tmp_path):
    """It is named where it is read; here it is like no other."""
    paths = [str(tmp_path / "gone.mp4"), str(videos / "whole.mp4"), str(tmp_path / "gone too.mp4")]
    assert find_copies(paths, 1) == []


def test_of_many_videos_the_beginnings_are_compared(videos, monkeypatch):
    paths = [str(videos / f"{name}.mp4") for name in ("whole", "small", "last")]
    kept = read_signatures(paths, 1)
    assert copies.find_copies(kept) == [(0, 1), (0, 2), (1, 2)]
    monkeypatch.setattr(copies, "LEAST", 10)
    monkeypatch.setattr(copies, "ALL", 30)  # a second of each; "last" begins after it
    assert copies.find_copies(kept) == [(0, 1)]


def test_where_it_is_kept_and_when_not_looked_for(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "video_gn" / "copies"
    monkeypatch.setattr(copies, "MOST_VIDEOS", 1)
    assert copies_of(VideoList(["a.mp4", "b.mp4"], [0, 0])) == []
    assert "2 videos are too many to look for copies" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS.is_dir(), reason="no real clips")
def test_real_clips():
    """Clips that were made of one another, by the name of the scene in them."""
    scenes = {
        "yoga": ("yoga.mp4", "derived/mpeg4_bf2.avi", "derived/short20.mp4"),
        "baseball": ("hitting_baseball.mp4", "derived/k340x256_g250.mp4", "derived/h265_340x256.mp4"),
        "dance": ("jesse_dance.mp4", "derived/hd1280x720_g32.mp4"),
        "others": ("playing_guitar.mp4", "mmaction2_demo.mp4", "paddle_example.avi"),
    }
    files = [(name, VIDEOS / file) for name, part in scenes.items() for file in part if (VIDEOS / file).is_file()]
    pairs = find_copies([str(path) for _, path in files], 2)
    expected = [(a, b) for a, (one, _) in enumerate(files) for b, (two, _) in enumerate(files)
                if a < b and one == two != "others"]  # fmt: skip
    assert set(pairs) <= set(expected) and len(pairs) >= len(expected) - 2 and len(expected) >= 5
