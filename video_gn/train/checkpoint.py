"""Checkpoints as files: opened so that no code in them can run, and checked."""

import logging
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch

from video_gn.data.protocols import find_protocol
from video_gn.errors import InputError
from video_gn.files.names import utf8_named
from video_gn.models.known import CLASSES as NETWORKS
from video_gn.rules import shown
from video_gn.weights.archives import wrong_sum
from video_gn.weights.match import own_state
from video_gn.weights.pickles import load_torch
from video_gn.weights.reader import Weights, read_weights
from video_gn.weights.stored import CLASSES, clip_settings, model_settings, net_settings

log = logging.getLogger(__name__)
# What a checkpoint has to have in common with the model that it is loaded into.
ARCHITECTURE = (
    *("arch", "depth", "width", "norm", "num_groups", "channels_per_group", "weight_standardization"),
    *("nonlocal_blocks", "average_batches"),
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
        net: Any = NETWORKS[model["net"]["class_path"]](len(names), **settings | {"dropout": 0.0}).eval()
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
            f"{clip['test_short_side']}, which its network ({net.label(settings)} at {crop}) cannot see; it is damaged"
        ) from None
    return state


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
    """What tells networks apart; a file from before a setting has the setting's default."""
    net = model["net"]
    kind = NETWORKS.get(net["class_path"])
    usual = {name: parameter.default for name, parameter in signature(kind).parameters.items()} if kind else {}
    settings = {name: net["init_args"].get(name, usual.get(name)) for name in ARCHITECTURE} if net["init_args"] else {}
    rest = {"class_names": list(model["class_names"]), "multi_label": model.get("loss", {}).get("multi_label", False)}
    return {"net": net["class_path"]} | settings | rest


def _setting(name: str, value: Any) -> str:
    return f"{len(value)} classes ({value[0]}, ...)" if isinstance(value, list) else f"{name}={value}"
