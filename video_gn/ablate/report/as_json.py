"""An ablation's results.json: the figures of its report, for programs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isnan
from typing import Any

from video_gn.ablate.contrasts import Contrast
from video_gn.ablate.grid import Grid
from video_gn.ablate.plan import differing
from video_gn.ablate.report.findings import Findings
from video_gn.ablate.run import Run
from video_gn.ablate.statistics import CellResult, Cells, Values


def as_data(grid: Grid, runs: Sequence[Run], cells: Cells, found: Findings) -> dict[str, Any]:
    """The content of `results.json`: each cell with its runs, and the differences between cells.

    Args:
        grid: The ablation.
        runs: All of its runs.
        cells: What they measured.
        found: Differences and intervals.
    """
    return {
        "name": grid.name,
        "title": grid.title,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "axes": grid.axes,
        "seeds": grid.seeds,
        "differing_settings": differing(runs),
        "cells": [_cell_as_data(grid, values, cell, runs, found.levels) for values, cell in cells.items()],
        "differences": [_contrast_as_data(contrast) for contrast in found.differences],
        "highest": [_contrast_as_data(contrast) for contrast in found.highest],
        "unfinished": {run.name: run.note() or {"status": "not begun"} for run in runs if not run.results()},
    }


def _contrast_as_data(contrast: Contrast) -> dict[str, Any]:
    return {
        "kind": contrast.kind,
        "difference": contrast.what,
        "at": contrast.at,
        "seeds": contrast.seeds,
        **{f"{name}_mean_low_high": figures for name, figures in contrast.figures.items()},
        "p": contrast.p,
        "p_holm": contrast.adjusted,
        "shown": contrast.shown,
        "would_be_shown": contrast.detectable,
        **({"paper": contrast.paper} if contrast.paper else {}),
    }


def _cell_as_data(
    grid: Grid, values: Values, cell: CellResult, runs: Sequence[Run], levels: Sequence[Contrast]
) -> dict[str, Any]:
    level = next((one for one in levels if values in one.weights), None)
    run = next(run for run in runs if run.cell is cell.cell)
    paper = grid.paper.figures.get(values) if grid.paper else None
    spreads = {name: cell.test(name) for name in ("top1", "top5", "clip_top1")}
    spreads |= {f"val_median_{name}": cell.val_median(name) for name in ("top1", "top5")}
    return {
        **cell.cell.values,
        "clips_per_step": run.clips_per_step,
        "lr": run.lr,
        "epochs": run.epochs,
        **{name: one.__dict__ for name, one in spreads.items() if one},
        **({"top1_mean_low_high": level.figures["top1"]} if level else {}),
        **({"paper": paper} if paper else {}),
        "runs": [
            {
                "seed": seed,
                "folder": str(one.run.folder),
                "seconds": None if isnan(one.seconds) else one.seconds,
                "test": one.test,
                "fit": one.results["fit"],
                "history": [
                    {key: None if isnan(value) else value for key, value in row.items()} for row in one.history
                ],
                "bn_statistics": one.compared,
                "device": one.results["run"]["device"],
                "versions": one.results["versions"],
            }
            for seed, one in cell.runs.items()
        ],
    }
