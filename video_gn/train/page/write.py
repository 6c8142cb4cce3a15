"""Writes what a test leaves beside `results.json`: its figures as tables, and the page."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from video_gn.data.decoding.open import IMAGE
from video_gn.data.glimpse import glimpses
from video_gn.data.own import AUTO
from video_gn.files.names import free_name
from video_gn.files.tables import spreadsheet, write_table
from video_gn.files.text import write_json, write_text
from video_gn.train.callbacks.first_look import read_summary, summary_of
from video_gn.train.callbacks.history import HISTORY_FILE, read_history
from video_gn.train.callbacks.speed import SPEED_FILE, read_speed
from video_gn.train.outcomes import VideoScores
from video_gn.train.page.build import About, build, worst
from video_gn.train.page.figures import Figures, as_json, measure
from video_gn.train.page.gallery import choose, pictures
from video_gn.train.page.several import measure_several

PAGE = "report.html"
CLASSES = ("class", "videos", "predicted", "right", *(
    f"{part}{end}" for part in ("precision", "recall", "f1") for end in ("", "_low", "_high")))  # fmt: skip
PRECISIONS = ("average_precision", "average_precision_low", "average_precision_high")
NO_PREDICTION = "(none)"  # the last column of the confusion matrix
SAID = 5  # classes that fare worst, in a terminal
_NUMBER = re.compile(rb'<meta name="video-gn-test" content="(\d{1,9})">')


def figures_of(tested: VideoScores) -> Figures | None:
    """The figures of a test; None of one without videos."""
    if not tested.seen.any():
        return None
    seen = tested.seen
    if tested.several:
        known = np.where(tested.rank[:, None] > 0, np.nan_to_num(tested.scores), np.float32(-1))
        return measure_several(tested.labels[seen], tested.predicted[seen], known[seen], tested.rank[seen])
    return measure(tested.labels[seen], tested.predicted[seen], tested.rank[seen], len(tested.class_names))


def write_figures(folder: Path, number: int, tested: VideoScores, figures: Figures) -> None:
    """Writes `test-0.json`, `test-0-classes.csv` and `test-0-confusion.csv` of the first test, and so on."""
    names = [spreadsheet(name) for name in tested.class_names]
    write_json(folder / f"test-{number}.json", as_json(figures, tested.class_names))
    counts = zip(names, figures.videos, figures.predicted, figures.right, strict=True)
    precisions = () if figures.average_precision is None else (figures.average_precision,)
    parts = zip(figures.precision, figures.recall, figures.f1, *precisions, strict=True)
    rows = [
        (*count, *(f"{value:.6g}" for part in ends for value in part))
        for count, ends in zip(counts, parts, strict=True)
    ]
    write_table(folder / f"test-{number}-classes.csv", (*CLASSES, *(PRECISIONS if precisions else ())), rows)
    if figures.confusion is None:
        return
    matrix = [(name, *row) for name, row in zip(names, figures.confusion.tolist(), strict=True)]
    write_table(folder / f"test-{number}-confusion.csv", ("class", *names, NO_PREDICTION), matrix)


def say_worst(tested: VideoScores, figures: Figures) -> list[str]:
    """The classes that fare worst, in a line each; nothing for two, of which top-1 says it, nor where all is right."""
    lines = []
    if figures.average_precision is not None:
        precision = figures.average_precision[:, 0]
        for i in np.argsort(precision, kind="stable")[:SAID]:
            wrongly = figures.predicted[i] - figures.right[i]
            found = f"{figures.right[i]} of {figures.videos[i]} found, {wrongly} wrongly"
            lines += [f"  {100 * precision[i]:6.2f} %  {found}  {tested.class_names[i]}"] if precision[i] < 1 else []
        return ["classes of the lowest average precision:", *lines] if lines else []
    if len(tested.class_names) < 3:
        return []
    for i, other, count in worst(figures, SAID):
        taken = f", {count} taken for {tested.class_names[other]}" if count else ""
        share = f"{100 * figures.recall[i, 0]:6.2f} %  {figures.right[i]} of {figures.videos[i]}"
        lines.append(f"  {share}  {tested.class_names[i]}{taken}")
    return ["classes that fare worst:", *lines] if lines else []


def make_page(
    folder: Path, number: int, tested: VideoScores, figures: Figures, results: Mapping[str, Any], data: Any
) -> str:
    """The page of a run's newest test as HTML.

    Args:
        folder: The run's.
        number: Of the test.
        tested: Its videos.
        figures: Of these.
        results: The run's `results.json`, with this test.
        data: The data module.
    """
    chosen = choose(tested, data.seed)
    rows = [row for kind in chosen.values() for row in kind]
    found = glimpses(data.lists["test"], rows, data.backend, data.num_workers, data.loading.decode_timeout)
    result, run = results["tests"][number], results["run"]
    about = About(
        name=run["name"], root=str(data.root), number=number, result=result, run=run,
        data=_fitting(read_summary(folder), tested) | {"test": summary_of(data, ["test"])["test"]},
        commands=_commands(folder, result, data), history=read_history(folder / HISTORY_FILE),
        speed=read_speed(folder / SPEED_FILE),
    )  # fmt: skip
    return build(tested, figures, chosen, pictures(found, rows) if rows else {}, about)


def _fitting(summary: dict[str, Any], tested: VideoScores) -> dict[str, Any]:
    """The splits that are of as many classes as the test."""
    return {name: its for name, its in summary.items() if len(its["by_class"]) == len(tested.class_names)}


def _commands(folder: Path, result: Mapping[str, Any], data: Any) -> list[tuple[str, str]]:
    """How to train and to test this again."""
    commands = []
    if (config := folder / "config.yaml").is_file():
        said = ["video-gn", "fit", "-c", str(config), "--run_dir", f"{folder}-again"]
        commands.append(("Train it again, from the start:", shlex.join(said)))
    checkpoint = Path(result["checkpoint"])
    if not checkpoint.suffix:  # the weights at the end of training
        checkpoint = folder / "checkpoints" / "last.ckpt"
    said = ["video-gn", "test", "--ckpt_path", str(checkpoint), "--data.root", str(data.root)]
    if data.test != AUTO and not data.motion:  # which the checkpoint knows
        said += ["--data.test", str(data.test)]
    if data.backend != IMAGE:
        said += ["--data.evaluation.protocol", result["protocol"]]
    commands.append(("Test it again:", shlex.join(said)))
    return commands


def write_page(folder: Path, number: int, page: str) -> Path:
    """Writes a page as `report.html`, or beside it if that is of a later test; that of an earlier one gets its number.

    Returns:
        Where it is.
    """
    path = folder / PAGE
    before = _number_of(path)
    if before is not None and before > number:
        path = folder / f"report-{number}.html"
    elif path.exists() and before != number:
        path.rename(free_name(folder / f"report-{'before' if before is None else before}.html"))
    write_text(path, page.encode("utf-8", "backslashreplace").decode())
    return path


def _number_of(path: Path) -> int | None:
    """Of which test a page is."""
    try:
        with open(path, "rb") as file:
            found = _NUMBER.search(file.read(2000))
    except OSError:
        return None
    return int(found[1]) if found else None
