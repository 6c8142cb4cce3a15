"""What is said of predicted videos: entries, JSON lines and a readable table."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from video_gn.console import printable
from video_gn.distributed import gather
from video_gn.errors import InputError
from video_gn.files.text import to_json, write_text
from video_gn.files.writing import make_folder

TOP = 5


def entry(path: str, scores: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """The likeliest classes of a video: `{"video": path, "top": [{"class": ..., "score": ...}, ...]}`.

    Scores that are not finite are an "error" in the place of "top".

    Args:
        path: The file.
        scores: `[K]`.
        class_names: Of the K classes.
    """
    if not scores.isfinite().all():
        return {"video": path, "error": "its scores are not finite"}
    best = scores.topk(min(TOP, len(scores)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return {"video": path, "top": [{"class": class_names[i], "score": round(score, 6)} for score, i in found]}


def json_lines(entries: Iterable[dict[str, Any]]) -> str:
    """One line for each."""
    return "".join(to_json(one) + "\n" for one in entries)


def table(one: dict[str, Any]) -> str:
    """A video and its classes, or why it cannot be read, as people read it."""
    lines = [one["video"]]
    if "error" in one:
        lines.append(f"  cannot be read: {one['error']}")
    if "damage" in one:
        lines.append(f"  damaged: {one['damage']}")
    lines += [f"  {100 * top['score']:6.2f} %  {top['class']}" for top in one.get("top", ())]
    return "\n".join(["", *map(printable, lines)])


class PredictionWriter(pl.Callback):
    """Prints the five likeliest classes of each video and writes them as JSON lines.

    Args:
        json_path: File of JSON lines, one a video; "-" writes them to standard output in the table's place.
    """

    def __init__(self, json_path: str | None) -> None:
        if json_path and json_path != "-" and Path(json_path).exists():
            raise InputError(f"{json_path} already exists; name another file with --json")
        if json_path and json_path != "-":
            make_folder(Path(json_path).parent)
        self.json_path = json_path
        self.found: dict[str, dict[str, Any]] = {}

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        paths = trainer.datamodule.lists["predict"].paths
        for row, scores in zip(outputs["rows"], outputs["scores"], strict=True):
            self.found[paths[row]] = entry(paths[row], scores, pl_module.class_names)
        for failure in outputs["failures"]:
            self.found[failure.path] = {"video": failure.path, "error": failure.reason}
        for damaged in outputs["damaged"]:
            self.found[damaged.path]["damage"] = damaged.reason

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        self.found = {path: found for part in gather(trainer, self.found) for path, found in part.items()}
        if trainer.is_global_zero:
            found = [self.found[path] for path in dict.fromkeys(trainer.datamodule.lists["predict"].paths)]
            lines = json_lines(found)
            if self.json_path == "-":
                sys.stdout.write(lines)
                return
            if self.json_path:
                write_text(Path(self.json_path), lines)
            for one in found:
                print(table(one))
            if all("error" in one for one in found):
                raise InputError(f"none of {len(found)} videos can be read; the reasons are above")
