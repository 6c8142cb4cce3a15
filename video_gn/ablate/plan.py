"""The plan of an ablation: every run of its grid, and whether they compare."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from video_gn import rules
from video_gn.ablate.budget import EPOCHS
from video_gn.ablate.grid import SHORT, Cell, Grid, Overlay, command
from video_gn.ablate.page import Table, to_text
from video_gn.ablate.run import Run
from video_gn.console import printable, progress
from video_gn.data.motion12 import RULES as MOTION
from video_gn.errors import InputError
from video_gn.models.resnet3d import RULES as NET
from video_gn.train import cli
from video_gn.train.configs import flat, read_yaml
from video_gn.train.shipped import find_config
from video_gn.weights.hub import is_there

# What each group of settings is checked by.
GROUPS = {
    "trainer": rules.TRAINER, "data": rules.DATA, "data.motion": MOTION, "data.clip": rules.CLIP,
    "data.augment": rules.AUGMENT, "data.evaluation": rules.EVALUATION, "data.loading": rules.LOADING,
    "model": rules.MODEL, "model.net": NET, "model.loss": rules.LOSS, "model.optimizer": rules.OPTIMIZER,
    "model.schedule": rules.SCHEDULE, "model.start": rules.START,
}  # fmt: skip
RATE = "model.optimizer.base_lr"
# Settings of a run that do not change what it measures.
FREE = (
    "seed_everything",
    "run_dir",
    "ckpt_path",
    "checkpoint.",
    "data.loading.num_workers",
    "trainer.enable_",
    "weights_only",
)


def make_plan(grid: Grid, out: Path) -> list[Run]:
    """Every run of a grid, the first seed of each cell first.

    Raises:
        InputError: A setting that `fit` refuses, an option that undoes what the grid sets, cells that are equal or
            do not train equally long, or a folder that holds the run of other settings.
    """
    configs = {cell.name: _resolved(cell, grid.seeds[0], out) for cell in with_bar(grid.cells)}
    runs = [
        Run(cell, seed, out / "cells" / f"{cell.run_name}_s{seed}", configs[cell.name])
        for seed in grid.seeds
        for cell in grid.cells
    ]
    _check_extra(grid, configs, runs, out)
    _check_values(configs)
    _check_rows(grid, configs)
    _check_equal_length(grid, configs)
    for run in runs:
        check_settings(run)
    return runs


def _check_extra(grid: Grid, configs: Mapping[str, Mapping[str, Any]], runs: Sequence[Run], out: Path) -> None:
    """Raises InputError where options of the command line change what tells cells or runs from each other.

    What was resolved is compared, so that it does not matter whether an option is on the command line or in a file.
    """
    if not grid.extra:
        return
    axes = {axis: _keys(axis, overlays) for axis, overlays in grid.overlays.items()}
    for cell in grid.cells:
        bare, given = _resolved(_bare(cell, grid), grid.seeds[0], out), configs[cell.name]
        for key in (key for key in {**bare, **given} if bare.get(key) != given.get(key)):
            if axis := next((axis for axis, keys in axes.items() if _within(key, keys)), None):
                raise InputError(
                    f"the command line sets {key} to {rules.shown(given.get(key))}, and by the axis {axis} {cell.name} "
                    f"has {rules.shown(bare.get(key))}; leave the option out, or change the grid"
                )
    for run in (runs[0], runs[-1]):  # of other seeds and folders, so that what was given differs from one of them
        own = _resolved(run.cell, run.seed, run.folder)
        last = resolved(*command(_bare(run.cell, grid), run.seed, run.folder), *grid.extra)
        if changed := [key for key in {**own, **last} if own.get(key) != last.get(key)]:
            key = changed[0]
            raise InputError(
                f"the command line sets {key} to {rules.shown(last.get(key))}; the ablation sets it for each run, so "
                "leave the option out"
            )


def _bare(cell: Cell, grid: Grid) -> Cell:
    """A cell without the options of the command line."""
    return replace(cell, args=cell.args[: len(cell.args) - len(grid.extra)])


def _keys(axis: str, overlays: Sequence[Overlay]) -> set[str]:
    """The settings by which an axis tells cells apart.

    An axis with a key of its own means that key alone, and not what its files have beside it (`bn.yaml` names weights
    to start from): all cells can be given the same of that.
    """
    keys = {key for overlay in overlays for key in overlay.settings}
    if axis in SHORT:
        return keys | {SHORT[axis]}
    return keys | {
        key for overlay in overlays for path in overlay.configs for key in flat(read_yaml(find_config(path)))
    }


def _within(key: str, keys: set[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def _check_values(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError for a value that a run would refuse before it makes its network."""
    for config in configs.values():
        for owner, group in GROUPS.items():
            given = {name: config[f"{owner}.{name}"] for name in group if f"{owner}.{name}" in config}
            rules.check({name: value for name, value in given.items() if value is not None}, group, owner)


def _check_rows(grid: Grid, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError where two cells would be the same run under two names."""
    names: dict[str, str] = {}
    for name in (cell.name for cell in grid.cells if not cell.original):
        config = configs[name]
        first = names.setdefault(json.dumps(config, sort_keys=True, default=str), name)
        if first != name:
            raise InputError(f"{grid.name}: {first} and {name} have the same settings; give an axis other values")


def length_of(grid: Grid, out: Path) -> Callable[[Cell], tuple[int, int, int]]:
    """What gives epochs, clips per step, and epochs from one validation to the next of a cell, by its settings."""

    def of(cell: Cell) -> tuple[int, int, int]:
        run = Run(cell, grid.seeds[0], out, _resolved(cell, grid.seeds[0], out))
        return run.epochs, run.clips_per_step, run.config["trainer.check_val_every_n_epoch"] or 1

    return of


@lru_cache(None)
def resolved(*words: str) -> Mapping[str, Any]:
    """Every setting of a command line by dotted key: a tenth of a second each, and plans are made several times."""
    return flat(cli.resolve([*words]))


def _resolved(cell: Cell, seed: int, folder: Path) -> Mapping[str, Any]:
    return resolved(*command(cell, seed, folder))


def with_bar(cells: Sequence[Cell]) -> Iterable[Cell]:
    """Cells, with a bar where it takes long to look at them."""
    return progress(cells, desc="plan", unit="cell", delay=2, leave=False)


def _check_equal_length(grid: Grid, configs: Mapping[str, Mapping[str, Any]]) -> None:
    for name, config in configs.items():
        if config["trainer.max_steps"] != -1 or not config["trainer.max_epochs"]:
            raise InputError(
                f"{grid.name}: {name} has trainer.max_steps={config['trainer.max_steps']} and trainer.max_epochs="
                f"{config['trainer.max_epochs']}; cells compare at equal epochs, so set trainer.max_epochs alone"
            )
    epochs = {config["trainer.max_epochs"]: name for name, config in configs.items()}
    if len(epochs) > 1 and "trainer.max_epochs" not in grid.axes and grid.budget == EPOCHS:
        said = ", ".join(f"{count} epochs ({name})" for count, name in epochs.items())
        raise InputError(f"{grid.name}: cells would train for {said}; make them equal, or trainer.max_epochs an axis")


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which cells differ."""
    configs = [run.config for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if not key.startswith(FREE) and any(config.get(key) != configs[0].get(key) for config in configs)
    ]


def check_settings(run: Run) -> None:
    """Raises InputError where a folder holds a run of other settings."""
    path = run.folder / "config.yaml"
    if not path.is_file():
        return
    there = flat(read_yaml(path))
    keys = [key for key in {**there, **run.config} if not key.startswith(FREE)]
    if changed := [key for key in keys if there.get(key) != run.config.get(key)]:
        key = changed[0]
        more = f" and {len(changed) - 1} more settings" if len(changed) > 1 else ""
        raise InputError(
            f"{run.folder} holds a run with {key}={there.get(key)}, the grid now asks for {run.config.get(key)}{more}; "
            "give the new ones another --out FOLDER, or put this folder away"
        )


def check_starts(runs: Sequence[Run]) -> None:
    """Raises InputError where the weights that a run is to start from are not there: before the first of many runs."""
    for run in runs:
        init = run.config.get("model.start.init")
        if init not in (None, "auto") and not run.results() and not is_there(init):
            raise InputError(
                f"{run.cell.name} starts from {init} (model.start.init), which is no file and no public name; the head "
                "of the grid's file may say what makes it"
            )


def check_data(runs: Sequence[Run]) -> None:
    """Raises InputError where the lists of a run's data are not there or do not fit: before the first of many runs."""
    names = [f"data.{name}" for name in ("root", "train", "val", "test", "class_names", "split")]
    first: dict[str, Run] = {}
    for run in (run for run in runs if not run.results()):
        first.setdefault(str([run.config.get(name) for name in names]), run)
    for run in first.values():
        try:
            cli.make_data(run.words)
        except InputError as error:
            raise InputError(f"{run.cell.name}: {error}") from None


def plan_table(grid: Grid, runs: Sequence[Run]) -> str:
    """The plan as people read it."""
    head = (*grid.axes, "norm over", "clips/step", "lr", "epochs", *(f"seed {seed}" for seed in grid.seeds))
    rows = []
    for cell in grid.cells:
        own = [run for run in runs if run.cell is cell]
        one = own[0]
        by_trials = grid.tune is not None and grid.tune.key == RATE and f"--{RATE}" not in cell.args
        lr = "by trials" if by_trials else f"{one.lr:g}"
        shown = (one.norm_over, str(one.clips_per_step), lr, str(one.epochs))
        rows.append((*cell.values.values(), *shown, *(run.state or "-" for run in own)))
    example = runs[0]
    processes = example.devices * int(example.config["trainer.num_nodes"])
    return (
        f"{printable(grid.title)}\n\n{to_text(Table(head, rows))}\n\n"
        f"lr = base_lr x clips per step / 64 (linear rule); {processes} process{'es' * (processes > 1)} a run.\n"
        f"All cells share every setting but: {', '.join(differing(runs)) or 'none'}.\n"
        "Equal seeds see the same videos in the same order."
    )
