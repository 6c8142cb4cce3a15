"""Labels that have nothing to do with the videos are noticed, and others are not suspected."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from video_gn.data import cues as module
from video_gn.data.cues import by_cues, cues, say_of_labels


def videos(rng, labels):
    """Grey pictures whose lower part moves in videos of class 1."""
    found = []
    for label in labels:
        pictures = rng.integers(0, 200, (16, 16))[None] + rng.integers(0, 3, (8, 16, 16))
        pictures[:, 8:] += rng.integers(0, 50, (8, 8, 16)) * (label == 1)
        found.append(pictures.astype(np.uint8))
    return found


def test_cues_by_hand():
    pictures = np.array([[[0, 10], [4, 4]], [[2, 10], [0, 4]], [[4, 10], [4, 4]]], np.uint8)
    assert np.allclose(cues(pictures), [2, 10, 8 / 3, 4, 2, 0, 4, 0])
    assert cues(pictures[:1]).tolist() == [0, 10, 4, 4, 0, 0, 0, 0]


def test_right_and_shuffled_labels(rng, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    labels = np.arange(60) % 2
    pictures = [*videos(rng, labels), np.empty((0, 16, 16), np.uint8)]
    with caplog.at_level(logging.INFO):
        say_of_labels(pictures, np.append(labels, 0))
    assert "is right for 100 % of the videos" in caplog.text and "are the labels right?" not in caplog.text
    silent = 0
    for _ in range(20):
        caplog.clear()
        say_of_labels(pictures, rng.permutation(np.append(labels, 0)))
        silent += "are the labels right?" not in caplog.text
    assert silent <= 2
    caplog.clear()
    say_of_labels(pictures[:10], labels[:10])  # too few
    say_of_labels(pictures[:40], np.zeros(40, int))  # one class
    assert not caplog.records


def test_as_scikit_learn(rng, monkeypatch):
    monkeypatch.setattr(module, "SHUFFLES", 1)
    labels = np.repeat([0, 1, 2], 20)
    features = rng.normal(size=(60, 50)) + np.eye(3)[labels] @ rng.normal(size=(3, 50))
    right = 0
    draw = np.random.default_rng(0)
    keep = draw.permutation(60)
    x, y = features[keep], labels[keep]
    x = (x - x.mean(0)) / x.std(0)
    part = draw.permutation(60) % module.PARTS
    for held in range(module.PARTS):
        train = part != held
        alpha = module.RIDGE * (x[train] ** 2).sum(1).mean()
        model = Ridge(alpha=alpha, fit_intercept=False).fit(x[train], np.eye(3)[y[train]] - np.eye(3)[y[train]].mean(0))
        right += ((model.predict(x[~train]) + np.eye(3)[y[train]].mean(0)).argmax(1) == y[~train]).sum()
    assert by_cues(features, labels)[0] == pytest.approx(right / 60) and right > 30
