"""What is made of frames has square pixels, whatever theirs are; and whole frames are never many in memory."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from samples import write

from video_gn.data import protocols, transforms
from video_gn.data.decoding import reader
from video_gn.data.decoding.open import open_video
from video_gn.data.decoding.reader import as_they_are, assemble, part_size
from video_gn.data.reencode import Encoding, prepare_video
from video_gn.data.views import ProtocolViews, RandomView


def disc(height, width, aspect, radius=0.35):
    """A white disc on black, as it is stored in pixels `aspect` times as wide as high."""
    y, x = np.indices((height, width)) + 0.5
    short = min(height, width * aspect)
    inside = (y - height / 2) ** 2 + ((x - width / 2) * aspect) ** 2 < (radius * short) ** 2
    return np.repeat(np.where(inside, 255, 0).astype(np.uint8)[..., None], 3, 2)


def extent(frame):
    """Height and width of what is white."""
    white = frame[..., 0] > 127
    return int(white.any(1).sum()), int(white.any(0).sum())


@pytest.mark.parametrize("aspect", [4 / 3, 10 / 11, 2.0, 0.5])
def test_a_disc_stays_a_disc(aspect):
    frames = disc(96, 128, aspect)[None]
    whole = transforms.resize_short_side(frames, 60, pixel_aspect=aspect)
    high, wide = 96, 128 * aspect
    assert whole.shape[1:3] == (round(60 * high / min(high, wide)), round(60 * wide / min(high, wide)))
    assert extent(whole[0]) == pytest.approx((42, 42), abs=2)  # 2 x 0.35 x 60
    rng = np.random.default_rng(0)
    for _ in range(20):
        box = transforms.random_box(rng, 96, 128, (60, 60), 56, aspect)
        assert box.top >= 0 and box.left >= 0 and box.top + box.height <= 96 and box.left + box.width <= 128
        clip = transforms.resize(transforms.crop(disc(96, 128, aspect, 0.1)[None], box), 56, 56)
        assert box.width * aspect == pytest.approx(box.height, abs=1 + aspect)
        both = extent(clip[0])
        if all(0 < side < 13 for side in both) and min(clip[0][0].max(), clip[0][:, 0].max()) == 0:
            assert abs(both[0] - both[1]) <= 3 or max(clip[0][-1].max(), clip[0][:, -1].max())  # or it is cut


def test_square_pixels_change_nothing():
    """The formula written out with whole numbers, as it was; draws and frames are the same."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        height, width = (int(side) for side in rng.integers(32, 400, 2))
        box = transforms.random_box(np.random.default_rng(seed), height, width, (256, 320), 224, 1.0)
        rng = np.random.default_rng(seed)
        short = min(height, width)
        side = max(1, min(short, round(224 * short / int(rng.integers(256, 321)))))
        at = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        assert box == (*at, side, side)


@pytest.fixture(scope="module")
def anamorphic(tmp_path_factory):
    """16 frames of a disc in 128 x 128 pixels that are 1.5 times as wide as high."""
    path = tmp_path_factory.mktemp("anamorphic") / "a.mp4"
    write(path, [disc(128, 128, 1.5)] * 16, "libx264", {}, range(16), aspect=Fraction(3, 2))
    return path


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_views_of_a_video_with_other_pixels(backend, anamorphic):
    with open_video(anamorphic, backend) as video:
        frames, *_ = ProtocolViews(8, 1, 64, protocols.find_protocol("center-1clip"))(video, np.random.default_rng(0))
    assert frames.shape == (1, 8, 64, 96, 3) and extent(frames[0, 3]) == pytest.approx((45, 45), abs=2)
    whole = 0
    for seed in range(8):
        with open_video(anamorphic, backend) as video:
            clip, *_ = RandomView(8, 1, (64, 64), 64, False)(video, np.random.default_rng(seed))
        assert clip.shape == (1, 8, 64, 64, 3) and extent(clip[0, 3])[0] == pytest.approx(45, abs=2)
        if clip[0, 3][:, [0, -1]].max() < 128:  # not cut
            whole += 1
            assert extent(clip[0, 3])[1] == pytest.approx(45, abs=2)
    assert whole


def test_copies_have_square_pixels(anamorphic, tmp_path):
    prepare_video(str(anamorphic), str(tmp_path / "b.mp4"), Encoding.of(64))
    with open_video(tmp_path / "b.mp4", "pyav") as video:
        assert video.pixel_aspect == 1
        frame = video.read([5])[0]
    assert frame.shape == (64, 96, 3) and extent(frame) == pytest.approx((45, 45), abs=2)


def test_turned_copies_have_square_pixels(tmp_path):
    write(tmp_path / "a.mp4", [disc(128, 128, 1.5)] * 4, "libx264", {}, range(4), rotation=90, aspect=Fraction(3, 2))
    prepare_video(str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), Encoding.of(64))
    with open_video(tmp_path / "b.mp4", "pyav") as video:
        frame = video.read([2])[0]
    assert frame.shape == (96, 64, 3) and extent(frame) == pytest.approx((45, 45), abs=2)


class Numbered:
    """A video that decodes its frames, as readers do, when they are asked for; each is of its own grey."""

    path, num_frames, fps, pixel_aspect = "numbered", 200, 30.0, 1.0

    def __init__(self, height, width):
        self.size = height, width

    def read(self, indices, finish=as_they_are):
        return assemble(indices, self._parts, finish)

    def _parts(self, wanted):
        size = part_size(len(wanted), 3 * self.size[0] * self.size[1])
        for first in range(0, len(wanted), size):
            yield [np.full((*self.size, 3), number, np.uint8) for number in wanted[first : first + size]]


VIEWS = {
    "one clip": RandomView(64, 2, (128, 160), 112, True),
    "four clips": RandomView(32, 1, (128, 160), 112, True, num_clips=4),
    "ten clips": ProtocolViews(32, 2, 128, protocols.find_protocol("gn-10clip")),
}


@pytest.mark.parametrize("name", VIEWS)
def test_few_whole_frames_are_in_memory_at_a_time(name, monkeypatch):
    """At most two parts of them, and what is made: not the 64 to 130 frames that a view needs."""
    frame = 3 * 540 * 960
    monkeypatch.setattr(reader, "PART_BYTES", 4 * frame)
    tracemalloc.start()
    made, *_ = VIEWS[name](Numbered(540, 960), np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * frame + 3 * made.nbytes


def test_several_clips_are_those_of_whole_frames(monkeypatch):
    """In parts or not, each clip shows its own frames: the reference reads everything, then cuts out."""
    view = VIEWS["four clips"]
    made, *_ = view(Numbered(96, 128), np.random.default_rng(3))
    monkeypatch.setattr(reader, "PART_BYTES", 3 * 3 * 96 * 128)
    assert np.array_equal(view(Numbered(96, 128), np.random.default_rng(3))[0], made)
    rng = np.random.default_rng(3)
    starts = [int(rng.integers(0, 200 - 32 + 1)) for _ in range(4)]
    for clip, start in zip(made, starts, strict=True):
        assert [frame.max() for frame in clip] == [frame.min() for frame in clip] == list(range(start, start + 32))


def test_what_fits_in_a_part():
    assert part_size(64) == part_size(64, 3 * 340 * 256) == 64 and part_size(200) == 8
    for width, height in ((3840, 2160), (7680, 4320)):
        size = part_size(64, 3 * width * height)
        assert 1 <= size < 64 and size * 3 * width * height <= 128 << 20
    assert part_size(64, 1 << 30) == 1
