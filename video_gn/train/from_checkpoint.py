"""What validate, test and predict take from a checkpoint, below what their command line says.

The network and how its clips are made come with it. Where the data is comes with it only out of a run's folder, which
is trusted as a config is (docs/security.md); a single file names no folder, list or program.
"""

import itertools
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from video_gn.data import motion12
from video_gn.data.decoding.open import BACKENDS
from video_gn.data.own import AUTO
from video_gn.errors import InputError
from video_gn.files.names import is_utf8
from video_gn.rules import AUGMENT, DATA, DIVISION, EVALUATION, FLAG, LOADING, Rule, one_of, plain, shown
from video_gn.train.callbacks.bn_statistics import RULES as STATISTICS
from video_gn.train.callbacks.split_table import find_table
from video_gn.train.checkpoint import Checkpoint, read_checkpoint
from video_gn.train.configs import configs_of, flat
from video_gn.weights.stored import CLASSES, net_settings
from video_gn.weights.upgrade import upgrade_data

log = logging.getLogger(__name__)
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
    """Adds how the checkpoint's run divided its videos, where the command line and its configs name no lists."""
    if args[0] == "predict":  # which takes files
        return
    said = {arg[2:].partition("=")[0] for arg in args if arg.startswith("--data.")}
    for config in configs_of(args):
        said |= {name for name, value in flat(config).items() if value not in (None, AUTO)}
    named = {name for name in ("train", "val", "test", "split") if f"data.{name}" in said}
    if not named and (table := _table(checkpoint, Path(run_dir))):
        data |= {"split": table} | ({} if checkpoint.run_dir else dict.fromkeys(("train", "val", "test"), AUTO))
    elif named:
        for name in ("folds", "fold"):
            data.pop(name, None)
        if "val" in named and "test" not in named and data.get("test") == AUTO:
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
