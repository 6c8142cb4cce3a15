"""Networks by name, on a command line and in its configs, with the clips that they are published with.

`r3d_18` is the name of a class, which the command line finds by itself; `i3d_r50` is `ResNet3d` with an arch and a
depth. Either brings its clips along: over the configs before it, below what its own config or an option says of them.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from video_gn.data.settings import Clip
from video_gn.models.known import CLASSES, NAMES, Named
from video_gn.models.networks import NETWORKS
from video_gn.models.resnet3d import ResNet3d
from video_gn.train.configs import config_at

log = logging.getLogger(__name__)


class _Option(NamedTuple):
    """An option of a command line, as one word or as two.

    Attributes:
        words: As it was typed.
        name: Without its value: `--model.net`; a word that is no option is its own name.
        value: What follows it.
    """

    words: list[str]
    name: str
    value: str


def with_networks(args: Sequence[str], clips: bool) -> list[str]:
    """A command line in which the name of a network is its class and settings, with its clips as a config before them.

    Args:
        args: A command line, its configs by their paths.
        clips: Whether its clips may be others than a checkpoint's: fit, of videos.
    """
    found: list[str] = []
    last_config, before = min(len(args), 1), ""
    for option in _options(args):
        is_config = option.name in ("-c", "--config")
        config = config_at(option.value) if is_config else {}
        name = _named_in(config) if is_config else _without_module(option.value) if option.name == "--model.net" else ""
        named, words = NAMES.get(name), option.words
        if named and named.kind is ResNet3d:
            words = ["--config", _text(_spelled_out(config, named))]
        if named and named.clip and clips and name != before:
            log.info(
                "%s brings its clips: %dx%d, crop_size %d (data.clip and data.evaluation.short_side change them)",
                name, named.clip.num_frames, named.clip.frame_interval, named.clip.crop_size,
            )  # fmt: skip
            found[last_config:last_config] = ["--config", _text(_clips(named))]
            last_config += 2
        before = name or before
        found += words
        last_config = len(found) if is_config else last_config
    return found


def _options(args: Sequence[str]) -> Iterator[_Option]:
    """A command line by its options."""
    rest = list(args)
    while rest:
        name, equals, value = rest[0].partition("=")
        count = 2 if name in ("-c", "--config", "--model.net") and not equals and len(rest) > 1 else 1
        yield _Option(rest[:count], name, value if equals else rest[count - 1])
        del rest[:count]


def _named_in(config: Mapping[str, Any]) -> str:
    """The name of the network in a config; empty where it names none."""
    model = config.get("model")
    net = model.get("net") if isinstance(model, dict) else None
    path = net.get("class_path") if isinstance(net, dict) else net
    if not isinstance(path, str):
        return ""
    return _without_module(path)


def _without_module(path: str) -> str:
    """The name of a network of other libraries in the place of its class; any other path as it is."""
    name = path.rpartition(".")[2]
    return name if path in CLASSES and name in NETWORKS else path


def _spelled_out(config: Mapping[str, Any], named: Named) -> dict[str, Any]:
    """A config with the class of a network of this project, and what its name says, in the name's place.

    The other settings begin with their defaults, as those of every class that is named after another one.
    """
    model = dict(config.get("model") or {})
    given = model["net"].get("init_args") if isinstance(model.get("net"), dict) else None
    known = inspect.signature(ResNet3d).parameters
    defaults = {name: known[name].default for name in ResNet3d.rules}
    settings = defaults | dict(named.settings) | (given or {})
    return {**config, "model": {**model, "net": {"class_path": "video_gn.ResNet3d", "init_args": settings}}}


def _clips(named: Named) -> dict[str, Any]:
    clip = named.clip
    assert clip
    made = {"num_frames": clip.num_frames, "frame_interval": clip.frame_interval, "max_span": Clip().max_span}
    size = {"short_side": list(clip.short_side), "crop_size": clip.crop_size}
    return {"data": {"clip": made | size, "evaluation": {"short_side": clip.test_short_side}}}


def _text(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False)
