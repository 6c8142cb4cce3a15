"""The page's figures are scikit-learn's, and its intervals cover what they should."""

import numpy as np
import pytest
from sklearn import metrics

from video_gn.train.page.figures import as_json, bootstrap, confusion_of, confusions, measure, most_confused, wilson


def drawn(rng, videos, classes, right=0.6, without=0.05):
    """True and predicted classes, some without a prediction, and ranks."""
    labels = rng.integers(0, classes, videos)
    predicted = np.where(rng.random(videos) < right, labels, rng.integers(0, classes, videos))
    predicted[rng.random(videos) < without] = -1
    ranks = np.where(predicted == labels, 1, rng.integers(2, 9, videos)) * (predicted >= 0)
    return labels, predicted, ranks


@pytest.mark.parametrize(("videos", "classes"), [(1, 1), (3, 2), (40, 12), (200, 3), (900, 400)])
def test_figures_are_scikit_learns(videos, classes, rng):
    labels, predicted, ranks = drawn(rng, videos, classes)
    found = measure(labels, predicted, ranks, classes)
    names, shown = np.arange(classes), np.where(predicted < 0, classes, predicted)  # none: a class of its own
    everything = metrics.confusion_matrix(labels, shown, labels=np.arange(classes + 1))
    assert np.array_equal(found.confusion, everything[:classes])
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, shown, labels=names, zero_division=np.nan
    )
    for ours, theirs in ((found.precision, precision), (found.recall, recall), (found.f1, f1)):
        assert np.array_equal(ours[:, 0], theirs, equal_nan=True)
    assert np.array_equal(found.videos, support)
    assert found.top1[0] == metrics.accuracy_score(labels, shown)
    assert found.top5[0] == ((ranks > 0) & (ranks < 6)).mean()
    seen = np.union1d(labels, predicted[predicted >= 0])
    assert found.macro_f1[0] == pytest.approx(metrics.f1_score(labels, shown, labels=seen, average="macro"), rel=1e-14)
    there = np.unique(labels)
    assert found.mean_class_accuracy[0] == pytest.approx(
        metrics.recall_score(labels, shown, labels=there, average="macro"), rel=1e-14
    )
    for ends in (found.precision, found.recall, found.f1, found.top1[None], found.macro_f1[None]):
        value, low, high = ends[~np.isnan(ends[:, 0])].T
        assert (low <= value).all() and (value <= high).all() and (low >= 0).all() and (high <= 1).all()


def test_wilson_by_hand():
    """Newcombe 1998, Table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29; and the ends are exact."""
    found = wilson(np.array([81, 15, 0, 1, 20, 0]), np.array([263, 148, 20, 29, 20, 0]))
    newcombe = [(0.2553, 0.3662), (0.0624, 0.1605), (0.0, 0.1611), (0.0061, 0.1718)]
    assert np.allclose(found[:4, 1:], newcombe, atol=5e-5)
    assert found[2, 1] == 0 and found[4, 2] == 1 and np.isnan(found[5]).all()


def test_the_bootstrap_is_that_over_videos(rng):
    """Drawn as a multinomial of the matrix's cells; here video by video, as anybody would write it."""
    labels, predicted, _ = drawn(rng, 120, 4, without=0.1)
    low, high = bootstrap(confusion_of(labels, predicted, 4), 4000)
    macro, first = [], []
    for _ in range(4000):
        rows = rng.integers(0, 120, 120)
        true, seen = np.bincount(labels[rows], minlength=4), np.bincount(predicted[rows] + 1, minlength=5)[1:]
        f1 = 2 * np.bincount(labels[rows][labels[rows] == predicted[rows]], minlength=4) / (true + seen)
        macro.append(f1.mean())
        first.append(f1[0])
    assert [low[2], high[2]] == pytest.approx(np.percentile(macro, [2.5, 97.5]), abs=0.01)
    assert [low[0][0], high[0][0]] == pytest.approx(np.percentile(first, [2.5, 97.5]), abs=0.015)
    again = bootstrap(confusion_of(labels, predicted, 4), 4000)
    assert all(np.array_equal(*pair) for pair in zip(low + high, again[0] + again[1], strict=True))


def test_confusions_by_hand():
    matrix = confusion_of(np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([1, 1, 0, 0, 1, 2, -1, 0]), 3)
    assert matrix.tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [1, 0, 1, 1]]
    assert [tuple(pair) for pair in confusions(matrix)] == [(0, 1, 2, 3), (1, 0, 1, 2), (2, 0, 1, 3)]
    assert most_confused(matrix, 2).tolist() == [0, 1] and set(most_confused(matrix, 9)) == {0, 1, 2}
    said = as_json(measure(np.array([0, 1]), np.array([0, 0]), np.array([1, 2]), 2), ["a", "b"])
    assert said["confusions"] == [{"true": "b", "predicted": "a", "videos": 1, "of": 1}]
    assert said["classes"][1]["precision"]["value"] != said["classes"][1]["precision"]["value"]  # nan: never predicted
