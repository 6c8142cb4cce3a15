"""What BN normalizes by: accuracy by each kind of statistics, and how far they are from the true ones."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator

from video_gn.ablate.figures.style import COLOURS, DASHES, GREY, colour, drawn, place, svg
from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import CellResult, Cells, Measured, Values
from video_gn.ablate.words import label, word
from video_gn.train.callbacks.bn_statistics import CHOICES

UNITS = {"mean": "true standard deviations", "variance": "powers of 2"}
KINDS = {"running": "running statistics", "batch": "one batch"}


def bars(grid: Grid, compared: Cells) -> str:
    """Accuracy of each cell by what its BN normalizes by, and of its training clips."""
    kinds: dict[str, Callable[[Measured], float]] = {
        f"{choice} statistics": partial(Measured.top1_by, choice=choice) for choice in CHOICES
    }
    kinds["training clips (batch statistics)"] = lambda run: run.training_top1
    width = 0.8 / len(kinds)
    with drawn(max(6.4, 1.35 * len(compared)), 3.6) as figure:
        panel = figure.subplots()
        for number, (name, figure_of) in enumerate(kinds.items()):
            spreads = [cell.spread(figure_of) for cell in compared.values()]
            x = np.arange(len(spreads)) + (number - (len(kinds) - 1) / 2) * width
            shade = (GREY, "#AAAAAA", "#CCCCCC", "#444444")[number]
            panel.bar(x, [one.mean if one else 0 for one in spreads], width * 0.92, label=name, color=shade,
                      hatch=("", "//", "..", "")[number], edgecolor="white", linewidth=0.4)  # fmt: skip
            for at, cell in zip(x, compared.values(), strict=True):
                seeds = [figure_of(run) for run in cell.runs.values()]
                panel.plot([at] * len(seeds), seeds, ".", color=COLOURS[1], markersize=3)
        names = [label(grid.axes, values).replace(", ", "\n") for values in compared]
        panel.set_xticks(range(len(compared)), names, fontsize=8)
        panel.grid(axis="x", visible=False)
        panel.set_ylabel("top-1, one clip a video (%)")
        panel.set_ylim(0, 104)
        figure.legend(ncols=4, fontsize=8, loc="outside upper center")
        return svg(figure)


def distances(grid: Grid, compared: Cells) -> str:
    """Distance from the true statistics by layer, of the running ones (full colour) and of a single batch's (pale).

    Of many cells those with the most and the fewest clips behind a norm are shown, two for each other setting.
    """
    chosen = _extremes(grid, compared)
    axis = next((axis for axis in grid.axes if len({v[list(grid.axes).index(axis)] for v in chosen}) > 1), None)
    by = list(grid.axes).index(axis) if axis else 0
    columns = list(dict.fromkeys(values[by] for values in chosen))
    with drawn(3.4 * max(len(columns), 2), 5.0) as figure:
        panels = figure.subplots(len(UNITS), len(columns), sharex=True, sharey="row", squeeze=False)
        for row, (part, unit) in zip(panels, UNITS.items(), strict=True):
            for panel, column in zip(row, columns, strict=True):
                own = {values: cell for values, cell in chosen.items() if values[by] == column}
                for (values, cell), dash in zip(own.items(), itertools.cycle(DASHES)):
                    others = [v if at != by else None for at, v in enumerate(values)]
                    ink = colour(grid, values[place(grid, grid.rows[0])])
                    _lines(panel, cell, part, dash, ink, label(grid.axes, others))
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter("{x:g}")
                panel.yaxis.set_minor_formatter("")
                if axis and len(columns) > 1 and part == next(iter(UNITS)):
                    panel.set_title(word(grid.axes, axis, column))
            row[0].set_ylabel(f"{part}s' distance\n({unit})", fontsize=8)
        for panel in panels[-1]:
            panel.set_xlabel("norm layer, from the input")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=2, fontsize=8, loc="outside upper center")
        return svg(figure)


def _lines(panel: Any, cell: CellResult, part: str, dash: str, ink: str, name: str) -> None:
    measured = [run.compared["precise"]["norm_layers"] for run in cell.runs.values()]
    for kind, said in KINDS.items():
        y = np.median([[layer[kind][part] for layer in layers] for layers in measured], 0)
        shade = 1.0 if kind == "running" else 0.4
        panel.plot(np.arange(1, len(y) + 1), y, dash, color=ink, alpha=shade, label=f"{name}: {said}" if name else said)


def _extremes(grid: Grid, compared: Cells) -> Mapping[Values, CellResult]:
    """The cells with the first and the last value of the axis that has the most values."""
    axes = list(grid.axes)
    counts = {at: list(dict.fromkeys(values[at] for values in compared)) for at in range(len(axes))}
    at = max(counts, key=lambda number: len(counts[number]))
    ends = (counts[at][0], counts[at][-1])
    return {values: cell for values, cell in compared.items() if values[at] in ends}
