import json
import math
from types import SimpleNamespace

import pytest
from samples import video_data

from video_gn.data.lists import find_videos
from video_gn.data.motion12 import CLASSES, Motion
from video_gn.errors import InputError
from video_gn.weights.hub import load_weights


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 64, "frame_interval": 8}, "span 505 raw frames, more than data.clip.max_span=300"),
        ({"crop_size": 300}, "short_side is"),
        ({"short_side": (300, 260)}, "short_side is"),
        ({"test_protocol": "x"}, "protocols are"),
        ({"class_names": ["a", "a"]}, "a more than once"),
        ({"class_names": "nofile.txt"}, "no file nofile.txt"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(InputError, match=words):
        video_data(**({"class_names": ["a", "b"]} | options))


def test_too_few_videos_for_a_step(data_root, motion):
    data = video_data(root=str(data_root), motion=motion, batch_size=100, max_span=64)
    data.trainer = SimpleNamespace(world_size=1)
    with pytest.raises(InputError, match="24 training videos do not fill one step of 100 clips"):
        data.setup("fit")


def test_hyper_parameters_are_plain_and_complete(data_root, motion):
    data = video_data(root=str(data_root), motion=motion, videos=["x.mp4"])
    assert data.hparams["class_names"] == list(CLASSES) and "videos" not in data.hparams
    assert data.hparams["motion"]["train_per_class"] == 2
    assert data.hparams["clip"]["num_frames"] == 32 and data.hparams["evaluation"]["protocol"] == "gn-10clip"
    assert json.loads(json.dumps(data.hparams)) == data.hparams


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "max_bad": (math.nan, -1.0, 2.0, math.inf), "decode_timeout": (math.nan, math.inf, 0.0, -1.0),
        "num_frames": (0, -1, 10**6, 8.0), "frame_interval": (-1, 10**6), "crop_size": (0, 10**6),
        "test_short_side": (0, 10**6), "batch_size": (0, 10**12), "num_workers": (-1, 10**5), "seed": (-1,),
        "short_side": ((0, 10), (10**6, 10**6), (256,)), "clips_per_video": (0, -1), "max_span": (0, 10**12),
    }.items(),
)  # fmt: skip
def test_bounds(name, values):
    for value in values:
        with pytest.raises(InputError, match=rf"data\.(\w+\.)?{name.removeprefix('test_')} is .*it has to be"):
            video_data(class_names=["a"], **{name: value})
    for name, value in {"wavelength": math.nan, "fast": math.inf, "train_per_class": 10**9, "size": 10**6}.items():
        with pytest.raises(InputError, match=rf"motion\.{name} is"):
            Motion(**{name: value})


def test_class_names_that_are_not_utf8(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match=r"names.txt, line 1: byte 0xe9, which is not UTF-8"):
        video_data(class_names=str(tmp_path / "names.txt"))


def test_the_home_folder_in_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.mp4").touch()
    (tmp_path / "names.txt").write_text("x\n")
    (tmp_path / "val.csv").write_text("path,label\na.mp4,x\n~/set/a.mp4,x\n")
    data = video_data(root="~/set", val="~/val.csv", class_names="~/names.txt", quarantine="~/bad.csv")
    assert data.root == tmp_path / "set" and data.quarantine.path == tmp_path / "bad.csv"
    data.setup("validate")
    assert data.lists["val"].paths == [f"{tmp_path}/set/a.mp4"] * 2
    assert find_videos(["~/set"]).paths == [f"{tmp_path}/set/a.mp4"]
    with pytest.raises(InputError, match=f"{tmp_path}/gone.pth"):
        load_weights("~/gone.pth")
