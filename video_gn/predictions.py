"""What is said of predicted videos: entries, JSON lines and a readable table."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from video_gn.console import printable
from video_gn.files.text import to_json

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
