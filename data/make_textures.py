#!/usr/bin/env python
"""Makes a small set of images in ImageNet's layout: still textures of the embedded set's kind, to pre-train on.

    uv run data/make_textures.py data/textures

writes `train/CLASS/*.png` and `val/CLASS/*.png`. A texture of waves in one direction fills a soft-edged window before a
background; its class is the waves' direction (of 4) and their length (of 3). Nothing of it tells about motion: the
classes of the embedded videos (`video_gn/motion.py`) are other ones. Phase, colours, contrast, window, background and
noise are drawn independently of the class.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from video_gn.errors import InputError
from video_gn.messages import exit_code
from video_gn.motion import Waves, Window, log_uniform

DIRECTIONS = {"vertical": 0.0, "rising": 45.0, "level": 90.0, "falling": 135.0}  # degrees of the wave vector
LENGTHS = {"fine": 8.0, "middle": 16.0, "coarse": 32.0}  # pixels, of a frame of 64
CLASSES = [f"{length}_{direction}" for length, direction in itertools.product(LENGTHS, DIRECTIONS)]
SPLITS = ("train", "val")


def render(label: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One image, uint8 `[size, size, 3]`, of class `CLASSES[label]`."""
    length, direction = CLASSES[label].split("_")
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle = np.deg2rad(DIRECTIONS[direction] + rng.uniform(-15, 15))
    wave = size / 64 * LENGTHS[length] * rng.uniform(0.8, 1.25)
    along = np.cos(angle) * x + np.sin(angle) * y + rng.uniform(0, wave)
    colours = rng.normal(size=3)
    contrast = log_uniform(rng, 0.14, 0.30) * colours / np.sqrt((colours**2).mean() / 2)
    front = rng.uniform(0.35, 0.65, 3) + np.cos(2 * np.pi * along / wave)[..., None] * contrast
    background = Waves(rng, size * rng.uniform(0.8, 1.6), 1, rng.uniform(0.25, 0.75, 3), rng.uniform(0.01, 0.10))
    mask = Window(rng, size)(x, y)[..., None]
    frame = mask * front + (1 - mask) * background(x, y)
    frame = frame + rng.uniform(0, 0.05) * rng.standard_normal(frame.shape)
    return np.clip(frame * 255 + 0.5, 0, 255).astype(np.uint8)


def _make(folder: Path, size: int, seed: int, path: str) -> None:
    split, name, number = path.split("/")
    key = (seed, SPLITS.index(split), CLASSES.index(name), int(number.removesuffix(".png")))
    part = folder / f"{path}.part"
    Image.fromarray(render(CLASSES.index(name), size, np.random.default_rng(key))).save(part, "png")
    part.replace(folder / path)


def make(folder: Path, train: int, val: int, size: int = 64, seed: int = 0) -> int:
    """Writes the images that are not there yet; gives their number.

    Args:
        folder: Where the splits go.
        train: Training images of each of the 12 classes.
        val: Validation images of each class.
        size: Side in pixels.
        seed: Of everything drawn.

    Raises:
        InputError: A number is below 1.
    """
    for name, value in {"train": train, "val": val, "size": size}.items():
        if value < 1:
            raise InputError(f"--{name} is {value}; it has to be at least 1")
    counts = zip(SPLITS, (train, val), strict=True)
    paths = [f"{split}/{name}/{i:05d}.png" for split, count in counts for name in CLASSES for i in range(count)]
    missing = [path for path in paths if not (folder / path).exists()]
    for parent in {(folder / path).parent for path in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    for path in tqdm(missing, f"making {folder}", unit=" images", disable=not missing):
        _make(folder, size, seed, path)
    return len(missing)


def main(args: list[str] | None = None) -> int:
    """Runs the command line; gives its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the splits go")
    parser.add_argument("--train", type=int, default=500, help="training images of each class (500)")
    parser.add_argument("--val", type=int, default=50, help="validation images of each class (50)")
    parser.add_argument("--size", type=int, default=64, help="side in pixels (64)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (0)")
    given = vars(parser.parse_args(args))
    return exit_code(
        lambda: print(f"{make(**given)} images made in {given['folder']}"), "stopped; the same command goes on"
    )


if __name__ == "__main__":
    sys.exit(main())
