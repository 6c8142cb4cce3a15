"""A grid's YAML file:

title: the title above the table
base: [configs/base.yaml]              # what all cells share: files of fit
settings: {compare_statistics: true}   # and single keys
axes:                                  # one cell for each combination of values
  norm: [gn, bn]                       # a list: of norm, clip (32x2), batch, or any key (model.optimizer.weight_decay)
  start:                               # or values by name, each with files (config) and keys
    scratch: {model.start.init: null}
    imagenet: {config: configs/bn.yaml}
leave_out: [{norm: gn, start: scratch}]  # combinations that are no cell
seeds: [0, 1, 2]
rows: [norm]                           # axes down the table; the others go across
budget: epochs                         # all train for equal epochs, or for equal steps, or each for both
tune:                                  # before: for each cell, the best of several values of a setting, by validation
  model.optimizer.base_lr: [0.1, 0.2, 0.4]
  share: 0.2                           # on this share of its training list, which is left out there
  seeds: [0]
  at: {batch: [8, 1]}                  # tried there alone; the best on average is taken for every batch
ceiling: [{clip: 8x8, top1: 83.3, spread: 1.3}]  # what no network passes but by luck, of all such cells, in %
paper:                                 # what a publication reports of some cells, in %
  source: Wu & He 2018, Table 8
  same_data: true                      # whether its levels, not only its differences, can be compared
  note: ...                            # a sentence below its table
  cells: [{norm: gn, clip: 32x2, batch: 8, top1: 73.0, top5: 90.6}]  # top5 may be missing
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from video_gn.ablate.budget import AXIS, BOTH, BUDGETS, EPOCHS
from video_gn.ablate.grid import SHORT, Ceiling, Cell, Grid, Overlay, Paper, Tune
from video_gn.errors import InputError
from video_gn.train.configs import read_yaml
from video_gn.train.shipped import find_config

KEYS = {"title", "base", "settings", "axes", "leave_out", "seeds", "rows", "budget", "tune", "ceiling", "paper"}
PAPER_KEYS = {"source", "same_data", "note", "cells"}


def read_grid(path: Path, extra: list[str] | None = None) -> Grid:
    """A grid from its file.

    Args:
        path: The YAML file, or a name of one that comes with the package.
        extra: Options of `fit` for every cell.

    Raises:
        InputError: There is no such file, or it says what cannot be; the message names the entry.
    """
    path = Path(find_config(str(path), grid=True))
    content = read_yaml(path)
    try:
        return _grid(path.stem, content, extra or [])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _grid(name: str, content: Any, extra: list[str]) -> Grid:
    _only("the grid", content, KEYS)
    if not content.get("base") or not content.get("axes"):
        raise InputError("a grid needs base, a list of config files, and axes")
    axes = {str(axis): _values(str(axis), values) for axis, values in _mapping("axes", content["axes"]).items()}
    names = {axis: tuple(values) for axis, values in axes.items()}
    left_out = [_values_of(f"leave_out[{i}]", one, names) for i, one in enumerate(content.get("leave_out") or [])]
    base = Overlay(_files("base", content["base"]), _mapping("settings", content.get("settings") or {}))
    cells = []
    for combination in itertools.product(*names.values()):
        values = dict(zip(names, combination, strict=True))
        if not any(one.items() <= values.items() for one in left_out):
            overlays = [base, *(axes[axis][value] for axis, value in values.items())]
            cells.append(Cell(values, _args(overlays, extra)))
    rows = tuple(content.get("rows") or [next(iter(names))])
    if unknown := set(rows) - set(names):
        raise InputError(f"rows names {', '.join(sorted(unknown))}; the axes are: {', '.join(names)}")
    if not cells:
        raise InputError("leave_out leaves no cell")
    if len({cell.name for cell in cells}) < len(cells):
        raise InputError("two cells have the same name; give the values of an axis other names")
    seeds = _seeds("seeds", content.get("seeds", [0]))
    paper = _paper(content["paper"], names, cells) if content.get("paper") else None
    title = str(content.get("title", name))
    changes = {axis: tuple(values.values()) for axis, values in axes.items()}
    tune = _tune(content["tune"], names, cells) if content.get("tune") else None
    ceilings = tuple(_ceiling(f"ceiling[{i}]", one, names) for i, one in enumerate(content.get("ceiling") or []))
    budget = content.get("budget", EPOCHS)
    if budget not in BUDGETS:
        raise InputError(f"budget is {budget!r}; it has to be one of: {', '.join(BUDGETS)}")
    if AXIS in names and budget == BOTH:
        raise InputError(f"an axis is called {AXIS}, as that of budget: {BOTH}; give it another name")
    return Grid(name, title, names, rows, tuple(cells), seeds, paper, tuple(extra), changes, tune, ceilings, budget)


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"{where} is {seeds}; it has to be a list of whole numbers from 0")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{where} is {seeds}; seeds have to differ")
    return tuple(seeds)


def _tune(content: Any, axes: Mapping[str, tuple[str, ...]], cells: list[Cell]) -> Tune:
    given = dict(_mapping("tune", content))
    share, seeds = given.pop("share", 0.2), _seeds("tune.seeds", given.pop("seeds", [0]))
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"tune.share is {share!r}; it has to be a fraction of the training list, above 0 and below 1")
    at = {}
    for axis, values in _mapping("tune.at", given.pop("at", {})).items():
        listed = values if isinstance(values, list) and values else [values]
        at[str(axis)] = tuple(_values_of("tune.at", {axis: value}, axes)[str(axis)] for value in listed)
    keys = {key: values for key, values in given.items() if "." in str(key)}
    if len(keys) != 1 or len(given) != 1:
        raise InputError(
            f"tune has {', '.join(map(str, given)) or 'no key'}; it takes one key of the config, share, seeds, at"
        )
    ((key, values),) = keys.items()
    words = [_word(value) for value in values] if isinstance(values, list) else []
    if len(set(words)) < 2:
        raise InputError(f"tune.{key} is {values!r}; it has to be a list of different values")
    tune = Tune(key, tuple(words), float(share), seeds, at)
    tried = [tune.group(cell) for cell in cells if tune.tries(cell)]
    if untried := [cell for cell in cells if tune.group(cell) not in tried]:
        raise InputError(f"tune.at leaves no cell in which {key} of {untried[0].name} could be tried")
    return tune


def _values(axis: str, values: Any) -> dict[str, Overlay]:
    if isinstance(values, dict) and values:
        return {str(name): _overlay(f"axes.{axis}.{name}", one or {}) for name, one in values.items()}
    if not isinstance(values, list) or not values:
        raise InputError(f"axes.{axis} is {values!r}; it has to be a list of values, or settings by name")
    found = {str(value): Overlay(settings=_setting(axis, value)) for value in values}
    if len(found) < len(values):
        raise InputError(f"axes.{axis} has a value twice")
    return found


def _setting(axis: str, value: Any) -> dict[str, Any]:
    if axis == "clip":
        if not (match := re.fullmatch(r"(\d+)x(\d+)", str(value))):
            raise InputError(f"axes.clip has {value!r}; a clip is frames x interval, as 32x2")
        return {"data.clip.num_frames": int(match[1]), "data.clip.frame_interval": int(match[2])}
    if axis not in SHORT and "." not in axis:
        raise InputError(
            f"there is no key {axis}; an axis that lists values is norm, clip, batch or a key of the config "
            "(model.optimizer.weight_decay); any other names its values, each with settings"
        )
    return {SHORT.get(axis, axis): value}


def _overlay(where: str, content: Any) -> Overlay:
    settings = dict(_mapping(where, content))
    configs = settings.pop("config", [])
    return Overlay(_files(f"{where}.config", [configs] if isinstance(configs, str) else configs), settings)


def _files(where: str, paths: Any) -> tuple[str, ...]:
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InputError(f"{where} is {paths!r}; it has to be a list of config files")
    for path in paths:
        try:
            find_config(path)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return tuple(paths)


def _args(overlays: list[Overlay], extra: list[str]) -> tuple[str, ...]:
    """Files in order, then keys in order, then what the user gave: what comes later has the last word."""
    files = [word for one in overlays for path in one.configs for word in ("-c", path)]
    keys = {key: value for one in overlays for key, value in one.settings.items()}
    return (*files, *(word for key, value in keys.items() for word in (f"--{key}", _word(value))), *extra)


def _word(value: Any) -> str:
    """A value as `fit` reads it from the command line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def _ceiling(where: str, content: Any, axes: Mapping[str, tuple[str, ...]]) -> Ceiling:
    given = dict(_mapping(where, content))
    figures = {name: given.pop(name) for name in ("top1", "spread") if name in given}
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise InputError(f"{where} has {name}: {value!r}; it has to be a number from 0 to 100, in %")
    if "top1" not in figures:
        raise InputError(f"{where} needs top1, in %")
    return Ceiling(_values_of(where, given, axes), **{name: float(value) for name, value in figures.items()})


def _paper(content: Any, axes: Mapping[str, tuple[str, ...]], cells: list[Cell]) -> Paper:
    _only("paper", content, PAPER_KEYS)
    figures = {}
    for i, one in enumerate(content.get("cells") or []):
        one = dict(_mapping(f"paper.cells[{i}]", one))
        reported = {name: float(one.pop(name)) for name in ("top1", "top5") if name in one}
        if "top1" not in reported:
            raise InputError(f"paper.cells[{i}] needs top1, in %")
        values = _values_of(f"paper.cells[{i}]", one, axes)
        of = [tuple(cell.values.values()) for cell in cells if values.items() <= cell.values.items()]
        if len(of) != 1:
            raise InputError(f"paper.cells[{i}] is {one}, which is {len(of)} cells; it has to be one")
        figures[of[0]] = reported
    said = str(content.get("source", "the paper")), bool(content.get("same_data", False)), str(content.get("note", ""))
    return Paper(*said, figures)


def _values_of(where: str, content: Any, axes: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    values = {str(axis): str(value) for axis, value in _mapping(where, content).items()}
    for axis, value in values.items():
        if value not in axes.get(axis, ()):
            known = f"the values of {axis} are: {', '.join(axes[axis])}" if axis in axes else f"axes: {', '.join(axes)}"
            raise InputError(f"{where} has {axis}: {value}; {known}")
    return values


def _mapping(where: str, content: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{where} is {content!r}; it has to hold `key: value` entries")
    return content


def _only(where: str, content: Any, known: set[str]) -> None:
    if unknown := set(_mapping(where, content)) - known:
        raise InputError(f"{where} has {', '.join(map(str, unknown))}; its entries are: {', '.join(sorted(known))}")
