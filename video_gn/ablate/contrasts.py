"""The differences between cells of a grid that its report is about."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import Cells, Values
from video_gn.ablate.words import label, word

LEVEL = 0.05  # of error, over all differences of a table


@dataclass
class Contrast:
    """A weighted sum of cells, as GN minus BN, with its uncertainty (`video_gn.ablate.uncertainty`).

    Attributes:
        kind: The axis along which cells differ, or two of them for a difference of differences.
        what: What is compared, in words.
        at: What the cells have in common, in words.
        weights: Of each cell.
        figures: By top1 and top5: mean over seeds and videos, and the 95 % interval, in percentage points.
        paper: By top1 and top5, the same sum of the publication's figures.
        seeds: How many all of the cells have.
        error: Standard error of top-1, in points.
        p: How likely so large a top-1 would be without an effect; None where nothing tells how much seeds or groups
            of videos differ.
        adjusted: `p` for as many differences as its table has (Holm 1979).
        detectable: The effect on top-1, in points, that would have been shown with a probability of 0.8; None where
            no effect would.
    """

    kind: str
    what: str
    at: str
    weights: Mapping[Values, int]
    figures: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    seeds: int = 0
    error: float = 0.0
    p: float | None = None
    adjusted: float | None = None
    detectable: float | None = None

    @property
    def shown(self) -> bool | None:
        """Whether top-1 is apart from zero; None where it cannot be said."""
        return None if self.adjusted is None else self.adjusted < LEVEL

    @property
    def sign(self) -> int:
        """1 or -1 where top-1 is shown to be above or below zero, else 0."""
        return (1 if self.figures["top1"][0] > 0 else -1) if self.shown else 0


def contrasts(grid: Grid) -> Iterator[Contrast]:
    """Each value of each axis against the axis's first, everything else equal; then how that differs between rows.

    The latter are differences of differences between values of the first row axis: whether a smaller batch costs one
    norm more than another.
    """
    cells = {tuple(cell.values.values()) for cell in grid.cells}
    runs = {tuple(cell.values.values()): cell.run_name for cell in grid.cells}
    axes = list(grid.axes)
    for number, axis in enumerate(axes):
        first, *others = grid.axes[axis]
        for value, rest in itertools.product(others, _settings(grid, {axis})):
            pair = {_place(rest, {number: value}): 1, _place(rest, {number: first}): -1}
            if pair.keys() <= cells and len({runs[values] for values in pair}) > 1:
                what = f"{word(grid.axes, axis, value)} − {word(grid.axes, axis, first)}"
                yield Contrast(axis, what, label(grid.axes, rest), pair)
    row = axes.index(grid.rows[0])
    base, *others = grid.axes[grid.rows[0]]
    for number, axis in enumerate(axes):
        if axis in grid.rows:
            continue
        first, *values = grid.axes[axis]
        for norm, value, rest in itertools.product(others, values, _settings(grid, {grid.rows[0], axis})):
            signs = {(norm, value): 1, (norm, first): -1, (base, value): -1, (base, first): 1}
            four = {_place(rest, {row: down, number: across}): sign for (down, across), sign in signs.items()}
            if four.keys() <= cells and len({runs[values] for values in four}) > 2:
                change = f"{word(grid.axes, axis, value)} − {word(grid.axes, axis, first)}"
                norms = word(grid.axes, grid.rows[0], norm), word(grid.axes, grid.rows[0], base)
                what = f"({change}) of {norms[0]} − the same of {norms[1]}"
                yield Contrast(f"{grid.rows[0]} x {axis}", what, label(grid.axes, rest), four)


def _settings(grid: Grid, without: set[str]) -> Iterator[tuple[str | None, ...]]:
    """Every combination of the other axes' values, with None in the places of those that are left out."""
    yield from itertools.product(*([None] if axis in without else values for axis, values in grid.axes.items()))


def _place(rest: Sequence[str | None], values: Mapping[int, str]) -> Values:
    return tuple(values.get(i, one or "") for i, one in enumerate(rest))


def highest(grid: Grid, cells: Cells) -> Iterator[Contrast]:
    """In each column of three cells or more, the one with the highest mean top-1 against each of the others."""
    axis = grid.rows[0]
    row = list(grid.axes).index(axis)
    for rest in _settings(grid, {axis}):
        found = {value: cells.get(_place(rest, {row: value})) for value in grid.axes[axis]}
        column = {value: cell.runs for value, cell in found.items() if cell and cell.runs}
        seeds = set.intersection(*map(set, column.values())) if column else set()
        if len(column) < 3 or not seeds:
            continue
        means = {value: sum(runs[seed].test["top1"] for seed in seeds) for value, runs in column.items()}
        best, *others = sorted(means, key=lambda value: -means[value])
        for value in others:
            pair = {_place(rest, {row: best}): 1, _place(rest, {row: value}): -1}
            what = f"{word(grid.axes, axis, best)} − {word(grid.axes, axis, value)}"
            yield Contrast(axis, what, label(grid.axes, rest), pair)


def levels(grid: Grid) -> Iterator[Contrast]:
    """Each cell by itself: not a difference, but its accuracy has an interval by the same means."""
    for cell in grid.cells:
        values = tuple(cell.values.values())
        yield Contrast("", label(grid.axes, values), "", {values: 1})
