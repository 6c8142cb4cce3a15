"""Images as cameras, scanners and browsers leave them: deep greys, turned, animated, of several pages."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from video_gn.data.decoding.image_reader import ImageFile
from video_gn.errors import DecodeError


def read(path):
    return ImageFile(str(path)).read([0])[0]


def tiff(values, photometric=1, bits=16, order="<"):
    """A grey TIFF file of unsigned values, byte by byte."""
    data = values.astype(f"{order}u2").tobytes()
    height, width = values.shape
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
            (277, 3, 1), (278, 4, height), (279, 4, len(data))]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value))
        for tag, kind, value in tags
    )
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def grey(rows):
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, 2)


DEEP = np.array([[0, 128, 129, 257, 32767], [32768, 65535, 65406, 65407, 25700]], np.uint16)
EIGHT = grey([[0, 0, 1, 1, 127], [128, 255, 254, 255, 100]])  # the nearest to a 257th


@pytest.mark.parametrize("end", ["png", "tif", "ppm"])
def test_grey_of_16_bits(end, tmp_path):
    path = tmp_path / f"a.{end}"
    Image.fromarray(DEEP).save(path)
    assert np.array_equal(read(path), EIGHT)


def test_grey_of_16_bits_in_either_order_of_bytes_and_with_white_as_0(tmp_path):
    for photometric, order in ((1, "<"), (1, ">"), (0, "<")):
        (tmp_path / "a.tif").write_bytes(tiff(DEEP, photometric, 16, order))
        assert np.array_equal(read(tmp_path / "a.tif"), EIGHT if photometric else 255 - EIGHT)


def test_other_depths_of_grey(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1000\n" + struct.pack(">HHH", 0, 500, 1000))
    assert np.array_equal(read(tmp_path / "a.pgm"), grey([[0, 128, 255]]))
    Image.fromarray(np.array([[0, 1]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DecodeError, match="whole numbers of 32 bits or with a sign"):
        read(tmp_path / "a.tif")
    for bits in (1, 8):
        Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1" if bits == 1 else "L").save(tmp_path / "a.png")
        assert np.array_equal(read(tmp_path / "a.png"), grey([[0, 255]]))


def test_floating_point_values(tmp_path):
    values = np.array([[0, 0.5, 1], [0.1, 0.999, 0.25]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.array_equal(read(tmp_path / "a.tif"), grey([[0, 128, 255], [26, 255, 64]]))
    for wrong, words in (
        (values * 255, "from 0 to 255;"),
        (values - 1, "from -1 to 0;"),
        (values * np.nan, "from nan"),
    ):
        Image.fromarray(wrong).save(tmp_path / "a.tif")
        with pytest.raises(DecodeError, match=f"floating-point values {words}"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("end", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_their_exif_data_say(end, tmp_path, rng):
    path = tmp_path / f"a.{end}"
    for turn in range(10):  # 0 and 9 are none
        exif = Image.Exif()
        exif[0x0112] = turn
        pixels = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        pixels.save(
            path, exif=exif if end == "tif" else exif.tobytes(), **({"lossless": True} if end == "webp" else {})
        )
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert expected.shape == ((30, 20, 3) if 5 <= turn <= 8 else (20, 30, 3))
        assert np.array_equal(read(path), expected), turn


def test_damaged_exif_data_do_not_make_an_image_damaged(tmp_path):
    pixels = np.full((20, 30, 3), 77, np.uint8)
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"):
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(read(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
@pytest.mark.parametrize("end", ["webp", "gif", "png", "tif"])
def test_of_an_animation_or_of_pages_it_is_the_first(end, mode, tmp_path):
    pages = [Image.new("RGB", (30, 20), colour).convert(mode) for colour in ((200, 200, 200), (9, 9, 9), (90, 90, 90))]
    pages[0].save(tmp_path / f"a.{end}", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / f"a.{end}") as image:
        assert image.n_frames == 3
    assert abs(read(tmp_path / f"a.{end}").mean() - 200) < 6  # a palette's colours are mixed
    whole = (tmp_path / f"a.{end}").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 4])
    with pytest.raises(DecodeError, match="not an image, or damaged"):
        read(tmp_path / "cut")
