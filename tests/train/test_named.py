"""Networks by name: their classes, their clips, and runs of them that are stopped."""

import pytest
import torch
import yaml
from command_lines import stopped, tiny
from states import difference, ends

from video_gn.errors import InputError
from video_gn.models.known import NAMES
from video_gn.models.networks import NETWORKS
from video_gn.models.published import OURS
from video_gn.rules import CLIP, EVALUATION
from video_gn.train import cli
from video_gn.train.checkpoint import check_architecture, read_checkpoint
from video_gn.train.classifier import VideoClassifier

CLIPS = ("num_frames", "frame_interval", "crop_size", "short_side", "max_span")


def resolved(*words):
    return cli.resolve(["fit", "--data.train", "train.csv", *map(str, words)])


def clip(found):
    return [found["data"]["clip"][name] for name in CLIPS] + [found["data"]["evaluation"]["short_side"]]


def written(folder, **config):
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_a_name_is_a_class_and_its_clips(tmp_path, capsys):
    """Whether it is an option or in a file, with the settings that it has there."""
    found = resolved("-c", "own", "--model.net", "r3d_18", "--model.net.norm", "bn")
    assert "r3d_18 brings its clips: 16x2, crop_size 112 (data.clip and" in capsys.readouterr().err
    assert found["model"]["net"]["class_path"] == "video_gn.models.networks.r3d_18"
    assert found["model"]["net"]["init_args"]["norm"] == "bn" and clip(found) == [16, 2, 112, [128, 128], 300, 128]
    for net in ("r3d_18", {"class_path": "r3d_18"}, {"class_path": "video_gn.models.networks.r3d_18"}):
        again = resolved("-c", "own", "-c", written(tmp_path, model={"net": net}), "--model.net.norm", "bn")
        assert again["model"]["net"] == found["model"]["net"] and clip(again) == clip(found)
    wide = resolved("-c", "own", "--model.net=s3d")  # 128 frames, which span more than own.yaml allows
    assert clip(wide) == [128, 2, 224, [256, 256], 300, 256]


def test_clips_of_a_name_are_over_earlier_files_and_below_what_is_said(tmp_path):
    own = written(tmp_path, model={"net": "x3d_m"}, data={"clip": {"num_frames": 8}})
    assert clip(resolved("-c", "demo", "-c", own)) == [8, 5, 224, [256, 320], 300, 256]
    after = written(tmp_path, data={"clip": {"crop_size": 64}})
    assert clip(resolved("-c", own, "-c", after))[:3] == [8, 5, 64]
    for options in (
        ("--data.clip.num_frames", 4, "--model.net", "mc3_18"),
        ("--model.net=mc3_18", "--data.clip.num_frames=4"),
    ):
        assert clip(resolved("-c", own, *options)) == [4, 2, 112, [128, 128], 300, 128]
    assert clip(resolved("-c", own, "--model.net", "x3d_m"))[0] == 8  # the file's own network, named once more
    images = resolved("-c", "imagenet/base", "--model.net", "flat_r50")
    assert images["data"]["crop_size"] == 224 and images["model"]["net"]["init_args"]["arch"] == "flat"


def test_networks_of_this_project_by_name(tmp_path):
    """They begin with their own settings, as each class does that is named after another one."""
    for words in (("--model.net", "i3d_8x8_r101"), ("-c", written(tmp_path, model={"net": "i3d_8x8_r101"}))):
        found = resolved("-c", "demo", *words, "--model.net.norm", "ln")
        net = found["model"]["net"]
        assert net["class_path"] == "video_gn.ResNet3d" and clip(found)[:4] == [8, 8, 224, [256, 320]]
        expected = {"arch": "i3d_8x8", "depth": 101, "width": 64, "norm": "ln", "num_groups": 32, "dropout": 0.5}
        assert {name: net["init_args"][name] for name in expected} == expected
    given = written(tmp_path, model={"net": {"class_path": "i3d_r50_nl5", "init_args": {"num_groups": 8}}})
    settings = resolved("-c", given)["model"]["net"]["init_args"]
    assert (settings["nonlocal_blocks"], settings["num_groups"], settings["arch"]) == (5, 8, "i3d")
    assert clip(resolved("-c", "demo", "--model.net", "i3d_small_r11"))[:3] == [
        16,
        4,
        32,
    ]  # made for no clip of its own


def test_a_network_of_the_users_own_is_not_taken_for_one_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\nclass i3d_r50(nn.Linear):\n    def __init__(self, num_classes: int):\n"
        "        super().__init__(3, num_classes)\n\n\nclass x3d_m(i3d_r50):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mynets.i3d_r50", "mynets.x3d_m"):
        for words in (("--model.net", name), ("-c", written(tmp_path, model={"net": name}))):
            found = resolved("-c", "demo", *words)
            net = found["model"]["net"]
            assert (net if isinstance(net, str) else net["class_path"]) == name and clip(found)[:3] == [16, 4, 32]


def test_published_clips_are_settings():
    for published in (*OURS.values(), *(kind.published for kind in NETWORKS.values())):
        values = published._asdict()
        assert EVALUATION["short_side"].holds(values.pop("test_short_side"))
        assert all(CLIP[name].holds(value) for name, value in values.items())
        assert published.crop_size <= published.short_side[0] and published.crop_size <= published.test_short_side
    assert len(NAMES) == len(set(NAMES)) and "i3d_r101_nl10" not in NAMES


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model.net", "r3d_19"), "there is no model.net 'r3d_19'.*; the names are: .*mc3_18.*r3d_18"),
        (("--model.net", "r3d_18", "--model.net.arch", "i3d"), "model.net.arch is a setting of ResNet3d"),
        (("--model.net", "r3d_18", "--model.net.nonlocal_blocks", "5"), "nonlocal_blocks is a setting of ResNet3d"),
        (("--model.net", "i3d_r51"), r"there is no model.net 'i3d_r51' \(did you mean i3d_r50\?\); the names are"),
        (("--model.net", "R3D18"), r"there is no model.net 'R3D18' \(did you mean r3d_18\?\)"),
        (
            ("--model.net", "r3d_18_gn"),
            "'r3d_18_gn'; take --model.net r3d_18 --model.net.norm gn",
        ),
    ],
)
def test_slips(words, said):
    with pytest.raises(InputError, match=said):
        resolved("-c", "demo", *words)


def named(pictures, run_dir, **settings):
    """A quick run of X3D, which has everything that a resumption has to bring back: statistics and random numbers."""
    rest = {
        "model.net.norm": "bn",
        "model.net.drop_path": 0.3,
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 3,
    }
    words = tiny(pictures, run_dir, **rest | settings)
    at = words.index("--model.net.arch")
    return [*words[:at], "--model.net", "x3d_xs", *words[at + 8 :]]  # in the place of what is of ResNet3d alone


@pytest.mark.long
@pytest.mark.slow
def test_a_stopped_run_ends_as_if_it_had_not_been(pictures, tmp_path, monkeypatch):
    assert cli.main(named(pictures, tmp_path / "whole")) == 0
    with monkeypatch.context() as patched:
        patched.setattr("command_lines.tiny", named)
        stopped(pictures, tmp_path / "stopped", monkeypatch, 2)
    assert cli.main(named(pictures, tmp_path / "stopped")) == 0
    assert not difference(ends(tmp_path / "stopped"), ends(tmp_path / "whole"))
    path = str(tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    assert read_checkpoint(path).model["net"]["class_path"] == "video_gn.models.networks.x3d_xs"
    again, expected = VideoClassifier.load_from_checkpoint(path), torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, expected[f"net.{name}"]) for name, value in again.net.state_dict().items())
    with pytest.raises(
        InputError, match=r"another architecture: it has net=video_gn.models.networks.x3d_xs, the settings"
    ):
        check_architecture(path, VideoClassifier(again.class_names, NETWORKS["x3d_s"]).hparams)
