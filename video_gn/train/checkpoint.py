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
from video_gn.data.sampling import find_protocol
from video_gn.errors import InputError
from video_gn.files.names import is_utf8, utf8_named
from video_gn.models.norm import make_norm
from video_gn.models.resnet3d import resnet3d
from video_gn.rules import DATA, Rule, shown
from video_gn.weights.inflate import own_state
from video_gn.weights.pickles import load_torch
from video_gn.weights.reader import Weights, read_weights
from video_gn.weights.stored import CLIP, clip_settings, model_settings

log = logging.getLogger(__name__)
# What a checkpoint has to have in common with the model that it is loaded into.
ARCHITECTURE = ("geometry", "depth", "width", "norm", "num_groups", "channels_per_group", "class_names")
# What describes the network to `validate`, `test` and `predict`.
NETWORK = (
    "norm", "num_groups", "channels_per_group", "r_max", "d_max", "freeze_affine", "depth", "width", "geometry",
    "dropout", "zero_init_gamma", "mean", "std",
)  # fmt: skip
# What a checkpoint says besides, and is asked for only in the folder of its run.
RUN_MODEL = ("norm_batch", "bn_statistics", "precise_steps", "compile", "channels_last", "low_memory")
_BYTES = re.compile("[\udc80-\udcff]")  # of names that are not UTF-8, as Python keeps them
_PATH = Rule(
    lambda x: x is None or (isinstance(x, str) and 0 < len(x) < 4096 and _BYTES.sub("", x).isprintable()), "a path"
)
RUN_DATA = {
    **dict.fromkeys(("root", "train", "val", "test"), _PATH),
    "motion": Rule(lambda x: x is None or _is_motion(x), "parameters of the embedded set"),
    **{name: DATA[name] for name in ("batch_size", "clips_per_video", "num_workers")},
    "backend": _PATH,
    "inspect": DATA["flip"],
    "decode_timeout": Rule(lambda x: type(x) in (int, float) and 0 < x <= 3600, "at most an hour, in seconds"),
    "quarantine": Rule(
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
        model: Hyper-parameters of `VideoClassifier`, class names among them.
        clip: How its clips are made (`CLIP`), and `max_span` and `seed` where it has them.
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
        """The folder of its run, if it lies in one: beside `checkpoints` is the run's config.yaml."""
        folder = Path(self.path).absolute().parent
        return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file() else None


def read_checkpoint(path: str) -> Checkpoint:
    """A checkpoint of this project, opened so that no code in it can run.

    Raises:
        InputError: There is no such file, it is something else, or says what makes no sense.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with utf8_named(path) as name:
            content = load_torch(name, mmap=True)
    except Exception as error:  # torch.load fails in many ways on what is no checkpoint
        raise InputError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__})") from None
    needed = {"state_dict", "hyper_parameters", "datamodule_hyper_parameters", "epoch", "global_step"}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise InputError(
            f"{path} is not a checkpoint of this project's training; weights to start from go into "
            "--model.init, exports into python -m video_gn.predict"
        )
    for name in ("epoch", "global_step"):
        if type(content[name]) is not int or not 0 <= content[name] < 2**53:
            raise InputError(f"{path} says that {name} is {shown(content[name])}; the file is damaged")
    model = model_settings(content["hyper_parameters"], path)
    clip = clip_settings(content["datamodule_hyper_parameters"], path, ("max_span", "seed"))
    find_protocol(clip["test_protocol"])
    check_network(read_weights(path, content), model, clip)
    return Checkpoint(path, model, clip, content["epoch"], content["global_step"], content)


def check_network(weights: Weights, model: Mapping[str, Any], clip: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state of the network that a file describes, nothing left out; the network itself takes no memory here.

    Raises:
        InputError: The weights are of another network, or it cannot see such clips.
    """
    crop, frames, names = model["crop_size"], clip["num_frames"], model["class_names"]
    norm = make_norm(model["norm"], num_groups=model["num_groups"], channels_per_group=model["channels_per_group"])
    with torch.device("meta"):
        net = resnet3d(len(names), norm, model["depth"], model["width"], model["geometry"], crop, 0.0).eval()
    state = own_state(weights, net, names)
    try:
        if crop != clip["crop_size"]:
            raise ValueError("two sizes of crops")
        for side in (crop, clip["test_short_side"]):
            net(torch.empty(1, 3, frames, side, side, device="meta"))
    except (RuntimeError, ValueError):
        raise InputError(
            f"{weights.source} says that a clip is {frames} frames with crops of {clip['crop_size']}, tested at "
            f"{clip['test_short_side']}, which its network ({model['geometry']} at {crop}) cannot see; it is damaged"
        ) from None
    return state


def with_checkpoint(args: list[str], linked: tuple[str, ...]) -> list[str]:
    """Puts what a checkpoint says below the settings given, so that a checkpoint alone is enough to use it.

    That is the network and its clips. Out of a run's folder it is also where the data is and how it is read, each by
    its rule; results go into that folder, and those of a single file into `runs/tested/`.

    Args:
        args: A command line.
        linked: Settings of the model that it takes from the data.

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
    model = {name: _plain(checkpoint.model[name]) for name in NETWORK if name in checkpoint.model}
    data = {name: _plain(checkpoint.clip[name]) for name in (*CLIP, "max_span") if name in checkpoint.clip}
    data["class_names"] = list(checkpoint.model["class_names"])
    if checkpoint.run_dir:
        model |= {name: checkpoint.model[name] for name in RUN_MODEL if name in checkpoint.model}
        data |= _of_run(checkpoint)
    stored = {
        "seed_everything": checkpoint.clip.get("seed", 0) % 2**32,
        "model": {name: value for name, value in model.items() if name not in linked},
        "data": data,
        "run_dir": str(checkpoint.run_dir or Path("runs", "tested", Path(paths[-1]).stem)),
    }
    # YAML has no form for names that are not UTF-8, a command line has.
    raw = [f"--data.{name}={data.pop(name)}" for name, value in list(data.items()) if not _in_yaml(value)]
    raw += [] if _in_yaml(stored["run_dir"]) else [f"--run_dir={stored.pop('run_dir')}"]
    return [args[0], "--config", yaml.dump(stored, Dumper=_Quoting), *raw, *args[1:]]


class _Quoting(yaml.SafeDumper):
    """Quotes all text: jsonargparse takes more of it for numbers than PyYAML does, such as a class named 1e5."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"')


_Quoting.add_representer(str, _Quoting.represent_str)


def _in_yaml(value: Any) -> bool:
    return not isinstance(value, str) or is_utf8(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _of_run(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where a run's data is and how it was read; what breaks its rule is left to the user, and said."""
    given = checkpoint.content["datamodule_hyper_parameters"]
    found = {name: given[name] for name in RUN_DATA if name in given}
    for name in [name for name in found if not RUN_DATA[name].holds(found[name])]:
        log.warning(
            "data.%s=%s is not taken from %s: it is not %s; give it by --data.%s",
            name, shown(found.pop(name)), checkpoint.path, RUN_DATA[name].words, name,
        )  # fmt: skip
    return found


def check_architecture(path: str, settings: Mapping[str, Any]) -> None:
    """Raises InputError if a checkpoint belongs to another network than a model with these hyper-parameters."""
    stored = read_checkpoint(path).model
    different = [name for name in ARCHITECTURE if stored.get(name) != settings.get(name)]
    if different:
        raise InputError(
            f"{path} is of another architecture: it has {_setting(stored, different[0])}, the settings ask for "
            f"{_setting(settings, different[0])}; leave them to the checkpoint, or take another checkpoint"
        )


def _setting(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return f"{len(value)} classes ({value[0]}, ...)" if isinstance(value, list) else f"{name}={value}"
