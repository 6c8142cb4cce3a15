"""YAML as users write it, looked through before it is read.

PyYAML takes the last of two equal keys in silence, and a few lines of aliases that name each other grow to gigabytes.
A config is as trusted as code all the same (docs/security.md): a `class_path` in it is called.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from video_gn.errors import InputError
from video_gn.files.names import from_home

MAX_DEPTH = 50
MAX_VALUES = 1_000_000  # with every alias written out
MAX_BYTES = 2**24
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Refused(yaml.YAMLError):
    """What is YAML, and is not read."""


def look_through(text: str) -> None:
    """Raises yaml.YAMLError where text is no YAML, has a key twice, or grows beyond all bounds."""
    open_nodes: list[_Node] = [_Node()]
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=SAFE_LOADER):
        node = open_nodes[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_Node(isinstance(event, yaml.MappingStartEvent), event.anchor))
            if len(open_nodes) > MAX_DEPTH:
                raise _Refused(f"more than {MAX_DEPTH} values inside each other")
        elif isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
            open_nodes[-1].add(node.size)
            if node.anchor:
                sizes[node.anchor] = node.size
        elif isinstance(event, yaml.ScalarEvent):
            node.add(1, event.value)
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise _Refused(f"the alias *{event.anchor} is used before its anchor is complete")
            node.add(sizes[event.anchor])
        if open_nodes[-1].size > MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES} values, with every alias written out")


class _Node:
    """A list or mapping that is being read: how much it holds, and the keys that it has had."""

    def __init__(self, mapping: bool = False, anchor: str | None = None) -> None:
        self.mapping, self.anchor, self.size = mapping, anchor, 1
        self._is_key, self._keys = True, set[str]()

    def add(self, size: int, scalar: str | None = None) -> None:
        """Counts a key or a value of it."""
        self.size += size
        if self.mapping and self._is_key and scalar is not None:
            if scalar in self._keys:
                raise _Refused(f"it has the key {scalar!r} twice; remove one")
            self._keys.add(scalar)
        self._is_key = not self._is_key


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names as a command line has them: `model.net`, the class, beside `model.net.norm`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
            found[name] = value["class_path"]
            found |= flat(value.get("init_args") or {}, f"{name}.")
        elif isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def read_yaml(path: Path | str) -> dict[str, Any]:
    """What is in a file of `key: value` entries.

    Raises:
        InputError: There is no such file, or it is something else.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the config {path} ({error.strerror}); name a YAML file") from None
    try:
        if len(content) > MAX_BYTES:
            raise _Refused(f"more than {MAX_BYTES >> 20} MiB")
        text = content.decode()
        look_through(text)
        found = yaml.load(text, SAFE_LOADER)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())[:300]}") from None
    except (ValueError, TypeError, RecursionError) as error:  # a date or a number that is none; a key that is a list
        raise InputError(f"{path} cannot be read as YAML ({type(error).__name__}: {str(error)[:100]})") from None
    if not isinstance(found, dict):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise InputError(f"{path} holds {what}; a config holds `key: value` entries")
    return found


def looking_through(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Reads a config, or a value of the command line, only where it has no key twice and does not grow."""

    def careful(text: str) -> Any:
        look_through(text)
        return at_home(read(text))

    return careful


def at_home(value: Any) -> Any:
    """A setting in whose texts `~/` is the home folder: only paths begin so, and no shell sees a file's."""
    if isinstance(value, dict):
        return {key: at_home(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [at_home(entry) for entry in value]
    return from_home(value) if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Knows what defaults of Lightning's callbacks are besides numbers and text (Timer's interval)."""


_Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


def dump(value: Any) -> str:
    """Settings as YAML."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def configs_of(words: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The configs that a command line names, in their order, each read."""
    for word, after in pairwise([*words, ""]):
        option, _, value = word.partition("=")
        if option in ("-c", "--config"):
            yield config_at(value or after)


def config_at(given: str) -> Mapping[str, Any]:
    """The config that a command line gives: a file, or the text of one."""
    return yaml.safe_load(given) if "\n" in given else read_yaml(given)
