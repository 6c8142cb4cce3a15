"""What a file may say of the model in it: an allow-list of settings, each with its rule.

Checkpoints and exports bring along what describes the network and its clips. Nothing in them is obeyed that writes,
waits, makes data or names a folder: that is the user's to say.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from video_gn.errors import InputError
from video_gn.messages import is_text, printable
from video_gn.norm import NORMS
from video_gn.resnet3d import DEPTHS, GEOMETRIES, MAX_WIDTH

# What of the data's settings a clip is made by, in training and after it.
CLIP = ("num_frames", "frame_interval", "crop_size", "test_short_side", "test_protocol", "images", "short_side", "flip")
NEWER = {"images": False}  # and what older checkpoints meant that lack it
NEEDED = (
    "class_names", "norm", "num_groups", "channels_per_group", "depth", "width", "geometry", "crop_size", "mean", "std",
)  # fmt: skip
MAX_CLIP = 2**28  # pixels: 0.8 GB as uint8


class Rule(NamedTuple):
    """What a setting has to be.

    Attributes:
        holds: Whether a value is that. It may be anything.
        words: The rule in words.
    """

    holds: Callable[[Any], bool]
    words: str


def _whole(low: int, high: int) -> Rule:
    return Rule(lambda x: type(x) is int and low <= x <= high, f"a whole number from {low} to {high}")


def _number(low: float, high: float) -> Rule:
    return Rule(lambda x: type(x) in (int, float) and low <= x <= high, f"a number from {low:g} to {high:g}")


def _one_of(values: Sequence[Any] | Mapping[Any, Any]) -> Rule:
    """Of the same type, too: True is no 1."""
    known = {(type(value), value) for value in values}
    words = f"one of: {', '.join(map(str, values))}"
    return Rule(lambda x: isinstance(x, str | int) and (type(x), x) in known, words)


def _or_none(rule: Rule) -> Rule:
    return Rule(lambda x: x is None or rule.holds(x), f"{rule.words}, or nothing")


def _list_of(rule: Rule, count: int | None, words: str) -> Rule:
    def holds(x: Any) -> bool:
        return isinstance(x, list | tuple) and count in (None, len(x)) and all(map(rule.holds, x))

    return Rule(holds, words)


def _names(x: Any) -> bool:
    named = isinstance(x, list | tuple) and all(_NAME.holds(name) for name in x)
    return named and 1 <= len(x) <= 100_000 and len(set(x)) == len(x)


_FLAG = Rule(lambda x: type(x) is bool, "true or false")
_NAME = Rule(lambda x: isinstance(x, str) and len(x) <= 1000 and is_text(x), "text of 1 to 1000 characters")
_COLOURS = "a list of 3 numbers, one for each colour"

MODEL: dict[str, Rule] = {
    "class_names": Rule(_names, "a list of names, each other than the others"),
    "batch_size": _whole(1, 2**20),
    "crop_size": _whole(1, 4096),
    "norm": _one_of(NORMS),
    "num_groups": _whole(1, 2**16),
    "channels_per_group": _or_none(_whole(1, 2**16)),
    "norm_batch": _or_none(_whole(1, 2**20)),
    "r_max": _number(1, 1e6),
    "d_max": _number(0, 1e6),
    "bn_statistics": _one_of(("running", "precise", "batch")),
    "precise_steps": _whole(1, 10**9),
    "freeze_affine": _FLAG,
    "depth": _one_of(DEPTHS),
    "width": _whole(1, MAX_WIDTH),
    "geometry": _one_of(GEOMETRIES),
    "dropout": _number(0, 1),
    "zero_init_gamma": _FLAG,
    "init": Rule(lambda x: x is None or isinstance(x, str), "a file or a name"),
    "init_norm": _or_none(_NAME),
    "freeze_stages": _whole(0, 5),
    "mean": _list_of(_number(-1000, 1000), 3, _COLOURS),
    "std": _list_of(_number(1e-6, 1000), 3, f"{_COLOURS}, above 0"),
    "base_lr": _number(0, 1e6),
    "head_lr": _number(0, 1e6),
    "momentum": _number(0, 1),
    "weight_decay": _number(0, 1e6),
    "norm_weight_decay": _number(0, 1e6),
    "lr_schedule": _one_of(("step", "cosine")),
    "decay_points": _list_of(_number(0, 1), None, "a list of fractions"),
    "warmup": _number(0, 1),
    "compile": _FLAG,
    "channels_last": _or_none(_FLAG),
    "low_memory": _FLAG,
    "seed": _whole(0, 2**63 - 1),
}
_SIDE = _whole(1, 8192)
DATA: dict[str, Rule] = {
    "num_frames": _whole(1, 4096),
    "frame_interval": _whole(0, 4096),
    "max_span": _whole(1, 2**24),
    "crop_size": _whole(1, 4096),
    "test_short_side": _SIDE,
    "test_protocol": _NAME,
    "images": _FLAG,
    "short_side": _list_of(_SIDE, 2, "a list of 2 whole numbers from 1 to 8192"),
    "flip": _FLAG,
    "seed": _whole(0, 2**63 - 1),
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


def shown(value: Any) -> str:
    """The beginning of a value out of a file, as a message shows it: in one line, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError, RuntimeError):  # an endless number, lists in lists in lists
        text = f"a {type(value).__name__}"
    return printable(text if len(text) <= 80 else f"{text[:80]}...")
