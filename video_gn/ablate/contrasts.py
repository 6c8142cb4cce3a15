"""Differences between cells of a grid, with their uncertainty."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import Cells, Values

DRAWS = 10_000  # of the bootstrap
CHUNK = 500  # draws at a time


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


def highest(grid: Grid, cells: Cells) -> Iterator[Contrast]:
    """In each column of three cells or more, the one with the highest mean top-1 against each of the others."""
    axis = grid.rows[0]
    row = list(grid.axes).index(axis)
    for rest in _settings(grid, {axis}):
        column = {value: cells.get(_place(rest, {row: value})) for value in grid.axes[axis]}
        means = {value: spread.mean for value, cell in column.items() if cell and (spread := cell.test("top1"))}
        if len(means) < 3:
            continue
        best, *others = sorted(means, key=lambda value: -means[value])
        for value in others:
            pair = {_place(rest, {row: best}): 1, _place(rest, {row: value}): -1}
            yield Contrast(axis, f"{best} − {value}", _words(list(grid.axes), rest), pair)


def measure_contrasts(grid: Grid, cells: Cells, wanted: Iterable[Contrast]) -> list[Contrast]:
    """Those contrasts whose cells have seeds in common and were tested on the same videos, with their intervals.

    The bootstrap is paired: videos are drawn with replacement, and so are seeds (if there are two or more), each draw
    the same for all cells; the interval holds the middle 95 % of the sums' draws (Efron 1979; both factors drawn as in
    Owen 2007, *The pigeonhole bootstrap*, which errs on the wide side). A few seeds say little about other seeds:
    drawing 3 of 3 understates their part.
    """
    found: list[tuple[Contrast, dict[str, np.ndarray]]] = []
    for contrast in wanted:
        runs = [cells[values].runs for values in contrast.weights]
        seeds = sorted(set.intersection(*(set(of_cell) for of_cell in runs)))
        videos = {tuple(of_cell[seed].ranks[0]) for of_cell in runs for seed in seeds}
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
    """Fills in `figures`. Draws are the same for all contrasts of as many videos and seeds, in whatever call."""
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
            weights = np.random.default_rng(1).multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
            draws = (by_video[:, row : row + seeds] * weights).sum(1)
            row += seeds
            low, high = np.percentile(draws, [2.5, 97.5])
            contrast.figures[name] = (100 * float(one.mean()), 100 * float(low), 100 * float(high))
