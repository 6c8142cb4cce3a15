"""Cross-validation in an ablation: the axis of folds, over which each cell is tested on the union of the test folds."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from video_gn.ablate.grid import Cell, Grid
from video_gn.ablate.run import Run
from video_gn.ablate.statistics import NO_VIDEOS, CellResult, Measured, Values, Videos

KEY = "data.fold"


def fold_axis(grid: Grid) -> str | None:
    """The axis whose values are folds, if there is one."""
    overlays = grid.overlays.items()
    return next((axis for axis, values in overlays if all(KEY in overlay.settings for overlay in values)), None)


def pool_folds(grid: Grid, runs: Sequence[Run]) -> tuple[Grid, list[Run]]:
    """A grid without its axis of folds, and its runs, of which those of all folds then have one cell and seed.

    Args:
        grid: The ablation; one without folds is given back.
        runs: All of its runs.
    """
    axis = fold_axis(grid)
    if axis is None:
        return grid, list(runs)
    count = len(grid.axes[axis])
    axes = {name: values for name, values in grid.axes.items() if name != axis} or {"test": (f"all {count} folds",)}
    cells: dict[Values, Cell] = {}
    of_cell = {}
    for cell in grid.cells:
        values, first = (
            {name: one.values.get(name, axes[name][0]) for name in axes} for one in (cell, cell.original or cell)
        )
        original = cells[tuple(first.values())] if cell.original else None
        of_cell[cell.name] = cells.setdefault(tuple(values.values()), Cell(values, cell.args, original))
    rows = tuple(name for name in grid.rows if name in axes) or (next(iter(axes)),)
    title = f"{grid.title}, tested over {count} folds"
    pooled = replace(grid, title=title, axes=axes, rows=rows, cells=tuple(cells.values()), paper=None)
    return pooled, [replace(run, cell=of_cell[run.cell.name]) for run in runs]


@dataclass(frozen=True)
class Pooled(Measured):
    """The finished runs of all folds, as one: each video was tested once, by the network that did not see its group.

    Attributes:
        parts: Of each fold.
    """

    parts: Sequence[Measured] = ()

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    @cached_property
    def videos(self) -> Videos:
        found = [part.videos for part in self.parts]
        if not all(videos.paths for videos in found):
            return NO_VIDEOS
        columns = [[*itertools.chain.from_iterable(column)] for column in zip(*found, strict=True)]
        order = sorted(range(len(columns[0])), key=lambda row: (columns[0][row], columns[1][row]))
        paths, labels, predicted, ranks, groups = ([column[row] for row in order] for column in columns)
        return Videos(paths, labels, predicted, np.array(ranks), groups)

    @cached_property
    def history(self) -> list[dict[str, float]]:
        epochs = zip(*(part.history for part in self.parts), strict=False)
        return [{name: statistics.fmean(row[name] for row in rows) for name in rows[0]} for rows in epochs]

    def timeline(self, unit: str) -> dict[int, float]:
        found = [part.timeline(unit) for part in self.parts]
        return {epoch: statistics.fmean(one[epoch] for one in found) for epoch in set.intersection(*map(set, found))}

    @property
    def compared(self) -> dict[str, Mapping[str, Any]]:
        return {}  # each fold has validation videos of its own


def pool(parts: Sequence[Measured]) -> Pooled:
    """The runs of all folds, as one; what cannot be had from the folds' figures is left out."""
    tests, fits = [part.test for part in parts], [part.results["fit"] for part in parts]
    counts = [test["videos"] for test in tests]
    readable = [test["videos"] - test["unreadable"] - test["not_finite"] for test in tests]  # whose mean the loss is
    test: dict[str, Any] = {name: tests[0].get(name) for name in ("protocol", "views", "bn_statistics")}
    test |= {name: _mean([part[name] for part in tests], counts) for name in ("top1", "top5", "clip_top1")}
    test |= {"loss": _mean([part["loss"] for part in tests], readable)}
    test |= {name: sum(part[name] for part in tests) for name in ("videos", "unreadable", "not_finite")}
    for name in ("unreadable_videos", "damaged_videos", "fallbacks"):
        test[name] = {path: reason for part in tests for path, reason in part.get(name, {}).items()}
    test |= {"videos_file": None, "date": max(part["date"] for part in tests)}
    medians = [fit.get("val_median") for fit in fits]
    fit: dict[str, Any] = {name: fits[0].get(name) for name in ("epochs", "peak_memory_of")}
    fit |= {name: _mean([fit.get(name) for fit in fits]) for name in ("steps", "clips_per_s")}
    fit |= {
        "peak_memory_gib": max(fit["peak_memory_gib"] for fit in fits),
        "train": {name: _mean([fit["train"][name] for fit in fits]) for name in fits[0]["train"]},
        "val_median": {name: _mean([median[name] for median in medians]) for name in ("top1", "top5")}
        if all(medians)
        else None,
    }
    return Pooled(parts[0].run, dict(parts[0].results) | {"tests": [test], "fit": fit}, parts)


def _mean(values: Sequence[float | None], weights: Sequence[float] | None = None) -> float | None:
    """Of the values that are known; None if none is."""
    weights = weights or [1] * len(values)
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if known else None


def collect(grid: Grid, runs: Sequence[Run]) -> dict[Values, CellResult]:
    """Every cell of the grid, with its finished runs.

    Several runs of one seed are folds, and count where all are finished.
    """
    cells = {tuple(cell.values.values()): CellResult(cell) for cell in grid.cells}
    folds: dict[tuple[Values, int], list[Run]] = defaultdict(list)
    for run in runs:
        folds[tuple(run.cell.values.values()), run.seed].append(run)
    for (values, seed), parts in folds.items():
        found = [Measured(run, results) for run in parts if (results := run.results())]
        if len(found) == len(parts):
            cells[values].runs[seed] = found[0] if len(found) == 1 else pool(found)
    return cells
