"""The report of an ablation: the paper's table from what was measured, beside what the paper reports."""

import platform
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from video_gn.ablate import plots, tune
from video_gn.ablate.contrasts import DRAWS, Contrast, contrasts, highest, measure_contrasts
from video_gn.ablate.folds import collect, pool_folds
from video_gn.ablate.grid import Grid, shell
from video_gn.ablate.grid_table import grid_table, show_pair, show_spread
from video_gn.ablate.page import Block, Figure, Heading, Table, Text, to_html, to_markdown, to_text
from video_gn.ablate.plan import differing
from video_gn.ablate.report_json import as_data
from video_gn.ablate.run import Run
from video_gn.ablate.statistics import CellResult, Cells, Measured, Spread, Values
from video_gn.ablate.tune import Trial
from video_gn.files.text import write_json, write_text
from video_gn.train.callbacks.bn_statistics import CHOICES
from video_gn.train.configs import flat
from video_gn.weights.upgrade import upgrade_model


def write_report(grid: Grid, runs: Sequence[Run], out: Path, words: Sequence[str], trials: Sequence[Trial] = ()) -> str:
    """Writes `results.md` (pictures in `figures/`), `results.html` and `results.json`; gives the table as text.

    Args:
        grid: The ablation.
        runs: All of its runs; those that are not finished are named as missing.
        out: The folder.
        words: Of the command line that this belongs to.
        trials: That tuned a setting of each cell.
    """
    tuning = _tuning(grid, trials)
    data = {"tuned": tune.as_data(grid, trials)} if grid.tune else {}
    grid, runs = pool_folds(grid, runs)
    cells = collect(grid, runs)
    differences = measure_contrasts(grid, cells, contrasts(grid))
    best = measure_contrasts(grid, cells, highest(grid, cells))
    table = _table(grid, cells)
    blocks: list[Block] = [
        Heading(grid.title, 1),
        *_about(grid, runs, cells, words),
        Heading("Result"),
        Text("Test top-1 / top-5 in %: mean over seeds ± sample standard deviation, and the number of seeds."),
        table,
        *_paper(grid, cells),
        *_medians(grid, cells),
        *_highest(best),
        *_differences(differences),
        *_pictures(grid, cells),
        *_statistics(cells),
        *tuning,
        Heading("Speed and memory"),
        _speed(cells),
        *_missing(runs),
    ]
    for block in blocks:
        if isinstance(block, Figure):
            write_text(out / "figures" / f"{block.name}.svg", block.svg)
    write_text(out / "results.md", to_markdown(blocks, "figures"))
    write_text(out / "results.html", to_html(blocks, grid.title))
    write_json(out / "results.json", as_data(grid, runs, cells, differences, best) | data)
    return to_text(table)


def _about(grid: Grid, runs: Sequence[Run], cells: Cells, words: Sequence[str]) -> list[Block]:
    finished = [one for cell in cells.values() for one in cell.runs.values()]
    blocks: list[Block] = [Text(shell(["-m", "video_gn.ablate", *words]), code=True)]
    if not finished:
        return [*blocks, Text("No run is finished yet.")]
    rates = sorted({_base_lr(one.results["run"]["model"]) for one in finished})
    devices = sorted({one.results["run"]["device"] for one in finished})
    versions = finished[0].results["versions"]
    dates = sorted(one.test["date"][:10] for one in finished)
    tests = {f"{one.test['protocol']} ({one.test['views']}), {one.test['videos']:.0f} videos" for one in finished}
    done = sum(run.results() is not None for run in runs)  # of which several may be folds of a finished one
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return [
        *blocks,
        Text(
            f"{done} of {len(runs)} runs finished, {when}, on {' and '.join(devices)} ({platform.machine()}); "
            f"torch {versions['torch']}, pytorch-lightning {versions['pytorch-lightning']}, "
            f"Python {versions['python']}. Test: {'; '.join(sorted(tests))}."
        ),
        Text(
            f"Every cell trains for {runs[0].epochs} epochs at the learning rate base_lr x clips per step / 64 (linear "
            f"rule; base_lr {', '.join(f'{rate:g}' for rate in rates)}); tested are the weights at the end. Equal "
            "seeds see the same videos in the same order. Cells share every setting but "
            f"{', '.join(differing(runs)) or 'none'}; "
            "each run's folder has its whole configuration."
        ),
        _plan(grid, runs),
    ]


def _tuning(grid: Grid, trials: Sequence[Trial]) -> list[Block]:
    if grid.tune is None:
        return []
    return [
        Heading(f"Tuned before: {grid.tune.key}"),
        Text(
            f"Each cell was trained with each value and seed {', '.join(map(str, grid.tune.seeds))}, on its training "
            f"list less a share ({grid.tune.share:.0%} where it says none) that it was validated on; the test list was "
            "not looked at. Validation top-1 in %; the value with the highest is taken."
        ),
        tune.tuning_table(grid, trials),
    ]


def _plan(grid: Grid, runs: Sequence[Run]) -> Table:
    rows = []
    for cell in grid.cells:
        run = next(run for run in runs if run.cell is cell)
        rows.append([cell.label, run.norm_over, f"{run.clips_per_step}", f"{run.lr:g}"])
    return Table(["cell", "norm over", "clips per step", "learning rate"], rows)


def _table(grid: Grid, cells: Cells) -> Table:
    return grid_table(grid, cells, lambda values, cell: show_pair(cell.test("top1"), cell.test("top5")))


def _medians(grid: Grid, cells: Cells) -> list[Block]:
    if not any(cell.val_median("top1") for cell in cells.values()):
        return []
    return [
        Heading("Median of the last 5 epochs"),
        Text(
            "Validation top-1 / top-5 in % as each epoch of training ended with it, the median over the last 5 epochs."
        ),
        grid_table(grid, cells, lambda values, cell: show_pair(cell.val_median("top1"), cell.val_median("top5"))),
    ]


def _paper(grid: Grid, cells: Cells) -> list[Block]:
    if grid.paper is None:
        return []
    paper = grid.paper

    def reported(values: Values, _: CellResult) -> str:
        return " / ".join(f"{value:.1f}" for value in paper.figures.get(values, {}).values())

    def apart(values: Values, cell: CellResult) -> str:
        known = [(cell.test(name), value) for name, value in paper.figures.get(values, {}).items()]
        return " / ".join(f"{own.mean - value:+.1f}" for own, value in known if own)

    blocks: list[Block] = [Text(f"What {paper.source} reports:"), grid_table(grid, cells, reported)]
    if paper.note:
        blocks.append(Text(paper.note))
    if paper.same_data:
        return [*blocks, Text("Ours less the paper's, in points:"), grid_table(grid, cells, apart)]
    note = "Another data set: compare the differences between cells (below), not the levels."
    return [*blocks, Text(note)]


def _differences(found: Sequence[Contrast]) -> list[Block]:
    if not found:
        return []
    return [
        Heading("Differences"),
        Text(
            f"In percentage points, with 95 % intervals of a paired bootstrap over videos and seeds ({DRAWS} draws). "
            "An interval that holds zero shows no effect. With few seeds the intervals understate how much other "
            "seeds would differ."
        ),
        _contrast_table(found),
    ]


def _highest(found: Sequence[Contrast]) -> list[Block]:
    if not found:
        return []
    return [
        Heading("Highest of each column"),
        Text(
            "The one with the highest mean top-1 less each of the others, in points, with intervals as of the "
            "differences below. It was picked by these figures, which favours it; where the interval holds zero, the "
            "other may be as good."
        ),
        _contrast_table(found),
    ]


def _contrast_table(found: Sequence[Contrast]) -> Table:
    rows = []
    published = any(contrast.paper for contrast in found)
    for contrast in found:
        top1, top5 = ("{:+.1f} ({:+.1f} to {:+.1f})".format(*contrast.figures[name]) for name in ("top1", "top5"))
        paper = [f"{contrast.paper['top1']:+.1f}" if contrast.paper else ""] if published else []
        clear = "yes" if contrast.clear else "no"
        rows.append([contrast.what, contrast.at, top1, clear, *paper, top5, str(contrast.seeds)])
    head = ["difference", "at", "top-1 (95 %)", "apart from 0", *["paper, top-1"] * published, "top-5 (95 %)", "seeds"]
    return Table(head, rows)


# Pictures


def _pictures(grid: Grid, cells: Cells) -> list[Block]:
    if not any(cell.runs for cell in cells.values()):
        return []
    blocks: list[Block] = [
        Heading("Error curves"),
        Figure("curves", plots.curves(grid, cells),
               "Top-1 error of training clips and of validation (one clip a video) over epochs; median over seeds, "
               "band from the least to the greatest."),
    ]  # fmt: skip
    for axis in grid.axes:
        if picture := plots.along(grid, cells, axis):
            name = re.sub(r"[^a-zA-Z0-9_.-]", "_", axis)
            caption = f"Test accuracy against {axis}: mean over seeds, and each seed as a point."
            blocks += [Heading(f"Accuracy against {axis}"), Figure(f"accuracy_{name}", picture, caption)]
    return blocks


def _statistics(cells: Cells) -> list[Block]:
    picture = plots.statistics(cells)
    if picture is None:
        return []
    rows = []
    for cell in cells.values():
        if not cell.compared:
            continue
        accuracies = [cell.spread(partial(Measured.top1_by, choice=choice)) for choice in CHOICES]
        training = cell.spread(lambda run: run.training_top1)
        distances = [_median_layer(cell, kind, part) for part in plots.UNITS for kind in ("running", "batch")]
        rows.append([cell.cell.label, *map(show_spread, [training, *accuracies]), *distances])
    head = ["cell", "training clips", *(f"val., {choice}" for choice in CHOICES)]
    head += ["mean: running", "one batch", "variance: running", "one batch"]
    return [
        Heading("What BN normalizes by"),
        Text(
            "Top-1 in % on one random clip a video: of the training set in the last epoch (batch statistics, while "
            "the weights change), and of the validation set, the same clips each time, with running statistics, with "
            "precise ones (recomputed over training batches) and with the evaluated batch's own. Distances are from "
            "the true statistics of the training set, root mean square over channels, in the median layer: of the "
            "running ones, and of a single batch's own; means in true standard deviations, variances in powers of 2."
        ),
        Table(head, rows),
        Figure("statistics", picture, "Above: accuracy by what BN normalizes by; points are seeds. Below: distance of "
               "running statistics (solid) and of a batch's own (dotted) from the true ones; median over seeds."),
    ]  # fmt: skip


def _median_layer(cell: CellResult, kind: str, part: str) -> str:
    def middle(run: Any) -> float:
        layers = sorted(layer[kind][part] for layer in run.compared["precise"]["norm_layers"])
        return layers[len(layers) // 2]

    return show_spread(cell.spread(middle), 3)


def _speed(cells: Cells) -> Table:
    rows = []
    for cell in cells.values():
        fits = [run.results["fit"] for run in cell.runs.values()]
        speed = Spread.of([fit["clips_per_s"] for fit in fits])
        memory = max((fit["peak_memory_gib"] for fit in fits), default=None)
        seconds = Spread.of([run.seconds for run in cell.runs.values()])
        rows.append([cell.cell.label, show_spread(speed), f"{memory:.2f}" if memory else "-", show_spread(seconds, 0)])
    kinds = sorted({run.results["fit"]["peak_memory_of"] for cell in cells.values() for run in cell.runs.values()})
    return Table(["cell", "training clips/s", f"peak memory, GiB ({'; '.join(kinds)})", "whole run, s"], rows)


def _missing(runs: Sequence[Run]) -> list[Block]:
    rows = [[run.name, run.state or "not begun", run.note().get("error", "")] for run in runs if not run.results()]
    unread = [
        [run.name, f"{results['tests'][-1]['unreadable']:.0f} test videos unreadable", "they count as wrong"]
        for run in runs
        if (results := run.results()) and results["tests"][-1]["unreadable"]
    ]
    if not rows and not unread:
        return [Heading("What failed"), Text("Nothing: every run is finished, and every test video could be read.")]
    return [Heading("What failed or is missing"), Table(["run", "state", "why"], [*rows, *unread])]


def _base_lr(model: Mapping[str, Any]) -> float:
    """Of a run's model as its results.json has it."""
    return flat(model if "format" in model else upgrade_model(model))["optimizer.base_lr"]
