"""How the figures of a report look: the first axis down the table, mostly the norm, owns the colour in all of them."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import Cells, Values
from video_gn.ablate.words import word

# Of Okabe and Ito, and two of Tol: apart for the colour-blind; dashes and markers keep lines apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255", "#999933")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
GREY = "#777777"
PANELS = 4  # side by side
LINES = 4  # of a panel, beyond which an axis is divided over panels
STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "svg.hashsalt": "video_gn", "svg.fonttype": "none", "text.parse_math": False, "legend.frameon": False,
    "lines.linewidth": 1.6, "axes.titlesize": 9,
    "font.family": ["DejaVu Sans"],
}  # fmt: skip


@contextmanager
def drawn(width: float, height: float) -> Iterator[Figure]:
    """A figure in the report's style."""
    with matplotlib.rc_context(STYLE):
        yield Figure((width, height), layout="constrained")


def svg(figure: Figure) -> str:
    """A figure as SVG, the same for the same content, without what takes space and shows nothing."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    light = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text.getvalue(), flags=re.S)
    light = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", _rounded, tag[0]), light)  # not what is written
    light = re.sub(r"\s*\n\s*", "\n", light)
    return light.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def near(values: Sequence[float], chance: float | None, room: float = 25.0) -> list[float]:
    """Values in %, with chance among them where it is near, so that limits hold both."""
    return [*values, *([100 * chance] if chance and min(values) - 100 * chance < room else [])]


def colour(grid: Grid, value: str) -> str:
    """Of a value of the first axis down the table."""
    return COLOURS[grid.axes[grid.rows[0]].index(value) % len(COLOURS)]


def place(grid: Grid, axis: str) -> int:
    """Of an axis among a cell's values."""
    return list(grid.axes).index(axis)


def panel_axis(grid: Grid, along: str | None = None) -> str | None:
    """The axis that is divided over panels, where one panel would have too many lines; else None.

    Args:
        grid: The ablation.
        along: The axis that goes along x.
    """
    others = {axis: len(values) for axis, values in grid.axes.items() if axis not in (along, grid.rows[0])}
    lines = np.prod([*others.values(), len(grid.axes[grid.rows[0]])])
    fitting = [axis for axis, count in others.items() if 1 < count <= PANELS]
    return max(fitting, key=lambda axis: others[axis]) if lines > LINES and fitting else None


def looks(grid: Grid, without: Sequence[str | None]) -> Mapping[Values, dict[str, Any]]:
    """Colour, dashes, marker and name of each line: of each combination of the axes that are not left out.

    The key is a cell's values without those of `without`, as `rest` gives it.
    """
    row, found = grid.rows[0], {}
    others = [axis for axis in grid.axes if axis not in without and axis != row]
    kinds: dict[Values, int] = {}
    for cell in grid.cells:
        key = tuple(value for axis, value in cell.values.items() if axis not in without)
        kind = kinds.setdefault(tuple(cell.values[axis] for axis in others), len(kinds))
        names = [word(grid.axes, axis, cell.values[axis]) for axis in (row, *others) if axis not in without]
        found[key] = {
            "color": colour(grid, cell.values[row]), "linestyle": DASHES[kind % len(DASHES)],
            "marker": MARKERS[kind % len(MARKERS)], "markersize": 4, "label": ", ".join(names),
        }  # fmt: skip
    return found


def rest(grid: Grid, values: Values, without: Sequence[str | None]) -> Values:
    """A cell's values without those of some axes."""
    return tuple(value for axis, value in zip(grid.axes, values, strict=True) if axis not in without)


def legend(figure: Figure, panels: Sequence[Any]) -> None:
    """One legend for all panels, above them; inside the only one of a single line."""
    entries = dict(zip(*(reversed(part) for part in _entries(panels)), strict=True))
    if entries:
        labels = list(entries)[::-1]
        longest = max(map(len, labels))
        columns = max(1, min(len(labels), int(14 * figure.get_figwidth() / (longest + 6))))
        figure.legend([entries[name] for name in labels], labels, loc="outside upper center", ncols=columns, fontsize=8)


def _entries(panels: Sequence[Any]) -> tuple[list[str], list[Any]]:
    handles, labels = [], []
    for panel in panels:
        of_panel = panel.get_legend_handles_labels()
        handles += of_panel[0]
        labels += of_panel[1]
    return labels, handles


def chance(cells: Cells) -> float | None:
    """The share of the test's most frequent class, which always saying it would have.

    None if nothing was tested, or a video may be of several classes.
    """
    run = next((run for cell in cells.values() for run in cell.runs.values()), None)
    if run is None or run.several or not run.videos.labels:
        return None
    return max(Counter(run.videos.labels).values()) / len(run.videos.labels)


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Of an axis in % that fits the data, with some room."""
    low, high = min(values), max(values)
    room = 0.06 * max(high - low, 2.0)
    return max(0.0, low - room) if low >= 0 else low - room, min(100.0 + room, high + room)


def draw_bounds(
    panel: Any, grid: Grid, cells: Cells, shown: Sequence[Values], error: bool = False, along: str | None = None
) -> None:
    """Chance, and the ceilings of the cells that a panel shows; of accuracies in %, or of errors. Limits stay.

    Ceilings that are not the same for all values of the axis `along` x are left to `draw_ceilings`.
    """

    def at(accuracy: float) -> float:
        return 100 - accuracy if error else accuracy

    low, high = panel.get_ylim()
    if (share := chance(cells)) and low <= at(100 * share) <= high:
        panel.axhline(at(100 * share), color=GREY, linestyle=(0, (1, 3)), linewidth=1.1, label="chance", zorder=1)
    for ceiling in grid.ceilings:
        if along not in ceiling.values and any(
            ceiling.values.items() <= dict(zip(grid.axes, values, strict=True)).items() for values in shown
        ):
            name = ", ".join(word(grid.axes, axis, value) for axis, value in ceiling.values.items())
            label = f"ceiling, {name}" if name else "ceiling"
            panel.axhline(at(ceiling.top1), color=GREY, linestyle=(0, (6, 3)), linewidth=1.1, label=label, zorder=1)
            if ceiling.spread:
                ends = at(ceiling.top1 - ceiling.spread), at(ceiling.top1 + ceiling.spread)
                panel.axhspan(*ends, color=GREY, alpha=0.15, linewidth=0, zorder=0)


def draw_ceilings(panel: Any, grid: Grid, axis: str, positions: Mapping[str, float], width: float) -> None:
    """Those that differ along x, each at its place, on a logarithmic axis."""
    for ceiling in grid.ceilings:
        if x := positions.get(ceiling.values.get(axis, "")):
            ends = (x / width, x * width)
            panel.plot(
                ends, [ceiling.top1] * 2, color=GREY, linestyle=(0, (3, 2)), linewidth=1.1, label="ceiling", zorder=1
            )
            spread = (ceiling.top1 - ceiling.spread, ceiling.top1 + ceiling.spread)
            panel.fill_between(ends, *([end] * 2 for end in spread), color=GREY, alpha=0.15, linewidth=0, zorder=0)
