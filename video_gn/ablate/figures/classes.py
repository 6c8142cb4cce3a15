"""What becomes of single classes: differences by class, and confusion matrices side by side."""

from collections.abc import Sequence

import numpy as np

from video_gn.ablate.contrasts import Contrast
from video_gn.ablate.figures.style import drawn, svg
from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import CellResult, Cells
from video_gn.ablate.words import label
from video_gn.train.page.figures import most_confused

MOST = 20  # classes
COLUMNS = 8  # differences side by side
NONE = "none"  # what an unreadable video is taken for


def class_names(cells: Cells) -> list[str]:
    """Those of the test's videos, sorted; none where a video may be of several."""
    runs = [run for cell in cells.values() for run in cell.runs.values()]
    if any(run.several for run in runs):
        return []
    return sorted({name for run in runs for name in run.videos.labels})


def recall_differences(cells: Cells, contrast: Contrast, names: Sequence[str]) -> np.ndarray:
    """A difference of each class's recall, mean over seeds, in points `[K]`; nan without videos."""
    seeds = set.intersection(*(set(cells[values].runs) for values in contrast.weights))
    total = np.zeros(len(names))
    for values, weight in contrast.weights.items():
        for seed in seeds:
            videos = cells[values].runs[seed].videos
            labels, right = np.array(videos.labels), videos.right()
            total += weight * np.array([right[labels == name].mean() if name in labels else np.nan for name in names])
    return 100 * total / len(seeds)


def chosen_contrasts(grid: Grid, differences: Sequence[Contrast]) -> list[Contrast]:
    """Between values of the first axis down the table: the largest ones, in the order of the table."""
    own = [contrast for contrast in differences if contrast.kind == grid.rows[0]]
    largest = sorted(own, key=lambda one: -abs(one.figures["top1"][0]))[:COLUMNS]
    return [contrast for contrast in own if contrast in largest]


def heat(grid: Grid, cells: Cells, differences: Sequence[Contrast]) -> str | None:
    """Differences of recall by class; None if the grid has none between its rows, or one class is tested."""
    chosen, names = chosen_contrasts(grid, differences), class_names(cells)
    if not chosen or len(names) < 2:
        return None
    table = np.stack([recall_differences(cells, contrast, names) for contrast in chosen], 1)
    if len(names) > MOST:
        rows = np.sort(np.argsort(-np.nan_to_num(np.abs(table)).max(1), kind="stable")[:MOST])
        table, names = table[rows], [names[row] for row in rows]
    with drawn(1.15 * len(chosen) + 2.4, 0.26 * len(names) + 1.5) as figure:
        panel = figure.subplots()
        panel.imshow(table, cmap="RdBu", vmin=-100, vmax=100, aspect="auto")
        for (y, x), value in np.ndenumerate(table):
            if np.isfinite(value):
                said = f"{value:+.0f}" if abs(value) >= 0.5 else "0"
                ink = "white" if abs(value) > 60 else "black"
                panel.text(x, y, said, ha="center", va="center", fontsize=8, color=ink)
        heads = [f"{contrast.what}\n{contrast.at.replace(', ', chr(10))}" for contrast in chosen]
        panel.set_xticks(range(len(chosen)), heads, fontsize=7.5)
        panel.xaxis.tick_top()
        panel.set_yticks(range(len(names)), names, fontsize=8)
        _bare(panel)
        return svg(figure)


def confusions(grid: Grid, cells: Cells, differences: Sequence[Contrast]) -> tuple[str, Contrast] | None:
    """Confusion matrices of the two cells that are furthest apart, and their difference; None if there is none."""
    chosen = [contrast for contrast in chosen_contrasts(grid, differences) if contrast.figures["top1"][0]]
    names = class_names(cells)
    if not chosen or len(names) < 3:
        return None
    largest = max(chosen, key=lambda one: abs(one.figures["top1"][0]))
    matrices = {values: _confusion(cells[values], names) for values in largest.weights}
    if len(names) > MOST:
        rows = np.array(most_confused(np.sum(list(matrices.values()), 0), MOST))
        names = [names[row] for row in rows]
        matrices = {values: matrix[rows][:, [*rows, -1]] for values, matrix in matrices.items()}
    heads = [*names, NONE] if any(matrix[:, -1].any() for matrix in matrices.values()) else names
    side = 0.25 * len(names) + 1.0
    with drawn(2 * side + 1.6, side + 0.9) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (values, matrix) in zip(panels, list(matrices.items())[::-1], strict=True):
            shares = 100 * matrix / matrix.sum(1, keepdims=True).clip(1)
            panel.imshow(shares[:, : len(heads)], cmap="Blues", vmin=0, vmax=100)
            for (y, x), value in np.ndenumerate(shares[:, : len(heads)]):
                if value >= 0.5:
                    panel.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=6.5,
                               color="white" if value > 60 else "black")  # fmt: skip
            panel.set_xticks(range(len(heads)), heads, fontsize=7, rotation=90)
            panel.set_yticks(range(len(names)), names, fontsize=7)
            panel.set_title(label(grid.axes, values))
            panel.set_xlabel("taken for")
            _bare(panel)
        panels[0].set_ylabel("true class")
        return svg(figure), largest


def _confusion(cell: CellResult, names: Sequence[str]) -> np.ndarray:
    """Counts over all seeds `[K, K + 1]`, by true and predicted class; the last column is without a prediction."""
    at = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(names) + 1), int)
    for run in cell.runs.values():
        for true, predicted in zip(run.videos.labels, run.videos.predicted, strict=True):
            counts[at[true], at.get(predicted, len(names))] += 1
    return counts


def _bare(panel: object) -> None:
    panel.grid(visible=False)  # type: ignore[attr-defined]
    panel.tick_params(length=0)  # type: ignore[attr-defined]
    for spine in panel.spines.values():  # type: ignore[attr-defined]
        spine.set_visible(False)
