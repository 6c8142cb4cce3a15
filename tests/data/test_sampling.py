import numpy as np
import pytest

from video_gn.data.protocols import PROTOCOLS, find_protocol
from video_gn.data.sampling import clip_indices, random_start, span
from video_gn.errors import InputError


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


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("gn-10clip", [i * 237 // 9 // 2 * 2 for i in range(10)]),  # even
        ("mmaction2-30view", [i * 237 // 9 for i in range(10)]),
        ("slowfast-30view", [i * 237 // 10 for i in range(10)]),
        ("nonlocal-30view", [i * 300 // 10 for i in range(10)]),
        ("center-1clip", [118]),
    ],
)
def test_protocols_are_their_sources_formulas(name, starts):
    protocol = PROTOCOLS[name]
    assert protocol.clips(32, 2, 300).tolist() == [clip_indices(start, 32, 2, 300).tolist() for start in starts]
    assert protocol.num_views == len(starts) * (3 if "30view" in name else 1)


def test_gn_10clip_covers_the_video_and_never_loops_where_it_need_not():
    for total in (63, 64, 100, 299, 300):
        clips = PROTOCOLS["gn-10clip"].clips(32, 2, total)
        assert clips[0, 0] == 0
        assert total - 2 <= clips[-1, -1] < total
        assert (np.diff(clips) == 2).all()
    assert (PROTOCOLS["gn-10clip"].clips(32, 2, 20)[:, 0] == 0).all()


def test_clips_of_gn_10clip_share_half_of_the_frames():
    assert len(np.unique(PROTOCOLS["gn-10clip"].clips(32, 2, 300))) == 150
    assert len(np.unique(PROTOCOLS["mmaction2-30view"].clips(32, 2, 300))) == 206
    assert PROTOCOLS["gn-10clip"].clips(8, 4, 64)[:, 0].tolist() == [i * 35 // 9 // 2 * 2 for i in range(10)]
    assert (PROTOCOLS["gn-10clip"].clips(32, 1, 300)[:, 0] == [i * 268 // 9 for i in range(10)]).all()
    assert PROTOCOLS["gn-10clip"].clips(4, 0, 9)[:, 0].tolist() == [i * 8 // 9 for i in range(10)]  # one frame repeated


def test_unknown_protocol():
    with pytest.raises(InputError, match=r"'10clip'.*gn-10clip"):
        find_protocol("10clip")
