"""The figures of an ablation as tables: of its runs, of differences between cells, and of single videos."""

from collections.abc import Sequence
from pathlib import Path

from video_gn.ablate.grid import Grid
from video_gn.ablate.report.findings import Findings
from video_gn.ablate.statistics import Cells
from video_gn.files.tables import spreadsheet, write_table

RUN = ("top1", "top5", "clip_top1", "loss")  # of a test
FIT = ("epochs", "steps", "clips_per_s", "peak_memory_gib")
ENDS = ("mean", "low", "high")


def write(grid: Grid, cells: Cells, found: Findings, out: Path) -> None:
    """Writes `runs.csv`, `differences.csv` and `videos.csv`."""
    head = (*grid.axes, "seed", *RUN, "videos", "unreadable", "training_top1", *FIT, "seconds", "device", "commit")
    rows = [
        (
            *values, seed, *(one.test.get(name) for name in RUN), one.test["videos"], one.test["unreadable"],
            one.results["fit"]["train"]["top1"], *(one.results["fit"].get(name) for name in FIT), one.seconds,
            spreadsheet(str(one.results["run"]["device"])), spreadsheet(str(one.results["versions"].get("commit", ""))),
        )
        for values, cell in cells.items()
        for seed, one in cell.runs.items()
    ]  # fmt: skip
    write_table(out / "runs.csv", head, [["" if value is None else value for value in row] for row in rows])
    _write_differences(found, out)
    _write_videos(cells, out)


def _write_differences(found: Findings, out: Path) -> None:
    ends = [f"{name}_{end}" for name in ("top1", "top5") for end in ENDS]
    head = ("kind", "difference", "at", *ends, "p", "p_holm", "shown", "would_be_shown", "seeds", "paper_top1")
    rows: list[Sequence[object]] = [
        (
            kind, one.what, one.at,
            *(f"{value:.4f}" for name in ("top1", "top5") for value in one.figures[name]),
            *("" if value is None else f"{value:.4f}" for value in (one.p, one.adjusted)),
            "" if one.shown is None else str(one.shown).lower(),
            "" if one.detectable is None else f"{one.detectable:.2f}", one.seeds, one.paper.get("top1", ""),
        )
        for kind, one in (
            *((one.kind, one) for one in found.differences),
            *(("highest", one) for one in found.highest),
        )
    ]  # fmt: skip
    write_table(out / "differences.csv", head, rows)


def _write_videos(cells: Cells, out: Path) -> None:
    """A row for each video and a column for each run that was tested on the same ones as the first."""
    runs = [(f"{cell.cell.name}_s{seed}", one) for cell in cells.values() for seed, one in cell.runs.items()]
    runs = [(name, one) for name, one in runs if one.videos.paths]
    if not runs:
        return
    first = runs[0][1].videos
    alike = [(name, one.videos.ranks.tolist()) for name, one in runs if one.videos.names == first.names]
    head = ("path", "label", "group", *(spreadsheet(name) for name, _ in alike))
    columns = zip(first.paths, first.labels, first.groups, *(ranks for _, ranks in alike), strict=True)
    write_table(out / "videos.csv", head, [[*map(spreadsheet, row[:3]), *row[3:]] for row in columns])
