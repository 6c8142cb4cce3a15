"""Checkpoints as files: what is taken from them.

A checkpoint brings along the network and how its clips are made. Where the data is comes with it only out of a run's
folder, which is trusted as a config is (docs/security.md); a single file names no folder, list or program.
"""

import itertools
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from video_gn.data import motion12
from video_gn.data.decoding.open import BACKENDS
from video_gn.data.own import AUTO
from video_gn.data.protocols import find_protocol
from video_gn.errors import InputError
from video_gn.files.names import is_utf8, utf8_named
from video_gn.models.resnet3d import ResNet3d
from video_gn.rules import AUGMENT, DATA, DIVISION, EVALUATION, FLAG, LOADING, Rule, one_of, plain, shown
from video_gn.train.callbacks.bn_statistics import RULES as STATISTICS
from video_gn.train.callbacks.split_table import find_table
from video_gn.train.configs import flat
from video_gn.weights.archives import wrong_sum
from video_gn.weights.inflate import own_state
from video_gn.weights.pickles import load_torch
from video_gn.weights.reader import Weights, read_weights
from video_gn.weights.stored import CLASSES, clip_settings, model_settings, net_settings
from video_gn.weights.upgrade import upgrade_data

log = logging.getLogger(__name__)
# What a checkpoint has to have in common with the model that it is loaded into.
ARCHITECTURE = ("arch", "depth", "width", "norm", "num_groups", "channels_per_group")
_BYTES = re.compile("[\udc80-\udcff]")  # of names that are not UTF-8, as Python keeps them
_PATH = Rule(
    lambda x: x is None or (isinstance(x, str) and 0 < len(x) < 4096 and _BYTES.sub("", x).isprintable()), "a path"
)
# What a checkpoint says of where the data is and how it is read, which is asked for only in the folder of its run.
RUN_DATA = {
    **dict.fromkeys(("root", "train", "val", "test"), _PATH),
    "motion": Rule(lambda x: x is None or _is_motion(x), "parameters of the embedded set"),
    **{name: DATA[name] for name in ("batch_size", "clips_per_video", "clips_per_epoch", "sampling")},
    **DIVISION,
    **{f"augment.{name}": rule for name, rule in AUGMENT.items()},
    "evaluation.validation": EVALUATION["validation"],
    "evaluation.inspect": FLAG,
    "loading.num_workers": LOADING["num_workers"],
    "loading.backend": one_of(BACKENDS),
    "loading.decode_timeout": Rule(lambda x: type(x) in (int, float) and 0 < x <= 3600, "at most an hour, in seconds"),
    "loading.quarantine": Rule(
        lambda x: isinstance(x, str) and x.isprintable() and x == Path(x).name and x.endswith(".csv"),
        "a file name that ends in .csv",
    ),
}


def _is_motion(given: Any) -> bool:
    return isinstance(given, dict) and all(
        name in motion12.RULES and motion12.RULES[name].holds(given[name]) for name in given
    )


class Checkpoint(NamedTuple):
    """What a checkpoint says of itself, checked.

    Attributes:
        path: The file.
        model: What it says of the model: class_names, net, optimizer, schedule, start and so on, in today's format.
        clip: How its clips are made (`video_gn.weights.stored.CLIPS`).
        epoch: The last one.
        global_step: Steps of the optimiser.
        content: All of it, not checked but for the weights.
    """

    path: str
    model: Mapping[str, Any]
    clip: Mapping[str, Any]
    epoch: int
    global_step: int
    content: Mapping[str, Any]

    @property
    def run_dir(self) -> Path | None:
        """The folder of its run, if it is in one: beside `checkpoints` is the run's config.yaml."""
        folder = Path(self.path).absolute().parent
        return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file() else None


def read_checkpoint(path: str) -> Checkpoint:
    """A checkpoint of this project, opened so that no code in it can run.

    Raises:
        InputError: There is no such file, it is something else, or says what makes no sense.
    """
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; name a file, as checkpoints/best.ckpt in a run's folder")
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with utf8_named(path) as name:
            content = load_torch(name, mmap=True)
            wrong = wrong_sum(name)
    except Exception as error:  # torch.load fails in many ways on what is no checkpoint
        raise InputError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__})") from None
    if wrong:
        raise InputError(f"{path} is damaged: the checksum of {shown(wrong)} in it is wrong")
    needed = {"state_dict", "hyper_parameters", "datamodule_hyper_parameters", "epoch", "global_step"}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise InputError(
            f"{path} is not a checkpoint of this project's training; weights to start from go into "
            "--model.start.init, exports into python -m video_gn.predict"
        )
    for name in ("epoch", "global_step"):
        if type(content[name]) is not int or not 0 <= content[name] < 2**53:
            raise InputError(f"{path} says that {name} is {shown(content[name])}; the file is damaged")
    model = model_settings(content["hyper_parameters"], path)
    clip = clip_settings(content["datamodule_hyper_parameters"], path)
    find_protocol(clip["test_protocol"])
    if model["net"]["class_path"] in CLASSES["net"]:
        check_network(read_weights(path, content), model, clip)
    return Checkpoint(path, model, clip, content["epoch"], content["global_step"], content)


def check_network(weights: Weights, model: Mapping[str, Any], clip: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state of the network that a file describes, nothing left out; the network itself takes no memory here.

    Raises:
        InputError: The weights are of another network, or it cannot see such clips.
    """
    crop, frames, names = model["crop_size"], clip["num_frames"], model["class_names"]
    settings = net_settings(model, weights.source)
    with torch.device("meta"):
        net = ResNet3d(len(names), **settings | {"dropout": 0.0}).eval()
    net.set_crop_size(crop)
    state = own_state(weights, net, names)
    try:
        if crop != clip["crop_size"]:
            raise ValueError("two sizes of crops")
        for side in (crop, clip["test_short_side"]):
            net(torch.empty(1, 3, frames, side, side, device="meta"))
    except (RuntimeError, ValueError):
        raise InputError(
            f"{weights.source} says that a clip is {frames} frames with crops of {clip['crop_size']}, tested at "
            f"{clip['test_short_side']}, which its network ({settings['arch']} at {crop}) cannot see; it is damaged"
        ) from None
    return state


def with_checkpoint(args: list[str]) -> list[str]:
    """Puts what a checkpoint says below the settings given, so that a checkpoint alone is enough to use it.

    That is the network and its clips. Out of a run's folder it is also where the data is and how it is read, each by
    its rule; results go into that folder, and those of a single file into `runs/tested/`.

    Args:
        args: A command line.

    Raises:
        InputError: The command needs a checkpoint, and there is none or it is something else.
    """
    if not args or args[0] not in ("validate", "test", "predict") or {"-h", "--help"} & set(args):
        return args
    paths = [value for arg, value in itertools.pairwise(args) if arg == "--ckpt_path"]
    paths += [arg.partition("=")[2] for arg in args if arg.startswith("--ckpt_path=")]
    if not paths:
        raise InputError(f"{args[0]} needs a checkpoint: --ckpt_path runs/NAME/checkpoints/last.ckpt")
    checkpoint = read_checkpoint(paths[-1])
    model: dict[str, Any] = {"start": {name: list(checkpoint.model["start"][name]) for name in ("mean", "std")}}
    if checkpoint.model["net"]["class_path"] in CLASSES["net"]:
        model["net"] = plain(checkpoint.model["net"])
    elif not {"--model.net", "-c", "--config"} & {arg.partition("=")[0] for arg in args}:
        net_settings(checkpoint.model, checkpoint.path)
    for part in ("optimizer", "schedule"):  # for what results.json says of it
        if part in checkpoint.model and checkpoint.model[part]["class_path"] in CLASSES[part]:
            model[part] = plain(checkpoint.model[part])
    model |= {name: plain(checkpoint.model[name]) for name in ("loss", "freeze_bn_after") if name in checkpoint.model}
    data = data_config(checkpoint.clip) | {"class_names": list(checkpoint.model["class_names"])}
    data |= {"multi_label": True} if model.get("loss", {}).pop("multi_label", False) else {}  # the one is linked
    stored: dict[str, Any] = {
        "seed_everything": checkpoint.clip.get("seed", 0) % 2**32,
        "images": checkpoint.clip["images"],
        "model": model,
        "data": data,
        "run_dir": str(checkpoint.run_dir or Path("runs", "tested", Path(paths[-1]).stem)),
    }
    if checkpoint.run_dir:
        for name, value in _of_run(checkpoint).items():
            part, _, field = name.rpartition(".")
            (data.setdefault(part, {}) if part else data)[field] = value
        stored |= _statistics(checkpoint)
    _take_split(checkpoint, data, stored["run_dir"], args)
    # YAML has no form for names that are not UTF-8, a command line has.
    raw = [f"--data.{name}={data.pop(name)}" for name, value in list(data.items()) if not _in_yaml(value)]
    raw += [] if _in_yaml(stored["run_dir"]) else [f"--run_dir={stored.pop('run_dir')}"]
    return [args[0], "--config", yaml.dump(stored, Dumper=_Quoting), *raw, *args[1:]]


def split_of_run(path: str, run_dir: Path) -> str | None:
    """The table of how a run divided its videos, for its resumption from a checkpoint."""
    return _table(read_checkpoint(path), run_dir)


def _take_split(checkpoint: Checkpoint, data: dict[str, Any], run_dir: str, args: list[str]) -> None:
    """Adds how the checkpoint's run divided its videos, where the command line names no lists."""
    named = {arg.partition("=")[0].removeprefix("--data.") for arg in args if arg.startswith("--data.")}
    if not named & {"train", "val", "test", "split"} and (table := _table(checkpoint, Path(run_dir))):
        data |= {"split": table} | ({} if checkpoint.run_dir else dict.fromkeys(("train", "val", "test"), AUTO))
    elif "val" in named and "test" not in named and data.get("test") == AUTO:
        del data["test"]  # the videos that are named are to be tested


def _table(checkpoint: Checkpoint, folder: Path) -> str | None:
    return find_table(checkpoint.content, folder, checkpoint.path, checkpoint.run_dir is not None)


def data_config(clip: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a data module by which a clip is made so (`video_gn.weights.stored.CLIPS`)."""
    clip = plain(clip)
    if clip["images"]:
        return {"crop_size": clip["crop_size"], "short_side": clip["test_short_side"], "flip": clip["flip"]}
    names = ("num_frames", "frame_interval", "max_span", "short_side", "crop_size", "flip", "shrink")
    return {
        "clip": {name: clip[name] for name in names if name in clip},
        "evaluation": {"protocol": clip["test_protocol"], "short_side": clip["test_short_side"]},
    }


def _statistics(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which statistics of BatchNorm the run is evaluated by, as a config has it."""
    kept = checkpoint.content.get("callbacks")
    state = kept.get("EvaluationStatistics") if isinstance(kept, dict) else None
    if state is None and checkpoint.content["hyper_parameters"].get("format", 1) == 1:
        old = checkpoint.content["hyper_parameters"]
        state = {"use": old.get("bn_statistics", "running"), "batches": old.get("precise_steps", 200)}
    if not isinstance(state, dict) or any(not rule.holds(state.get(name)) for name, rule in STATISTICS.items()):
        return {}
    return {"bn_statistics": {name: state[name] for name in STATISTICS}}


class _Quoting(yaml.SafeDumper):
    """Quotes all text: jsonargparse takes more of it for numbers than PyYAML does, such as a class named 1e5."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')


_Quoting.add_representer(str, _Quoting.represent_str)


def _in_yaml(value: Any) -> bool:
    return not isinstance(value, str) or is_utf8(value)


def _of_run(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where a run's data is and how it was read, by dotted names; what breaks its rule is named, and left out."""
    given = checkpoint.content["datamodule_hyper_parameters"]
    given = flat(given if given.get("format") else upgrade_data(given))
    motion = {name.removeprefix("motion."): given.pop(name) for name in list(given) if name.startswith("motion.")}
    found = {name: given[name] for name in RUN_DATA if name in given} | ({"motion": motion} if motion else {})
    if checkpoint.clip["images"]:
        found = {
            name: value
            for name, value in found.items()
            if name not in ("motion", "clips_per_video", "evaluation.inspect", "evaluation.validation", *DIVISION)
        }
    for name in [name for name in found if not RUN_DATA[name].holds(found[name])]:
        log.warning(
            "data.%s=%s is not taken from %s: it is not %s; give it by --data.%s",
            name, shown(found.pop(name)), checkpoint.path, RUN_DATA[name].words, name,
        )  # fmt: skip
    return found


def check_architecture(path: str, settings: Mapping[str, Any]) -> None:
    """Raises InputError if a checkpoint belongs to another network than a model with these hyper-parameters."""
    stored = read_checkpoint(path).model
    before, now = (_network(one) for one in (stored, settings))
    different = [name for name in before if before[name] != now.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"{path} is of another architecture: it has {_setting(name, before[name])}, the settings ask for "
            f"{_setting(name, now.get(name))}; leave them to the checkpoint, or take another checkpoint"
        )


def _network(model: Mapping[str, Any]) -> dict[str, Any]:
    """What tells networks apart."""
    net = model["net"]
    settings = {name: net["init_args"].get(name) for name in ARCHITECTURE} if net["init_args"] else {}
    rest = {"class_names": list(model["class_names"]), "multi_label": model.get("loss", {}).get("multi_label", False)}
    return {"net": net["class_path"]} | settings | rest


def _setting(name: str, value: Any) -> str:
    return f"{len(value)} classes ({value[0]}, ...)" if isinstance(value, list) else f"{name}={value}"
