"""Whether labels have anything to do with the videos, by the simplest cues: a look before hours of training."""

import logging
from collections.abc import Sequence

import numpy as np

log = logging.getLogger(__name__)

SHUFFLES = 199
PARTS = 5  # of a cross-validation
MOST_VIDEOS = 1000  # that are looked at
RIDGE = 0.1  # of the mean of the kernel's diagonal
MOST_ALIKE = 0.02  # of the shuffles that do as well as the labels
MOST_SIMPLE = 0.9  # right by simple cues, above which classes may be no more than their backgrounds
FEWEST = 20  # videos from which on something can be said


def cues(pictures: np.ndarray) -> np.ndarray:
    """Mean picture, and mean change from one to the next, of grey pictures uint8 `[N, H, W]`: float64 `[2 * H * W]`."""
    floats = pictures.astype(np.float64)
    change = np.abs(np.diff(floats, axis=0)).mean(0) if len(floats) > 1 else np.zeros(floats.shape[1:])
    return np.concatenate([floats.mean(0).ravel(), change.ravel()])


def by_cues(features: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """How well a linear classifier tells classes apart that it did not see, and how well it does with shuffled labels.

    It is ridge regression on each class's indicator, in a 5-fold cross-validation.

    Args:
        features: float64 `[videos, D]`.
        labels: int64 `[videos]`; or `[videos, K]`, of which each set of classes counts as one.

    Returns:
        The fraction of videos that are right; the mean of it over shuffled labels; and the fraction of these shuffles
        that do as well (the true labels count as one of them).
    """
    rng = np.random.default_rng(0)
    keep = rng.permutation(len(labels))[:MOST_VIDEOS]
    features, labels = features[keep], np.unique(labels[keep], axis=0, return_inverse=True)[1].reshape(-1)
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    kernel = scaled @ scaled.T / scaled.shape[1]
    part = rng.permutation(len(labels)) % PARTS
    orders = [np.arange(len(labels)), *(rng.permutation(len(labels)) for _ in range(SHUFFLES))]
    right = np.zeros(len(orders))
    for held in range(PARTS):
        test, train = np.flatnonzero(part == held), np.flatnonzero(part != held)
        inside = kernel[np.ix_(train, train)]
        ridge = RIDGE * np.trace(inside) / len(train) * np.eye(len(train))
        weights = np.linalg.solve(inside + ridge, kernel[np.ix_(train, test)]).T
        for number, order in enumerate(orders):
            targets = np.eye(labels.max() + 1)[labels[order]]
            mean = targets[train].mean(0)
            scores = weights @ (targets[train] - mean) + mean
            right[number] += (scores.argmax(1) == labels[order][test]).sum()
    found = right / len(labels)
    return float(found[0]), float(found[1:].mean()), float((found >= found[0]).mean())


def say_of_labels(pictures: Sequence[np.ndarray], labels: np.ndarray) -> None:
    """Says how well simple cues tell the classes apart, and warns where shuffled labels do as well.

    Args:
        pictures: Of each video, grey ones, uint8 `[N, H, W]`; none of one that cannot be read.
        labels: As of `by_cues`.
    """
    seen = [row for row, one in enumerate(pictures) if len(one)]
    if len(seen) < FEWEST or len(np.unique(labels[seen], axis=0)) < 2:
        return
    right, chance, alike = by_cues(np.stack([cues(pictures[row]) for row in seen]), labels[seen])
    found = f"by mean picture and motion alone, a linear classifier is right for {100 * right:.0f} % of the videos"
    if alike > MOST_ALIKE:
        log.warning(
            "%s, and for %.0f %% with shuffled labels: are the labels right? (what differs in finer things can be "
            "learned all the same)", found, 100 * chance,
        )  # fmt: skip
    else:
        log.info(
            "%s (%.0f %% with shuffled labels): labels fit what is seen%s", found, 100 * chance,
            ", which may be places and cameras more than motion" if right > MOST_SIMPLE else "",
        )  # fmt: skip
