"""Files of format 1, whose settings were flat: a checkpoint made by the last version that wrote it, and its exports."""

import json
import shutil

import pytest
import torch
from conftest import REPO
from safetensors.torch import save_file

import video_gn
from video_gn.errors import InputError
from video_gn.train.checkpoint import read_checkpoint
from video_gn.train.configs import flat
from video_gn.train.from_checkpoint import with_checkpoint
from video_gn.weights.upgrade import RENAMED, upgrade_data

OLD = REPO / "tests" / "files" / "format1.ckpt"
VIDEOS = {
    "root": "data", "train": "train.csv", "num_frames": 8, "frame_interval": 2, "max_span": 300, "short_side": [72, 80],
    "crop_size": 64, "test_short_side": 72, "flip": True, "images": False, "test_protocol": "gn-10clip",
    "inspect": True, "batch_size": 2, "clips_per_video": 1, "num_workers": 3,
    "backend": "pyav", "motion": None, "seed": 5,
}  # fmt: skip


def test_every_setting_is_where_it_is_now():
    old = torch.load(OLD, weights_only=True)
    found = flat(read_checkpoint(str(OLD)).model)
    dropped = {
        "compile",
        "channels_last",
        "low_memory",
        "bn_statistics",
        "precise_steps",
        "decay_points",
        "_instantiator",
    }
    for name, value in old["hyper_parameters"].items():
        if name not in dropped | {"lr_schedule"}:
            assert found[RENAMED.get(f"model.{name}", f"model.{name}").removeprefix("model.")] == value, name
    assert found["schedule"] == "video_gn.train.schedule.Cosine" and found["format"] == 2
    data = flat(upgrade_data(VIDEOS))
    assert all(data[RENAMED.get(f"data.{name}", f"data.{name}").removeprefix("data.")] == value
               for name, value in VIDEOS.items() if name != "images")  # fmt: skip
    assert data["kind"] == "videos"


def test_it_is_used_as_any_other(tmp_path):
    model = video_gn.VideoClassifier.load_from_checkpoint(OLD)
    weights = torch.load(OLD, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[f"net.{name}"]) for name, value in model.net.state_dict().items())
    clips = torch.randint(0, 256, (2, 3, 1, 16, 16), dtype=torch.uint8)
    by_file = video_gn.load_model(OLD).trained.scores(clips)
    torch.testing.assert_close(by_file, model.scores(clips[None])[0], rtol=1e-5, atol=1e-6)
    settings = json.dumps({"model": {k: v for k, v in torch.load(OLD, weights_only=True)["hyper_parameters"].items()},
                           "clip": torch.load(OLD, weights_only=True)["datamodule_hyper_parameters"]})  # fmt: skip
    save_file(dict(model.net.state_dict()), tmp_path / "old.safetensors", {"video_gn": settings})
    assert torch.equal(video_gn.load_model(tmp_path / "old.safetensors").trained.scores(clips), by_file)


def test_a_test_of_it_in_its_run_needs_no_settings(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("{}")
    shutil.copy(OLD, folder / "last.ckpt")
    import yaml

    given = flat(yaml.safe_load(with_checkpoint(["test", "--ckpt_path", str(folder / "last.ckpt")])[2]))
    assert given["images"] is True and given["data.crop_size"] == 16 and given["data.short_side"] == 16
    assert given["model.net.arch"] == "flat_small" and given["bn_statistics.use"] == "running"
    assert given["data.batch_size"] == 2 and "data.clips_per_video" not in given


@pytest.mark.parametrize(
    "change", [{"lr_schedule": "cubic"}, {"from_tomorrow": 1}, {"geometry": "x"}, {"norm": ["gn"]}]
)
def test_what_it_cannot_say_is_refused(change, tmp_path):
    content = torch.load(OLD, weights_only=True)
    content["hyper_parameters"] |= change
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(InputError, match=r"another version|has to be"):
        read_checkpoint(str(tmp_path / "bad.ckpt"))
