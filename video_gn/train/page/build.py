"""Puts the page of a test together."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from video_gn.console import printable
from video_gn.data.label_sets import in_words
from video_gn.train.callbacks.history import MAP
from video_gn.train.outcomes import VideoScores
from video_gn.train.page.curves import Line, chart, duration
from video_gn.train.page.figures import Figures, confusions, most_confused
from video_gn.train.page.gallery import Shown

WHOLE, PART = 20, 16  # classes of a confusion matrix that is shown whole, and of a part of a larger one
TOP5_FROM = 10  # classes from which top-5 says something
MANY = 30  # rows of a table that scrolls in itself


class About(NamedTuple):
    """What a page says beside its figures.

    Attributes:
        name: The run's name.
        root: Folder of the data set.
        number: Of the test, from 0.
        result: The test's entry in `results.json`.
        run: The settings of the run, as `results.json` has them.
        data: Of each split, as `video_gn.data.summary.summarize` gives it.
        commands: How to run it again: what each does, and its words.
        history: Rows of `history.csv`.
        speed: Rows of `speed.csv`.
    """

    name: str
    root: str
    number: int
    result: Mapping[str, Any]
    run: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    commands: Sequence[tuple[str, str]]
    history: Sequence[Mapping[str, str]] = ()
    speed: Sequence[Mapping[str, str]] = ()


def build(
    tested: VideoScores, figures: Figures, chosen: Mapping[str, list[int]], shown: Mapping[int, Shown], about: About
) -> str:
    """The page as HTML.

    Args:
        tested: The videos and their scores.
        figures: Of these.
        chosen: Rows of the gallery by kind, as `video_gn.train.page.gallery.choose` gives them.
        shown: Their pictures.
        about: What else there is to say.
    """
    names = tested.class_names
    return _template().render(
        about=about, names=names, figures=figures, videos=int(tested.seen.sum()), several=tested.several,
        verdict=_verdict(tested, figures), tiles=_tiles(figures), classes=_classes(figures), many=MANY,
        **_confused(figures, names), curves=_curves(about), settings=dict(_flat(about.run)),
        gallery={kind: [_video(tested, shown[row]) for row in rows] for kind, rows in chosen.items()},
        unreadable=[
            (tested.paths[row], in_words(tested.labels[row], names), why) for row, why in tested.unreadable.items()
        ],
    )  # fmt: skip


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "ends": ends,
        "duration": duration,
        "range_of": range_of,
        "below": below,
    }
    return environment.get_template("page.html.jinja")


def percent(share: float) -> str:
    """A fraction in %, a dash where there is none."""
    return f"{100 * share:.1f} %" if np.isfinite(share) else "–"


def ends(figure: np.ndarray) -> str:
    """The interval of a figure, in %; nothing where a bootstrap could draw only one value, as of F1 at 0 and 1."""
    return f"{100 * figure[1]:.1f} to {100 * figure[2]:.1f} %" if figure[1] < figure[2] else ""


def below(path: str, folder: str) -> str:
    """A path as it is read from a folder, where it is below that."""
    return path.removeprefix(f"{folder}/")


def range_of(values: Sequence[float] | None) -> str:
    """Least, median and greatest of something; the one value where they are equal."""
    if not values:
        return "–"
    low, middle, high = values
    return f"{low:g}" if low == high else f"{low:g} – {high:g}, half of them below {middle:g}"


def _verdict(tested: VideoScores, figures: Figures) -> dict[str, Any]:
    """What the test comes to."""
    total, right = int(tested.seen.sum()), int(tested.right.sum())
    if figures.confusion is None:
        shares = figures.videos[figures.videos > 0] / total
        low = _classes(figures)[0]
        weakest = low if len(figures.videos) > 1 and figures.videos[low] else None
        return {"right": right, "share": shares.mean() if len(shares) else np.nan, "weakest": weakest}
    most = int(figures.videos.argmax())
    share = figures.videos[most] / total
    weak = worst(figures, 1)
    return {
        "right": right, "top1": figures.top1, "most": most, "share": share,
        "only": int((figures.videos == figures.videos[most]).sum()) == 1, "is_better": figures.top1[1] > share,
        "weakest": weak[0] if weak and len(figures.videos) > 2 else None,
    }  # fmt: skip


def worst(figures: Figures, most: int) -> list[tuple[int, int, int]]:
    """Classes of the lowest recall that have errors, each with the class it is most often taken for, and how often.

    That class is -1 where none of the videos was taken for another one.
    """
    assert figures.confusion is not None
    recall = np.where(figures.videos > 0, figures.recall[:, 0], 2)
    order = np.lexsort((-figures.videos, recall))[:most]
    wrong = figures.confusion[:, :-1] - np.diag(figures.right)
    found = [(int(i), int(wrong[i].argmax()), int(wrong[i].max())) for i in order if recall[i] < 1]
    return [(i, other if count else -1, count) for i, other, count in found]


def _tiles(figures: Figures) -> list[tuple[str, str, np.ndarray]]:
    if figures.map is not None and figures.all_right is not None:
        return [
            ("Mean average precision", "over classes, at any threshold", figures.map),
            ("Macro-F1", "mean of the classes' F1, at a score of 0.5", figures.macro_f1),
            ("Mean recall", "every class counts the same, at 0.5", figures.mean_class_accuracy),
            ("All right", "every class of a video is right, at 0.5", figures.all_right),
            ("Top-1", "the surest class is one of the true ones", figures.top1),
        ]
    top5 = [("Top-5", "the right class among the five likeliest", figures.top5)]
    return [
        ("Top-1", "the likeliest class is right", figures.top1),
        *(top5 if len(figures.videos) >= TOP5_FROM else []),
        ("Mean class accuracy", "every class counts the same", figures.mean_class_accuracy),
        ("Macro-F1", "mean of the classes' F1", figures.macro_f1),
    ]


def _classes(figures: Figures) -> list[int]:
    """The lowest F1 first, or average precision; classes without one last."""
    by = figures.f1 if figures.average_precision is None else figures.average_precision
    return np.lexsort((-figures.videos, np.nan_to_num(by[:, 0], nan=2))).tolist()


def _confused(figures: Figures, names: Sequence[str]) -> dict[str, Any]:
    """What is taken for what; nothing where a video may be of several classes."""
    if figures.confusion is None:
        return {"matrix": {"rows": []}, "confusions": [], "unpredicted": 0}
    unpredicted = int(figures.confusion[:, -1].sum())
    shown = _matrix(figures.confusion, figures.videos, names)
    return {"matrix": shown, "confusions": confusions(figures.confusion), "unpredicted": unpredicted}


def _matrix(confusion: np.ndarray, videos: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix, or the most confused part of a large one: rows of counts with shades from 0 to 1."""
    count = len(names)
    classes = np.arange(count) if count <= WHOLE else most_confused(confusion, PART)
    others = np.setdiff1d(np.arange(count), classes)
    heads, columns = [str(i + 1) for i in range(len(classes))], [confusion[classes][:, [i]] for i in classes]
    if len(others):
        heads.append("others")
        columns.append(confusion[classes][:, others].sum(1, keepdims=True))
    if confusion[:, -1].any():
        heads.append("none")
        columns.append(confusion[classes][:, -1:])
    cells = np.hstack(columns) if columns else np.zeros((0, 0), int)
    shades = cells / videos[classes].clip(1)[:, None]
    rows = [
        (i, [(int(n), round(float(s), 3), at == x) for x, (n, s) in enumerate(zip(cells[at], shades[at], strict=True))])
        for at, i in enumerate(classes.tolist())
    ]
    return {"heads": heads, "rows": rows, "whole": count <= WHOLE}


def _video(tested: VideoScores, shown: Shown) -> dict[str, Any]:
    row, scores = shown.row, tested.scores[shown.row]
    label = tested.labels[row]
    if tested.several:
        said, true = (np.flatnonzero(part[row]).tolist() for part in (tested.predicted, tested.labels))
    else:
        said, true = [int(tested.best[row])], [int(label)]
    return {
        "path": tested.paths[row], "right": bool(tested.right[row]), "words": in_words(label, tested.class_names),
        "said": [(float(scores[i]), i) for i in said], "labelled": [(float(scores[i]), i) for i in true],
        "picture": Markup(shown.picture), "width": shown.width, "height": shown.height, "reason": shown.reason,
    }  # fmt: skip


def _curves(about: About) -> list[tuple[str, list[str], Markup]]:
    """Title, names of lines and picture of each chart that has a point."""
    steps = {row["epoch"]: float(row["steps"]) for row in about.speed}
    known = all(row["epoch"] in steps for row in about.history)  # a run of before has none
    x = [steps[row["epoch"]] if known else float(row["epoch"]) + 1 for row in about.history]
    times = [(float(row["steps"]), float(row["seconds"])) for row in about.speed] if known else []
    unit = "step" if known else "epoch"

    def of(name: str, rows: Sequence[Mapping[str, str]], at: Sequence[float]) -> list[tuple[float, float]]:
        return [(a, float(row.get(name) or "nan")) for a, row in zip(at, rows, strict=True)]

    charts: list[tuple[str, list[Line], bool]] = [
        ("Loss", [Line(what, of(key, about.history, x)) for what, key in
                  (("training", "train/epoch_loss"), ("validation", "val/loss"))], False),
        ("Top-1", [Line(what, of(key, about.history, x)) for what, key in
                   (("training", "train/epoch_top1"), ("validation", "val/top1"))], True),
        ("Mean average precision", [Line("validation", of(MAP, about.history, x))], True),
    ]  # fmt: skip
    if known and about.speed:
        at = [float(row["steps"]) for row in about.speed]
        charts += [(title, [Line(title.lower(), of(key, about.speed, at))], False)
                   for title, key in (("Learning rate", "lr"), ("Clips a second", "clips_per_s"))]  # fmt: skip
    drawn = (
        (title, [line.name for line in lines], Markup(chart(lines, times, share, unit)))
        for title, lines, share in charts
    )
    return [each for each in drawn if each[2]]


def _flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Settings by their dotted names, in words."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{above}{name}.")
        elif name != "class_names":
            found.append((f"{above}{name}", "null" if value is None else str(value)))
    return found
