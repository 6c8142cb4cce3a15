"""Images in the place of videos, and what pre-training on them leads to."""

import csv
import json
import os
import statistics
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO
from mutants import mutants
from PIL import Image
from torchvision.transforms import v2

from video_gn.data.decoding.image_reader import FORMATS, ImageFile
from video_gn.data.image_data import ImageData
from video_gn.data.tools import make_textures
from video_gn.data.views import CentreImage, RandomImage
from video_gn.errors import DecodeError, InputError
from video_gn.train import cli

DEMO = str(REPO / "configs" / "imagenet" / "demo.yaml")


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
    """A small set of data/make_textures.py."""
    folder = tmp_path_factory.mktemp("textures")
    assert make_textures.main([str(folder), "--images", "4", "--videos", "2", "--val", "2"]) == 0
    return folder


@pytest.fixture
def photo(tmp_path, rng):
    """An image whose every pixel differs, 90 x 70."""
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(path)
    return path


def test_views_are_torchvisions(photo):
    """The oracle is torchvision's own chain, from the same state of its generator."""
    original = Image.open(photo).convert("RGB")
    view, *_ = RandomImage(32, flip=True)(ImageFile(str(photo)), np.random.default_rng(5))
    torch.manual_seed(int(np.random.default_rng(5).integers(2**63)))
    expected = v2.Compose([v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])(original)
    assert view.shape == (1, 1, 32, 32, 3) and np.array_equal(view[0, 0], expected)
    view, *_ = CentreImage(40, 32)(ImageFile(str(photo)), np.random.default_rng(5))
    assert np.array_equal(view[0, 0], v2.Compose([v2.Resize(40), v2.CenterCrop(32)])(original))


def test_flip_can_be_left_out(photo):
    image = ImageFile(str(photo))
    for seed in range(6):
        state = torch.random.get_rng_state()
        view = RandomImage(32, flip=False)(image, np.random.default_rng(seed))[0][0, 0]
        assert torch.equal(state, torch.random.get_rng_state())  # nobody else's draws are moved
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
        assert np.array_equal(view, v2.RandomResizedCrop(32)(image.image))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_every_kind_becomes_rgb(mode, photo, tmp_path):
    path = tmp_path / ("a.jpg" if mode in ("L", "CMYK") else "a.png")
    Image.open(photo).convert(mode).save(path)
    frame = ImageFile(str(path)).read([0])
    assert frame.shape == (1, 70, 90, 3) and frame.dtype == np.uint8
    assert np.array_equal(frame[0], np.asarray(Image.open(path).convert("RGB")))


def test_bad_images_have_a_reason(photo, tmp_path):
    whole = photo.read_bytes()
    for name, content in {"cut.png": whole[: len(whole) // 2], "text.jpg": b"text", "empty.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DecodeError, match="not an image, or damaged"):
            ImageFile(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "IM", "MSP"])
def test_other_formats_are_refused_whatever_their_name(kind, tmp_path, monkeypatch):
    """Above all EPS, which Pillow would hand to Ghostscript, a program of its own."""
    for program in ("run", "Popen", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, program, lambda *args, **kwargs: pytest.fail("a program is started"))
    Image.new("1" if kind == "MSP" else "RGB", (32, 32)).save(tmp_path / "a.jpg", kind)
    with pytest.raises(DecodeError, match="not an image, or damaged: none of JPEG, PNG"):
        ImageFile(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_that_are_meant_are_read_whatever_their_name(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "http:a.eps"
    with open(path, "wb") as file:
        Image.new("RGB", (32, 24), (200, 10, 10)).save(file, kind)
    frame = ImageFile(path).read([0])[0]
    assert frame.shape == (24, 32, 3) and np.abs(frame.astype(int) - (200, 10, 10)).max() < 5


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP", "PPM"])
def test_a_bomb_is_refused_before_it_is_decoded(kind, tmp_path, monkeypatch):
    """A header that claims 10000 x 9000 pixels, over nothing."""
    path = tmp_path / "a.png"
    Image.new("L", (111, 113)).save(path, kind)
    data = path.read_bytes()
    old, new = (111, 113), (10000, 9000)
    if kind == "PNG":
        data = data.replace(*(struct.pack(">II", *size) for size in (old, new)))
        data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    elif kind == "GIF":
        data = data.replace(*(struct.pack("<HH", *size) for size in (old, new)))
    elif kind == "TIFF":
        for tag, a, b in zip((256, 257), old, new, strict=True):  # width, height; their type is short or long
            for form in ("<HHLHH", "<HHLL"):
                rest = (0,) if form.endswith("HH") else ()
                kind_of = 3 if rest else 4
                data = data.replace(
                    struct.pack(form, tag, kind_of, 1, a, *rest), struct.pack(form, tag, kind_of, 1, b, *rest)
                )
    elif kind == "BMP":
        data = data.replace(*(struct.pack("<II", *size) for size in (old, new)))
    else:
        data = data.replace(b"111 113", b"10000 9000")
    path.write_bytes(data)
    monkeypatch.setattr(Image.Image, "convert", lambda *args: pytest.fail("it is decoded"))
    with pytest.raises(DecodeError, match="an image of 10000x9000 pixels: at most 89 megapixels are read"):
        ImageFile(str(path))


def test_damaged_images_are_named(tmp_path, rng):
    """As videos: whatever Pillow raises, it is one line and of one kind."""
    sources = []
    for kind in FORMATS:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "good", kind)
        sources.append((tmp_path / "good").read_bytes())
    refused = 0
    for _, _, content in mutants(sources, 400):
        (tmp_path / "bad.jpg").write_bytes(content)
        try:
            assert ImageFile(str(tmp_path / "bad.jpg")).read([0]).dtype == np.uint8
        except DecodeError as error:
            assert error.reason and "\n" not in error.reason
            refused += 1
    assert 100 < refused < 400


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg", tmp_path / "none.jpg", "a\0.jpg"):
        with pytest.raises(DecodeError, match="no such file"):
            ImageFile(str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"short_side": 100}, "crop_size=224 has to fit"),
        ({"crop_size": 0}, "data.crop_size is 0"),
        ({"flip": 2}, "data.flip is 2; it has to be true or false"),
        ({"train": "auto"}, "of images are folders or lists, and not auto; name them"),
    ],
)
def test_settings_that_do_not_go_with_images(options, words):
    with pytest.raises(InputError, match=words):
        ImageData(class_names=["a", "b"], **options)


@pytest.mark.slow
def test_pretrain_then_inflate(textures, tmp_path, capsys):
    """Five epochs on images, with a damaged one among them; the checkpoint starts a network for video."""
    images = textures / "images"
    bad = images / "val" / "fine_level" / "zz.png"
    bad.write_bytes(b"no image")
    try:
        small = [
            "--data.loading.num_workers",
            "0",
            "--trainer.max_epochs",
            "5",
            "--trainer.enable_progress_bar",
            "false",
        ]
        run_dir = tmp_path / "pre"
        args = ["fit", "-c", DEMO, "--data.root", str(images), "--data.batch_size", "8", "--run_dir", str(run_dir)]
        assert cli.main([*args, *small]) == 0
    finally:
        bad.unlink()
    results = json.loads((run_dir / "results.json").read_text())
    (test,) = results["tests"]
    assert (test["protocol"], test["videos"], test["unreadable"]) == ("centre-crop", 25, 1)
    assert "zz.png" in next(iter(test["unreadable_videos"]))
    assert test["top1"] == pytest.approx(results["fit"]["val"]["top1"])  # both see the middle
    with open(run_dir / "history.csv", newline="") as file:
        history = [float(row["val/top1"]) for row in csv.DictReader(file)]
    assert results["fit"]["val_median"]["top1"] == statistics.median(history[-5:])
    assert results["fit"]["val_median"]["epochs"] == [0, 1, 2, 3, 4]

    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    video = tmp_path / "video"
    root = textures / "videos"
    settings = {
        "data.motion": "null", "data.root": root, "data.train": "train", "data.val": "val",
        "model.start.init": checkpoint,
        "trainer.max_epochs": 1, "data.loading.num_workers": 0, "trainer.limit_train_batches": 1, "run_dir": video,
        "trainer.enable_progress_bar": "false", "test_after_fit": "false", "model.optimizer.base_lr": 1e-9,
    }  # fmt: skip
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert cli.main(["fit", "-c", str(REPO / "configs" / "demo.yaml"), *words]) == 0
    said = capsys.readouterr().err
    assert "of which 4 inflated; the classifier starts at random (as many classes there, of other names" in said
    flat = torch.load(checkpoint, weights_only=True)["state_dict"]
    inflated = torch.load(video / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(inflated["net.blocks.0.conv.weight"], flat["net.blocks.0.conv.weight"].expand(
        -1, -1, 3, -1, -1) / 3, rtol=1e-4, atol=1e-6)  # fmt: skip


def test_textures_are_the_same_again(textures, tmp_path):
    assert make_textures.make(tmp_path, 1, 1, 1) == 12 * 4
    assert make_textures.make(tmp_path, 1, 1, 1) == 0
    for path in ("images/train/fine_level/00000.png", "videos/val/level_to_rising/00000.mp4"):
        assert (tmp_path / path).read_bytes() == (textures / path).read_bytes()
    assert not list(Path(tmp_path).rglob("*.part"))
    assert make_textures.main([str(tmp_path), "--size", "33"]) == 2


def test_no_frame_of_a_texture_video_tells_its_class():
    """Before and after the change a frame shows one direction; both of the pairs with it look the same there."""
    pair = [make_textures.VIDEO_CLASSES.index(name) for name in ("level_to_rising", "level_to_falling")]
    first, second = (list(make_textures.video(label, 64, np.random.default_rng(3)))[:10] for label in pair)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_line_of_pixels_is_no_image(tmp_path):
    """Scaled to a short side of 256 it would take gigabytes."""
    Image.new("L", (1, 300_000)).save(tmp_path / "line.png")
    with pytest.raises(DecodeError, match="sides of at most 1:32 are read"):
        ImageFile(str(tmp_path / "line.png"))
