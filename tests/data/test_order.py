"""Balanced sampling: every class equally often, in an order that no stop and no number of processes changes."""

from collections import Counter

import numpy as np
import pytest

from video_gn.data.loader import RowSampler
from video_gn.data.order import Balanced, rows_of, with_turns

LABELS = np.array([2] * 40 + [0] * 7 + [5] * 1 + [1] * 5)  # 53 rows; classes 3 and 4 have none


def sampler(rank=0, world=1, epoch=3, first=0):
    found = RowSampler(len(LABELS), 9, True, rank, world, rows=rows_of(LABELS, "balanced"))
    found.epoch, found.first = epoch, first
    return list(found)


@pytest.mark.parametrize("seed", range(5))
def test_classes_and_their_rows_come_equally_often(seed):
    rows = Balanced(LABELS).epoch(np.random.default_rng(seed))
    assert len(rows) == len(LABELS)
    classes = Counter(LABELS[rows].tolist())
    assert set(classes) == {0, 1, 2, 5} and sorted(classes.values()) == [13, 13, 13, 14]
    for label in (0, 1, 5):
        counts = np.bincount(rows, minlength=len(LABELS))[label == LABELS]
        assert counts.max() - counts.min() <= 1 <= counts.min()
    large = [row for row in rows if LABELS[row] == 2]
    assert len(set(large)) == len(large)


def test_over_epochs_no_row_of_a_large_class_is_left_out_and_none_is_first():
    epochs = [Balanced(LABELS).epoch(np.random.default_rng((1, epoch))) for epoch in range(60)]
    assert set(np.concatenate(epochs).tolist()) == set(range(len(LABELS)))
    first = Counter(int(LABELS[rows[0]]) for rows in epochs)
    assert all(5 <= count <= 25 for count in first.values()) and len(first) == 4  # 15 expected


def test_another_row_has_each_class_with_the_same_probability(rng):
    drawn = Counter(int(LABELS[Balanced(LABELS).another(rng)]) for _ in range(4000))
    assert all(abs(count - 1000) < 4 * 27.4 for count in drawn.values())  # 4 standard deviations


def test_a_row_that_comes_again_has_its_turn():
    assert list(with_turns([4, 1, 4, 4, 1])) == [(4, 0), (1, 0), (4, 1), (4, 2), (1, 1)]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_and_stops_do_not_change_the_order(world):
    whole = sampler()
    ranks = [sampler(rank, world) for rank in range(world)]
    together = [ranks[i % world][i // world] for i in range(len(whole) // world * world)]
    assert together == whole[: len(together)]
    assert sampler(first=20) == whole[20:]
    assert len(set(whole)) == len(whole)  # by row and turn
    assert sampler(epoch=4) != whole
