"""How many unreadable videos training goes without."""

import pytest

from video_gn.train.callbacks.bad_videos import allowed


@pytest.mark.parametrize(
    ("total", "most"),
    [
        (5, 1), (10, 1), (43, 4.3), (50, 5), (400, 5),  # of a small list a tenth, at least 1 and up to 5
        (500, 5), (1000, 10), (240_000, 2400),
    ],
)  # fmt: skip
def test_one_bad_video_does_not_stop_a_small_list(total, most):
    assert allowed(0.01, total) == pytest.approx(most)
    assert allowed(0.2, total) == pytest.approx(max(0.2 * total, min(5, max(1, total / 10))))
    assert allowed(0, total) == 0
