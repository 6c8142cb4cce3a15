import numpy as np
import pytest

from video_gn.data.sampling import clip_indices, fitting, random_start, span


def test_span():
    assert [span(32, 2), span(64, 1), span(1, 5), span(16, 0)] == [63, 64, 1, 1]


@pytest.mark.parametrize(("total", "clip_span", "starts"), [(70, 64, 7), (64, 64, 1), (20, 64, 1), (300, 63, 238)])
def test_random_start_takes_every_valid_start_and_no_other(total, clip_span, starts, rng):
    drawn = [random_start(rng, total, clip_span) for _ in range(40 * starts)]
    assert set(drawn) == set(range(starts))


def test_random_start_is_uniform(rng):
    counts = np.bincount([random_start(rng, 73, 64) for _ in range(20000)], minlength=10)
    assert np.abs(counts / 2000 - 1).max() < 0.1


def test_clip_indices():
    assert clip_indices(5, 4, 2, 100).tolist() == [5, 7, 9, 11]
    assert clip_indices(0, 6, 2, 5).tolist() == [0, 2, 4, 1, 3, 0]  # a short video is looped
    assert clip_indices(7, 3, 0, 10).tolist() == [7, 7, 7]


def test_an_interval_that_fits():
    assert [fitting(16, 4, total) for total in (61, 60, 46, 45, 31, 30, 16, 3, 1)] == [4, 3, 3, 2, 2, 1, 1, 1, 1]
    assert fitting(16, 0, 30) == 0 and fitting(1, 5, 10) == 5
    assert all(span(16, fitting(16, 4, total)) <= max(total, 16) for total in range(1, 100))
