"""A table in the form of an ablation's grid: the rows and columns that it names."""

from collections.abc import Callable, Sequence

from video_gn.ablate.grid import Grid
from video_gn.ablate.page import Table
from video_gn.ablate.statistics import CellResult, Cells, Spread, Values
from video_gn.ablate.words import label


def grid_table(grid: Grid, cells: Cells, shown: Callable[[Values, CellResult], str]) -> Table:
    """Rows and columns of the grid, with `shown(values, cell)` in each cell."""
    axes = list(grid.axes)
    down = list(dict.fromkeys(_pick(values, axes, grid.rows) for values in cells))
    across = list(dict.fromkeys(_pick(values, axes, grid.columns) for values in cells))
    across.sort(key=lambda column: [grid.axes[a].index(v) for a, v in zip(grid.columns, column, strict=True)])
    at = {(_pick(v, axes, grid.rows), _pick(v, axes, grid.columns)): (v, cell) for v, cell in cells.items()}
    head = [", ".join(grid.rows), *(_words(grid, grid.columns, column) or "all" for column in across)]
    rows = [
        [_words(grid, grid.rows, row), *(shown(*at[row, c]) if (row, c) in at else "" for c in across)] for row in down
    ]
    return Table(head, rows)


def _pick(values: Values, axes: Sequence[str], wanted: Sequence[str]) -> Values:
    """In the order of `wanted`."""
    return tuple(values[axes.index(axis)] for axis in wanted)


def _words(grid: Grid, axes: Sequence[str], values: Values) -> str:
    return label({axis: grid.axes[axis] for axis in axes}, values)


def show_pair(top1: Spread | None, top5: Spread | None) -> str:
    """`62.1 ± 0.4 / 84.0`: top-1 and top-5; - where nothing is measured, the first alone without the second."""
    return show_spread(top1) if top5 is None else f"{show_spread(top1)} / {top5.mean:.1f}"


def show_spread(one: Spread | None, digits: int = 1) -> str:
    """`62.1 ± 0.4`: the mean, and the sample standard deviation of several."""
    if one is None:
        return "-"
    deviation = f" ± {one.deviation:.{digits}f}" if one.deviation is not None else ""
    return f"{one.mean:.{digits}f}{deviation}"
