"""Figures of a test by class, with intervals, where a video may be of several classes or of none."""

import numpy as np
import torch

from video_gn.train.metrics import average_precision
from video_gn.train.page.figures import CHUNK, DRAWS, Figures, quantiles, scores_of, wilson

MOST = 100_000  # videos x classes, above which average precision has no interval: it would take too long


def measure_several(labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray, ranks: np.ndarray) -> Figures:
    """The figures of a test.

    Args:
        labels: True classes, `[N, K]` of 0 and 1, N at least 1.
        predicted: Those that are predicted, likewise.
        scores: float32 `[N, K]`; -1 of a video that has none, which comes after all others.
        ranks: Of the first true class among the scores, as `video_gn.train.metrics.ranks`.
    """
    labels, predicted = labels.astype(np.int64), predicted.astype(np.int64)
    both = labels * predicted
    videos, taken, right = labels.sum(0), predicted.sum(0), both.sum(0)
    values = (*scores_of(right, videos, taken), *_precisions(labels, scores, np.ones((1, len(labels)), np.int64)))
    drawn = _bootstrap(labels, predicted, both, scores)
    f1, mean, macro, ap, mean_ap = (
        np.stack([value.reshape(low.shape), low, high], -1) for value, (low, high) in zip(values, drawn, strict=True)
    )
    within = [(ranks >= 1) & (ranks <= k) for k in (1, 5)]
    whole = (ranks > 0) & (labels == predicted).all(1)
    top1, top5, every = (wilson(part.sum(), np.asarray(len(labels))) for part in (*within, whole))
    shares = wilson(right, taken), wilson(right, videos)
    known = {"average_precision": ap, "map": mean_ap, "all_right": every}
    return Figures(videos, taken, right, *shares, f1, top1, top5, mean, macro, **known)


def _bootstrap(labels: np.ndarray, predicted: np.ndarray, both: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Low and high ends, `[2, ...]`, of 95 % intervals: F1, mean recall, mean F1, average precision, its mean."""
    rng, count = np.random.default_rng(0), len(labels)
    parts = [part.astype(np.float32) for part in (both, labels, predicted)]  # exact up to 2^24, and ten times as fast
    found = []
    for done in range(0, DRAWS, CHUNK):
        times = rng.multinomial(count, np.full(count, 1 / count), min(CHUNK, DRAWS - done))  # each video in each draw
        sums = (times.astype(np.float32) @ part for part in parts)
        found.append((*scores_of(*sums), *_precisions(labels, scores, times)))
    return [quantiles(np.concatenate(values)) for values in zip(*found, strict=True)]


def _precisions(labels: np.ndarray, scores: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision by class `[draws, K]`, and its mean `[draws]`, where each video is there so many times.

    Args:
        labels: `[N, K]`.
        scores: `[N, K]`.
        times: int64 `[draws, N]`.
    """
    if len(times) == 1:
        of_class = average_precision(torch.from_numpy(scores), torch.from_numpy(labels)).numpy()[None]
    elif labels.size > MOST:
        of_class = np.full((len(times), labels.shape[1]), np.nan)
    else:
        of_class = np.stack([_of_class(scores[:, k], labels[:, k], times) for k in range(labels.shape[1])], -1)
    known = np.isfinite(of_class)
    with np.errstate(invalid="ignore", divide="ignore"):
        return of_class, np.nansum(of_class, -1) / known.sum(-1)


def _of_class(scores: np.ndarray, true: np.ndarray, times: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, kind="stable")
    scores, weights = scores[order], times[:, order]
    hits = weights * true[order]
    last = np.append(scores[:-1] != scores[1:], True)
    ends = np.flatnonzero(last)[np.cumsum(last) - last]  # of each video, the last with the same score
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.cumsum(hits, 1)[:, ends] / np.cumsum(weights, 1)[:, ends]
        return np.nansum(precision * hits, 1) / hits.sum(1)
