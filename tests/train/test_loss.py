"""The loss of training: weights of classes, softer labels, two labels; the same however a batch is divided."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from video_gn.errors import InputError
from video_gn.train.loss import Loss, Targets, class_weights, targets_of

COUNTS = np.array([50, 5, 0, 1])
LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS, SECONDS = torch.tensor([0, 0, 1, 3, 0, 1]), torch.tensor([3, 0, 0, 1, 1, 0])
SHARES = torch.tensor([0.5, 0.9, 0.7, 1.0, 0.6, 0.8])


def test_weights_by_hand():
    assert Loss().weights(COUNTS, COUNTS / 56) is None
    inverse = Loss("inverse").weights(COUNTS, COUNTS / 56)
    # 56 / (3 n): the 56 clips weigh 56 together, each class a third of it.
    assert inverse.tolist() == pytest.approx([56 / 150, 56 / 15, 0, 56 / 3])
    effective = Loss("effective", beta=0.9).weights(COUNTS, COUNTS / 56)
    raw = [0.1 / (1 - 0.9**n) for n in (50, 5, 1)]  # Cui et al. 2019, equation 2
    scale = 56 / (50 * raw[0] + 5 * raw[1] + raw[2])
    assert effective.tolist() == pytest.approx([scale * raw[0], scale * raw[1], 0, scale * raw[2]])
    balanced = Loss("inverse").weights(COUNTS, np.array([1, 1, 0, 1]) / 3)  # each class is drawn as often
    assert balanced.sum().item() == pytest.approx(3)
    assert (balanced / inverse)[[0, 1, 3]].std().item() == pytest.approx(0, abs=1e-6)


def test_the_effective_number_is_between_none_and_inverse():
    even, inverse = Loss("effective", 0.0), Loss("effective", 1 - 1e-9)
    assert even.weights(COUNTS, COUNTS / 56).tolist() == pytest.approx([1, 1, 0, 1])
    expected = Loss("inverse").weights(COUNTS, COUNTS / 56)
    torch.testing.assert_close(inverse.weights(COUNTS, COUNTS / 56), expected, rtol=1e-5, atol=0)


def test_plain_is_pytorchs_and_nothing_else():
    assert torch.equal(Loss()(LOGITS, Targets(LABELS)), F.cross_entropy(LOGITS, LABELS))
    smooth = Loss(label_smoothing=0.1)(LOGITS, Targets(LABELS))
    assert torch.equal(smooth, F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))


def test_weighted_is_pytorchs_sum_over_the_number_of_clips():
    weights = torch.tensor([0.5, 2.0, 0.0, 4.0], dtype=torch.float64)
    found = Loss("inverse")(LOGITS, Targets(LABELS), weights)
    expected = F.cross_entropy(LOGITS, LABELS, weights, reduction="sum") / len(LABELS)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}])
def test_two_labels_are_a_soft_one(settings):
    soft = SHARES[:, None] * F.one_hot(LABELS, 4) + (1 - SHARES)[:, None] * F.one_hot(SECONDS, 4)
    expected = F.cross_entropy(LOGITS, soft.double(), **settings)
    torch.testing.assert_close(Loss(**settings)(LOGITS, Targets(LABELS, SECONDS, SHARES.double())), expected)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_mean_over_processes_is_that_of_the_whole(parts):
    """As DDP has it: a mean over processes of each one's mean, whatever their classes are."""
    loss, weights = Loss("inverse", label_smoothing=0.2), torch.tensor([0.2, 3.0, 0.0, 9.0], dtype=torch.float64)
    whole = loss(LOGITS, Targets(LABELS, SECONDS, SHARES), weights)
    divided = [
        loss(*given, weights)
        for given in (
            (LOGITS[i::parts], Targets(LABELS[i::parts], SECONDS[i::parts], SHARES[i::parts])) for i in range(parts)
        )
    ]
    torch.testing.assert_close(torch.stack(divided).mean(), whole)


def test_all_clips_of_a_video_have_its_labels():
    batch = SimpleNamespace(clips=torch.empty(2, 3, 0), labels=torch.tensor([1, 0]), seconds=torch.tensor([2, 3]),
                            shares=torch.tensor([0.6, 0.9]))  # fmt: skip
    labels, seconds, shares = targets_of(batch)
    assert labels.tolist() == [1, 1, 1, 0, 0, 0] and seconds.tolist() == [2, 2, 2, 3, 3, 3]
    assert shares.tolist() == pytest.approx([0.6] * 3 + [0.9] * 3)
    batch.seconds = batch.shares = None
    assert targets_of(batch)[1:] == (None, None)


def test_weights_need_data_that_counts():
    model = SimpleNamespace(loss=Loss("inverse"), trainer=SimpleNamespace(datamodule=None))
    with pytest.raises(InputError, match=r"class_weights is inverse, and the loaders are not of video_gn's data"):
        class_weights(model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"class_weights": "sqrt"}, "one of: none, inverse, effective"), ({"beta": 1.0}, "beta is 1.0"),
     ({"label_smoothing": 1}, "label_smoothing is 1")],
)  # fmt: skip
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(InputError, match=words):
        Loss(**settings)
