"""The embedded data set "motion12": short H.264 files of drifting textures, made on first use.

Kinetics cannot be shipped. Here labels need motion (one frame says nothing), a denser clip carries more by
construction, and the best possible score is known. A texture whose period is exactly lambda pixels, seen through a
blob that stays in place, drifts slowly or fast to one of four sides, or out and back. Seen every 8th frame, a fast
texture moves half its period from frame to frame: left and right are then the same sequence (the wagon wheel), so no
model can tell them apart; every 4th frame tells them. That bounds top-1 at (4 + 2 + 4) / 12 = 83.3 % for 8 frames
at interval 8, and at 100 % for 16 frames at interval 4. Texture, colours, blob and background are drawn
independently of the class. A horizontal flip would change the label.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from video_gn.console import printable, progress
from video_gn.data.folders import Scan, is_of
from video_gn.data.mp4 import encode
from video_gn.errors import InputError
from video_gn.files.locks import locked
from video_gn.files.tables import write_table
from video_gn.files.text import write_text
from video_gn.files.writing import replacing
from video_gn.processes import end_with_parent
from video_gn.rules import check, number, whole

_SIDES = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_PAIRS = (("right", "left"), ("left", "right"), ("up", "down"), ("down", "up"))
CLASSES: tuple[str, ...] = (
    *(f"slow_{side}" for side in _SIDES),
    *(f"fast_{side}" for side in _SIDES),
    *(f"{first}_then_{second}" for first, second in _PAIRS),
)
RULES = {
    "train_per_class": whole(1, 10**6),
    "val_per_class": whole(1, 10**6),
    "size": whole(16, 4096),
    "num_frames": whole(48, 10**5),
    "wavelength": number(2, 4096),
    "fast": number(0, 0.5),
    "seed": whole(0, 2**63 - 1),
    "imbalance": number(1, 10**6),
}
FORMAT = 2  # part of the cache's key: raise it when the same parameters give other files


@dataclass(frozen=True)
class Motion:
    """Parameters of a generated set; each set is in its own folder, named after them.

    Args:
        train_per_class: Training videos of each of the 12 classes.
        val_per_class: Validation videos of each class.
        size: Side of the square frame, in pixels.
        num_frames: Frames of a video, at 30 fps; at least 48.
        wavelength: Mean period lambda of the texture, in pixels.
        fast: Mean speed of the fast classes, in periods a frame.
        seed: Of everything drawn.
        imbalance: How many times the training videos of the last class those of the first are; from class to class they
            become fewer by the same factor (Cui et al. 2019).
    """

    train_per_class: int = 50
    val_per_class: int = 20
    size: int = 64
    num_frames: int = 64
    wavelength: float = 16.0
    fast: float = 1 / 16
    seed: int = 0
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        check(asdict(self), RULES, "motion")
        if self.size % 2:
            raise InputError(f"motion.size is {self.size}; H.264 with yuv420p needs an even number")

    @property
    def folder(self) -> str:
        """Name of the set's folder."""
        settings = asdict(self)
        if self.imbalance == 1:  # as before there was this setting
            del settings["imbalance"]
        key = hashlib.sha256(repr((FORMAT, sorted(settings.items()))).encode()).hexdigest()[:8]
        return f"motion12-{key}"

    def videos(self) -> dict[str, list[tuple[str, int]]]:
        """Path below the set's folder and label of every video, by split."""
        share = (1 / self.imbalance) ** (1 / (len(CLASSES) - 1))
        counts = {
            "train": [max(1, round(self.train_per_class * share**label)) for label in range(len(CLASSES))],
            "val": [self.val_per_class] * len(CLASSES),
        }
        return {
            split: [(f"{split}/{name}/{i:04d}.mp4", k) for k, name in enumerate(CLASSES) for i in range(numbers[k])]
            for split, numbers in counts.items()
        }


def is_made(root: Path, motion: Motion) -> bool:
    """Whether the set is there, whole."""
    return (root / motion.folder / "classes.txt").is_file()


def prepare(root: Path, motion: Motion) -> Path:
    """Makes what is missing of the set below `root`, on every core, and returns its folder.

    The folder holds `train.csv`, `val.csv` and `classes.txt`, written last: an interrupted set is finished the next
    time, from the videos that are there.
    """
    folder = root / motion.folder
    if example := _videos_below(root):
        raise InputError(
            f"data.motion makes the embedded set below data.root, and {root} holds videos of its own, e.g. {example}; "
            "take -c own for them, or another data.root for the embedded set"
        )
    if not is_made(root, motion):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):  # of several runs that begin at once, one makes it
            _make(folder, motion)
    return folder


def _videos_below(root: Path) -> str | None:
    """A video in a folder just below another one, if there is any."""
    scan = Scan()
    for name in scan.entries(str(root))[0] if root.is_dir() else ():
        if found := [file for file in scan.entries(str(root / name))[1] if is_of(file, scan.suffixes)]:
            return f"{name}/{found[0]}"
    return None


def _make(folder: Path, motion: Motion) -> None:
    if (folder / "classes.txt").is_file():
        return
    splits = motion.videos()
    missing = [path for videos in splits.values() for path, _ in videos if not (folder / path).is_file()]
    for parent in {(folder / path).parent for path in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    end = partial(end_with_parent, signal.SIGKILL, os.getpid())
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=end) as pool:
        try:
            made = pool.map(partial(_make_video, folder, motion), missing, chunksize=4)
            list(progress(made, printable(f"making {folder}"), len(missing), unit=" videos", disable=not missing))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for split, videos in splits.items():
        write_table(folder / f"{split}.csv", ("path", "label"), videos)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in CLASSES))


def _make_video(folder: Path, motion: Motion, path: str) -> None:
    split, name, number = path.split("/")
    key = (motion.seed, ("train", "val").index(split), CLASSES.index(name), int(number.removesuffix(".mp4")))
    frames = render(motion, CLASSES.index(name), np.random.default_rng(key))
    with replacing(folder / path) as part:
        encode(frames, part)


def render(motion: Motion, label: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames of one video, uint8 `[size, size, 3]`.

    Args:
        motion: The set's parameters.
        label: An index of `CLASSES`.
        rng: The source of everything drawn.
    """
    size, length = motion.size, motion.num_frames
    y, x = np.mgrid[:size, :size].astype(np.float32)

    wavelength = motion.wavelength * rng.uniform(0.9, 1.1)
    texture = Waves(rng, wavelength, 1, rng.uniform(0.35, 0.65, 3), log_uniform(rng, 0.14, 0.30))
    background = Waves(rng, size * rng.uniform(0.8, 1.6), 1, rng.uniform(0.25, 0.75, 3), rng.uniform(0.01, 0.10))
    window = Window(rng, size)
    background_drift = rng.normal(0, 0.25 * size / 64, 2)
    wobble = rng.uniform(0, 0.8 * size / 64, 2)
    wobble_rate, wobble_phase = rng.uniform(0.05, 0.15, 2), rng.uniform(0, 2 * np.pi, 2)
    noise, flicker = rng.uniform(0, 0.05), rng.uniform(0, 0.03)
    offsets = _offsets(motion, label, rng, wavelength)

    for t in range(length):
        wobble_x, wobble_y = wobble * np.sin(wobble_rate * t + wobble_phase)
        mask = window(x - wobble_x, y - wobble_y)[..., None]
        front = texture(x - offsets[t, 0], y - offsets[t, 1])
        back = background(x - background_drift[0] * t, y - background_drift[1] * t)
        frame = (mask * front + (1 - mask) * back) * (1 + flicker * rng.normal())
        frame += noise * rng.standard_normal(frame.shape, dtype=np.float32)
        yield np.clip(frame * 255 + 0.5, 0, 255).astype(np.uint8)


def _offsets(motion: Motion, label: int, rng: np.random.Generator, wavelength: float) -> np.ndarray:
    """Displacement of the texture in pixels, `[num_frames, 2]` (x, y)."""
    speed, *rest = CLASSES[label].split("_")
    time = np.arange(motion.num_frames, dtype=np.float64)
    if speed in ("slow", "fast"):
        factor = rng.uniform(0.25, 0.40) if speed == "slow" else rng.uniform(0.92, 1.08)
        return np.outer(time * factor * motion.fast * wavelength, _SIDES[rest[0]])
    ramp = 10
    spare = motion.num_frames - 2 * ramp  # frames at rest: before, between and after the two ramps
    between = int(rng.integers(min(26, spare - 8), min(36, spare - 8) + 1))
    before = int(rng.integers(4, spare - between - 4 + 1))
    reach = rng.uniform(0.30, 0.45, 2) * wavelength
    out = np.clip((time - before) / ramp, 0, 1) * reach[0]
    back = np.clip((time - before - ramp - between) / ramp, 0, 1) * reach[1]
    return np.outer(out, _SIDES[speed]) + np.outer(back, _SIDES[rest[1]])


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Drawn so that its logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


class Waves:
    """A random colour texture, periodic in x and in y: the Fourier modes up to `order`."""

    def __init__(self, rng: np.random.Generator, period: float, order: int, mean: np.ndarray, contrast: float) -> None:
        self.modes = [(kx, ky) for kx in range(order + 1) for ky in range(-order, order + 1) if (kx, ky) > (0, 0)]
        self.angular = 2 * np.pi / period
        self.mean = mean.astype(np.float32)
        colours = rng.normal(size=(2, len(self.modes), 3))  # cosine and sine, per mode and channel
        power = (colours**2).sum(axis=(0, 1)).mean() / 2  # variance of the sum, mean over channels
        self.colours = (colours * contrast / np.sqrt(power)).astype(np.float32)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        phases = np.stack([self.angular * (kx * x + ky * y) for kx, ky in self.modes], axis=-1).astype(np.float32)
        return self.mean + np.cos(phases) @ self.colours[0] + np.sin(phases) @ self.colours[1]


class Window:
    """A random soft-edged disc, ellipse or star; called with coordinates, it gives its opacity in [0, 1]."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        shape = ("disc", "ellipse", "star")[rng.integers(3)]
        self.radius = rng.uniform(0.30, 0.45) * size
        self.centre = rng.uniform(0.42, 0.58, 2) * size
        self.angle = rng.uniform(0, 2 * np.pi)
        self.squash = rng.uniform(0.6, 0.9) if shape == "ellipse" else 1.0
        self.points = int(rng.integers(4, 8)) if shape == "star" else 0
        self.depth = rng.uniform(0.15, 0.3) if shape == "star" else 0.0

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dx, dy = x - self.centre[0], y - self.centre[1]
        u = np.cos(self.angle) * dx + np.sin(self.angle) * dy
        v = (np.cos(self.angle) * dy - np.sin(self.angle) * dx) / self.squash
        edge = self.radius * (1 - self.depth + self.depth * np.cos(self.points * np.arctan2(v, u)))
        return np.clip((edge - np.hypot(u, v)) / 2 + 0.5, 0, 1).astype(np.float32)
