"""The parts of an ablation's report that say what was found, in the order in which it has them."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from video_gn.ablate.contrasts import Contrast
from video_gn.ablate.figures.accuracy import along
from video_gn.ablate.figures.classes import class_names, confusions, heat
from video_gn.ablate.figures.curves import curves
from video_gn.ablate.figures.forest import forest
from video_gn.ablate.figures.normalized_by import UNITS, bars, distances
from video_gn.ablate.figures.style import chance
from video_gn.ablate.grid import Grid
from video_gn.ablate.page import Block, Details, Figure, Heading, Table, Text
from video_gn.ablate.report.findings import Findings
from video_gn.ablate.report.grid_table import grid_table, show_pair, show_spread
from video_gn.ablate.statistics import CellResult, Cells, Measured, Values
from video_gn.ablate.uncertainty import DRAWS, OWN_SEEDS
from video_gn.ablate.words import label
from video_gn.train.callbacks.bn_statistics import CHOICES

CLASSES_FOR_TOP5 = 10  # below, top-5 says nothing
FEW_GROUPS = 10
FULL = 99.5  # % that top-5 has in all cells where it says nothing


def has_top5(cells: Cells) -> bool:
    """Whether top-5 tells cells from each other."""
    means = [spread.mean for cell in cells.values() if (spread := cell.test("top5"))]
    return bool(means) and min(means) < FULL and len(class_names(cells)) >= CLASSES_FOR_TOP5


def table_of(grid: Grid, cells: Cells) -> Table:
    """Test accuracy in the form of the grid."""
    both = has_top5(cells)
    return grid_table(grid, cells, lambda _, cell: show_pair(cell.test("top1"), cell.test("top5") if both else None))


# Result


def result(grid: Grid, cells: Cells, found: Findings) -> list[Block]:
    """The table, the publication's, and the differences at a glance."""
    what = "Test top-1 / top-5" if has_top5(cells) else "Test top-1"
    counts = sorted({len(cell.runs) for cell in cells.values() if cell.runs})
    seeds = " and ".join(map(str, counts)) if counts else "no"
    how = f"mean over {seeds} seeds ± sample standard deviation" if counts != [1] else "one seed"
    blocks: list[Block] = [
        Heading("Result"),
        Text(f"{what} in %, {how}; {_tested(cells)}."),
        table_of(grid, cells),
        *_paper(grid, cells),
        *_medians(grid, cells),
    ]
    if found.differences:
        blocks += [
            Heading("Differences"),
            Figure("differences", forest(grid, found.differences),
                   "Differences of test top-1 in points with 95 % intervals. Filled: apart from zero, all differences "
                   "considered (Holm); hollow: no effect could be shown."),
        ]  # fmt: skip
    for axis in grid.axes:
        pictures = [(name, along(grid, cells, axis, found.levels, name))
                    for name in ("top1", *(["top5"] if has_top5(cells) else []))]  # fmt: skip
        drawn = [(name, picture) for name, picture in pictures if picture]
        slug = re.sub(r"[^a-zA-Z0-9_.-]", "_", axis)
        for name, picture in drawn:
            title = f"accuracy_{slug}" if name == "top1" else f"top5_{slug}"
            caption = f"Test top-{name[-1]} against {axis}: mean and 95 % interval, and each seed as a point."
            figure = Figure(title, picture, caption)
            blocks += [Heading(f"Accuracy against {axis}"), figure] if name == "top1" else [
                Details(f"Top-5 against {axis}", [figure])]  # fmt: skip
    return blocks


def _tested(cells: Cells) -> str:
    """On what: videos, and groups where they are known."""
    tested = next((run.videos for cell in cells.values() for run in cell.runs.values() if run.videos.paths), None)
    if tested is None:
        return "no test of a whole list"
    groups = len(set(tested.groups))
    grouped = f" of {groups} groups" if groups < len(tested.paths) else ""
    share = chance(cells)
    classes = f", {len(set(tested.labels))} classes (chance: {100 * share:.1f} %)" if share else ""
    few = "; of so few groups intervals are wide, and rough" if groups < FEW_GROUPS else ""
    return f"{len(tested.paths)} test videos{grouped}{classes}{few}"


def _medians(grid: Grid, cells: Cells) -> list[Block]:
    if not any(cell.val_median("top1") for cell in cells.values()):
        return []
    both = has_top5(cells)
    return [
        Details("Median of the last 5 epochs", [
            Text("Validation accuracy in % as each epoch of training ended with it, median over the last 5 epochs."),
            grid_table(grid, cells, lambda _, cell: show_pair(
                cell.val_median("top1"), cell.val_median("top5") if both else None)),
        ])
    ]  # fmt: skip


def _paper(grid: Grid, cells: Cells) -> list[Block]:
    if grid.paper is None:
        return []
    paper = grid.paper

    def reported(values: Values, _: CellResult) -> str:
        return " / ".join(f"{value:.1f}" for value in paper.figures.get(values, {}).values())

    def apart(values: Values, cell: CellResult) -> str:
        known = [(cell.test(name), value) for name, value in paper.figures.get(values, {}).items()]
        return " / ".join(f"{own.mean - value:+.1f}" for own, value in known if own)

    blocks: list[Block] = [Text(f"What {paper.source} reports:"), grid_table(grid, cells, reported).filled]
    if paper.note:
        blocks.append(Text(paper.note))
    if paper.same_data:
        return [*blocks, Text("Ours less the paper's, in points:"), grid_table(grid, cells, apart).filled]
    note = "Another data set: compare the differences between cells (below), not the levels."
    return [*blocks, Text(note)]


# How sure


def how_sure(found: Findings) -> list[Block]:
    """Every difference with its interval, and how that came about."""
    if not found.differences:
        return []
    blocks: list[Block] = [
        Heading("All differences"),
        Text(
            f"In points, with 95 % intervals by a bootstrap ({DRAWS} draws): groups of videos are drawn with "
            "replacement, the same ones for all cells, and to each draw how much seeds differ is added (Student's t). "
            f"Fewer than {OWN_SEEDS} seeds say little by themselves: then it is what all cells' seeds together say "
            "(the variance of arcsin(sqrt top-1), pooled, without cells whose seeds differ by far more), or a cell's "
            "own if that is more. A difference is shown where it is apart from zero by Holm's procedure for all "
            f"{len(found.differences)} of them: a single interval may leave out zero and still not be shown. Where it "
            "is not shown, an effect above the figure of the last column would have been, with a probability of 0.8. "
            "Of a single seed, or of one group of videos, nothing is shown."
        ),
        Details("All differences, as a table", [_contrast_table(found.differences, True)]),
    ]
    if found.highest:
        blocks += [
            Details("The highest of each column less each of the others", [
                Text("It was picked by these figures, which favours it; where the difference is not shown, the other "
                     "may be as good. Holm's procedure is for those of this table."),
                _contrast_table(found.highest, False),
            ])
        ]  # fmt: skip
    return blocks


def _contrast_table(found: Sequence[Contrast], kinds: bool) -> Table:
    rows = []
    for one in found:
        shown = {None: "cannot be said", True: "shown", False: "not shown"}[one.shown]
        rows.append([
            one.what, one.at, *([one.kind] if kinds else []), _interval(one, "top1"), shown,
            "-" if one.adjusted is None else f"{one.adjusted:.3f}",
            f"{one.paper['top1']:+.1f}" if one.paper else "", _interval(one, "top5"), str(one.seeds),
            "" if one.shown or one.detectable is None else f"{one.detectable:.1f}",
        ])  # fmt: skip
    head = ["difference", "at", *(["along"] if kinds else []), "top-1 (95 %)", "shown?", "p (Holm)", "the paper's",
            "top-5 (95 %)", "seeds", "would be shown"]  # fmt: skip
    return Table(head, rows).filled


def _interval(one: Contrast, name: str) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*one.figures[name])


# Classes


def by_class(grid: Grid, cells: Cells, found: Findings) -> list[Block]:
    """Which classes a difference is about, and what they are taken for."""
    picture = heat(grid, cells, found.differences)
    if picture is None:
        return []
    blocks: list[Block] = [
        Heading("By class"),
        Figure("classes", picture, "Differences of recall by class, in points, mean over seeds. Blue: the first of the "
               "two is better. Few videos of a class: look for what several columns have in common."),
    ]  # fmt: skip
    if pair := confusions(grid, cells, found.differences):
        drawn, one = pair
        at = f" at {one.at}" if one.at else ""
        caption = f"Confusion matrices of {one.what.replace(' − ', ' and ')}{at}, the largest of these differences: " \
                  "what videos of a class are taken for, in %, over all seeds."  # fmt: skip
        blocks.append(Figure("confusions", drawn, caption))
    return blocks


# Training


def error_curves(grid: Grid, cells: Cells) -> list[Block]:
    """Error over epochs, and over steps and time."""
    pictures = {against: curves(grid, cells, against) for against in ("epochs", "steps", "seconds")}
    said = (
        "Top-1 error of training clips and of validation (one clip a video); median over seeds, band from the least to "
        "the greatest."
    )
    if not (epochs := pictures.pop("epochs")):
        return []
    others = [Figure(f"curves_{against}", picture, f"The same against {against}.")
              for against, picture in pictures.items() if picture]  # fmt: skip
    more: list[Block] = [Details("Against steps and against time", others)] if others else []
    return [Heading("Error curves"), Figure("curves", epochs, said), *more]


def normalized_by(grid: Grid, cells: Cells) -> list[Block]:
    """Accuracy by what BN normalizes by, where the cells compared it."""
    compared = {values: cell for values, cell in cells.items() if cell.compared}
    if not compared:
        return []
    rows = []
    for values, cell in compared.items():
        accuracies = [cell.spread(partial(Measured.top1_by, choice=choice)) for choice in CHOICES]
        training = cell.spread(lambda run: run.training_top1)
        apart = [_median_layer(cell, kind, part) for part in UNITS for kind in ("running", "batch")]
        rows.append([label(grid.axes, values), *map(show_spread, [training, *accuracies]), *apart])
    head = ["cell", "training clips", *(f"val., {choice}" for choice in CHOICES)]
    head += ["mean: running", "one batch", "variance: running", "one batch"]
    return [
        Heading("What BN normalizes by"),
        Figure("statistics", bars(grid, compared), "Top-1 of one clip a video by what BN normalizes by; points are "
               "seeds."),
        Details("Distances from the true statistics", [
            Figure("distances", distances(grid, compared), "Distance from the true statistics of the training set, of "
                   "running ones and, pale, of a single batch's; median over seeds."),
            Text(
                "Top-1 in % on one random clip a video: of the training set in the last epoch (batch statistics, while "
                "the weights change), and of the validation set, the same clips each time, with running statistics, "
                "with precise ones (recomputed over training batches) and with the evaluated batch's own. Distances "
                "are root mean squares over channels, in the median layer; of means in true standard deviations, of "
                "variances in powers of 2."
            ),
            Table(head, rows),
        ]),
    ]  # fmt: skip


def _median_layer(cell: CellResult, kind: str, part: str) -> str:
    def middle(run: Any) -> float:
        layers = sorted(layer[kind][part] for layer in run.compared["precise"]["norm_layers"])
        return layers[len(layers) // 2]

    return show_spread(cell.spread(middle), 3)
