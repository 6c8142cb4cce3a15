"""A table in the form of an ablation's grid: the rows and columns that it names."""

from collections.abc import Callable, Sequence

from video_gn.ablate.grid import Grid
from video_gn.ablate.page import Table
from video_gn.ablate.statistics import CellResult, Cells, Spread, Values


def grid_table(grid: Grid, cells: Cells, shown: Callable[[Values, CellResult], str]) -> Table:
    """Rows and columns of the grid, with `shown(values, cell)` in each cell."""
    axes = list(grid.axes)
    down = list(dict.fromkeys(_pick(values, axes, grid.rows) for values in cells))
    across = list(dict.fromkeys(_pick(values, axes, grid.columns) for values in cells))
    across.sort(key=lambda column: [grid.axes[a].index(v) for a, v in zip(grid.columns, column, strict=True)])
    at = {(_pick(v, axes, grid.rows), _pick(v, axes, grid.columns)): (v, cell) for v, cell in cells.items()}
    head = [" ".join(grid.rows), *(_named(grid.columns, column) for column in across)]
    return Table(
        head, [[" ".join(row), *(shown(*at[row, c]) if (row, c) in at else "" for c in across)] for row in down]
    )


def _pick(values: Values, axes: Sequence[str], wanted: Sequence[str]) -> Values:
    return tuple(value for axis, value in zip(axes, values, strict=True) if axis in wanted)


def _named(axes: Sequence[str], values: Values) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in zip(axes, values, strict=True)) or "all"


def show_pair(top1: Spread | None, top5: Spread | None) -> str:
    """`62.1 ± 0.4 / 84.0 ± 0.2 (3)`: top-1, top-5 and the number of seeds; - where nothing is measured."""
    if top1 is None or top5 is None:
        return "-"
    return f"{show_spread(top1)} / {show_spread(top5)} ({top1.count})"


def show_spread(one: Spread | None, digits: int = 1) -> str:
    """`62.1 ± 0.4`: the mean, and the sample standard deviation of several."""
    if one is None:
        return "-"
    deviation = f" ± {one.deviation:.{digits}f}" if one.deviation is not None else ""
    return f"{one.mean:.{digits}f}{deviation}"
