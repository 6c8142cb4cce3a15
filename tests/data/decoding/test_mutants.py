"""Whatever became of a file, its reader says so in one line: nothing crashes, hangs, leaks or fills the memory."""

import os
import resource
from collections import Counter

import numpy as np
import pytest
from conftest import VIDEOS, few
from mutants import mutants
from samples import write

from video_gn.data import protocols
from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding import decord_reader, libav, pyav_reader, reader
from video_gn.data.decoding.damage import decode_all
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.loader import RowSampler, VideoLoader
from video_gn.data.tools import check_videos
from video_gn.data.video_list import VideoList
from video_gn.data.views import ProtocolViews, RandomView
from video_gn.errors import DecodeError
from video_gn.processes import run_jobs

COUNT = 300  # of mutants; once, 31605 edited header fields and 1100 copies of real clips were tried
CODECS = {
    "a.mp4": "libx264", "b.mp4": "libx265", "a.avi": "mpeg4", "a.mkv": "libx264", "a.webm": "libvpx-vp9",
    "a.ts": "libx264", "a.mpg": "mpeg2video", "a.flv": "libx264", "a.wmv": "wmv2",
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small file of each container."""
    folder = tmp_path_factory.mktemp("sound")
    texture = np.kron(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    frames = [np.roll(texture, (2 * i, 3 * i), (0, 1))[:64, :64] for i in range(40)]
    for name, codec in CODECS.items():
        write(folder / name, frames, codec, {"g": "12"}, range(40))
    return [folder / name for name in CODECS]


@pytest.fixture(scope="module")
def damaged(sound, tmp_path_factory):
    """Damaged copies; of real clips too, where there are some."""
    folder = tmp_path_factory.mktemp("mutants")
    real = [VIDEOS / name for name in ("derived/short20.mp4", "decord_rot90.mov", "h265_video.mp4")]
    sources = [*sound, *(path for path in real if path.is_file())]
    paths = []
    for i, (kind, source, content) in enumerate(mutants([path.read_bytes() for path in sources], COUNT)):
        paths.append(str(folder / f"{i:03d}_{kind}{sources[source].suffix}"))
        (folder / paths[-1]).write_bytes(content)
    return paths


def examine(path):
    """How a file is read by everything that reads files; an exception of another kind ends the test."""
    found = {"check": check_videos.check_video(path)["status"]}
    for backend in BACKENDS:
        try:
            with open_video(path, backend) as video:
                video.read(np.arange(0, video.num_frames, 4)[:32])
            found[backend] = "ok"
        except DecodeError as error:
            assert error.path == path and error.reason and "\n" not in error.reason
            found[backend] = "refused"
    found["fds"], found["mb"] = len(os.listdir("/proc/self/fd")), resident()
    return found


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.slow
def test_everything_that_reads_files_names_the_damaged_ones(damaged):
    found = dict(run_jobs(examine, damaged, 1, 20.0))  # one process after the other, if one dies
    assert [path for path in damaged if not isinstance(found[path], dict)] == []
    counts = Counter(one["check"] for one in found.values())
    assert counts.keys() == {"ok", "damaged", "unreadable"} and min(counts.values()) > 5
    for backend in BACKENDS:
        assert {one[backend] for one in found.values()} == {"ok", "refused"}
    first, last = found[damaged[9]], found[damaged[-1]]
    assert last["fds"] <= first["fds"] and last["mb"] < first["mb"] + 200


RANDOM = RandomView(8, 2, (40, 48), 32, True)


@pytest.mark.slow
@pytest.mark.parametrize("training", few([True, False], (True,), ()))
def test_no_worker_is_lost(training, damaged, sound):
    paths = [*damaged, *map(str, sound * 6)]
    views = RANDOM if training else ProtocolViews(8, 2, 48, protocols.find_protocol("gn-10clip"))
    samples = VideoDataset(VideoList(paths, [0] * len(paths)), views, 0, training, not training, timeout=20.0)
    told = []
    loader = VideoLoader(
        samples, RowSampler(len(paths), 0, training), 4 if training else 1, 2, set_aside=lambda *it: told.append(it)
    )
    rows, failures, workers = [], {}, set()
    for batch in loader:
        rows += batch.rows.tolist()
        failures |= {failure.path: failure.reason for failure in batch.failures}
        workers |= {child.pid for child in loader._children}
    assert told == [] and len(workers) == 2
    assert failures and all(reason and "\n" not in reason for reason in failures.values())
    assert not set(failures) & set(map(str, sound))
    if training:  # others take their places
        assert len(rows) == len(paths)
    else:
        assert len(set(rows)) == len(paths) - len(failures)


def read_by_all(path):
    """Why each reader refuses a file."""
    reasons = []
    for read in (
        *(lambda name=name: next(iter(BACKENDS[name](str(path), False).read([0]))) for name in BACKENDS),
        lambda: list(decode_all(str(path))),
    ):
        with pytest.raises(DecodeError) as caught:
            read()
        reasons.append(caught.value.reason)
    return reasons


def edited(path, target, *edits):
    """A copy in which what stands some bytes behind a name is replaced."""
    data = bytearray(path.read_bytes())
    for name, offset, content in edits:
        at = data.index(name) + offset
        data[at : at + len(content)] = content
    target.write_bytes(data)
    return target


def test_a_codec_that_libav_does_not_know(sound, tmp_path):
    path = edited(sound[0], tmp_path / "a.mp4", (b"avc1\0\0\0\0", 0, b"zzzz"))
    assert set(read_by_all(path)) == {"its codec is unknown; convert it with ffmpeg"}
    assert check_videos.check_video(str(path))["reason"] == "its codec is unknown; convert it with ffmpeg"


def test_a_header_that_promises_billions_of_frames(sound, tmp_path):
    path = edited(sound[0], tmp_path / "a.mp4", (b"stts", 12, b"\x7f\xff\xff\xff"))
    before = resident()
    with pytest.raises(DecodeError, match=r"damaged: its header promises \d{10} frames"), open_video(path) as video:
        video.read([0])
    with open_video(path, "pyav") as video:
        assert video.num_frames == 40 and len(video.read([0, 39])) == 2
    assert resident() < before + 100


def test_of_a_file_too_large_to_count_its_frames_the_header_is_read(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("video_gn.data.decoding.decord_reader.LARGEST", 100)
    with open_video(sound[0]) as video:
        assert video.num_frames == 40
    path = edited(sound[0], tmp_path / "a.mp4", (b"stts", 12, b"\x7f\xff\xff\xff"))
    most = path.stat().st_size // 32
    with pytest.raises(DecodeError, match=rf"header promises \d{{10}} frames, and it holds at most {most}$"):
        open_video(path).__enter__()


def test_packets_without_end_are_not_held(sound, monkeypatch):
    monkeypatch.setattr(pyav_reader, "MOST_PACKETS", 39)
    for backend in ("decord", "pyav"):
        with pytest.raises(DecodeError, match="more than 39 packets; cut it into clips"):
            open_video(sound[0], backend).__enter__()


def test_absurd_frames_are_refused_before_they_take_memory(tmp_path):
    frames = [np.full((64, 64, 3), 8 * i, np.uint8) for i in range(4)]
    good = tmp_path / "good.avi"
    write(good, frames, "rawvideo", {}, range(4))
    for width, height in ((10000, 10000), (40000, 30000), (65535, 2), (1 << 30, 1 << 30), (1, 1 << 20)):
        size = width.to_bytes(4, "little") + height.to_bytes(4, "little")
        path, before = edited(good, tmp_path / "bad.avi", (b"strf", 12, size)), resident()
        reasons = read_by_all(path)
        assert resident() < before + 100
        if width * height < libav.LARGEST_FRAME:  # libav itself refuses the others
            assert all(reason.startswith(f"frames of {width}x{height} pixels") for reason in reasons)
        assert all(reason.startswith(("damaged", "frames of")) for reason in reasons), reasons


def test_large_frames_are_decoded_in_small_parts(tmp_path, monkeypatch):
    frames = [np.full((64, 128, 3), 8 * i, np.uint8) for i in range(20)]
    write(tmp_path / "a.mp4", frames, "libx264", {}, range(20))
    monkeypatch.setattr(reader, "PART_BYTES", 3 * 3 * 64 * 128)
    sizes = []
    with open_video(tmp_path / "a.mp4", "pyav") as video:
        video.read(range(20), lambda part: sizes.append(len(part)) or np.asarray(part)[:, :4, :4])
    assert sizes == [3] * 6 + [2]


def test_frames_of_which_decord_would_hold_too_many_go_to_pyav(sound, monkeypatch):
    monkeypatch.setattr(decord_reader, "LARGEST_FRAME", 64 * 64 - 1)
    with pytest.raises(DecodeError, match="frames of 64x64 pixels, of which decord"), open_video(sound[0]):
        pass
    with open_video(sound[0], "pyav") as video:
        assert len(video.read([0])) == 1


def test_frames_that_change_their_size(tmp_path):
    for name, size in (("a.ts", 64), ("b.ts", 96)):
        frames = [np.full((size, size, 3), 8 * i, np.uint8) for i in range(10)]
        write(tmp_path / name, frames, "libx264", {}, range(10))
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(DecodeError, match="frames change from 64x64 to 96x96 pixels"):
        list(decode_all(str(path)))
    with LibavVideo.opened(str(path)) as video, pytest.raises(DecodeError, match=r"frames change|cannot be decoded"):
        video.read(np.arange(video.num_frames))


def test_a_failure_of_what_is_made_of_frames_is_not_the_videos(sound):
    def fail(frames):
        raise TypeError("ours")

    for backend in BACKENDS:
        with pytest.raises(TypeError, match="ours"), open_video(sound[0], backend) as video:
            video.read([0], fail)
