"""The parts of an ablation's report that say how it was made: settings that were tuned, speed, runs, what failed."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_gn.ablate import tune
from video_gn.ablate.budget import BOTH, EPOCHS
from video_gn.ablate.figures.accuracy import rates
from video_gn.ablate.folds import fold_axis
from video_gn.ablate.grid import Grid, shell
from video_gn.ablate.page import Block, Details, Figure, Heading, Link, Table, Text
from video_gn.ablate.plan import differing
from video_gn.ablate.report.grid_table import show_spread
from video_gn.ablate.run import Run
from video_gn.ablate.statistics import Cells, Spread
from video_gn.ablate.tune import Trial
from video_gn.ablate.words import label
from video_gn.train.configs import flat
from video_gn.weights.upgrade import upgrade_model


def tuning(grid: Grid, trials: Sequence[Trial]) -> list[Block]:
    """What was tried before the runs that are compared."""
    if grid.tune is None:
        return []
    key, folds = grid.tune.key, fold_axis(grid)
    at = "; ".join(f"{axis} {' and '.join(values)}" for axis, values in grid.tune.at.items())
    text = Text(
        f"Before, each of {', '.join(grid.tune.values)} was tried with seed {', '.join(map(str, grid.tune.seeds))}"
        f"{f', at {at} alone' if at else ''}, on a training list less a share ({grid.tune.share:.0%} where it says "
        "none) that it was validated on; the test list was not looked at. The value with the highest validation top-1 "
        "is taken."
    )
    table = tune.tuning_table(grid, trials, folds)
    axes, scores = tune.pooled_scores(grid, trials, folds)
    picture = rates(axes, scores)
    figure = [Figure("tuned", picture, f"Validation top-1 by {key}; filled: the highest.")] if picture else []
    short = key.rpartition(".")[2]
    return [Heading(f"Sensitivity to {short}"), *figure, text, Details(f"What was tried and taken of {key}", [table])]


def speed(grid: Grid, cells: Cells) -> list[Block]:
    """Clips a second, memory and time."""
    rows = []
    for values, cell in cells.items():
        fits = [run.results["fit"] for run in cell.runs.values()]
        pace = Spread.of([fit["clips_per_s"] for fit in fits])
        memory = max((fit["peak_memory_gib"] for fit in fits), default=None)
        seconds = Spread.of([run.seconds for run in cell.runs.values()])
        shown = f"{memory:.2f}" if memory else "-"
        rows.append([label(grid.axes, values), show_spread(pace), shown, show_spread(seconds, 0)])
    kinds = sorted({run.results["fit"]["peak_memory_of"] for cell in cells.values() for run in cell.runs.values()})
    head = ["cell", "training clips/s", f"peak memory, GiB ({'; '.join(kinds)})", "whole run, s"]
    return [Heading("Speed and memory"), Table(head, rows).filled]


def how_made(
    grid: Grid, runs: Sequence[Run], cells: Cells, parts: Sequence[Run], out: Path, words: Sequence[str]
) -> list[Block]:
    """Command, machine, code, settings, and the runs with their own pages."""
    finished = [one for cell in cells.values() for one in cell.runs.values()]
    blocks: list[Block] = [Heading("How it was made"), Text(shell(["-m", "video_gn.ablate", *words]), code=True)]
    if not finished:
        return [*blocks, Text("No run is finished yet.")]
    devices = sorted({one.results["run"]["device"] for one in finished})
    versions = finished[0].results["versions"]
    commits = sorted({one.results["versions"].get("commit") or "not noted" for one in finished})
    dates = sorted(one.test["date"][:10] for one in finished)
    tests = {f"{one.test['protocol']} ({one.test['views']}), {one.test['videos']:.0f} videos" for one in finished}
    parts = [run for run in parts if not run.cell.original]
    done = sum(run.results() is not None for run in parts)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    base = sorted({_base_lr(results["run"]["model"]) for run in parts if (results := run.results())})
    return [
        *blocks,
        Text(
            f"{done} of {len(parts)} runs finished, {when}, on {' and '.join(devices)} ({platform.machine()}); commit "
            f"{', '.join(commits)}; torch {versions['torch']}, pytorch-lightning {versions['pytorch-lightning']}, "
            f"Python {versions['python']}. Test: {'; '.join(sorted(tests))}."
        ),
        Text(
            f"{_budget(grid, runs)} The learning rate is base_lr x clips per step / 64 (linear rule; base_lr "
            f"{', '.join(f'{rate:g}' for rate in base)}); tested are the weights at the end. Equal seeds see the same "
            f"videos in the same order. Cells share every setting but {', '.join(differing(runs)) or 'none'}; each "
            "run's folder has its whole configuration."
        ),
        _plan(grid, runs),
        Text("Figures as files: runs.csv (each run), differences.csv (each difference), videos.csv (the rank of the "
             "true class of each test video in each run; 1 is right), results.json (everything)."),
        Details("Each run, with its own page where that is beside this file", [_runs(parts, out)]),
    ]  # fmt: skip


def _budget(grid: Grid, runs: Sequence[Run]) -> str:
    epochs = sorted({run.epochs for run in runs})
    if grid.budget != EPOCHS:
        also = "in equal epochs, and " if grid.budget == BOTH else ""
        return f"Cells train {also}in equal steps of the optimiser, which are fewer epochs with fewer clips per step."
    if len(epochs) > 1:
        return f"Cells train for {', '.join(map(str, epochs))} epochs."
    several = len({run.clips_per_step for run in runs}) > 1
    return f"Every cell trains for {epochs[0]} epochs{', of which fewer clips per step make more steps' * several}."


def _plan(grid: Grid, runs: Sequence[Run]) -> Table:
    rows = []
    for cell in grid.cells:
        own = [run for run in runs if run.cell is cell]
        run, rates = own[0], sorted({run.lr for run in own})  # folds have rates of their own
        rows.append([
            label(grid.axes, tuple(cell.values.values())), run.norm_over, f"{run.clips_per_step}",
            ", ".join(f"{rate:g}" for rate in rates), f"{run.epochs}",
        ])  # fmt: skip
    return Table(["cell", "norm over", "clips per step", "learning rate", "epochs"], rows)


def _runs(runs: Sequence[Run], out: Path) -> Table:
    rows: list[list[str | Link]] = []
    for run in (run for run in runs if not run.cell.original):
        page = run.folder / "report.html"
        link = page.is_file() and page.is_relative_to(out)
        name = Link(run.name, page.relative_to(out).as_posix()) if link else run.name
        results = run.results()
        top1 = f"{100 * results['tests'][-1]['top1']:.2f}" if results else "-"
        rows.append([name, str(run.seed), run.state or "not begun", top1])
    return Table(["run", "seed", "state", "top-1, %"], rows)


def unfinished(runs: Sequence[Run]) -> list[Block]:
    """What diverged, failed or is missing, and videos that could not be read."""
    rows = []
    runs = [run for run in runs if not run.cell.original]
    for run in runs:
        if run.results():
            continue
        diverged = (run.written() or {}).get("diverged")
        at = f"diverged at step {diverged['step']}, epoch {diverged['epoch'] + 1}" if diverged else ""
        rows.append([run.name, at or run.state or "not begun", run.note().get("error", "")])
    rows += [
        [run.name, f"{results['tests'][-1]['unreadable']:.0f} test videos unreadable", "they count as wrong"]
        for run in runs
        if (results := run.results()) and results["tests"][-1]["unreadable"]
    ]
    if not rows:
        return [Heading("What failed"), Text("Nothing: every run is finished, and every test video could be read.")]
    return [Heading("What failed or is missing"), Table(["run", "state", "why"], rows)]


def _base_lr(model: Mapping[str, Any]) -> float:
    """Of a run's model as its results.json has it."""
    return flat(model if "format" in model else upgrade_model(model))["optimizer.base_lr"]
