"""Makes small sets to try pre-training on: still textures in ImageNet's layout, and videos in which textures change.

    uv run data/make_textures.py data/textures

writes `images/train/CLASS/*.png` and `videos/train/CLASS/*.mp4`, and the same below `val`. A texture of waves fills a
soft-edged window before a background. Of an image, the class is the waves' direction (of 4) and length (of 3). In a
video the direction changes once, and the class is from which to which (12 ordered pairs): no single frame tells it, but
what an image classifier has learnt of directions is half of the way. Lengths, phases, colours, contrast, window,
background, noise and the moment of the change are drawn independently of the class.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from video_gn.console import exit_code, printable, progress
from video_gn.data.motion12 import Waves, Window, log_uniform
from video_gn.data.mp4 import encode
from video_gn.errors import InputError
from video_gn.files.writing import replacing

DIRECTIONS = {"vertical": 0.0, "rising": 45.0, "level": 90.0, "falling": 135.0}  # degrees of the wave vector
LENGTHS = {"fine": 8.0, "middle": 16.0, "coarse": 32.0}  # pixels, of a frame of 64
IMAGE_CLASSES = [f"{length}_{direction}" for length, direction in itertools.product(LENGTHS, DIRECTIONS)]
VIDEO_CLASSES = [f"{first}_to_{second}" for first, second in itertools.permutations(DIRECTIONS, 2)]
SPLITS = ("train", "val")
NUM_FRAMES, FADE = 64, 6


class Scene:
    """What all frames of a video have in common: window, background, colours, noise.

    Args:
        rng: The source of everything drawn.
        size: Side of the frame, in pixels.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.y, self.x = np.mgrid[:size, :size].astype(np.float32)
        colours = rng.normal(size=3)
        self.contrast = log_uniform(rng, 0.14, 0.30) * colours / np.sqrt((colours**2).mean() / 2)
        self.mean = rng.uniform(0.35, 0.65, 3)
        background = Waves(rng, size * rng.uniform(0.8, 1.6), 1, rng.uniform(0.25, 0.75, 3), rng.uniform(0.01, 0.10))
        self.background = background(self.x, self.y)
        self.mask = Window(rng, size)(self.x, self.y)[..., None]
        self.noise = rng.uniform(0, 0.05)

    def waves(self, direction: str, length: str) -> np.ndarray:
        """A texture, -1 to 1, `[size, size, 1]`."""
        angle = np.deg2rad(DIRECTIONS[direction] + self.rng.uniform(-15, 15))
        wave = self.size / 64 * LENGTHS[length] * self.rng.uniform(0.8, 1.25)
        along = np.cos(angle) * self.x + np.sin(angle) * self.y + self.rng.uniform(0, wave)
        return np.cos(2 * np.pi * along / wave)[..., None]

    def frame(self, texture: np.ndarray) -> np.ndarray:
        """A frame with that texture, uint8 `[size, size, 3]`."""
        frame = self.mask * (self.mean + texture * self.contrast) + (1 - self.mask) * self.background
        frame = frame + self.noise * self.rng.standard_normal(frame.shape)
        return np.clip(frame * 255 + 0.5, 0, 255).astype(np.uint8)


def image(label: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One image of `IMAGE_CLASSES[label]`."""
    length, direction = IMAGE_CLASSES[label].split("_")
    scene = Scene(rng, size)
    return scene.frame(scene.waves(direction, length))


def video(label: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames of one video of `VIDEO_CLASSES[label]`."""
    first, second = VIDEO_CLASSES[label].split("_to_")
    scene = Scene(rng, size)
    length = str(rng.choice(list(LENGTHS)))
    before, after = scene.waves(first, length), scene.waves(second, length)
    change = rng.integers(NUM_FRAMES // 3, 2 * NUM_FRAMES // 3)
    for t in range(NUM_FRAMES):
        part = np.clip((t - change) / FADE + 0.5, 0, 1)
        yield scene.frame((1 - part) * before + part * after)


def _make(folder: Path, size: int, seed: int, path: str) -> None:
    kind, split, name, number = path.split("/")
    classes = IMAGE_CLASSES if kind == "images" else VIDEO_CLASSES
    rng = np.random.default_rng(
        (seed, kind == "videos", SPLITS.index(split), classes.index(name), int(number.partition(".")[0]))
    )
    with replacing(folder / path) as part:
        if kind == "images":
            Image.fromarray(image(classes.index(name), size, rng)).save(part, "png")
        else:
            encode(video(classes.index(name), size, rng), part)


def make(folder: Path, images: int, videos: int, val: int, size: int = 64, seed: int = 0) -> int:
    """Writes the images and videos that are not there yet; gives their number.

    Args:
        folder: Where they go.
        images: Training images of each of the 12 classes.
        videos: Training videos of each of the 12 classes.
        val: Validation images of each class, and validation videos.
        size: Side in pixels, an even number.
        seed: Of everything drawn.

    Raises:
        InputError: A number is too small or odd.
    """
    for name, value, least in (("images", images, 0), ("videos", videos, 0), ("val", val, 1), ("size", size, 16)):
        if value < least:
            raise InputError(f"--{name} is {value}; it has to be at least {least}")
    if size % 2:
        raise InputError(f"--size is {size}; H.264 with yuv420p needs an even number")
    paths = [
        f"{kind}/{split}/{name}/{i:05d}{suffix}"
        for kind, classes, train, suffix in (
            ("images", IMAGE_CLASSES, images, ".png"),
            ("videos", VIDEO_CLASSES, videos, ".mp4"),
        )
        for split, count in zip(SPLITS, (train, val if train else 0), strict=True)
        for name in classes
        for i in range(count)
    ]
    missing = [path for path in paths if not (folder / path).exists()]
    for path in progress(missing, printable(f"making {folder}"), unit=" files", disable=not missing):
        _make(folder, size, seed, path)
    return len(missing)


def main(args: list[str] | None = None, prog: str | None = None) -> int:
    """Runs the command line; gives its exit code."""
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where they go")
    parser.add_argument("--images", type=int, default=500, help="training images of each class (500)")
    parser.add_argument("--videos", type=int, default=20, help="training videos of each class (20)")
    parser.add_argument("--val", type=int, default=20, help="validation images of each class, and videos (20)")
    parser.add_argument("--size", type=int, default=64, help="side in pixels (64)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (0)")
    given = vars(parser.parse_args(args))
    return exit_code(
        lambda: print(printable(f"{make(**given)} files made in {given['folder']}")),
        "stopped; the same command continues from here",
    )
