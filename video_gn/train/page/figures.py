"""Figures of a test by class, with intervals: pure functions of true and predicted classes.

Fractions that are 0 / 0 are nan: the recall of a class without videos, the precision of one that is never predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Z = 1.959963984540054  # of a normal distribution's 95 %
DRAWS, CHUNK = 1000, 100  # bootstrap samples in all, and at a time
INTERVALS = "95 %; of fractions Wilson's, of F1 and means over classes by a bootstrap of 1000 draws, seed 0"


class Confusion(NamedTuple):
    """Videos of one class that were taken for another.

    Attributes:
        true: The class.
        predicted: What it was taken for.
        videos: How many.
        of: Videos of the class.
    """

    true: int
    predicted: int
    videos: int
    of: int


@dataclass(frozen=True)
class Figures:
    """Of a test; each figure is value, low and high end of its interval, float64 `[..., 3]`."""

    videos: np.ndarray
    """Of each class, int64 `[K]`."""
    predicted: np.ndarray
    """Videos that are taken for each class, int64 `[K]`."""
    right: np.ndarray
    """Of these, those that are of it, int64 `[K]`."""
    precision: np.ndarray
    """By class, `[K, 3]`, as the next two."""
    recall: np.ndarray
    f1: np.ndarray
    top1: np.ndarray
    """Of all videos, `[3]`, as the next three."""
    top5: np.ndarray
    mean_class_accuracy: np.ndarray
    """Mean recall of the classes that have videos."""
    macro_f1: np.ndarray
    """Mean F1 of the classes that have videos or are predicted."""
    confusion: np.ndarray | None = None
    """Videos by true and predicted class, int64 `[K, K + 1]`; the last column are those without a prediction. None
    where a video may be of several classes, as the next three are where it is of one."""
    average_precision: np.ndarray | None = None
    """By class, `[K, 3]`."""
    map: np.ndarray | None = None
    """Its mean over the classes that have videos, `[3]`."""
    all_right: np.ndarray | None = None
    """Share of the videos of which every class is right, `[3]`."""


def measure(labels: np.ndarray, predicted: np.ndarray, ranks: np.ndarray, num_classes: int) -> Figures:
    """The figures of a test.

    Args:
        labels: True classes of the videos, int64 `[N]`, N at least 1.
        predicted: Those with the highest score; negative where there is none, which is wrong.
        ranks: Of the true class among the scores; 0 where there is none.
        num_classes: K.
    """
    confusion = confusion_of(labels, predicted, num_classes)
    right, videos, taken = np.diagonal(confusion), confusion.sum(1), confusion[:, :-1].sum(0)
    low, high = bootstrap(confusion)
    f1, mean, macro = (np.stack(ends, -1) for ends in zip(scores_of(right, videos, taken), low, high, strict=True))
    within = [((ranks >= 1) & (ranks <= k)).sum() for k in (1, 5)]
    top1, top5 = (wilson(np.asarray(count), np.asarray(len(labels))) for count in within)
    shares = wilson(right, taken), wilson(right, videos)
    return Figures(videos, taken, right, *shares, f1, top1, top5, mean, macro, confusion)


def confusion_of(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Videos by true and predicted class, int64 `[K, K + 1]`; negative predictions are in the last column."""
    columns = num_classes + 1
    cells = labels * columns + np.where(predicted < 0, num_classes, predicted)
    return np.bincount(cells, minlength=num_classes * columns).reshape(num_classes, columns)


def wilson(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """A fraction and its 95 % interval (Wilson 1927), float64 `[..., 3]`; nan of nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = count / total
        middle, scale = share + Z**2 / (2 * total), 1 + Z**2 / total
        width = Z * np.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
        # Rounding may put an end past the fraction itself, where that is 0 or 1.
        low, high = np.minimum((middle - width) / scale, share), np.maximum((middle + width) / scale, share)
    return np.stack([share, np.maximum(low, 0), np.minimum(high, 1)], -1)


def bootstrap(confusion: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[tuple[np.ndarray, ...], ...]:
    """Low and high ends of 95 % intervals of F1 by class, mean class accuracy and macro-F1.

    Videos drawn with replacement are a multinomial draw of the confusion matrix's cells: many are drawn at once.

    Args:
        confusion: As `confusion_of` gives it, of one video at least.
        draws: Number of samples.
        seed: Of the draws.
    """
    rng, total = np.random.default_rng(seed), int(confusion.sum())
    true, predicted = np.nonzero(confusion)
    share = confusion[true, predicted] / total
    drawn: list[tuple[np.ndarray, ...]] = []
    for done in range(0, draws, CHUNK):
        counts = rng.multinomial(total, share, min(CHUNK, draws - done))
        sums = [_summed(counts[:, which], of[which], len(confusion)) for which, of in (
            (true == predicted, true), (true >= 0, true), (predicted < len(confusion), predicted))]  # fmt: skip
        drawn.append(scores_of(*sums))
    every = [np.concatenate(values) for values in zip(*drawn, strict=True)]
    low, high = zip(*map(quantiles, every), strict=True)
    return low, high


def _summed(counts: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `[draws, cells]` summed by the cells' classes, `[draws, K]`."""
    sums = np.zeros((len(counts), num_classes), np.int64)
    order = np.argsort(classes, kind="stable")
    found, first = np.unique(classes[order], return_index=True)
    if len(found):
        sums[:, found] = np.add.reduceat(counts[:, order], first, 1)
    return sums


def scores_of(right: np.ndarray, videos: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F1 by class `[..., K]`, mean recall and mean F1 over the classes for which they are defined, `[...]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        f1, recall = 2 * right / (videos + taken), right / videos
        mean, macro = (np.nansum(values, -1) / np.isfinite(values).sum(-1) for values in (recall, f1))
    return f1, mean, macro


def quantiles(values: np.ndarray) -> np.ndarray:
    """The 2.5th and 97.5th percentile over the first axis, of the values that are no nan; nan where none is."""
    ordered = np.sort(values, 0)  # nan last
    count = np.isfinite(values).sum(0)
    places = [np.clip(np.ceil(q * count).astype(np.int64) - 1, 0, None) for q in (0.025, 0.975)]
    return np.stack([np.take_along_axis(ordered, place[None], 0)[0] for place in places])


def confusions(confusion: np.ndarray, most: int = 10) -> list[Confusion]:
    """The most frequent ones, those of the smaller class first where they are equally many."""
    wrong = confusion[:, :-1] - np.diag(np.diagonal(confusion))
    true, predicted = np.nonzero(wrong)
    of = confusion.sum(1)[true]
    order = np.lexsort((predicted, true, of, -wrong[true, predicted]))[:most]
    found = np.stack([true, predicted, wrong[true, predicted], of], 1)
    return [Confusion(*row) for row in found[order].tolist()]


def most_confused(confusion: np.ndarray, most: int) -> np.ndarray:
    """The classes of the most frequent confusions, at most so many, so that those confused are side by side."""
    chosen: list[int] = []
    for found in confusions(confusion, len(confusion) * 4):
        for this, other in ((found.true, found.predicted), (found.predicted, found.true)):
            if this not in chosen and len(chosen) < most:
                chosen.insert(chosen.index(other) + 1 if other in chosen else len(chosen), this)
    return np.array(chosen, np.int64)


def as_json(figures: Figures, class_names: Sequence[str]) -> dict[str, Any]:
    """The figures in types of JSON, by class names."""
    parts = ["precision", "recall", "f1", *(["average_precision"] if figures.confusion is None else [])]
    by_class = [
        {
            "class": name, "videos": int(figures.videos[i]), "predicted": int(figures.predicted[i]),
            "right": int(figures.right[i]), **{part: _ends(getattr(figures, part)[i]) for part in parts},
        }
        for i, name in enumerate(class_names)
    ]  # fmt: skip
    names = ["top1", "top5", "mean_class_accuracy", "macro_f1"]
    names += ["map", "all_right"] if figures.confusion is None else []
    totals = {name: _ends(getattr(figures, name)) for name in names}
    if figures.confusion is None:
        return {"format": 1, **totals, "intervals": INTERVALS, "classes": by_class}
    pairs = [
        {"true": class_names[pair.true], "predicted": class_names[pair.predicted], "videos": pair.videos, "of": pair.of}
        for pair in confusions(figures.confusion, 100)
    ]
    videos = {"videos": int(figures.confusion.sum()), "without_prediction": int(figures.confusion[:, -1].sum())}
    return {"format": 1, **videos, **totals, "intervals": INTERVALS, "classes": by_class, "confusions": pairs}


def _ends(values: np.ndarray) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), map(float, values), strict=True))
