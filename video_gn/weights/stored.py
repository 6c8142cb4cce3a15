"""What a file may say of the model in it: an allow-list of settings, each with its rule.

Checkpoints and exports bring along what describes the network and its clips. Nothing in them is obeyed that writes,
waits, makes data or names a folder: that is the user's to say. Classes that they name are looked up in `CLASSES`, and
never imported.
"""

import json
from collections.abc import Mapping, Sequence, Set
from typing import Any

from video_gn.console import printable
from video_gn.errors import InputError
from video_gn.models.known import CLASSES as NETWORKS
from video_gn.rules import (
    CLIP,
    EVALUATION,
    FLAG,
    FORMAT,
    LOSS,
    MODEL,
    NAME,
    OPTIMIZER,
    SCHEDULE,
    SEED,
    START,
    Rule,
    shown,
)  # fmt: skip
from video_gn.weights.upgrade import upgrade_clip, upgrade_model

# The classes that a file may name, with the rules of their settings.
CLASSES: dict[str, dict[str, dict[str, Rule]]] = {
    "net": {path: one.rules for path, one in NETWORKS.items()},
    "optimizer": {
        f"video_gn.train.optim.{name}": {one: OPTIMIZER[one] for one in settings}
        for name, settings in {
            "SGD": ("base_lr", "head_lr", "momentum", "weight_decay", "norm_weight_decay", "layer_decay"),
            "AdamW": ("base_lr", "head_lr", "betas", "weight_decay", "norm_weight_decay", "layer_decay"),
        }.items()
    },
    "schedule": {
        "video_gn.train.schedule.Step": SCHEDULE,
        "video_gn.train.schedule.Cosine": {"warmup": SCHEDULE["warmup"]},
    },
}
# What of the data's settings a clip is made by, in training and after it: those of `Clip` and of `Evaluation`.
CLIPS: dict[str, Rule] = {
    **{name: CLIP[name] for name in ("num_frames", "frame_interval", "crop_size", "short_side", "flip", "shrink")},
    "test_short_side": EVALUATION["short_side"],
    "test_protocol": EVALUATION["protocol"],
    "images": FLAG,
    "max_span": CLIP["max_span"],
    "seed": SEED,
}
OPTIONAL = ("max_span", "seed", "shrink")
MAX_CLIP = 2**28  # pixels: 0.8 GB as uint8


def _names(x: Any) -> bool:
    named = isinstance(x, list | tuple) and all(NAME.holds(name) for name in x)
    return named and 1 <= len(x) <= 100_000 and len(set(x)) == len(x)


_MODEL: dict[str, Rule] = {
    "class_names": Rule(_names, "a list of names, each other than the others"),
    **MODEL,
}
_DAMAGED = "the file is damaged, or not of this project"


def model_settings(given: Any, path: str) -> dict[str, Any]:
    """The settings of a model out of a file, each by its rule: class_names, net, optimizer, schedule, start and so on.

    Args:
        given: Whatever the file has in their place; settings of format 1 are brought into this one.
        path: The file, for messages.

    Raises:
        InputError: They are not settings, a needed one is missing, one is not known, or breaks its rule.
    """
    found = dict(_named(given, path))
    found = upgrade_model(found) if _is_flat(found, path) else found
    parts = {"format", *CLASSES, "start", "loss", *_MODEL}
    optional = {"optimizer", "schedule", "loss", "batch_size", "seed", "freeze_bn_after"}
    _refuse_unknown(found.keys() - parts, path)
    if missing := sorted(parts - found.keys() - optional):
        raise InputError(f"the settings in {path} lack {', '.join(missing)}; {_DAMAGED}")
    _check(found, _MODEL, path)
    start = _checked(found["start"], START, ("mean", "std"), path)
    if start["mean"] is None or start["std"] is None:
        raise InputError(f"{path} says that mean and std are null; {_DAMAGED}")
    for part, known in CLASSES.items():
        if part in found:
            found[part] = _class(part, found[part], known, path)
    if "loss" in found:
        _refuse_unknown(_named(found["loss"], path).keys() - LOSS.keys(), path)
        found["loss"] = _checked(found["loss"], LOSS, (), path)
    return found | {"start": start}


def _class(part: str, given: Any, known: Mapping[str, Mapping[str, Rule]], path: str) -> dict[str, Any]:
    """A class of this project with its settings, checked; of another one its path alone."""
    named = _named(given, path)
    class_path: Any = named.get("class_path")
    if not NAME.holds(class_path):
        raise InputError(f"{path} says that {part}.class_path is {shown(class_path)}; {_DAMAGED}")
    if class_path not in known:
        return {"class_path": class_path, "init_args": {}}
    rules = known[class_path]
    needed = [name for name in rules if part == "net" and name in ("arch", "depth", "width", "norm", "num_groups")]
    settings = _checked(named.get("init_args"), rules, needed, path)
    _refuse_unknown(_named(named.get("init_args"), path).keys() - rules.keys(), path)
    return {"class_path": class_path, "init_args": settings}


def net_settings(model: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The settings of the network of this project that a file describes.

    Raises:
        InputError: It is of another class, which is not imported.
    """
    class_path = model["net"]["class_path"]
    if class_path not in CLASSES["net"]:
        raise InputError(
            f"the network in {path} is {printable(class_path)}, whose code a file may not import; name what "
            f"made it: --model.net {printable(class_path)} with its settings to fit, validate, test or predict "
            "--ckpt_path, or net=... to VideoClassifier.load_from_checkpoint"
        )
    return model["net"]["init_args"]


def clip_settings(given: Any, path: str) -> dict[str, Any]:
    """What a clip is made by (`CLIPS`), out of what a file says of the data; it may say more, which is left.

    Raises:
        InputError: As `model_settings`; or a clip would take more than a gigabyte.
    """
    named = _named(given, path)
    flat = upgrade_clip(named) if _is_flat(named, path) else _flat(named, path)
    found = _checked(flat, CLIPS, [name for name in CLIPS if name not in OPTIONAL], path)
    frames, side = found["num_frames"], found["test_short_side"]
    if frames * side**2 > MAX_CLIP:
        raise InputError(
            f"{path} says that a clip is {frames} frames of {side} pixels; that is more than a gigabyte, and refused"
        )
    low, high = found["short_side"]
    crop, images = found["crop_size"], found["images"]
    if not (frames == 1 and crop <= side if images else crop <= low <= high):
        raise InputError(
            f"{path} says that a clip has {frames} frames with crop_size={crop}, short_side={[low, high]}, "
            f"test_short_side={side} and images={images}, which do not fit together; the file is damaged"
        )
    return found


def _flat(named: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What a data module's settings of format 2 say of clips, whether of videos or of images."""
    found = {name: named[name] for name in ("seed",) if name in named}
    if (kind := named.get("kind", "videos")) not in ("videos", "images"):
        raise InputError(f"{path} says that its data are {shown(kind)}, which are videos or images; {_DAMAGED}")
    if kind == "images":
        clip = {"num_frames": 1, "frame_interval": 1, "short_side": [256, 320], "test_protocol": "gn-10clip"}
        sizes = {name: named.get(name) for name in ("crop_size", "flip")}
        return found | clip | sizes | {"test_short_side": named.get("short_side"), "images": True}
    evaluation = _named(named.get("evaluation"), path)
    tests = {f"test_{name}": evaluation.get(name) for name in ("protocol", "short_side")}
    return found | _named(named.get("clip"), path) | tests | {"images": False}


def read_settings(text: Any, path: str) -> dict[str, Any]:
    """What is in the metadata of an export, not yet checked.

    Raises:
        InputError: It is no JSON of names and values.
    """
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"the settings in {path} are not JSON of names and values; the file is damaged")
    return found


def _is_flat(named: Mapping[str, Any], path: str) -> bool:
    """Whether settings are of format 1.

    Raises:
        InputError: They are of one that this version does not know.
    """
    number = named.get("format", 1)
    if number not in (1, FORMAT):
        raise InputError(
            f"{path} has settings of format {shown(number)}, and this version reads 1 and {FORMAT}; use a newer one"
        )
    return number == 1


def _refuse_unknown(names: Set[str], path: str) -> None:
    if names:
        raise InputError(
            f"{path} has settings of another version of this project ({printable(', '.join(sorted(names))[:200])}); "
            "use that version, or export the model with this one"
        )


def _named(given: Any, path: str) -> dict[str, Any]:
    """Settings under their names; those that Lightning adds begin with an underscore."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError(f"the settings in {path} are {shown(given)}, not names and values; the file is damaged")
    return {name: value for name, value in given.items() if not name.startswith("_")}


def _checked(given: Any, rules: Mapping[str, Rule], needed: Sequence[str], path: str) -> dict[str, Any]:
    named = _named(given, path)
    if missing := sorted(set(needed) - named.keys()):
        raise InputError(f"the settings in {path} lack {', '.join(missing)}; export the checkpoint again")
    _check(named, rules, path)
    return {name: named[name] for name in rules if name in named}


def _check(named: Mapping[str, Any], rules: Mapping[str, Rule], path: str) -> None:
    for name, rule in rules.items():
        if name in named and not rule.holds(named[name]):
            raise InputError(
                f"{path} says that {name} is {shown(named[name])}; it has to be {rule.words}. The file is damaged, or "
                "not of this project"
            )
