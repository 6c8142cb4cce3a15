"""The report's pictures, as SVG: error curves, accuracy along an axis, and what BN normalizes by."""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from video_gn.ablate.grid import Grid, named
from video_gn.ablate.statistics import CellResult, Cells, Measured, Values
from video_gn.train.callbacks.bn_statistics import CHOICES

# Of Okabe and Ito, and two of Tol: apart for the colour-blind; dashes and markers keep lines apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255", "#999933")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
UNITS = {"mean": "true standard deviations", "variance": "powers of 2"}
STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "svg.hashsalt": "video_gn", "text.parse_math": False, "legend.frameon": False, "lines.linewidth": 1.6,
}  # fmt: skip


def curves(grid: Grid, cells: Cells) -> str:
    """Training and validation error over epochs, a column for each value of the first row axis (GN, Figures 4 and 5).

    The line is the median over seeds, the band reaches from the least to the greatest.
    """
    row = list(grid.axes).index(grid.rows[0])
    names = [name for name in grid.axes[grid.rows[0]] if any(v[row] == name and c.runs for v, c in cells.items())]
    styles = _styles(grid, {grid.rows[0]})
    with matplotlib.rc_context(STYLE):
        figure = Figure((3.4 * max(len(names), 2), 5.6), layout="constrained")
        axes = figure.subplots(2, len(names), sharex=True, sharey=True, squeeze=False)
        for column, name in enumerate(names):
            for line, (key, what) in enumerate((("train/epoch_top1", "training"), ("val/top1", "validation"))):
                ax = axes[line][column]
                ax.set_title(f"{grid.rows[0]} {name}: {what}", fontsize=9)
                for values, cell in cells.items():
                    if values[row] == name and cell.runs:
                        _curve(ax, cell, key, **styles[_without(values, row)])
                ax.set_ylim(0, None)
            axes[1][column].set_xlabel("epoch")
        for ax, what in zip(axes[:, 0], ("training", "validation"), strict=True):
            ax.set_ylabel(f"top-1 error, {what} clips (%)")
        _legend(figure, axes[0][0], len(styles))
        return _svg(figure)


def _curve(ax: Any, cell: CellResult, key: str, **style: Any) -> None:
    histories = [
        {int(row["epoch"]): row[key] for row in run.history if np.isfinite(row[key])} for run in cell.runs.values()
    ]
    epochs = sorted(set.intersection(*(set(history) for history in histories))) if histories else []
    if not epochs:
        return
    errors = 100 * (1 - np.array([[history[epoch] for epoch in epochs] for history in histories]))
    x = np.array(epochs) + 1
    if len(epochs) > 1:
        style.pop("marker")
    ax.plot(x, np.median(errors, 0), **style)
    if len(errors) > 1:
        ax.fill_between(x, errors.min(0), errors.max(0), color=style["color"], alpha=0.15, linewidth=0)


def along(grid: Grid, cells: Cells, axis: str) -> str | None:
    """Test accuracy along an axis of numbers (batch, or clip by its frames); None if it is not of numbers.

    Lines are means over seeds, small points the seeds.
    """
    number = list(grid.axes).index(axis)
    positions = {value: _number(value) for value in grid.axes[axis]}
    if len(positions) < 2 or any(position is None for position in positions.values()):
        return None
    styles = _styles(grid, {axis})
    with matplotlib.rc_context(STYLE):
        figure = Figure((6.8, 3.6), layout="constrained")
        panels = figure.subplots(1, 2, squeeze=False)[0]
        for ax, name in zip(panels, ("top1", "top5"), strict=True):
            for rest, style in styles.items():
                of = [(positions[v[number]], c) for v, c in cells.items() if _without(v, number) == rest and c.runs]
                points = [(x, [100 * run.test[name] for run in cell.runs.values()]) for x, cell in of if x]
                points.sort(key=lambda point: point[0])
                if points:
                    ax.plot([x for x, _ in points], [np.mean(seeds) for _, seeds in points], **style)
                for x, seeds in points:
                    ax.plot([x] * len(seeds), seeds, ".", color=style["color"], markersize=3, alpha=0.6)
            ticks = {x: value for value, x in positions.items() if x is not None}
            ax.set_xscale("log", base=2)
            ax.set_xticks(list(ticks), list(ticks.values()))
            ax.minorticks_off()
            ax.set_xlabel({"batch": "clips per GPU", "clip": "frames x interval"}.get(axis, axis))
            ax.set_ylabel(f"test top-{name[-1]} (%)")
        _legend(figure, panels[0], len(styles))
        return _svg(figure)


def statistics(cells: Cells) -> str | None:
    """What BN normalizes by: accuracy by each kind of statistics, and how far running ones are from the true ones.

    None if no cell compared them.
    """
    compared = {values: cell for values, cell in cells.items() if cell.compared}
    if not compared:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure((7.4, 6.2), layout="constrained")
        top, *below = figure.subplot_mosaic([["bars", "bars"], ["mean", "variance"]]).values()
        _bars(top, compared)
        for ax, (part, unit) in zip(below, UNITS.items(), strict=True):
            for number, cell in enumerate(compared.values()):
                style: Any = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
                for kind, dash in (("running", "-"), ("batch", ":")):
                    measured = [run.compared["precise"]["norm_layers"] for run in cell.runs.values()]
                    y = np.median([[layer[kind][part] for layer in layers] for layers in measured], 0)
                    label = cell.cell.label if kind == "running" else None
                    ax.plot(np.arange(1, len(y) + 1), y, dash, markersize=3, label=label, **style)
            ax.set_yscale("log")
            ax.set_xlabel("norm layer, from the input")
            ax.set_ylabel(f"{part}s' distance ({unit})", fontsize=8)
        _legend(figure, below[0], len(compared))
        return _svg(figure)


def _bars(ax: Any, compared: Cells) -> None:
    kinds: dict[str, Callable[[Measured], float]] = {
        f"{choice} statistics": partial(Measured.top1_by, choice=choice) for choice in CHOICES
    }
    kinds["training clips (batch statistics)"] = lambda run: run.training_top1
    width = 0.8 / len(kinds)
    for number, (name, figure) in enumerate(kinds.items()):
        spreads = [cell.spread(figure) for cell in compared.values()]
        x = np.arange(len(spreads)) + (number - (len(kinds) - 1) / 2) * width
        ax.bar(x, [one.mean if one else 0 for one in spreads], width * 0.92, label=name, color=COLOURS[number],
               hatch=("", "//", "..", "xx")[number], edgecolor="white", linewidth=0.4)  # fmt: skip
        for at, cell in zip(x, compared.values(), strict=True):
            seeds = [figure(run) for run in cell.runs.values()]
            ax.plot([at] * len(seeds), seeds, "k.", markersize=2.5)
    ax.set_xticks(range(len(compared)), [cell.cell.label for cell in compared.values()], fontsize=7.5)
    ax.set_ylabel("top-1, one clip a video (%)")
    ax.legend(ncols=2, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, 1.28))


def _number(value: str) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:x\d+)?", value)
    return float(match[1]) if match and float(match[1]) > 0 else None


def _without(values: Values, number: int) -> Values:
    return values[:number] + values[number + 1 :]


def _styles(grid: Grid, axes: set[str]) -> dict[Values, dict[str, Any]]:
    """How the line of each combination of the other axes' values looks: colour by the first, dashes by the last."""
    others = [values for axis, values in grid.axes.items() if axis not in axes]
    styles = {}
    for number, combination in enumerate(itertools.product(*others)):
        last = others[-1].index(combination[-1]) if others else 0
        colour = COLOURS[number % len(COLOURS)]
        styles[combination] = {
            "color": colour, "linestyle": DASHES[last % len(DASHES)], "marker": MARKERS[number % len(MARKERS)],
            "markersize": 4, "label": " ".join(_named(grid, axes, combination)),
        }  # fmt: skip
    return styles


def _named(grid: Grid, without: set[str], combination: Sequence[str]) -> list[str]:
    others = [axis for axis in grid.axes if axis not in without]
    return [named(axis, value) for axis, value in zip(others, combination, strict=True)]


def _legend(figure: Figure, ax: Any, count: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(count, 1)), fontsize=8)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
