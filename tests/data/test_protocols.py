import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from video_gn.data.protocols import PROTOCOLS, find_protocol
from video_gn.data.sampling import clip_indices
from video_gn.data.transforms import resize_short_side
from video_gn.errors import InputError

# What the code of others gives, not ours written again; its "how" says by what it was made.
PEERS = json.loads(Path(__file__).with_name("peers.json").read_text())
FPS = {"29.97": 30000 / 1001}
LENGTHS = 50  # of a digest


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in PEERS["clips"].items() for case in cases])
def test_a_peers_protocol_takes_its_frames_of_every_length(name, case):
    clip, fps = case.split("@")
    num_frames, interval = map(int, clip.split("x"))
    for first, digest in zip(range(1, 401, LENGTHS), PEERS["clips"][name][case], strict=True):
        ours = hashlib.sha256()
        for total in range(first, first + LENGTHS):
            frames = PROTOCOLS[name].clips(num_frames, interval, total, FPS.get(fps) or float(fps))
            assert frames.dtype == np.int64 and frames.shape == (10, num_frames)
            ours.update(frames.astype("<i8").tobytes())
        assert ours.hexdigest().startswith(digest), f"of {first} to {first + LENGTHS - 1} frames"


def test_a_peers_protocol_is_its_arithmetic_by_hand():
    """70 frames at 25 a second, 8 frames at interval 8."""
    slowfast = PROTOCOLS["slowfast-30view"].clips(8, 8, 70, 25.0)
    # 64 / 30 seconds are 53.3 frames; the fourth starts at 3 x 16.67 / 10 = 5, and ends 52.3 frames later.
    assert slowfast[3].tolist() == [5, 12, 19, 27, 34, 42, 49, 57]
    assert PROTOCOLS["slowfast-30view"].clips(4, 8, 20)[9].tolist() == [0, 10, 19, 19]  # short: the last frame repeats
    assert (PROTOCOLS["slowfast-30view"].clips(8, 8, 70, 0.0) == PROTOCOLS["slowfast-30view"].clips(8, 8, 70)).all()
    # Starts i x 13 / 9, rounded: the fourth is 4.33.
    assert PROTOCOLS["mmaction2-30view"].clips(8, 8, 70, 25.0)[3].tolist() == [4, 12, 20, 28, 36, 44, 52, 60]
    # Starts i x 70 / 10, and looped.
    assert PROTOCOLS["nonlocal-30view"].clips(8, 8, 70, 25.0)[9].tolist() == [63, 1, 9, 17, 25, 33, 41, 49]


@pytest.mark.parametrize("name", PEERS["crops"])
def test_a_peers_protocol_scales_and_crops_as_it_does(name):
    for (height, width), size, offsets in PEERS["crops"][name]:
        scaled = resize_short_side(np.zeros((1, height, width, 3), np.uint8), 256, PROTOCOLS[name].long_side)
        assert list(scaled.shape[1:3]) == size, (height, width)
        crops = PROTOCOLS[name].crops(*size)
        assert [[crop.top, crop.left] for crop in crops] == offsets, (height, width)
        assert all(crop[2:] == (256, 256) for crop in crops)


@pytest.mark.parametrize(
    ("height", "width", "scaled", "crop"),
    [
        (240, 320, (256, 341), (0, 0, 256, 341)),  # 341.33 is cut off
        (1080, 1920, (256, 455), (0, 23, 256, 409)),  # int(1.6 * 256) of 455, from (455 - 409) // 2
        (640, 360, (455, 256), (23, 0, 409, 256)),
        (256, 409, (256, 409), (0, 0, 256, 409)),
        (100, 100, (256, 256), (0, 0, 256, 256)),
    ],
)
def test_nonlocal_10clip_sees_frames_up_to_8_to_5(height, width, scaled, crop):
    """video-nonlocal-net's ScaleTransform and DecodeAndTransform, by hand."""
    protocol = PROTOCOLS["nonlocal-10clip"]
    frames = resize_short_side(np.zeros((1, height, width, 3), np.uint8), 256, protocol.long_side)
    assert frames.shape[1:3] == scaled and protocol.crops(*scaled) == [crop]
    assert (protocol.clips(32, 2, 211) == PROTOCOLS["nonlocal-30view"].clips(32, 2, 211)).all()
    offsets = [crop.left for crop in PROTOCOLS["nonlocal-30view"].crops(256, 341)]
    assert offsets == [0, 42, 84]  # ClipTransformFlex: (341 - 256) / 2, cut off, times the position


def test_our_own_protocols_are_their_formulas():
    for name, starts in (
        ("gn-10clip", [i * 237 // 9 // 2 * 2 for i in range(10)]),  # even
        ("center-1clip", [118]),
    ):
        protocol = PROTOCOLS[name]
        assert protocol.clips(32, 2, 300).tolist() == [clip_indices(start, 32, 2, 300).tolist() for start in starts]
        assert protocol.crops(256, 455) == [(0, 0, 256, 455)]


def test_gn_10clip_covers_the_video_and_never_loops_where_it_need_not():
    for total in (63, 64, 100, 299, 300):
        clips = PROTOCOLS["gn-10clip"].clips(32, 2, total)
        assert clips[0, 0] == 0
        assert total - 2 <= clips[-1, -1] < total
        assert (np.diff(clips) == 2).all()
    assert (PROTOCOLS["gn-10clip"].clips(32, 2, 20)[:, 0] == 0).all()


def test_clips_of_gn_10clip_share_half_of_the_frames():
    assert len(np.unique(PROTOCOLS["gn-10clip"].clips(32, 2, 300))) == 150
    assert len(np.unique(PROTOCOLS["mmaction2-30view"].clips(32, 2, 300))) > 200
    assert PROTOCOLS["gn-10clip"].clips(8, 4, 64)[:, 0].tolist() == [i * 35 // 9 // 2 * 2 for i in range(10)]
    assert (PROTOCOLS["gn-10clip"].clips(32, 1, 300)[:, 0] == [i * 268 // 9 for i in range(10)]).all()
    assert PROTOCOLS["gn-10clip"].clips(4, 0, 9)[:, 0].tolist() == [i * 8 // 9 for i in range(10)]  # one frame repeated


def test_unknown_protocol():
    with pytest.raises(InputError, match=r"'10clip'.*gn-10clip"):
        find_protocol("10clip")
