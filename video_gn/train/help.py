"""What `fit --help` and its like show: every setting in a line or two, with its choices; and near misses of names."""

import difflib
import importlib
import inspect
import re
from argparse import SUPPRESS
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from video_gn.console import one_line
from video_gn.data.decoding.open import BACKENDS
from video_gn.data.order import SAMPLINGS
from video_gn.data.protocols import PROTOCOLS
from video_gn.errors import InputError
from video_gn.kernels.dispatch import SETTINGS
from video_gn.models.architectures import ARCHS, DEPTHS
from video_gn.models.known import NAMES
from video_gn.models.networks import NETWORKS
from video_gn.models.norm import NORMS
from video_gn.models.recompute import WAYS
from video_gn.models.resnet3d import RULES, ResNet3d
from video_gn.train.callbacks.best import MONITORS
from video_gn.train.callbacks.bn_statistics import CHOICES as STATISTICS
from video_gn.train.compat import actions
from video_gn.train.optim import OPTIMIZERS
from video_gn.train.schedule import SCHEDULES
from video_gn.weights.upgrade import RENAMED

CHOICES: dict[str, Iterable[Any]] = {
    "model.net": ("ResNet3d", *NETWORKS, "i3d_r50 and others of `video-gn models`", "a class of your own by its path"),
    "model.net.arch": ARCHS,
    "model.net.depth": DEPTHS,
    "model.net.norm": NORMS,
    "model.optimizer": OPTIMIZERS,
    "model.schedule": SCHEDULES,
    "data.evaluation.protocol": PROTOCOLS,
    "model.execution.kernels": SETTINGS,
    "model.execution.recompute": WAYS,
    "data.loading.backend": BACKENDS,
    "bn_statistics.use": STATISTICS,
    "checkpoint.monitor": MONITORS,
    "data.sampling": SAMPLINGS,
    "data.evaluation.validation": ("random", "center"),
    "model.loss.class_weights": ("none", "inverse", "effective"),
}
GONE = {"checkpoint.mode": "it follows from checkpoint.monitor: the lowest loss, the highest of another figure"}
# Classes whose settings a config has below a key, and what of them is not the user's to set.
CLASSES: tuple[tuple[str, type, set[str]], ...] = (
    ("model.net", ResNet3d, {"num_classes"}),
    *(("model.optimizer", one, set[str]()) for one in OPTIMIZERS.values()),
    *(("model.schedule", one, set[str]()) for one in SCHEDULES.values()),
)


class Short(DefaultHelpFormatter):
    """Of each option the first sentence, its choices and its default; no types of Python."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, **{"max_help_position": 8} | kwargs)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _format_action_invocation(self, action: Any) -> str:
        names = [one for one in action.option_strings if not one.endswith("+")]
        return ", ".join(names) or super()._format_action_invocation(action)

    def _expand_help(self, action: Any) -> str:
        dest = re.sub(r"\[.*|^(fit|validate|test|predict)\.", "", str(action.dest))
        text = re.split(r"(?<=[a-z`)\]])[.:;]\s|\n\n|\s+Default:", " ".join((action.help or "").split()), maxsplit=1)[0]
        text = text if len(text) < 220 else f"{text[:216]} ..."
        choices = CHOICES.get(dest) or getattr(action, "choices", None)
        if dest in CHOICES or (choices and not isinstance(choices, dict)):
            text = f"{text.rstrip('.')}: {', '.join(map(str, choices or ()))}"
        default = getattr(action, "default", None)
        plain = default is not None and default is not SUPPRESS and "class_path" not in str(default)
        return f"{text.rstrip('.')}{f' ({default})' if plain and len(str(default)) < 60 else ''}"


def shorten(parser: ArgumentParser, usage: str) -> None:
    """Has a command's help show its settings alone, and those of the classes that its configs name."""
    parser.usage = usage
    for action in actions(parser):
        name = (action.option_strings or [""])[0]
        is_group = type(action).__name__ == "_ActionConfigLoad"
        if name.endswith(".help") or is_group or "link" in type(action).__name__.lower():
            action.help = SUPPRESS


def sections() -> str:
    """The settings of `CLASSES`."""
    found = []
    for key, one, skip in CLASSES:
        parser = ArgumentParser(usage=SUPPRESS, add_help=False, formatter_class=Short)
        parser.add_class_arguments(one, key, skip=skip)
        shorten(parser, SUPPRESS)
        text = "\n".join(line for line in parser.format_help().splitlines()[1:] if line.strip())
        found.append(f"{key}: {one.__name__}\n{text}")
    return "\n\n".join(found)


def known_keys(classes: dict[str, type]) -> list[str]:
    """Every setting by its dotted name, of these classes by their keys, and of the classes in them."""
    keys = [f"model.net.{name}" for name in RULES]
    for owner, one in classes.items():
        for name, parameter in inspect.signature(one).parameters.items():
            keys.append(f"{owner}.{name}")
            fields = getattr(parameter.default, "__dataclass_fields__", {})
            keys += [f"{owner}.{name}.{field}" for field in fields]
    keys += [f"{key}.{name}" for key, one, _ in CLASSES[1:] for name in getattr(one, "__dataclass_fields__", {})]
    return list(dict.fromkeys(keys))


def explain(error: str, keys: list[str]) -> str:
    """jsonargparse's error in one line, with what was probably meant."""
    text = " ".join(error.split())
    if match := re.search(r"[Kk]ey \"?(?:\w+\.)?((?:model|data)\.\w+)\"?: .*Option '([\w.]+)' is not accepted", text):
        name = f"{match[1]}.{match[2]}"
        classes = [kind for key, kind, _ in CLASSES if key == match[1]]
        owners = [kind.__name__ for kind in classes if match[2] in (*vars(kind), *getattr(kind, "rules", ()))]
        return f"{name} is a setting of {owners[0]}" if owners else f"there is no {name}{_meant(name, keys)}"
    if match := re.search(r"Expected '([\w.]+)' to be a function that returns", text):
        return (
            f"model.net is {match[1]}, which is no class, and no function that says what it returns "
            "(def make(num_classes: int) -> nn.Module); name one of these"
        )
    no_class = "(?:import path string: |(?:No module named|has no attribute) .*Got value: )"
    if match := re.search(rf'[Kk]ey "(model\.(?:optimizer|schedule|net))": .*{no_class}(\S+)', text):
        if "." in match[2] and (why := _not_importable(match[2])):
            return f"{match[1]}: {why}"
        return _no_name(match[1], match[2])
    if match := re.search(r"[Kk]ey \"(model\.net)\": .*Parser key \"(\w+)\": (.*?)\.? Got value: Namespace", text):
        return f'Parser key "{match[1]}.{match[2]}": {match[3]}'
    unknown = "(?:unrecognized arguments: --|does not accept option '|[Kk]ey \"?)"
    if match := re.search(rf"{unknown}(?:(?:fit|test|validate|predict)\.)?([\w.]+)", text):
        if now := RENAMED.get(match[1]):
            return f"{match[1]} is now {now} (docs/options.md)"
        if why := GONE.get(match[1]):
            return f"there is no {match[1]}: {why}"
        if match[1] not in keys:
            return f"{one_line(error, [])}{_meant(match[1], keys)}"
    return one_line(error, keys)


def refusal(error: Exception) -> InputError:
    """What a class says that jsonargparse could not make, without its list of all that it tried."""
    reason = re.search(r"Problem with given class_path '(\S+)':\n\s*(.*)", str(error))
    return InputError(f"{reason[1]}: {reason[2]}" if reason else " ".join(str(error).split())[:300])


def _no_name(key: str, name: str) -> str:
    known = ", ".join(sorted(map(str, CHOICES[key])))
    names = NAMES if key == "model.net" else ()
    for norm in NORMS:
        if (bare := name.removesuffix(f"_{norm}")) != name and bare in names:
            return f"there is no {key} {name!r}; take --model.net {bare} --model.net.norm {norm}"
    return f"there is no {key} {name!r}{_close(name.lower(), names)}; the names are: {known}"


def _not_importable(path: str) -> str | None:
    """Why there is no such class or function, whose path a user has typed."""
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return f"there is no module {error.name}; it is looked for in the current folder and in what is installed"
        return f"{module} cannot be imported: {error}"
    return None if hasattr(found, name) else f"{module} has no {name}{_close(name, vars(found))}"


def _close(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""


def _meant(name: str, keys: list[str]) -> str:
    """Settings of the same part of a config whose last word is nearly the same."""
    part, last = name.partition(".")[0], name.rpartition(".")[2]
    words = {key.rpartition(".")[2] for key in keys if key.startswith(part)}
    longer = [word for word in sorted(words) if last and word.startswith(last)]  # of which it may be an abbreviation
    close = longer[:1] or difflib.get_close_matches(last, words, n=1, cutoff=0.7)
    meant = [key for key in keys if key.startswith(part) and key.rpartition(".")[2] in close][:2]
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""
