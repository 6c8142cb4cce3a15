"""Error of training and validation clips over training (GN, Figures 4 to 6)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from video_gn.ablate.figures.style import draw_bounds, drawn, legend, limits, looks, panel_axis, place, rest, svg
from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import CellResult, Cells
from video_gn.ablate.words import word

PARTS = {"training": "train/epoch_top1", "validation": "val/top1"}
AGAINST = {"epochs": "epoch", "steps": "step of the optimiser", "seconds": "seconds of training"}


def curves(grid: Grid, cells: Cells, against: str = "epochs") -> str | None:
    """Training and validation error, median over seeds with a band from the least to the greatest.

    Args:
        grid: The ablation.
        cells: What was measured.
        against: What goes along x: epochs, steps or seconds.

    Returns:
        SVG; None where no run noted it.
    """
    axis = panel_axis(grid)
    columns = grid.axes[axis] if axis else (None,)
    styles = looks(grid, [axis])
    lines = {
        (part, values): line
        for part, key in PARTS.items()
        for values, cell in cells.items()
        if (line := _line(cell, key, against)) is not None
    }
    parts = [part for part in PARTS if any(one == part for one, _ in lines)]
    if not parts:
        return None
    with drawn(3.1 * len(columns) + 1.2, 2.7 * len(parts) + 0.5) as figure:
        panels = figure.subplots(len(parts), len(columns), sharex=against == "epochs", sharey="row", squeeze=False)
        for (part, values), (x, errors) in lines.items():
            at = columns.index(values[place(grid, axis)]) if axis else 0
            _draw(panels[parts.index(part)][at], x, errors, styles[rest(grid, values, [axis])])
        for row, part in zip(panels, parts, strict=True):
            everything = [error for (one, _), (_, errors) in lines.items() if one == part for error in errors.flat]
            for panel, column in zip(row, columns, strict=True):
                panel.set_ylim(*limits(everything))
                shown = [v for v in cells if axis is None or v[place(grid, axis)] == column]
                draw_bounds(panel, grid, cells, shown, error=True)
                panel.set_title(f"{word(grid.axes, axis, column)}: {part}" if axis and column else part)
            row[0].set_ylabel(f"top-1 error, {part} clips (%)")
        for panel in panels[-1]:
            panel.set_xlabel(AGAINST[against])
        legend(figure, list(panels.flat))
        return svg(figure)


def _line(cell: CellResult, key: str, against: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Places along x `[E]` and errors in % `[seeds, E]` of the epochs that all seeds have; None if there is none."""
    histories = [
        {int(row["epoch"]): row[key] for row in run.history if np.isfinite(row.get(key, np.nan))}
        for run in cell.runs.values()
    ]
    epochs = sorted(set.intersection(*(set(history) for history in histories))) if histories else []
    if not epochs:
        return None
    errors = 100 * (1 - np.array([[history[epoch] for epoch in epochs] for history in histories]))
    if against == "epochs":
        return np.array(epochs) + 1, errors
    times = [run.timeline(against) for run in cell.runs.values()]
    if not all(set(epochs) <= set(time) for time in times):
        return None
    return np.median([[time[epoch] for epoch in epochs] for time in times], 0), errors


def _draw(panel: Any, x: Sequence[float] | np.ndarray, errors: np.ndarray, look: dict[str, Any]) -> None:
    style = dict(look)
    if len(x) > 1:
        style.pop("marker")
    panel.plot(x, np.median(errors, 0), **style)
    if len(errors) > 1:
        panel.fill_between(x, errors.min(0), errors.max(0), color=style["color"], alpha=0.12, linewidth=0)
