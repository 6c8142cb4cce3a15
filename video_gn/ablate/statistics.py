"""What the runs of a grid measured: figures of each cell over its seeds, and differences with their uncertainty."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from video_gn import rules
from video_gn.ablate.grid import Cell, Grid
from video_gn.ablate.run import Run
from video_gn.errors import InputError
from video_gn.files.tables import read_table
from video_gn.train.callbacks.bn_statistics import CHOICES
from video_gn.train.callbacks.history import HISTORY_FILE, read_history

DRAWS = 10_000  # of the bootstrap
FRACTION = rules.number(0, 1)
CHUNK = 500  # draws at a time
Values = tuple[str, ...]  # a cell, by its values in the axes' order


@dataclass(frozen=True)
class Measured:
    """A finished run.

    Attributes:
        run: What was asked for.
        results: Its results.json.
    """

    run: Run
    results: Mapping[str, Any]

    @property
    def test(self) -> Mapping[str, Any]:
        """The newest test."""
        test = self.results["tests"][-1]
        for name in ("top1", "top5", "clip_top1"):
            self._percent(test[name], name)
        return test

    @property
    def seconds(self) -> float:
        """That it took, nan where it is not known."""
        return self.run.note().get("seconds", float("nan"))

    def _percent(self, value: Any, name: str, file: str = "results.json") -> float:
        """A fraction that the run wrote, in %."""
        if not FRACTION.holds(value):
            raise InputError(
                f"{self.run.folder / file} says that {name} is {rules.shown(value)}; it has to be {FRACTION.words}. "
                "The file is damaged; move it away"
            )
        return 100 * value

    @cached_property
    def ranks(self) -> tuple[list[str], np.ndarray]:
        """Of the test's videos: path and label, and the true class's rank among the scores (0: unreadable).

        Nothing where a part of them was tested: the others have no rank either, and are not wrong.
        """
        name = self.test.get("videos_file") or "none"
        if name != Path(name).name:
            raise InputError(f"{self.run.folder / 'results.json'} names {name!r} as a file of its folder")
        rows = read_table(self.run.folder / name)
        ranks = np.array([int(row["rank"] or 0) for row in rows])
        count = self.test["videos"]
        for figure, best in (("top1", 1), ("top5", 5)):
            right = int(((ranks > 0) & (ranks <= best)).sum())
            if rows and not (len(rows) >= count and abs(right - self.test[figure] * count) < 0.5):
                raise InputError(
                    f"by {self.run.folder / name} {figure} is {right} of {len(rows)} videos, and by results.json "
                    f"{100 * self.test[figure]:.2f} % of {count:g}; they are not of one test: test the run again"
                )
        if len(rows) > count:
            return [], ranks[:0]
        return [f"{row['path']} {row['label']}" for row in rows], ranks

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Figures of each epoch, by the names that they are logged under; nan where there is none."""
        rows = read_history(self.run.folder / HISTORY_FILE)
        figures = [{key: float(value) if value else float("nan") for key, value in row.items()} for row in rows]
        for name, value in ((name, value) for row in figures for name, value in row.items() if name.endswith("top1")):
            if not isnan(value):
                self._percent(value, name, HISTORY_FILE)
        return figures

    def val_median(self, name: str) -> float:
        """Of a validation figure over the last 5 epochs, in %; nan where there were fewer."""
        median = self.results["fit"].get("val_median")
        return self._percent(median[name], f"val_median.{name}") if median else float("nan")

    @property
    def training_top1(self) -> float:
        """Of training clips in the last epoch, in %; nan where it is not known."""
        top1 = self.results["fit"]["train"]["top1"]
        return float("nan") if top1 is None else self._percent(top1, "fit.train.top1")

    def top1_by(self, choice: str) -> float:
        """Of validation clips by one kind of BN's statistics, in %."""
        return self._percent(self.compared[choice]["top1"], f"top1 by {choice} statistics")

    @property
    def compared(self) -> dict[str, Mapping[str, Any]]:
        """The newest validation by each kind of BN's statistics."""
        return {one["bn_statistics"]: one for one in self.results.get("validations", []) if one.get("bn_statistics")}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter None for a single one."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Of finite values; None if there is none."""
        values = [value for value in values if value is not None and np.isfinite(value)]
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass
class CellResult:
    """A cell and its finished runs, by seed."""

    cell: Cell
    runs: dict[int, Measured] = field(default_factory=dict)

    def spread(self, figure: Any) -> Spread | None:
        """Of `figure(run)` over the seeds."""
        return Spread.of([figure(one) for one in self.runs.values()])

    @property
    def compared(self) -> bool:
        """Whether each of its runs compared BN's statistics."""
        return bool(self.runs) and all(set(CHOICES) <= set(run.compared) for run in self.runs.values())

    def val_median(self, name: str) -> Spread | None:
        """Of the median over the last 5 epochs of a validation figure, in %."""
        return self.spread(lambda one: one.val_median(name))

    def test(self, name: str) -> Spread | None:
        """Of a fraction that the test measured, in %."""
        return self.spread(lambda one: 100 * one.test[name])


Cells = Mapping[Values, CellResult]


@dataclass
class Contrast:
    """A weighted sum of cells, as GN minus BN, with its uncertainty.

    Attributes:
        kind: The axis along which cells differ, or two of them for a difference of differences.
        what: What is compared, in words.
        at: The values that the cells have in common.
        weights: Of each cell.
        figures: By top1 and top5: mean over seeds and videos, and the bootstrap's 95 % interval, in percentage points.
        paper: By top1 and top5, the same sum of the publication's figures.
        seeds: How many all of the cells have.
    """

    kind: str
    what: str
    at: str
    weights: Mapping[Values, int]
    figures: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    seeds: int = 0

    @property
    def clear(self) -> bool:
        """Whether the interval of top-1 leaves out zero."""
        _, low, high = self.figures["top1"]
        return low > 0 or high < 0


def contrasts(grid: Grid) -> Iterator[Contrast]:
    """Each value of each axis against the axis's first, everything else equal; then how that differs between rows.

    The latter are differences of differences between values of the first row axis: whether a smaller batch costs one
    norm more than another.
    """
    cells = {tuple(cell.values.values()) for cell in grid.cells}
    axes = list(grid.axes)
    for number, axis in enumerate(axes):
        first, *others = grid.axes[axis]
        for value, rest in itertools.product(others, _settings(grid, {axis})):
            pair = {_place(rest, {number: value}): 1, _place(rest, {number: first}): -1}
            if pair.keys() <= cells:
                yield Contrast(axis, f"{axis} {value} − {first}", _words(axes, rest), pair)
    row = axes.index(grid.rows[0])
    base, *others = grid.axes[grid.rows[0]]
    for number, axis in enumerate(axes):
        if axis in grid.rows:
            continue
        first, *values = grid.axes[axis]
        for norm, value, rest in itertools.product(others, values, _settings(grid, {grid.rows[0], axis})):
            signs = {(norm, value): 1, (norm, first): -1, (base, value): -1, (base, first): 1}
            four = {_place(rest, {row: down, number: across}): sign for (down, across), sign in signs.items()}
            if four.keys() <= cells:
                what = f"({axis} {value} − {first}) of {norm} − the same of {base}"
                yield Contrast(f"{grid.rows[0]} x {axis}", what, _words(axes, rest), four)


def _settings(grid: Grid, without: set[str]) -> Iterator[tuple[str | None, ...]]:
    """Every combination of the other axes' values, with None in the places of those that are left out."""
    yield from itertools.product(*([None] if axis in without else values for axis, values in grid.axes.items()))


def _place(rest: Sequence[str | None], values: Mapping[int, str]) -> Values:
    return tuple(values.get(i, one or "") for i, one in enumerate(rest))


def _words(axes: Sequence[str], rest: Sequence[str | None]) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in zip(axes, rest, strict=True) if value is not None)


def measure_contrasts(grid: Grid, cells: Mapping[Values, CellResult]) -> list[Contrast]:
    """Those contrasts whose cells have seeds in common and were tested on the same videos, with their intervals.

    The bootstrap is paired: videos are drawn with replacement, and so are seeds (if there are two or more), each draw
    the same for all cells; the interval holds the middle 95 % of the sums' draws (Efron 1979; both factors drawn as in
    Owen 2007, *The pigeonhole bootstrap*, which errs on the wide side). A few seeds say little about other seeds:
    drawing 3 of 3 understates their part.
    """
    found: list[tuple[Contrast, dict[str, np.ndarray]]] = []
    for contrast in contrasts(grid):
        runs = [cells[values].runs for values in contrast.weights]
        seeds = sorted(set.intersection(*(set(one) for one in runs)))
        videos = {tuple(one[seed].ranks[0]) for one in runs for seed in seeds}
        if not seeds or len(videos) != 1 or not next(iter(videos)):
            continue
        contrast.seeds = len(seeds)
        sums = {}
        for name, best in (("top1", 1), ("top5", 5)):
            ranks = {(values, seed): cells[values].runs[seed].ranks[1] for values in contrast.weights for seed in seeds}
            right = {key: (one > 0) & (one <= best) for key, one in ranks.items()}
            sums[name] = np.stack(
                [sum(w * right[v, seed].astype(np.float32) for v, w in contrast.weights.items()) for seed in seeds]
            )
            figures = grid.paper.figures if grid.paper else {}
            reported = [w * figures[v][name] for v, w in contrast.weights.items() if name in figures.get(v, {})]
            if len(reported) == len(contrast.weights):
                contrast.paper[name] = sum(reported)
        found.append((contrast, sums))
    _intervals(found)
    return [contrast for contrast, _ in found]


def _intervals(found: list[tuple[Contrast, dict[str, np.ndarray]]]) -> None:
    """Fills in `figures`. Videos are drawn once for all contrasts of the same number of videos."""
    for count in {sums["top1"].shape[1] for _, sums in found}:
        same = [(contrast, sums) for contrast, sums in found if sums["top1"].shape[1] == count]
        group = [(contrast, name, one) for contrast, sums in same for name, one in sums.items()]
        stacked = np.concatenate([one for *_, one in group])  # [contrasts x figures x seeds, videos]
        rng = np.random.default_rng(0)
        means = []
        for begin in range(0, DRAWS, CHUNK):
            drawn = rng.multinomial(count, np.full(count, 1 / count), min(CHUNK, DRAWS - begin))
            means.append(drawn.astype(np.float32) @ stacked.T / count)
        by_video = np.concatenate(means)  # [draws, contrasts x figures x seeds]
        row = 0
        for contrast, name, one in group:
            seeds = len(one)
            weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
            draws = (by_video[:, row : row + seeds] * weights).sum(1)
            row += seeds
            low, high = np.percentile(draws, [2.5, 97.5])
            contrast.figures[name] = (100 * float(one.mean()), 100 * float(low), 100 * float(high))
