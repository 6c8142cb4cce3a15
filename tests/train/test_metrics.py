"""Figures over classes: those of torchmetrics and scikit-learn, summed exactly, with unreadable videos as wrong."""

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from video_gn.train.metrics import Accuracy, predictions, ranks

K = 6
DRAW = torch.Generator().manual_seed(0)
LABELS = torch.cat([torch.zeros(40), torch.arange(K), torch.full((9,), 3)]).long()  # 55 of uneven classes
SCORES = torch.rand(len(LABELS), 2, K, generator=DRAW).softmax(2)


def figures(*parts):
    """Of several processes, whose states are summed."""
    accuracies = []
    for scores, labels, unreadable in parts:
        accuracies.append(Accuracy(K))
        accuracies[-1].update(scores, labels, unreadable)
    for name in accuracies[0]._defaults:
        setattr(accuracies[0], name, sum(getattr(part, name) for part in accuracies))
    return {name: value.item() for name, value in accuracies[0].compute().items()}


def test_they_are_torchmetrics():
    found, predicted = figures((SCORES, LABELS, [])), SCORES.mean(1)
    assert found["macro_f1"] == pytest.approx(multiclass_f1_score(predicted, LABELS, K, "macro").item(), rel=1e-6)
    expected = multiclass_accuracy(predicted, LABELS, K, "macro").item()  # all classes are there
    assert found["mean_class_accuracy"] == pytest.approx(expected, rel=1e-6)


def test_they_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    unreadable, predicted = [0, 3, 3], SCORES.mean(1).argmax(1).tolist()
    found, labels = figures((SCORES, LABELS, unreadable)), [*LABELS.tolist(), *unreadable]
    predicted = [*predicted, K, K, K]  # no class
    assert found["macro_f1"] == metrics.f1_score(labels, predicted, labels=range(K), average="macro")
    expected = metrics.recall_score(labels, predicted, labels=range(K), average="macro")
    assert found["mean_class_accuracy"] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("count", [2, 3])
def test_they_are_the_same_on_any_number_of_processes(count):
    whole = figures((SCORES, LABELS, [3, 0, 5]))
    parts = [(SCORES[i::count], LABELS[i::count], [3, 0, 5][i::count]) for i in range(count)]
    found = figures(*parts)
    assert {name: value for name, value in found.items() if name != "loss"} == {
        name: value for name, value in whole.items() if name != "loss"
    }
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-6)  # float32 within a batch


def test_by_hand():
    """A class without videos that is predicted counts in F1 alone; one that is neither in none."""
    scores = torch.eye(K)[[0, 0, 1, 4, 1]][:, None]  # predictions 0 0 1 4 1
    found = figures((scores, torch.tensor([0, 1, 1, 0, 0]), [2]))  # of class 2 the only video is unreadable
    assert found["mean_class_accuracy"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((2 * 1 / (3 + 2) + 2 * 1 / (2 + 2) + 0 + 0) / 4)
    assert found["top1"] == 2 / 6 and found["unreadable"] == 1


def test_scores_that_tie_or_are_not_finite_predict_nothing():
    scores = torch.tensor([[0.5, 0.5], [0.5, 0.5], [math.nan, 0.1], [0.9, 0.1]])
    labels = torch.tensor([0, 1, 0, 0])
    assert predictions(scores, labels, ranks(scores, labels)).tolist() == [-1, 0, -1, 0]
    accuracy = Accuracy(2)
    accuracy.update(scores[:, None], labels, [])
    assert accuracy.true.tolist() == [3, 1] and accuracy.predicted.tolist() == [2, 0]
    assert accuracy.right.tolist() == [1, 0]
