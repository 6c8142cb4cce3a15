"""Test accuracy along an axis of numbers, and against the values of a setting that was tuned."""

import math
import re
from collections.abc import Mapping, Sequence

from video_gn.ablate.contrasts import Contrast
from video_gn.ablate.figures.style import (
    chance,
    draw_bounds,
    draw_ceilings,
    drawn,
    legend,
    limits,
    looks,
    near,
    panel_axis,
    place,
    rest,
    svg,
)
from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import Cells, Values
from video_gn.ablate.words import word

NAMES = {"batch": "clips per device", "clip": "frames of a clip"}
DODGE = 0.035  # of a doubling, between the error bars of one place


def along(grid: Grid, cells: Cells, axis: str, levels: Sequence[Contrast], name: str = "top1") -> str | None:
    """Test accuracy along an axis of numbers (batch, or clip by its frames); None if it is not of numbers.

    Bars are 95 % intervals, small points the seeds.

    Args:
        grid: The ablation.
        cells: What was measured.
        axis: That goes along x.
        levels: The accuracy of each cell with its interval.
        name: top1 or top5.
    """
    positions = {value: number for value in grid.axes[axis] if (number := _number(value))}
    if len(set(positions.values())) < max(2, len(grid.axes[axis])):
        return None
    panel_of = panel_axis(grid, axis)
    columns = grid.axes[panel_of] if panel_of else (None,)
    styles = looks(grid, [axis, panel_of])
    figures = {values: contrast.figures[name] for contrast in levels for values in contrast.weights}
    if not figures:
        return None
    with drawn(max(5.6, 3.0 * len(columns) + 1.6), 3.6) as figure:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for column, panel in zip(columns, panels, strict=True):
            shown = [v for v in figures if panel_of is None or v[place(grid, panel_of)] == column]
            for number, (key, style) in enumerate(styles.items()):
                own = sorted(
                    (positions[v[place(grid, axis)]], v) for v in shown if rest(grid, v, [axis, panel_of]) == key
                )
                if not own:
                    continue
                shift = 2 ** (DODGE * (number - (len(styles) - 1) / 2))
                x = [at * shift for at, _ in own]
                middle, low, high = zip(*(figures[v] for _, v in own), strict=True)
                bars = [
                    [m - a for m, a in zip(middle, low, strict=True)],
                    [b - m for m, b in zip(middle, high, strict=True)],
                ]
                panel.errorbar(x, middle, yerr=bars, elinewidth=0.9, capsize=2, **style)
                for at, (_, v) in zip(x, own, strict=True):
                    seeds = [100 * run.test[name] for run in cells[v].runs.values()]
                    if len(seeds) > 1:
                        panel.plot([at] * len(seeds), seeds, ".", color=style["color"], markersize=2.5, alpha=0.5)
            ends = [end for of_cell in figures.values() for end in of_cell]
            panel.set_ylim(*limits(near(ends, chance(cells)) if name == "top1" else ends))
            if name == "top1":
                draw_bounds(panel, grid, cells, shown, along=axis)
                draw_ceilings(panel, grid, axis, positions, 2 ** (3 * DODGE))
            panel.set_xscale("log", base=2)
            panel.set_xticks(list(positions.values()), [str(value) for value in _ticks(grid, axis, positions)])
            panel.minorticks_off()
            panel.set_xlabel(NAMES.get(axis, axis))
            if panel_of and column:
                panel.set_title(word(grid.axes, panel_of, column))
        panels[0].set_ylabel(f"test top-{name[-1]} (%)")
        legend(figure, panels)
        return svg(figure)


def rates(grid: Grid, scores: Mapping[Values, Mapping[str, tuple[float, float]]]) -> str | None:
    """Validation top-1 of each value that was tried; None if they are not numbers. The taken ones are filled.

    Args:
        grid: With the axes of the trials, without those along which one value is taken.
        scores: Of each combination of its axes: by value, top-1 as a fraction (below 0: diverged) and more.
    """
    values = next(iter(scores.values()), {})
    numbers = {value: number for value in values if (number := _number(value))}
    if len(numbers) < 2 or len(numbers) < len(values):
        return None
    panel_of = panel_axis(grid)
    columns = grid.axes[panel_of] if panel_of else (None,)
    styles = looks(grid, [panel_of])
    with drawn(max(5.6, 3.0 * len(columns) + 1.6), 3.3) as figure:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for column, panel in zip(columns, panels, strict=True):
            for key, tried in scores.items():
                if panel_of and key[place(grid, panel_of)] != column:
                    continue
                style = styles[rest(grid, key, [panel_of])]
                points = [(numbers[value], 100 * top1) for value, (top1, *_) in tried.items() if top1 >= 0]
                panel.plot(*zip(*points, strict=True), **style | {"markerfacecolor": "white"}) if points else None
                best = max(tried, key=lambda value: tried[value])
                panel.plot(numbers[best], 100 * tried[best][0], style["marker"], color=style["color"], markersize=6)
            panel.set_xscale("log")
            panel.set_xticks(list(numbers.values()), list(numbers))
            panel.minorticks_off()
            if panel_of and column:
                panel.set_title(word(grid.axes, panel_of, column))
            if grid.tune:
                panel.set_xlabel(grid.tune.key.rpartition(".")[2])
        panels[0].set_ylabel("validation top-1 (%)")
        legend(figure, panels)
        return svg(figure)


def _ticks(grid: Grid, axis: str, positions: Mapping[str, float]) -> list[str]:
    return [value if axis != "clip" else f"{number:g}\n({value})" for value, number in positions.items()]


def _number(value: str) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?)(?:x[1-9]\d*)?", value)
    return float(match[1]) if match and 0 < float(match[1]) < math.inf else None
