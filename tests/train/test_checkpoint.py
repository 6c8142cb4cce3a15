"""Checkpoints and exports of strangers: what is taken from them, and what damaged ones say, in one line."""

import copy
import json
import logging
import math
import os
import resource
import shutil
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from command_lines import fit, short
from conftest import few
from safetensors import safe_open
from safetensors.torch import save_file
from samples import NAMES, SMALL, checkpoint, classifier, nested, video_data

from video_gn.console import set_up_messages
from video_gn.errors import InputError
from video_gn.export.__main__ import main as export
from video_gn.predict.__main__ import main as predict
from video_gn.predict.model_file import open_trained
from video_gn.rules import shown
from video_gn.train import cli
from video_gn.train.checkpoint import check_architecture, read_checkpoint
from video_gn.train.classifier import VideoClassifier
from video_gn.train.from_checkpoint import with_checkpoint
from video_gn.train.resume import find_resume
from video_gn.weights.upgrade import RENAMED

STEM, HEAD = "net.blocks.0.conv.weight", "net.blocks.6.proj.weight"
NORM = "net.blocks.0.norm.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The content of a small checkpoint with the state of training that Lightning keeps."""
    path = tmp_path_factory.mktemp("sound") / "sound.ckpt"
    checkpoint(path, **SMALL)
    content = torch.load(path, weights_only=True)
    fit_loop = {"epoch_progress": {}, "epoch_loop.batch_progress": {}}
    return content | {"loops": {"fit_loop": fit_loop}, "callbacks": {}, "optimizer_states": [{}], "lr_schedulers": [{}]}


def one_line(call, capsys):
    """Exit code 2 and one line that begins with error; gives the line."""
    capsys.readouterr()
    assert call() == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err, err
    assert err.isprintable() or err.replace("\n", "").isprintable()
    return lines[0]


def refused(path, capsys, tmp_path):
    """By every command that takes a checkpoint; gives what `test` says."""
    for call in (
        lambda: predict([str(path), "x.mp4", "--workers", "0", "--device", "cpu"]),
        lambda: export([str(path), "--out", str(tmp_path / "out")]),
        lambda: cli.main(["predict", "--ckpt_path", str(path), "--videos", "x.mp4"]),
    ):
        one_line(call, capsys)
    with pytest.raises(InputError) as caught:
        find_resume(tmp_path / "run", str(path))
    assert "\n" not in str(caught.value)
    try:  # what has nothing to do with the weights is no matter for a start from them
        classifier(NAMES, **SMALL, init=str(path))
    except InputError as error:
        assert "\n" not in str(error)
    return one_line(lambda: cli.main(["test", "--ckpt_path", str(path)]), capsys)


PLACES = {old: new.split(".")[1:] for old, new in RENAMED.items()}


def put(part, settings, **change):
    """Settings by their own names, wherever in a checkpoint's they are."""
    for name, value in change.items():
        *groups, last = PLACES.get(f"{part}.{name}", [name])
        found = settings
        for group in groups:
            found = found[group].get("init_args", found[group])
        found[last if groups else name] = value


def hp(**change):
    return lambda content: put("model", content["hyper_parameters"], **change)


def data(**change):
    return lambda content: put("data", content["datamodule_hyper_parameters"], **change)


def both(**change):
    return lambda content: (hp(**change)(content), data(**change)(content))


def tensor(name, change):
    def changes(content):
        content["state_dict"][name] = change(content["state_dict"][name])

    return changes


def without(*keys):
    def removes(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return removes


def deep(depth=200):
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


def attributes(*keys, **given):
    """An OrderedDict in the place of a dictionary, with attributes; one named values stands for the method."""

    def changes(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = OrderedDict(content[keys[-1]])
        vars(content[keys[-1]]).update(given)

    return changes


DAMAGE = {
    "state dict with other values": attributes("state_dict", values=5),
    "state dict of odd versions": attributes("state_dict", _metadata=5),
    "state dict of odd version": attributes("state_dict", _metadata={"": 5}),
    "settings with other keys": attributes("hyper_parameters", keys=[]),
    "data settings with other get": attributes("datamodule_hyper_parameters", get=None),
    "callbacks with other values": attributes("callbacks", values={}),
    "no state dict": without("state_dict"),
    "no hyper parameters": without("hyper_parameters"),
    "no data settings": without("datamodule_hyper_parameters"),
    "no epoch": without("epoch"),
    "epoch of text": lambda c: c.update(epoch="many"),
    "endless step": lambda c: c.update(global_step=10**5000),
    "negative step": lambda c: c.update(global_step=-1),
    "state dict is a list": lambda c: c.update(state_dict=[1, 2]),
    "state dict is empty": lambda c: c.update(state_dict={}),
    "state dict of text": lambda c: c.update(state_dict={STEM: "x"}),
    "state dict with text in it": lambda c: c["state_dict"].update(x="text"),
    "keys are numbers": lambda c: c.update(state_dict={1: torch.zeros(1)}),
    "settings are a list": lambda c: c.update(hyper_parameters=["norm", "gn"]),
    "settings are nothing": lambda c: c.update(hyper_parameters=None),
    "settings are empty": lambda c: c.update(hyper_parameters={}),
    "settings under numbers": lambda c: c.update(hyper_parameters={1: 2}),
    "data settings are text": lambda c: c.update(datamodule_hyper_parameters="num_frames"),
    "data settings are empty": lambda c: c.update(datamodule_hyper_parameters={}),
    "unknown setting": hp(from_tomorrow=1),
    "class path": hp(class_path="os.system", init_args={"command": "true"}),
    "missing tensor": without("state_dict", NORM),
    "missing head": without("state_dict", HEAD),
    "unknown tensor": lambda c: c["state_dict"].update({"net.x": torch.zeros(1)}),
    "other names": lambda c: c.update(state_dict={f"x.{k}": v for k, v in c["state_dict"].items()}),
    "odd shape": tensor(STEM, lambda w: w[:, :2]),
    "no dimensions": tensor(HEAD, lambda w: torch.tensor(1.0)),
    "empty tensor": tensor(STEM, lambda w: w[:0].clone()),
    "nan": tensor(NORM, lambda w: w * math.nan),
    "one inf": tensor(HEAD, lambda w: torch.cat([w.flatten()[1:], torch.tensor([math.inf])]).view_as(w)),
    "too large for float32": tensor(NORM, lambda w: w.double() + 1e300),
    "whole numbers": tensor(STEM, lambda w: w.long()),
    "complex": tensor(STEM, lambda w: w.to(torch.complex64)),
    "bool": tensor(STEM, lambda w: w > 0),
    "float8": tensor(STEM, lambda w: w.to(torch.float8_e4m3fn)),
    "sparse": tensor(HEAD, lambda w: w.to_sparse()),
    "meta": tensor(HEAD, lambda w: w.to("meta")),
    "more than there is": tensor(HEAD, lambda w: torch.zeros(1, 1).expand(10**9, 10**6)),
    "quantized": tensor(HEAD, lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
    "fewer names than outputs": both(class_names=NAMES[:-1]),
    "more names than outputs": both(class_names=[*NAMES, "more"]),
    "names are numbers": both(class_names=[1, 2, 3, 4, 5]),
    "names twice": both(class_names=[*NAMES[:-1], NAMES[0]]),
    "no names": both(class_names=[]),
    "empty name": both(class_names=[*NAMES[:-1], " "]),
    "names are text": both(class_names="/etc/passwd"),
    "names of lists": both(class_names=[[], [], [], [], []]),
    "a name of bytes": both(class_names=[*NAMES[:-1], "caf\udce9"]),
    "names are none": both(class_names=None),
    "mean of two": hp(mean=[0.4, 0.4]),
    "mean of text": hp(mean="0.4"),
    "mean is nan": hp(mean=[math.nan] * 3),
    "std of zero": hp(std=[0.2, 0, 0.2]),
    "std of lists": hp(std=[[1], [1], [1]]),
    "norm of another": hp(norm="bn"),
    "norm unknown": hp(norm="x"),
    "norm is a list": hp(norm=["gn"]),
    "norm is deep": hp(norm=deep()),
    "arch unknown": hp(geometry="../../x"),
    "other arch": hp(geometry="flat_small"),
    "depth of another": hp(depth=14),
    "depth true": hp(depth=True),
    "width of a million": hp(width=10**6),
    "width within bounds": hp(width=1000),
    "width of zero": hp(width=0),
    "groups of none": hp(num_groups=None),
    "groups endless": hp(num_groups=10**5000),
    "groups that do not divide": hp(num_groups=7),
    "dropout of nan": hp(dropout=math.nan),
    "rate of inf": hp(base_lr=math.inf),
    "freeze of text": hp(freeze_affine="yes"),
    "batch of zero": hp(batch_size=0),
    "frames of text": data(num_frames="many"),
    "no frames": data(num_frames=0),
    "frames endless": data(num_frames=10**9),
    "frames as a float": data(num_frames=8.0),
    "too few frames": data(num_frames=1),
    "interval below zero": data(frame_interval=-2),
    "huge crop": both(crop_size=10**6),
    "crop differs": data(crop_size=64),
    "short side of text": data(short_side="72"),
    "short side of three": data(short_side=[72, 80, 90]),
    "test side huge": data(test_short_side=10**6),
    "a gigabyte a clip": data(num_frames=4096, test_short_side=4096),
    "short sides turned round": data(short_side=[80, 72]),
    "short side below the crop": data(short_side=[8, 80]),
    "data of another kind": data(kind="sounds"),
    "a network that is a list": lambda c: c["hyper_parameters"].update(net=[1]),
    "format of tomorrow": hp(format=3),
    "data of tomorrow": data(format=3),
    "protocol unknown": data(test_protocol="100-view"),
    "protocol a list": data(test_protocol=["gn-10clip"]),
    "seed below zero": data(seed=-1),
    "loss is a list": lambda c: c["hyper_parameters"].update(loss=["inverse"]),
    "loss of tomorrow": lambda c: c["hyper_parameters"].update(loss={"focal": 2}),
    "loss that cannot be": lambda c: c["hyper_parameters"].update(loss={"beta": 2}),
    "layers rise": lambda c: c["hyper_parameters"]["optimizer"]["init_args"].update(layer_decay=2),
    "freezes after the end": lambda c: c["hyper_parameters"].update(freeze_bn_after=1.5),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("name", few(DAMAGE, [*DAMAGE][::8], [*DAMAGE][4::8]))
def test_a_damaged_checkpoint_is_one_line(name, sound, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = copy.deepcopy(sound)
    DAMAGE[name](content)
    path = tmp_path / "damaged.ckpt"
    torch.save(content, path)
    message = refused(path, capsys, tmp_path)
    assert len(message) < 700
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()


def test_a_network_of_others_is_named_and_not_imported(sound, tmp_path, capsys, monkeypatch):
    """A checkpoint's class paths are words: of this project's classes, or the user has to name them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "theirs.py").write_text("import pathlib\npathlib.Path('ran').touch()\nclass Net: ...\n")
    for part in ("net", "optimizer", "schedule"):
        content = copy.deepcopy(sound)
        content["hyper_parameters"][part] = {"class_path": "theirs.Net", "init_args": {"x": 1}}
        path = tmp_path / f"{part}.ckpt"
        torch.save(content, path)
        if part == "net":
            for call in (
                lambda: predict([str(path), "x.mp4", "--workers", "0"]),  # noqa: B023
                lambda: export([str(path), "--out", "out"]),  # noqa: B023
                lambda: cli.main(["test", "--ckpt_path", str(path)]),  # noqa: B023
            ):
                assert "theirs.Net" in one_line(call, capsys)
            with pytest.raises(InputError, match=r"theirs\.Net"):
                VideoClassifier.load_from_checkpoint(path)
        else:
            assert VideoClassifier.load_from_checkpoint(path).class_names == NAMES
        assert not Path("ran").exists() and "theirs" not in sys.modules


def test_any_value_is_shown_in_one_line():
    assert shown(deep(50_000)) == "[[[...]]]"
    assert shown(10**5000) == "a int" and shown("\x1b[31m\n") == r"'\x1b[31m\n'"
    assert shown("\udce9" * 100).isascii() and len(shown("\udce9" * 100)) < 100


def test_files_that_are_no_checkpoints(sound, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(sound, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    contents = {
        "empty": b"", "text": b"no checkpoint", "cut": whole[: len(whole) // 2], "no end": whole[:-100],
        "no beginning": whole[1000:], "zip": (tmp_path / "empty.zip").read_bytes(), "zeros": bytes(10_000),
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / f"{name}.ckpt").write_bytes(content)
        assert "damaged" in refused(tmp_path / f"{name}.ckpt", capsys, tmp_path)
    (tmp_path / "folder.ckpt").mkdir()
    assert "folder.ckpt is a folder; name a file" in refused(tmp_path / "folder.ckpt", capsys, tmp_path)
    for name, value in {"list": [1], "tensor": torch.zeros(3), "text": "text", "odd": {1: 2}}.items():
        torch.save(value, tmp_path / f"{name}.ckpt")
        assert "not a checkpoint of this project" in refused(tmp_path / f"{name}.ckpt", capsys, tmp_path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.ckpt")  # torch.load would run it
    assert "damaged" in refused(tmp_path / "script.ckpt", capsys, tmp_path)


def test_a_sound_checkpoint_is_taken(sound, tmp_path):
    """The same content undamaged, and with values that are odd and right."""
    torch.save(sound, tmp_path / "sound.ckpt")
    assert find_resume(tmp_path / "run", str(tmp_path / "sound.ckpt"))
    sound = copy.deepcopy(sound)
    names = ["'; rm", "=1+1", "\x1b[31m", "caf\u00e9", "a\nb"]
    both(class_names=names)(sound)
    sound["hyper_parameters"] |= {"_class_path": "x.Y", "_instantiator": "z"}
    hp(base_lr=1)(sound)
    sound["state_dict"] = OrderedDict((name, value.half()) for name, value in sound["state_dict"].items())
    torch.save(sound, tmp_path / "odd.ckpt")
    found = read_checkpoint(str(tmp_path / "odd.ckpt"))
    assert found.model["class_names"] == names and "_class_path" not in found.model
    assert open_trained(str(tmp_path / "odd.ckpt")).scores(torch.zeros(1, 3, 8, 40, 40, dtype=torch.uint8)).sum() > 0.99


@pytest.mark.parametrize("depth", [101, 5000, 3_000_000])
def test_values_deep_in_each_other_are_refused_before_they_are_made(depth, sound, tmp_path, capsys):
    """Their hash is made by recursion in C, which ends the process."""
    torch.save(sound, tmp_path / "sound.ckpt")
    for name in ("deep.ckpt", "deep.pth"):
        with zipfile.ZipFile(tmp_path / "sound.ckpt") as old, zipfile.ZipFile(tmp_path / name, "w") as new:
            for entry in old.infolist():
                new.writestr(entry.filename, nested(depth) if entry.filename.endswith("data.pkl") else old.read(entry))
    for name in ("deep.pkl", "legacy.pth"):
        (tmp_path / name).write_bytes(nested(depth))
    assert "damaged" in refused(tmp_path / "deep.ckpt", capsys, tmp_path)
    for name in ("deep.pth", "deep.pkl", "legacy.pth"):
        with pytest.raises(InputError, match="is not a file of weights, or is damaged"):
            classifier(NAMES, **SMALL, init=str(tmp_path / name))


def test_a_tensor_under_two_names_is_refused(sound, tmp_path, capsys):
    name, tensor = next(iter(sound["state_dict"].items()))
    twice = copy.deepcopy(sound)
    twice["state_dict"][name.removeprefix("net.")] = tensor + 1
    torch.save(twice, tmp_path / "twice.ckpt")
    assert "more than one network" in refused(tmp_path / "twice.ckpt", capsys, tmp_path)


def test_a_pickle_takes_no_memory_that_it_only_names(tmp_path):
    (tmp_path / "memo.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x0f.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        classifier(NAMES, **SMALL, init=str(tmp_path / "memo.pkl"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (1 << 20)


def test_compressed_archives_are_refused(sound, tmp_path, capsys):
    """torch writes none; they may be bombs, and mapped into memory they would be other numbers."""
    torch.save(sound, tmp_path / "sound.ckpt")
    with zipfile.ZipFile(tmp_path / "sound.ckpt") as old, zipfile.ZipFile(tmp_path / "small.ckpt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)
    assert "damaged" in refused(tmp_path / "small.ckpt", capsys, tmp_path)


# What a file brings along


def settings_of(path, folder):
    import yaml

    given = with_checkpoint(["test", "--ckpt_path", str(path)])
    assert given[1] == "--config" and given[3:] == ["--ckpt_path", str(path)]
    return yaml.safe_load(given[2])


def test_a_lone_checkpoint_names_no_folder_and_writes_nowhere(sound, tmp_path, caplog, monkeypatch):
    """Its network and its clips, and nothing else, whatever it says."""
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    content = copy.deepcopy(sound)
    everything = {
        "root": str(tmp_path / "theirs"), "train": "/etc/passwd", "val": "/etc/passwd", "quarantine": "/etc/crontab",
        "decode_timeout": 1e9, "motion": {"train_per_class": 10**5}, "num_workers": 1000, "backend": "pyav",
        "inspect": True, "max_bad": 1.0, "batch_size": 8, "max_span": 400, "seed": 3,
    }  # fmt: skip
    data(**everything)(content)
    hp(init="/etc/passwd")(content)
    content["callbacks"]["EvaluationStatistics"] = {"use": "precise", "batches": 10**9}
    path = tmp_path / "theirs.ckpt"
    torch.save(content, path)
    found = settings_of(path, tmp_path)
    assert set(found) == {"seed_everything", "images", "model", "data", "run_dir"} and found["seed_everything"] == 3
    assert set(found["model"]) == {"net", "start", "optimizer", "schedule", "loss", "freeze_bn_after"}
    assert set(found["model"]["start"]) == {"mean", "std"}
    assert found["model"]["net"]["class_path"] == "video_gn.models.resnet3d.ResNet3d"
    assert set(found["data"]) == {"class_names", "clip", "evaluation"}
    assert set(found["data"]["evaluation"]) == {"protocol", "short_side"}
    assert found["run_dir"] == "runs/tested/theirs" and found["data"]["class_names"] == NAMES

    folder = tmp_path / "run" / "checkpoints"  # beside a run's config.yaml, it also says where the data is
    folder.mkdir(parents=True)
    shutil.copy(path, folder / "last.ckpt")
    assert settings_of(folder / "last.ckpt", tmp_path)["data"].keys() == found["data"].keys()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    found = settings_of(folder / "last.ckpt", tmp_path)
    assert found["run_dir"] == str(tmp_path / "run")
    assert found["data"]["root"] == str(tmp_path / "theirs") and found["data"]["motion"] == {"train_per_class": 10**5}
    assert found["data"]["loading"]["num_workers"] == 1000 and found["bn_statistics"]["use"] == "precise"
    assert not {"quarantine", "decode_timeout", "max_bad"} & found["data"]["loading"].keys()
    assert (
        "data.loading.quarantine='/etc/crontab' is not taken" in caplog.text
        and "data.loading.decode_timeout" in caplog.text
    )


def test_only_training_makes_data(run, tmp_path, capsys):
    """A run's folder whose data are gone: a test makes nothing."""
    copied = tmp_path / "run" / "checkpoints"
    copied.mkdir(parents=True)
    shutil.copy(run / "config.yaml", tmp_path / "run")
    content = torch.load(run / "checkpoints" / "epoch=2.ckpt", weights_only=True)
    data(root=str(tmp_path / "elsewhere"), motion={"train_per_class": 10**5})(content)
    torch.save(content, copied / "last.ckpt")
    for command in ("test", "validate"):
        line = one_line(lambda: cli.main([command, "--ckpt_path", str(copied / "last.ckpt")]), capsys)  # noqa: B023
        assert "is not there; training makes it" in line
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_results_of_a_lone_checkpoint_are_kept_apart(run, data_root, tmp_path, monkeypatch, capsys):
    """Not in the folder of a run of one's own that has the same name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(run / "checkpoints" / "epoch=2.ckpt", tmp_path / "theirs.ckpt")
    (tmp_path / "runs").mkdir()
    args = ["test", "--ckpt_path", "theirs.ckpt", "--data.evaluation.protocol", "center-1clip"]
    assert "there is no list or folder" in one_line(lambda: cli.main(args), capsys)
    motion = ["--data.root", str(data_root), "--data.motion", "{train_per_class: 2, val_per_class: 2}"]
    assert cli.main([*args, *motion, "--data.loading.num_workers", "0"]) == 0
    assert [path.name for path in Path("runs").iterdir()] == ["tested"]
    assert json.loads(Path("runs/tested/theirs/results.json").read_text())["tests"][0]["videos"] == 24


@pytest.mark.slow
def test_a_checkpoint_from_before_a_setting_has_its_default(tmp_path):
    """One without `nonlocal_blocks` is of a network without any, and is taken for no other."""
    path = tmp_path / "last.ckpt"
    checkpoint(path, depth=50, width=4, arch="i3d_small", num_groups=4, crop_size=32)
    content = torch.load(path, weights_only=True)
    del content["hyper_parameters"]["net"]["init_args"]["nonlocal_blocks"]
    torch.save(content, path)
    settings = {"depth": 50, "width": 4, "arch": "i3d_small", "num_groups": 4, "crop_size": 32}
    check_architecture(str(path), classifier(NAMES, **settings).hparams)
    assert VideoClassifier.load_from_checkpoint(path).net.settings["nonlocal_blocks"] == 0
    with pytest.raises(InputError, match="it has nonlocal_blocks=0, the settings ask for nonlocal_blocks=5"):
        check_architecture(str(path), classifier(NAMES, **settings, nonlocal_blocks=5).hparams)
    checkpoint(path, **settings, nonlocal_blocks=5)
    assert VideoClassifier.load_from_checkpoint(path).net.settings["nonlocal_blocks"] == 5


def test_class_names_have_to_be_text(tmp_path):
    """A folder's name may be any bytes; a class's is written into files that are UTF-8."""
    for name in ("caf\udce9", " ", ""):
        with pytest.raises(InputError, match="no text in UTF-8"):
            video_data(root=str(tmp_path), class_names=["a", name])


def test_many_class_names_travel(sound, tmp_path, monkeypatch, capsys):
    """More settings than a path has room for, through the command line's parser."""
    monkeypatch.chdir(tmp_path)
    names = [f"class {i} with a long name, as Kinetics has them: 'x' \x1b\n \u00e9 \u2028" for i in range(400)]
    names += ["1e400", "1e5", "0x1", "1_0", ".inf", "null", "yes", "2020-01-01", "-", "=", "<<", "{}", "~", "1.5"]
    model = classifier(names, **SMALL)
    content = sound | {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    content = {name: value for name, value in content.items() if name != "loops"}
    content["pytorch-lightning_version"] = "2.6.6"
    torch.save(content, tmp_path / "many.ckpt")
    args = ["predict", "--ckpt_path", "many.ckpt", "--videos", "gone.mp4", "--data.loading.num_workers", "0"]
    assert "none of 1 videos can be read" in one_line(lambda: cli.main(args), capsys)


# The state of training


def no(*keys):
    return without(*keys)


TRAINING = {
    "no optimiser": no("optimizer_states"),
    "no loops": no("loops"),
    "no schedule": no("lr_schedulers"),
    "no callbacks": no("callbacks"),
    "loops of text": lambda c: c.update(loops="x"),
    "no fit loop": no("loops", "fit_loop"),
    "no progress": no("loops", "fit_loop", "epoch_progress"),
    "counter of text": lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(ready="many"),
    "counter below zero": lambda c: c["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"].update(ready=-5),
    "counter deep": lambda c: c["loops"].update(fit_loop=deep()),
    "two optimisers": lambda c: c["optimizer_states"].append({}),
    "optimiser of text": lambda c: c.update(optimizer_states=["x"]),
    "optimiser without groups": no("optimizer_states", 0, "param_groups"),
    "one group": lambda c: c["optimizer_states"][0]["param_groups"].pop(),
    "rate of text": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
    "rate of nan": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=math.nan),
    "no momentum": no("optimizer_states", 0, "param_groups", 0, "momentum"),
    "momentum of another shape": lambda c: c["optimizer_states"][0]["state"][0].update(momentum_buffer=torch.zeros(2)),
    "momentum of text": lambda c: c["optimizer_states"][0]["state"][0].update(momentum_buffer="x"),
    "momentum of nan": lambda c: c["optimizer_states"][0]["state"][0]["momentum_buffer"].fill_(math.nan),
    "no schedulers": lambda c: c.update(lr_schedulers=[]),
    "schedule of text": lambda c: c.update(lr_schedulers=["x"]),
    "schedule replaces a method": lambda c: c["lr_schedulers"][0].update(step=5),
    "schedule of nan": lambda c: c["lr_schedulers"][0].update(base_lrs=[math.nan, 1.0]),
    "schedule at text": lambda c: c["lr_schedulers"][0].update(last_epoch="x"),
    "version of text": lambda c: c.update({"pytorch-lightning_version": "many"}),
    "version of a list": lambda c: c.update({"pytorch-lightning_version": [1]}),
    "file elsewhere": lambda c: next(iter(c["callbacks"].values())).update(best_model_path="runs/../../x.ckpt"),
    "callback of text": lambda c: c["callbacks"].update({next(iter(c["callbacks"])): "x"}),
}  # fmt: skip


@pytest.mark.parametrize("name", few(TRAINING, [*TRAINING][::8], [*TRAINING][4::8]))
def test_a_damaged_state_of_training_is_one_line(name, run, data_root, tmp_path, capsys):
    """Where fit looks for what to resume from; what is seen later, from the command line up to the first step."""
    content = torch.load(run / "checkpoints" / "epoch=0.ckpt", weights_only=True)
    TRAINING[name](content)
    torch.save(content, tmp_path / "theirs.ckpt")
    try:
        find_resume(tmp_path / "run", str(tmp_path / "theirs.ckpt"))
    except InputError as error:
        assert "theirs.ckpt" in str(error) and "\n" not in str(error)
        return
    args = fit(tmp_path / "run", data_root, *short("--ckpt_path", tmp_path / "theirs.ckpt"))
    assert "theirs.ckpt" in one_line(lambda: cli.main(args), capsys)
    assert not (tmp_path / "run" / "checkpoints").exists()


# The same in safetensors and .pth


def head_of(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["video_gn"]  # noqa: SIM118


@pytest.fixture(scope="module")
def exported_small(sound, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    torch.save(sound, folder / "small.ckpt")
    assert export([str(folder / "small.ckpt"), "--to", "safetensors", "--out", str(folder)]) == 0
    return head_of(next(folder.glob("*.safetensors")))


def changed(text, part, **change):
    settings = json.loads(text)
    settings[part] |= change
    return json.dumps(settings)


SETTINGS = {
    "no JSON": lambda text: "no JSON",
    "half": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[1, 2]",
    "a number": lambda text: "1" * 5000,
    "nothing": lambda text: "null",
    "deep": lambda text: "[" * 100_000 + "]" * 100_000,
    "deep names": lambda text: '{"model": ' * 5000 + "1" + "}" * 5000,
    "model of text": lambda text: '{"model": "gn", "clip": {}}',
    "no model": lambda text: '{"clip": {}}',
    "no clip": lambda text: json.dumps(json.loads(text) | {"clip": None}),
    "run of a list": lambda text: json.dumps(json.loads(text) | {"run": [1]}),
    "run of lists": lambda text: json.dumps(json.loads(text) | {"run": {"name": [1]}}),
    "versions of text": lambda text: json.dumps(json.loads(text) | {"versions": "new"}),
    "huge number": lambda text: text.replace('"num_frames": 8', '"num_frames": 1' + "0" * 4000),
    "infinity": lambda text: changed(text, "model", mean=[math.inf] * 3),
    "frames": lambda text: changed(text, "clip", num_frames="8"),
    "names": lambda text: changed(text, "model", class_names=NAMES[:-1]),
    "names of others": lambda text: changed(text, "model", class_names={"a": 1}),
    "depth": lambda text: changed(text, "model", depth=101),
    "width": lambda text: changed(text, "model", width=1024),
    "protocol": lambda text: changed(text, "clip", test_protocol=7),
    "unknown": lambda text: changed(text, "model", from_tomorrow=1),
    "a tensor": lambda text: torch.zeros(3),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", SETTINGS)
def test_damaged_settings_of_an_export_are_one_line(name, suffix, exported_small, tmp_path, capsys):
    tensors, text = exported_small
    path = tmp_path / f"damaged{suffix}"
    if name == "a tensor" and suffix != ".pth":
        return
    if suffix == ".pth":
        torch.save({"model_state": tensors, "video_gn": SETTINGS[name](text)}, path)
    else:
        save_file(tensors, path, {"video_gn": SETTINGS[name](text)})
    one_line(lambda: predict([str(path), "x.mp4", "--workers", "0"]), capsys)
    try:
        classifier(NAMES, **SMALL, init=str(path))
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("change", ["nan", "missing", "half", "flat"])
def test_damaged_tensors_of_an_export_are_one_line(change, exported_small, tmp_path, capsys):
    tensors, text = dict(exported_small[0]), exported_small[1]
    stem, head = STEM.removeprefix("net."), HEAD.removeprefix("net.")
    if change == "nan":
        tensors[stem] = tensors[stem] * math.nan
    elif change == "missing":
        del tensors[head]
    elif change == "half":
        tensors[head] = tensors[head][:2].clone()
    else:  # a kernel of one frame would be inflated where weights start a training
        tensors[stem] = tensors[stem][:, :, :1].clone()
    save_file(tensors, tmp_path / "damaged.safetensors", {"video_gn": text})
    one_line(lambda: predict([str(tmp_path / "damaged.safetensors"), "x.mp4"]), capsys)


def test_a_test_of_tiny_frames_is_refused_before_it_fails(tmp_path, capsys):
    """Pools without padding cannot halve a frame of a few pixels."""
    unpadded = SMALL | {"arch": "i3d_nonlocal", "crop_size": 64, "depth": 50}
    checkpoint(tmp_path / "tiny.ckpt", 16, **unpadded)
    content = torch.load(tmp_path / "tiny.ckpt", weights_only=True)
    data(test_short_side=2)(content)
    torch.save(content, tmp_path / "tiny.ckpt")
    line = one_line(lambda: predict([str(tmp_path / "tiny.ckpt"), "x.mp4"]), capsys)
    assert "tested at 2, which its network (i3d_nonlocal_r50w8_gn4 at 64) cannot see" in line


def test_a_new_classifier_is_only_for_training_and_is_said(sound, tmp_path, capsys):
    """A head of other classes than the file names: never drawn at random where scores are read."""
    content = copy.deepcopy(sound)
    both(class_names=NAMES[:-1])(content)
    torch.save(content, tmp_path / "short.ckpt")
    assert "a classifier of 5 outputs and names 4 classes" in refused(tmp_path / "short.ckpt", capsys, tmp_path)
    torch.save(sound, tmp_path / "whole.ckpt")
    set_up_messages()
    classifier(NAMES[:3], **SMALL, init=str(tmp_path / "whole.ckpt"))
    assert "the classifier starts at random (5 classes there, 3 here)" in capsys.readouterr().err
    with pytest.raises(InputError, match="not finite"):
        content["state_dict"][STEM] *= math.nan
        torch.save(content, tmp_path / "nan.ckpt")
        classifier(NAMES, **SMALL, init=str(tmp_path / "nan.ckpt"))


def test_safetensors_that_promise_more_than_they_have(tmp_path, capsys):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}).encode()
    for size in (len(header), 2**62):
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", size) + header + bytes(4))
        assert "damaged" in one_line(lambda: predict([str(tmp_path / "x.safetensors"), "x.mp4"]), capsys)


def flip_a_weight(path):
    """Changes bytes of a tensor where they are in a checkpoint's archive."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    middle = entry.header_offset + entry.file_size // 2
    data[middle : middle + 64] = bytes(byte ^ 0x55 for byte in data[middle : middle + 64])
    path.write_bytes(data)
    return entry.filename


def test_bytes_that_changed_are_noticed(run, tmp_path, capsys):
    """Torch reads them as they are, and would train or test with another weight."""
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copy(folder / "last.ckpt", folder / "previous.ckpt")
    os.utime(folder / "previous.ckpt", (1, 1))
    name = flip_a_weight(folder / "last.ckpt")
    with pytest.raises(InputError, match=f"last.ckpt is damaged: the checksum of '{name}' in it is wrong"):
        read_checkpoint(str(folder / "last.ckpt"))
    assert find_resume(tmp_path / "run", "last") == str(folder / "previous.ckpt")
    with pytest.raises(InputError, match=r"checkpoints is a folder; name a file"):
        read_checkpoint(str(folder))
