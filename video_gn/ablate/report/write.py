"""The report of an ablation: the paper's table from what was measured, beside what the paper reports."""

from collections.abc import Sequence
from pathlib import Path

from video_gn.ablate import tune
from video_gn.ablate.contrasts import contrasts, highest, levels
from video_gn.ablate.folds import collect, pool_folds
from video_gn.ablate.grid import Grid
from video_gn.ablate.page import Block, Heading, Points, figures_of, to_html, to_markdown, to_text
from video_gn.ablate.report import as_csv
from video_gn.ablate.report.as_json import as_data
from video_gn.ablate.report.findings import Findings
from video_gn.ablate.report.made import how_made, speed, tuning, unfinished
from video_gn.ablate.report.parts import by_class, error_curves, how_sure, normalized_by, result, table_of
from video_gn.ablate.report.verdict import verdict
from video_gn.ablate.run import Run
from video_gn.ablate.tune import Trial
from video_gn.ablate.uncertainty import measure_contrasts
from video_gn.files.text import write_json, write_text


def write_report(grid: Grid, runs: Sequence[Run], out: Path, words: Sequence[str], trials: Sequence[Trial] = ()) -> str:
    """Writes `results.md` (pictures in `figures/`), `results.html`, `results.json` and CSVs; gives the table as text.

    Args:
        grid: The ablation.
        runs: All of its runs; those that are not finished are named as missing.
        out: The folder.
        words: Of the command line that this belongs to.
        trials: That tuned a setting of each cell.
    """
    tuned = tuning(grid, trials)
    data = {"tuned": tune.as_data(grid, trials)} if grid.tune else {}
    parts = runs  # of which several may be folds of one
    grid, runs = pool_folds(grid, runs)
    cells = collect(grid, runs)
    found = Findings(
        measure_contrasts(grid, cells, contrasts(grid)),
        measure_contrasts(grid, cells, highest(grid, cells)),
        measure_contrasts(grid, cells, levels(grid)),
    )
    said = verdict(grid, found.differences, found.highest)
    blocks: list[Block] = [
        Heading(grid.title, 1),
        Points(said or ["No two cells are finished that could be compared."]),
        *result(grid, cells, found),
        *by_class(grid, cells, found),
        *error_curves(grid, cells),
        *normalized_by(grid, cells),
        *tuned,
        *speed(grid, cells),
        *how_sure(found),
        *how_made(grid, runs, cells, parts, out, words),
        *unfinished(runs),
    ]
    for figure in figures_of(blocks):
        write_text(out / "figures" / f"{figure.name}.svg", figure.svg)
    write_text(out / "results.md", to_markdown(blocks, "figures"))
    write_text(out / "results.html", to_html(blocks, grid.title))
    write_json(out / "results.json", {"verdict": said} | as_data(grid, runs, cells, found) | data)
    as_csv.write(grid, cells, found, out)
    return "\n\n".join([to_text(table_of(grid, cells)), *said])
