"""Before the runs that are compared, the best value of a setting for each cell: of the learning rate, above all.

One rate for all compares norms where one of them is at its best and another is not. Each cell is trained with each of
the grid's values of `tune`, on its training list less a share, and validated on that share; the test list is not looked
at. The value with the highest validation top-1 after the last epoch (of equal ones, that with the lowest loss) is then
the cell's in the runs that are compared. With `at`, some cells are tried for all: those along an axis have one value.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isinf, isnan
from pathlib import Path
from typing import Any

from video_gn.ablate.grid import Cell, Grid, Tune, command
from video_gn.ablate.page import Table, to_text
from video_gn.ablate.plan import check_settings, resolved, with_bar
from video_gn.ablate.run import Run
from video_gn.ablate.statistics import Values
from video_gn.ablate.words import label
from video_gn.data.own import AUTO
from video_gn.errors import InputError


@dataclass(frozen=True)
class Trial(Run):
    """A run that tries a value for a cell.

    Attributes:
        value: Of the tuned setting.
    """

    value: str = ""

    @property
    def words(self) -> list[str]:
        return _words(self.cell, self.seed, self.folder)

    def results(self) -> dict[str, Any] | None:
        found = self.written()
        return found if found and found.get("fit", {}).get("val") else None

    def said(self) -> str:
        return f"validation top-1 {100 * self.score()[0]:.2f} %" if self.results() else ""

    def score(self) -> tuple[float, float]:
        """Validation top-1 and the negative of the loss; a run that diverged has the least."""
        results = self.results()
        if not results:
            return -1.0, 0.0
        val = results["fit"]["val"]
        return val["top1"], -val["loss"]

    @property
    def diverged(self) -> bool:
        """Whether it was stopped because its loss is not finite."""
        note = self.note()
        return note.get("status") == "failed" and "diverged" in note.get("error", "")

    @property
    def ended(self) -> bool:
        """Whether it says something of its value."""
        return self.diverged or self.results() is not None


def _words(cell: Cell, seed: int, folder: Path) -> list[str]:
    own = ("--test_after_fit", "false", "--compare_statistics", "false")
    return [*command(cell, seed, folder), *own]


def make_trials(grid: Grid, out: Path) -> list[Trial]:
    """The runs that try each value of `tune` for each cell.

    Raises:
        InputError: A setting that `fit` refuses, a cell that sets what is tuned, or a folder with other runs.
    """
    if grid.tune is None:
        return []
    tune = grid.tune
    if any(word.partition("=")[0] == f"--{tune.key}" for cell in grid.cells for word in cell.args):
        raise InputError(f"tune sets {tune.key}, and so does the grid or the command line; leave it to tune")
    trials = []
    for cell in with_bar([cell for cell in grid.cells if tune.tries(cell) and not cell.original]):
        share = _validation(cell, tune, out)
        for value in tune.values:
            trying = cell.with_words([*share, f"--{tune.key}", value], grid.extra)
            config = resolved(*_words(trying, tune.seeds[0], out))
            name = f"{cell.name}_{tune.key.rpartition('.')[2]}{value}"
            trials += [Trial(trying, seed, out / "tuning" / f"{name}_s{seed}", config, value) for seed in tune.seeds]
    for trial in trials:
        check_settings(trial)
    return trials


def _validation(cell: Cell, tune: Tune, out: Path) -> list[str]:
    """What has a cell's validation list be a share of its training list, unless it is already."""
    config = resolved(*command(cell, tune.seeds[0], out))
    if config.get("data.val") == AUTO:
        return []
    shares = f"[{1 - tune.share:g}, {tune.share:g}, 0]"
    return ["--data.val", AUTO, "--data.shares", shares, "--data.evaluation.validation", "center"]


def tuned(grid: Grid, trials: Sequence[Trial]) -> Grid:
    """A grid whose cells have their best value, but for those whose trials have not all ended."""
    if grid.tune is None:
        return grid
    best = {group: _best(values) for group, values in _scores(grid.tune, trials).items()}
    key = f"--{grid.tune.key}"
    cells = [
        cell.with_words([key, best[group]], grid.extra) if (group := _group(grid.tune, cell)) in best else cell
        for cell in grid.cells
    ]
    return replace(grid, cells=tuple(cells))


def untuned(grid: Grid, trials: Sequence[Trial]) -> set[str]:
    """The names of the cells whose trials have not all ended."""
    if grid.tune is None:
        return set()
    known = _scores(grid.tune, trials)
    return {cell.name for cell in grid.cells if _group(grid.tune, cell) not in known}


def _group(tune: Tune, cell: Cell) -> Values:
    return tuple(tune.group(cell).values())


def _scores(tune: Tune, trials: Sequence[Trial]) -> dict[Values, dict[str, tuple[float, float]]]:
    """By group of cells and value, mean validation top-1 and negative loss, of groups all of whose trials ended."""
    groups: dict[Values, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_group(tune, trial.cell), []).append(trial)
    return {
        group: {value: _mean([trial.score() for trial in own if trial.value == value]) for value in tune.values}
        for group, own in groups.items()
        if all(trial.ended for trial in own)
    }


def _mean(scores: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Over runs; of a value with which one of them diverged, the least. A loss that is no number is the greatest."""
    top1, loss = [score[0] for score in scores], [-inf if isnan(score[1]) else score[1] for score in scores]
    return min(top1) if min(top1) < 0 else statistics.fmean(top1), statistics.fmean(loss)


def _best(scores: Mapping[str, tuple[float, float]]) -> str:
    return max(scores, key=lambda value: scores[value])


def tuning_plan(grid: Grid, trials: Sequence[Trial]) -> str:
    """What is tuned and how far it is, as people read it."""
    assert grid.tune is not None
    tune, done = grid.tune, sum(trial.ended for trial in trials)
    said = (
        f"Before, each cell's best {tune.key} of {', '.join(tune.values)} is found, by validation on a share of its "
        f"training list ({tune.share:.0%} where it says none): {done} of {len(trials)} trials are done."
    )
    table = tuning_table(grid, trials)
    return f"{said}\n\n{to_text(table)}" if table.rows else said


def tuning_table(grid: Grid, trials: Sequence[Trial], folds: str | None = None) -> Table:
    """Validation top-1 in % of each value, by cell, and which was taken; means over the axis of folds."""
    assert grid.tune is not None
    axes, found = pooled_scores(grid, trials, folds)
    place = _axes(grid).index(folds) if folds in _axes(grid) else None
    taken: dict[Values, Counter[str]] = {}
    for group, values in _scores(grid.tune, trials).items():
        taken.setdefault(_without(group, place), Counter())[_best(values)] += 1
    rows = []
    for group, values in found.items():
        ends = set(taken[group]) & {grid.tune.values[0], grid.tune.values[-1]}
        shown = ["diverged" if top1 < 0 else f"{100 * top1:.1f}" for top1, _ in values.values()]
        often = [
            value if place is None else f"{value} ({count} fold{'s' * (count > 1)})"
            for value, count in taken[group].items()
        ]
        name = label(axes.axes, group) or "all cells"
        rows.append([name, *shown, ", ".join(sorted(often)), "at the end of the range" if ends else ""])
    return Table(["cell", *grid.tune.values, "taken", ""], rows)


def pooled_scores(
    grid: Grid, trials: Sequence[Trial], folds: str | None = None
) -> tuple[Grid, dict[Values, dict[str, tuple[float, float]]]]:
    """Mean validation top-1 (below 0: diverged) and negative loss of each value, also over an axis of folds.

    Returns:
        A grid with the axes along which values were chosen, and the scores by its cells' values.
    """
    assert grid.tune is not None
    axes = {axis: grid.axes[axis] for axis in _axes(grid) if axis != folds} or {"test": ("all",)}
    place = _axes(grid).index(folds) if folds in _axes(grid) else None
    groups: dict[Values, list[dict[str, tuple[float, float]]]] = {}
    for group, values in _scores(grid.tune, trials).items():
        groups.setdefault(_without(group, place) or ("all",), []).append(values)
    scores = {
        group: {value: _mean([one[value] for one in of_folds]) for value in grid.tune.values}
        for group, of_folds in groups.items()
    }
    cells = tuple(Cell(dict(zip(axes, group, strict=True)), ()) for group in scores)
    rows = tuple(axis for axis in grid.rows if axis in axes) or (next(iter(axes)),)
    return replace(grid, axes=axes, rows=rows, cells=cells), scores


def _without(group: Values, place: int | None) -> Values:
    return group if place is None else group[:place] + group[place + 1 :]


def as_data(grid: Grid, trials: Sequence[Trial]) -> Mapping[str, Any]:
    """The trials, for programs."""
    assert grid.tune is not None
    cells = [
        {
            **dict(zip(_axes(grid), group, strict=True)),
            "tried": {
                value: {"top1": top1, "loss": None if isinf(loss) else -loss} if top1 >= 0 else None
                for value, (top1, loss) in found.items()
            },
            "taken": _best(found),
        }
        for group, found in _scores(grid.tune, trials).items()
    ]
    tune = grid.tune
    return {"key": tune.key, "share": tune.share, "seeds": tune.seeds, "at": tune.at, "cells": cells}


def _axes(grid: Grid) -> list[str]:
    return [axis for axis in grid.axes if grid.tune is None or axis not in grid.tune.at]
