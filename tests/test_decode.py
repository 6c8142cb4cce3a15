import csv
import pickle
import subprocess
import sys

import av
import numpy as np
import pytest
from conftest import REPO, VIDEOS

from video_gn.decode import open_video
from video_gn.errors import DecodeError
from video_gn.libav import find_damage

needs_videos = pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real clips at {VIDEOS}")


def sequential(path, count=None):
    """The oracle: PyAV decodes from the beginning, frame by frame."""
    with av.open(str(path)) as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == count:
                break
    return np.stack(frames)


def test_any_frames_in_any_order_are_those_of_a_sequential_decode(motion_folder, rng):
    path = motion_folder / "train" / "fast_up" / "0000.mp4"
    expected = sequential(path)
    for indices in (np.arange(0, 64, 2), [63, 0, 5, 5, 62], rng.integers(0, 64, 30), [40]):
        with open_video(path) as video:
            assert video.num_frames == len(expected) == 64
            assert video.fps == pytest.approx(30)
            assert np.array_equal(video.read(indices), expected[indices])


def damaged_files(folder, good):
    """Name to file: what can be damaged without a codec."""
    data = good.read_bytes()
    files = {
        "empty": b"",
        "text": b"no video\n" * 50,
        "index lost": data[: len(data) // 2],  # this muxer puts the index at the end
        "zeroed": data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * len(data) // 3 :],
        "transport": (b"\x47" + bytes(187)) * 20,
    }
    for name, content in files.items():
        (folder / f"{name}.mp4").write_bytes(content)
    return {name: folder / f"{name}.mp4" for name in files} | {"missing": folder / "missing.mp4"}


def test_damaged_files_raise_one_kind_of_error(motion_folder, tmp_path):
    files = damaged_files(tmp_path, motion_folder / "val" / "slow_up" / "0000.mp4")
    reasons = {}
    for name, path in files.items():
        with pytest.raises(DecodeError) as caught, open_video(path) as video:
            video.read(np.arange(0, video.num_frames, 2))
        assert caught.value.path == str(path)
        reasons[name] = caught.value.reason
        assert reasons[name] and "\n" not in reasons[name]
    assert reasons["missing"] == "no such file"
    assert reasons["index lost"] == reasons["text"] == reasons["empty"]
    assert "MPEG-TS" in reasons["transport"]
    assert "damaged" in reasons["zeroed"]


def test_damage_that_decodes_is_found(motion_folder, flipped, tmp_path):
    assert find_damage(motion_folder / "val" / "slow_up" / "0000.mp4") is None
    with open_video(flipped) as video:
        assert len(video.read(np.arange(64))) == 64  # no error
    assert "of 64 frames are damaged" in find_damage(flipped)
    riff = tmp_path / "short.avi"
    riff.write_bytes(b"RIFF" + (1000).to_bytes(4, "little") + bytes(500))
    assert find_damage(riff) == "cut short: 508 of 1008 bytes"


def test_the_error_survives_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "why")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "why", "a.mp4: why")


def test_works_after_pytorchvideo_switched_decord_to_torch(motion_folder):
    import decord

    decord.bridge.set_bridge("torch")
    try:
        with open_video(motion_folder / "train" / "fast_up" / "0000.mp4") as video:
            assert isinstance(video.read([0, 3]), np.ndarray)
    finally:
        decord.bridge.reset_bridge()


def test_decoding_first_does_not_crash_torch():
    """In a process of its own: decord loaded before torch makes the product end it (dmlc/decord issue 293)."""
    code = "import video_gn.decode, torch; torch.nn.Linear(64, 12)(torch.randn(72, 64))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=120).returncode == 0


# Real clips

REFUSED = {  # sound files that decord cannot read right: refused, not read wrong
    "derived/mpeg4_bf2.avi": "seeks to wrong frames",
    "derived/remux.ts": "MPEG-TS",
    "derived/audio_only.mkv": "no video stream",
    "decord_corrupted.mp4": "damaged",
}
# Every frame of these decodes.
CONCEALED = {"damaged/bitflip200_mid.mp4": "48 of 300 frames", "damaged/trunc60_noindex.avi": "cut short"}


def manifest(*classes):
    if not VIDEOS.is_dir():
        return []
    with open(VIDEOS / "MANIFEST.tsv", newline="") as file:
        return [row["file"] for row in csv.DictReader(file, delimiter="\t") if row["class"] in classes]


@needs_videos
def test_frames_of_sound_clips_are_those_of_a_sequential_decode(rng):
    exact = []
    for name in manifest("good", "short", "odd", "synthetic", "derived"):
        if name in REFUSED or "rotate" in name or "1080" in name or name.startswith(("ntu", "mmaction2_demo_skel")):
            continue  # refused; PyAV does not rotate; three seconds each
        with open_video(VIDEOS / name) as video:
            indices = np.unique(rng.integers(0, min(video.num_frames, 100), 12))
            ours = video.read(indices)
        if name == "nasa_13013.mp4":
            continue  # has several video streams: decord and PyAV each take another one
        expected = sequential(VIDEOS / name, indices[-1] + 1)[indices]
        difference = np.abs(ours.astype(int) - expected.astype(int))
        assert difference.mean() < 5 if "10bits" in name else not difference.any(), name  # 10 bits round otherwise
        exact.append(name)
    assert len(exact) > 25


@needs_videos
def test_no_damage_is_found_in_sound_clips():
    names = [name for name in manifest("good", "short", "odd", "rotation") if "ntu" not in name and "skel" not in name]
    assert len(names) > 20
    assert {name: damage for name in names if (damage := find_damage(VIDEOS / name))} == {}


@needs_videos
def test_every_damaged_clip_is_named_and_none_hangs():
    for name in [*manifest("damaged"), *REFUSED]:
        if name in CONCEALED:
            assert CONCEALED[name] in find_damage(VIDEOS / name)
            continue
        with pytest.raises(DecodeError) as caught, open_video(VIDEOS / name) as video:
            video.read(np.arange(video.num_frames))
        assert REFUSED.get(name, "") in caught.value.reason
