"""What a run is called: its values, its data set, and what of its settings is not as its configs have it."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from video_gn.data.datamodule import DataModule
from video_gn.data.image_data import ImageData
from video_gn.train.configs import configs_of, flat

# What the name has already, and what changes no training.
SAID = {
    *("data.root", "data.split", "data.class_names", "data.batch_size", "data.clip.num_frames"),
    *(
        "data.clip.frame_interval",
        "model.net",
        "model.net.arch",
        "model.net.depth",
        "model.net.width",
        "model.net.norm",
        "model.net.nonlocal_blocks",
        "model.net.weight_standardization",
    ),
    *("model.net.num_groups", "model.net.channels_per_group", "model.net.ghost_batch"),
}
CLASSES = ("model.net", "model.optimizer", "model.schedule")
SILENT = ("data.loading.", "data.evaluation.", "data.motion", "data.videos", "model.execution.")
MOST = 120  # characters of a name
MOST_EACH = 24  # of a value in it


def network(given: Any) -> tuple[Any, Any]:
    """The class or function of a part such as `model.net`, and its settings."""
    return (given, {}) if callable(given) else (locate(given["class_path"]), given.get("init_args") or {})


def run_name(config: Any, data: type[DataModule], words: Sequence[str] = ()) -> str:
    """The run's name from its values: network, norm, frames x interval, clips per GPU, and a seed other than 0.

    `b32n4` is 32 clips of which each 4 share BN's statistics. Before it is the folder of the data, and behind it what
    else of the model and the data was changed, where the command line does: `my_videos_i3d_r50_gn_32x2_b8_base_lr0.1`.

    Args:
        config: Of a command.
        data: Its kind of data.
        words: The command line.
    """
    (kind, settings), seed = network(config.model.net), config.seed_everything
    name = kind.label(settings) if hasattr(kind, "label") else kind.__name__.lower()
    clip = "1x1" if data is ImageData else f"{config.data.clip.num_frames}x{config.data.clip.frame_interval}"
    batch = f"b{config.data.batch_size}" + (f"n{ghost}" if (ghost := settings.get("ghost_batch")) else "")
    changed = _changed(config, words)
    folder = _value(changed["data.root"]).strip("-") if "data.root" in changed and not config.data.get("motion") else ""
    rest = (f"{key.rpartition('.')[2]}{_value(value)}" for key, value in changed.items() if key not in SAID)
    parts = (folder, name, clip, batch, f"s{seed}" if seed else "", *rest)
    found = "_".join(part for part in parts if part)
    if len(found) <= MOST:
        return found
    return f"{found[: MOST - 9]}_{hashlib.sha256(found.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _changed(config: Any, words: Sequence[str]) -> dict[str, Any]:
    """Settings of model and data that a command line gives, other than its configs have them, by dotted names."""
    given = {option[2:] for word in words if (option := word.partition("=")[0]).startswith(("--data.", "--model."))}
    before: dict[str, Any] = {}
    for file in configs_of(words):
        before |= flat(file)
    now = flat({part: _plain(config[part]) for part in ("data", "model")})
    for key in CLASSES:  # by the class's name; its settings count where they are given themselves
        now[key], before[key] = (str(of.get(key)).rpartition(".")[2] for of in (now, before))
    return {
        key: value
        for key, value in sorted(now.items())
        if any(key == name or (key.startswith(f"{name}.") and name not in CLASSES) for name in given)
        and not key.startswith(SILENT)
        and (key not in before or _comparable(before[key]) != _comparable(value))
    }


def _plain(part: Any) -> Any:
    return part.as_dict() if hasattr(part, "as_dict") else part


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _value(value: Any) -> str:
    """A value in a name: a number behind its setting as it is, a path by its last part, and other text after a -."""
    if isinstance(value, bool) or value is None:
        return "-" + {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "-" + "-".join(_value(part).lstrip("-") for part in value)[:MOST_EACH]
    text = str(value).rstrip("/")
    path = Path(text).resolve() if text in (".", "..", "") else Path(text)
    name = re.sub(r"[^\w.+-]+", "-", path.name.removesuffix(".csv")).strip("-.")[:MOST_EACH]
    return f"-{name or hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
