"""What a file may say of the model in it: an allow-list of settings, each with its rule.

Checkpoints and exports bring along what describes the network and its clips. Nothing in them is obeyed that writes,
waits, makes data or names a folder: that is the user's to say.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from video_gn.console import printable
from video_gn.errors import InputError
from video_gn.models.architectures import DEPTHS, GEOMETRIES, MAX_WIDTH
from video_gn.models.norm import NORMS
from video_gn.rules import BATCH, CROP, DATA, FLAG, NAME, SEED, Rule, list_of, number, one_of, or_none, shown, whole

# What of the data's settings a clip is made by, in training and after it.
CLIP = ("num_frames", "frame_interval", "crop_size", "test_short_side", "test_protocol", "images", "short_side", "flip")
NEWER = {"images": False}  # and what older checkpoints meant that lack it
NEEDED = (
    "class_names", "norm", "num_groups", "channels_per_group", "depth", "width", "geometry", "crop_size", "mean", "std",
)  # fmt: skip
MAX_CLIP = 2**28  # pixels: 0.8 GB as uint8


def _names(x: Any) -> bool:
    named = isinstance(x, list | tuple) and all(NAME.holds(name) for name in x)
    return named and 1 <= len(x) <= 100_000 and len(set(x)) == len(x)


_COLOURS = "a list of 3 numbers, one for each colour"
_FRACTION = number(0, 1)

MODEL: dict[str, Rule] = {
    "class_names": Rule(_names, "a list of names, each other than the others"),
    "batch_size": BATCH,
    "crop_size": CROP,
    "norm": one_of(NORMS),
    "num_groups": whole(1, 2**16),
    "channels_per_group": or_none(whole(1, 2**16)),
    "norm_batch": or_none(whole(1, 2**20)),
    "r_max": number(1, 1e6),
    "d_max": number(0, 1e6),
    "bn_statistics": one_of(("running", "precise", "batch")),
    "precise_steps": whole(1, 10**9),
    "freeze_affine": FLAG,
    "depth": one_of(DEPTHS),
    "width": whole(1, MAX_WIDTH),
    "geometry": one_of(GEOMETRIES),
    "dropout": number(0, 1),
    "zero_init_gamma": FLAG,
    "init": Rule(lambda x: x is None or isinstance(x, str), "a file or a name"),
    "init_norm": or_none(NAME),
    "freeze_stages": whole(0, 5),
    "mean": list_of(number(-1000, 1000), 3, _COLOURS),
    "std": list_of(number(1e-6, 1000), 3, f"{_COLOURS}, above 0"),
    "base_lr": number(0, 1e12),
    "head_lr": number(0, 1e6),
    "momentum": number(0, 1),
    "weight_decay": number(0, 1e6),
    "norm_weight_decay": number(0, 1e6),
    "lr_schedule": one_of(("step", "cosine")),
    "decay_points": list_of(_FRACTION, None, "a list of fractions of training, each from 0 to 1"),
    "warmup": number(0, 1),
    "compile": FLAG,
    "channels_last": or_none(FLAG),
    "low_memory": FLAG,
    "seed": SEED,
}


def model_settings(given: Any, path: str) -> dict[str, Any]:
    """The settings of a model out of a file, each by its rule.

    Args:
        given: Whatever the file has in their place.
        path: The file, for messages.

    Raises:
        InputError: They are not settings, a needed one is missing, one is not known, or breaks its rule.
    """
    found = _checked(given, MODEL, NEEDED, path)
    if unknown := sorted(name for name in _named(given, path) if name not in MODEL):
        raise InputError(
            f"{path} has settings of another version of this project ({printable(', '.join(unknown)[:200])}); "
            "use that version, or export the model with this one"
        )
    return found


def clip_settings(given: Any, path: str, extra: Sequence[str] = ()) -> dict[str, Any]:
    """What a clip is made by, out of a file: `CLIP` and those of `extra` that it has; it may say more, which is left.

    Raises:
        InputError: As `model_settings`; or a clip would take more than a gigabyte.
    """
    known = NEWER | _named(given, path)
    found = _checked(known, {name: DATA[name] for name in (*CLIP, *extra)}, CLIP, path)
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


def read_settings(text: Any, path: str) -> dict[str, Any]:
    """What stands in the metadata of an export, not yet checked.

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


def _named(given: Any, path: str) -> dict[str, Any]:
    """Settings under their names; those that Lightning adds begin with an underscore."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError(f"the settings in {path} are {shown(given)}, not names and values; the file is damaged")
    return {name: value for name, value in given.items() if not name.startswith("_")}


def _checked(given: Any, rules: Mapping[str, Rule], needed: Sequence[str], path: str) -> dict[str, Any]:
    named = _named(given, path)
    if missing := sorted(set(needed) - named.keys()):
        raise InputError(f"the settings in {path} lack {', '.join(missing)}; export the checkpoint again")
    for name, rule in rules.items():
        if name in named and not rule.holds(named[name]):
            raise InputError(
                f"{path} says that {name} is {shown(named[name])}; it has to be {rule.words}. The file is damaged, or "
                "not of this project"
            )
    return {name: named[name] for name in rules if name in named}
