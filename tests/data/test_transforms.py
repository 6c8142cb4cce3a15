import numpy as np
import pytest
import torch
from PIL import Image

from video_gn.data.transforms import crop, flip, random_box, resize, resize_short_side
from video_gn.models.input import normalize


def frames(rng, t=2, h=48, w=64):
    return rng.integers(0, 256, (t, h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(24, 32), (60, 80), (48, 64), (31, 45)])
def test_resize_is_bilinear_as_pillow_has_it(size, rng):
    video = frames(rng)
    height, width = size
    ours = resize(video, height, width)
    assert ours.dtype == np.uint8 and ours.shape == (2, height, width, 3)
    for frame, expected in zip(ours, video, strict=True):
        reference = np.asarray(Image.fromarray(expected).resize((width, height), Image.Resampling.BILINEAR))
        assert np.abs(frame.astype(int) - reference.astype(int)).max() <= 1


def test_short_side(rng):
    assert resize_short_side(frames(rng, 1, 256, 340), 256).shape == (1, 256, 340, 3)
    assert resize_short_side(frames(rng, 1, 320, 240), 60).shape == (1, 80, 60, 3)
    assert resize_short_side(frames(rng, 1, 48, 64), 40).shape == (1, 40, 53, 3)


def test_random_box_stays_inside_and_takes_every_scale(rng):
    sides = set()
    for _ in range(3000):
        top, left, side, _ = random_box(rng, 256, 340, (256, 320), 224)
        assert 0 <= top <= 256 - side and 0 <= left <= 340 - side
        sides.add(side)
    # 224 of a short side scaled to s is 224 * 256 / s of the source.
    assert sides == {round(224 * 256 / s) for s in range(256, 321)}


def test_random_box_reaches_every_position(rng):
    boxes = {random_box(rng, 10, 12, (10, 10), 8)[:2] for _ in range(500)}
    assert boxes == {(top, left) for top in range(3) for left in range(5)}


def test_random_crop_is_resize_then_crop(rng):
    """Cropping from the source and scaling agrees with scaling and cropping, up to the box's rounding."""
    ramp = np.linspace(0, 255, 340)[None, None, :, None] * np.ones((1, 256, 1, 3))
    video = ramp.astype(np.uint8)
    _, left, side, _ = box = random_box(rng, 256, 340, (320, 320), 224)
    ours = resize(crop(video, box), 224, 224)[0, :, :, 0].astype(float)
    scale = 320 / 256
    theirs = resize(video, 320, 425)[0, :, :, 0].astype(float)
    left = round(left * scale)
    assert abs(side - 224 / scale) < 1
    assert np.abs(ours - theirs[:224, left : left + 224]).max() <= 2


def test_flip(rng):
    video = frames(rng)
    assert np.array_equal(flip(video)[0, 5, 0], video[0, 5, -1])


def test_normalize_is_its_arithmetic():
    clips = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shape = (3, 1, 1, 1)
    expected = (clips.double() / 255 - torch.tensor(mean).double().view(shape)) / torch.tensor(std).double().view(shape)
    out = normalize(clips, mean, std)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
