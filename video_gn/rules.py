"""What settings have to be, in the user's hands and in files: a rule is a test and its words.

A comparison with nan is false, so that `value < 0` lets it through: rules ask for what is right.
"""

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from os import PathLike
from string import Formatter
from typing import Any, NamedTuple

from video_gn.console import is_text, printable
from video_gn.errors import InputError


class Rule(NamedTuple):
    """What a setting has to be.

    Attributes:
        holds: Whether a value is that. It may be anything.
        words: The rule in words.
    """

    holds: Callable[[Any], bool]
    words: str


def whole(low: int, high: int) -> Rule:
    """A whole number, both ends counted."""
    words = f"a whole number from {low} to {high}"
    return Rule(lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high, words)


def number(low: float, high: float) -> Rule:
    """A number, both ends counted."""
    words = f"a number from {low:g} to {high:g}"
    return Rule(lambda x: isinstance(x, int | float) and not isinstance(x, bool) and low <= x <= high, words)


def one_of(values: Sequence[Any] | Mapping[Any, Any]) -> Rule:
    """A value of these, and of its type: True is no 1."""
    known = {(type(value), value) for value in values}
    words = f"one of: {', '.join(map(str, values))}"
    return Rule(lambda x: isinstance(x, str | int) and (type(x), x) in known, words)


def or_none(rule: Rule) -> Rule:
    """As a rule, or nothing."""
    return Rule(lambda x: x is None or rule.holds(x), f"{rule.words}, or nothing")


def list_of(rule: Rule, count: int | None, words: str) -> Rule:
    """A list of so many, or any number, each by a rule."""

    def holds(x: Any) -> bool:
        return isinstance(x, list | tuple) and count in (None, len(x)) and all(map(rule.holds, x))

    return Rule(holds, words)


FLAG = Rule(lambda x: type(x) is bool, "true or false")
NAME = Rule(lambda x: isinstance(x, str) and len(x) <= 1000 and is_text(x), "text of 1 to 1000 characters")
SIDE = whole(1, 8192)
CROP = whole(1, 4096)
BATCH = whole(1, 2**20)
SEED = whole(0, 2**63 - 1)
MOST_PROCESSES = 256
TIMEOUT = Rule(lambda x: number(0, 1e6).holds(x) and x > 0, "above 0 seconds, and at most a million")

FORMAT = 2  # of the settings in a checkpoint and an export; those of 1 are flat and have no number
_FRACTION = number(0, 1)
BELOW_1 = Rule(lambda x: _FRACTION.holds(x) and x < 1, "a number from 0 up to, and below, 1")
# Of clips, evaluation, loading, and the rest of the data's settings.
CLIP: dict[str, Rule] = {
    "num_frames": whole(1, 4096),
    "frame_interval": whole(0, 4096),
    "max_span": whole(1, 2**24),
    "short_side": list_of(SIDE, 2, "a list of 2 whole numbers from 1 to 8192"),
    "crop_size": CROP,
    "flip": FLAG,
    "shrink": FLAG,
}
EVALUATION: dict[str, Rule] = {
    "protocol": NAME,
    "short_side": SIDE,
    "validation": one_of(("random", "center")),
    "inspect": FLAG,
}
AUGMENT: dict[str, Rule] = {
    **dict.fromkeys(("mixup", "cutmix"), number(0, 100)),
    "color_jitter": _FRACTION,
    "hue": number(0, 0.5),
    "rand_augment": whole(0, 14),
    "magnitude": whole(0, 30),
    "random_erasing": _FRACTION,
}
LOADING: dict[str, Rule] = {
    "num_workers": or_none(whole(0, 1024)),
    "backend": NAME,
    "decode_timeout": TIMEOUT,
    "quarantine": NAME,
    "max_bad": _FRACTION,
}
DATA: dict[str, Rule] = {
    "batch_size": BATCH,
    "clips_per_video": BATCH,
    "clips_per_epoch": whole(0, 2**40),
    "find_copies": FLAG,
    "seed": SEED,
    "sampling": one_of(("shuffled", "balanced")),
    "multi_label": FLAG,
}
DIVISION: dict[str, Rule] = {
    "shares": list_of(_FRACTION, 3, "3 numbers from 0 to 1, of training, validation and test"),
    "group": or_none(Rule(lambda x: isinstance(x, str) and _is_pattern(x), "a regular expression")),
    "folds": or_none(whole(2, 1000)),
    "fold": whole(0, 999),
}
IMAGES: dict[str, Rule] = {"crop_size": CROP, "short_side": SIDE, "flip": FLAG}
# Of what moves the network's parameters, and of where they begin.
OPTIMIZER: dict[str, Rule] = {
    "base_lr": number(0, 1e12),
    "head_lr": Rule(lambda x: number(0, 1e6).holds(x) and x > 0, "a number above 0"),
    "momentum": number(0, 1),
    "betas": list_of(BELOW_1, 2, "2 numbers from 0 up to, and below, 1"),
    "weight_decay": number(0, 1e6),
    "norm_weight_decay": number(0, 1e6),
    "layer_decay": Rule(lambda x: _FRACTION.holds(x) and x > 0, "a number above 0, and at most 1"),
}
LOSS: dict[str, Rule] = {
    "multi_label": FLAG,
    "class_weights": one_of(("none", "inverse", "effective")),
    "beta": BELOW_1,
    "label_smoothing": BELOW_1,
}
_FREEZE = or_none(Rule(lambda x: _FRACTION.holds(x) and x < 1, "a fraction of training, from 0 up to, and below, 1"))
SCHEDULE: dict[str, Rule] = {
    "decay_points": list_of(
        Rule(lambda x: _FRACTION.holds(x) and 0 < x < 1, ""), None, "fractions of training, above 0 and below 1"
    ),
    "warmup": Rule(lambda x: _FRACTION.holds(x) and x < 1, "a fraction of training, from 0 up to, and below, 1"),
}
_COLOURS = "a list of 3 numbers, one for each colour"
START: dict[str, Rule] = {
    "init": Rule(lambda x: x is None or isinstance(x, str), "a file or a name"),
    "init_norm": or_none(NAME),
    "convert": whole(0, 4096),
    "freeze_stages": whole(0, 100),
    "mean": or_none(list_of(number(-1000, 1000), 3, _COLOURS)),
    "std": or_none(list_of(number(1e-6, 1000), 3, f"{_COLOURS}, above 0")),
}
# Of Lightning's trainer and its checkpoints, those in which it would fail in its own words, or hang.
TRAINER: dict[str, Rule] = {
    "accumulate_grad_batches": whole(1, 2**20),
    "check_val_every_n_epoch": or_none(whole(1, 2**31)),
    "val_check_interval": Rule(
        lambda x: x is None or (number(0, 2.0**31).holds(x) and x > 0),
        "above 0: a fraction of an epoch up to 1.0, or batches (a time would not come at the same step again)",
    ),
    "gradient_clip_val": or_none(number(0, 1e30)),
    "log_every_n_steps": or_none(whole(0, 2**31)),
    "precision": Rule(
        lambda x: not re.fullmatch(r"(bf)?16-true|transformer.*", str(x)), "16-mixed, bf16-mixed, 32-true or 64-true"
    ),
    "barebones": Rule(lambda x: not x, "false: a run has logs, checkpoints and results"),
    "devices": Rule(
        lambda x: not str(x).isdecimal() or int(str(x)[:19]) <= MOST_PROCESSES, f"at most {MOST_PROCESSES} on a node"
    ),
}
FILE_NAME = Rule(
    lambda x: x is None or (isinstance(x, str) and len(x) <= 200 and x.isprintable() and _stays(x) and _fills_in(x)),
    "text of at most 200 characters in which {name} or {name:.2f} is a figure, below the run's folder",
)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _stays(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _fills_in(text: str) -> bool:
    try:
        fields = [(name, spec, change) for _, name, spec, change in Formatter().parse(text) if name is not None]
    except ValueError:
        return False
    spec = re.compile(r"[<>=^]?[-+ ]?0?\d{0,2}(\.\d{1,2})?[defgs%]?")
    return all(re.fullmatch(r"[\w/-]+", name) and spec.fullmatch(form or "") and not c for name, form, c in fields)


MODEL: dict[str, Rule] = {"batch_size": BATCH, "crop_size": CROP, "seed": SEED, "freeze_bn_after": _FREEZE}
_SHORT = reprlib.Repr()  # of lists in lists, each of which may be there many times
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 90, 90, 90


def check(given: Mapping[str, Any], rules: Mapping[str, Rule], owner: str) -> None:
    """Raises InputError for the first of the settings that breaks its rule, naming it `owner.name`."""
    for name, rule in rules.items():
        if name in given and not rule.holds(given[name]):
            raise InputError(f"{owner}.{name} is {shown(given[name])}; it has to be {rule.words}")


def plain(value: Any) -> Any:
    """A setting in types that load without running code: objects and tuples as dictionaries and lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, PathLike):
        return str(value)
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(f"{shown(value)} cannot be kept in a checkpoint: settings are text, numbers and lists of them")
    return value


def shown(value: Any) -> str:
    """The beginning of a value out of a file, as a message shows it: in one line, whatever it is."""
    if value is None:
        return "null"
    try:
        text = _SHORT.repr(value)
    except (ValueError, RecursionError, RuntimeError, TypeError, AttributeError):  # an endless number, odd objects
        text = f"a {type(value).__name__}"
    return printable(text if len(text) <= 80 else f"{text[:80]}...")
