"""Labelled videos, from a list or class folders, as batches of views: the data half of a run.

The contract with the model half (`video_gn/classifier.py`) is `Batch`. One sample is one video with all its views: V
is 1 in training, and clips x crops at test time, so nothing ever has to be regrouped by video.

What is drawn for a video (its frames, its crop, its flip) follows from (seed, epoch, row of the list) alone: neither
the number of workers nor of GPUs changes it.
"""

import csv
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from video_gn import motion as motion12
from video_gn import sampling, transforms
from video_gn.decode import open_video
from video_gn.errors import DecodeError, InputError

log = logging.getLogger(__name__)
SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp"}
NO_LABEL = -1  # of a video that is only predicted
REPLACEMENTS = 10  # videos tried in the place of an unreadable one


class Failure(NamedTuple):
    """A video that could not be read, its label, and why."""

    path: str
    label: int
    reason: str


class Batch(NamedTuple):
    """What the loaders give and the model takes.

    Attributes:
        clips: uint8 RGB `[B, V, 3, T, H, W]`.
        labels: int64 `[B]`.
        rows: int64 `[B]`, each video's row in its list.
        failures: Unreadable videos met on the way. In training others took their place in `clips`; elsewhere they are
            missing from it (B can be 0) and count as wrong.
    """

    clips: Tensor
    labels: Tensor
    rows: Tensor
    failures: list[Failure]


class Sample(NamedTuple):
    """One video of a batch; `clips` is uint8 `[V, T, H, W, 3]`, None if it could not be read."""

    clips: np.ndarray | None
    label: int
    row: int
    failures: list[Failure]


@dataclass(frozen=True)
class VideoList:
    """Paths and labels of a split, row by row."""

    paths: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)


# Lists


def read_rows(source: Path) -> list[tuple[str, str]]:
    """Path and label of each video, as they stand: of class folders, a CSV file with header, or `path label` lines.

    Raises:
        InputError: There is nothing, or it cannot be understood.
    """
    if source.is_dir():
        rows = [
            (str(path.relative_to(source.parent)), folder.name)
            for folder in sorted(source.iterdir())
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
    elif not source.is_file():
        raise InputError(
            f"there is no list or folder {source}; set data.root, and data.train, data.val, data.test below it"
        )
    elif source.suffix.lower() == ".csv":
        with open(source, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if not {"path", "label"} <= set(table.fieldnames or ()):
                raise InputError(f"{source} needs a header that names the columns path and label")
            rows = [(row["path"], (row["label"] or "").strip()) for row in table]
    else:
        rows = []
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                path, _, label = line.strip().rpartition(" ")
                if not path:
                    raise InputError(f"{source}, line {number}: {line!r} is not of the form: path label")
                rows.append((path.strip(), label))
    if not rows:
        raise InputError(f"{source} names no videos")
    return rows


def names_of(rows: list[tuple[str, str]]) -> list[str]:
    """Class names that the labels of a training list give: the names sorted, or the numbers from 0 to the largest."""
    labels = {label for _, label in rows}
    if all(label.isdecimal() for label in labels):
        return [str(i) for i in range(max(map(int, labels)) + 1)]
    return sorted(labels)


def read_list(source: Path, root: Path, class_names: list[str]) -> VideoList:
    """The videos of a split. Labels are class names, or numbers from 0.

    Args:
        source: A folder of class folders, or a list file.
        root: Where relative paths of a list file begin; a folder's own begin at its parent.
        class_names: In the order of their labels.

    Raises:
        InputError: As `read_rows`; a label is outside the classes; none of the files is there.
    """
    rows = read_rows(source)
    number_of = {name: label for label, name in enumerate(class_names)}
    base = source.parent if source.is_dir() else root
    paths, labels = [], []
    for row, (path, text) in enumerate(rows, 1):
        label = number_of.get(text)
        if label is None and text.isdecimal() and int(text) < len(class_names):
            label = int(text)
        if label is None:
            raise InputError(
                f"{source}, video {row} ({path}): label {text!r} is outside the {len(class_names)} classes "
                f"({', '.join(class_names[:3])}, ...); mend the list, or set data.class_names"
            )
        paths.append(str(base / path))
        labels.append(label)
    few = paths[:: max(1, len(paths) // 100)]
    if not any(Path(path).is_file() for path in few):
        raise InputError(
            f"{source}: none of {len(few)} files looked for is there, {few[0]} for one; is data.root right?"
        )
    return VideoList(paths, labels)


def find_videos(given: list[str]) -> VideoList:
    """Videos to predict: files as they are named, folders with everything below them.

    Raises:
        InputError: Nothing is given, or a folder holds no video.
    """
    paths: list[str] = []
    for item in given:
        if Path(item).is_dir():
            found = sorted(str(path) for path in Path(item).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not found:
                raise InputError(f"the folder {item} holds no videos ({', '.join(sorted(SUFFIXES))})")
            paths += found
        else:
            paths.append(item)
    if not paths:
        raise InputError("there is nothing to predict; name files or folders with --videos")
    return VideoList(paths, [NO_LABEL] * len(paths))


# Views of a video: uint8 [V, T, H, W, 3]


@dataclass(frozen=True)
class RandomView:
    """One random clip, scale, crop and flip: training, and validation during it (Wu & He 2018, Figure 7)."""

    num_frames: int
    frame_interval: int
    short_side: tuple[int, int]
    crop_size: int
    flip: bool

    def __call__(self, path: str, rng: np.random.Generator) -> np.ndarray:
        with open_video(path) as video:
            clip_span = sampling.span(self.num_frames, self.frame_interval)
            start = sampling.random_start(rng, video.num_frames, clip_span)
            frames = video.read(sampling.clip_indices(start, self.num_frames, self.frame_interval, video.num_frames))
        box = transforms.random_box(rng, frames.shape[1], frames.shape[2], self.short_side, self.crop_size)
        clip = transforms.resize(transforms.crop(frames, box), self.crop_size, self.crop_size)
        return np.ascontiguousarray(transforms.flip(clip) if self.flip and rng.random() < 0.5 else clip)[None]


@dataclass(frozen=True)
class ProtocolViews:
    """Every view of a test protocol, from one read of the video; each frame is decoded and scaled once."""

    num_frames: int
    frame_interval: int
    short_side: int
    protocol: sampling.Protocol

    def __call__(self, path: str, rng: np.random.Generator) -> np.ndarray:
        with open_video(path) as video:
            total = video.num_frames
            starts = self.protocol.clip_starts(total, sampling.span(self.num_frames, self.frame_interval))
            clips = [sampling.clip_indices(s, self.num_frames, self.frame_interval, total) for s in starts]
            needed, where = np.unique(np.stack(clips), return_inverse=True)
            frames = video.read(needed)
        frames = transforms.resize_short_side(frames, self.short_side)
        crops = [frames] if self.protocol.num_crops == 1 else transforms.three_crops(frames)
        return np.stack([crop[clip] for clip in where.reshape(len(starts), -1) for crop in crops])


class VideoViews(Dataset[Sample]):
    """Videos as samples, keyed by `(epoch, row)`; a row of None is no video (see `RowSampler`).

    Args:
        videos: The list.
        views: Makes the views of a video from its path and an rng.
        seed: Of the rng, with the epoch and the row.
        replace: Whether an unreadable video is replaced by another one (training), or only reported.
    """

    def __init__(
        self,
        videos: VideoList,
        views: Callable[[str, np.random.Generator], np.ndarray],
        seed: int = 0,
        replace: bool = False,
    ) -> None:
        self.videos, self.views, self.seed, self.replace = videos, views, seed, replace

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int | None]) -> Sample:
        epoch, row = key
        if row is None:
            return Sample(None, NO_LABEL, -1, [])
        rng = np.random.default_rng((self.seed, epoch, row))
        failures: list[Failure] = []
        for _ in range(1 + REPLACEMENTS):
            path, label = self.videos.paths[row], self.videos.labels[row]
            try:
                return Sample(self.views(path, rng), label, row, failures)
            except DecodeError as error:
                failures.append(Failure(path, label, error.reason))
            if not self.replace:
                return Sample(None, label, row, failures)
            row = int(rng.integers(len(self.videos)))
        raise InputError(
            f"{len(failures)} videos one after the other cannot be read, the last for this reason: "
            f"{failures[-1].path}: {failures[-1].reason}"
        )


def collate(samples: list[Sample]) -> Batch:
    """A batch of those that could be read; the clips keep the memory order of frames, channels last."""
    read = [sample for sample in samples if sample.clips is not None]
    clips = torch.stack([torch.from_numpy(sample.clips) for sample in read]) if read else torch.empty(0, 1, 0, 0, 0, 3)
    return Batch(
        clips.permute(0, 1, 5, 2, 3, 4),
        torch.tensor([sample.label for sample in read], dtype=torch.int64),
        torch.tensor([sample.row for sample in read], dtype=torch.int64),
        [failure for sample in samples for failure in sample.failures],
    )


class RowSampler(Sampler[tuple[int, int | None]]):
    """This rank's rows of an epoch, as `(epoch, row)`.

    In training a permutation drawn from (seed, epoch) is dealt to the ranks; the rest that does not divide among
    them is left out, another one each epoch. Otherwise the rows are dealt in order, each exactly once, and a rank
    that has one less gets a None at its end: ranks take equally many steps, and no video counts twice.

    Args:
        total: Rows of the list.
        epoch: Says which epoch it is.
        seed: Of the permutation.
        shuffle: Training, or not.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        total: int,
        epoch: Callable[[], int],
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.total, self.epoch, self.seed, self.shuffle = total, epoch, seed, shuffle
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.total // self.world_size if self.shuffle else -(-self.total // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        epoch = self.epoch()
        if self.shuffle:
            rows = np.random.default_rng((self.seed, epoch)).permutation(self.total).tolist()
        else:
            rows = [*range(self.total), *[None] * (-self.total % self.world_size)]
        for row in rows[self.rank :: self.world_size][: len(self)]:
            yield epoch, row


def epoch_to_load(trainer: pl.Trainer) -> int:
    """The epoch that a training loader opened now is for.

    On resuming, Lightning opens the loader before it counts the epoch that the checkpoint had finished, and
    `trainer.current_epoch` would replay that epoch's order (Lightning issue 21938).
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress
    return epochs.processed + (batches.is_last_batch and epochs.started > epochs.processed)


class KineticsData(pl.LightningDataModule):
    """Loaders of Kinetics, of any other labelled videos, or of the embedded set.

    A split is a folder of class folders, a CSV file with columns path and label, or a text file of `path label`
    lines; paths in it are relative to `root`. Labels are class names, or numbers from 0.

    Args:
        root: Folder of the data set.
        train: Training split, below `root`.
        val: Validation split, below `root`.
        test: Test split, below `root`; None takes `val`.
        class_names: The classes in the order of their labels, or a text file with one a line; None takes those of
            the training split.
        num_frames: Frames of a clip.
        frame_interval: Raw frames from one frame of a clip to the next; 0 repeats a single frame.
        max_span: Longest clip allowed, in raw frames: a longer one would loop nearly every video.
        short_side: Range of the random short side in training, in pixels, both ends counted.
        crop_size: Side of the random crop in training, in pixels.
        test_short_side: Short side at test time, in pixels.
        flip: Whether half of the training clips are flipped left to right.
        test_protocol: Views of a video at test time and in prediction, a name of `video_gn.sampling.PROTOCOLS`.
        batch_size: Clips per GPU.
        num_workers: Loader processes per GPU.
        seed: Of everything drawn.
        motion: Makes the embedded set with these parameters and takes its splits; `root` is where it goes.
        videos: Files and folders to predict.
    """

    trainer: Any

    def __init__(
        self,
        root: str = "data",
        train: str = "train.csv",
        val: str = "val.csv",
        test: str | None = None,
        class_names: list[str] | str | None = None,
        num_frames: int = 32,
        frame_interval: int = 2,
        max_span: int = 300,
        short_side: tuple[int, int] = (256, 320),
        crop_size: int = 224,
        test_short_side: int = 256,
        flip: bool = True,
        test_protocol: str = "gn-10clip",
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        motion: motion12.Motion | None = None,
        videos: list[str] | None = None,
    ) -> None:
        super().__init__()
        least = {"num_frames": 1, "frame_interval": 0, "crop_size": 1, "test_short_side": 1}
        for name, bound in (least | {"batch_size": 1, "num_workers": 0, "seed": 0}).items():
            if locals()[name] < bound:
                raise InputError(f"data.{name} is {locals()[name]}; it has to be at least {bound}")
        clip_span = sampling.span(num_frames, frame_interval)
        if clip_span > max_span:
            raise InputError(
                f"{num_frames} frames at interval {frame_interval} span {clip_span} raw frames, more than "
                f"data.max_span={max_span}; take fewer frames or a smaller interval, or raise data.max_span"
            )
        if not crop_size <= short_side[0] <= short_side[1]:
            raise InputError(
                f"data.short_side is {list(short_side)}; it has to be [low, high] with "
                f"data.crop_size={crop_size} <= low <= high"
            )
        self.protocol = sampling.find_protocol(test_protocol)
        self.root = Path(root)
        self.train, self.val, self.test = train, val, test or val
        self.motion = motion
        self.random_view = RandomView(num_frames, frame_interval, (short_side[0], short_side[1]), crop_size, flip)
        self.protocol_views = ProtocolViews(num_frames, frame_interval, test_short_side, self.protocol)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.given_videos = videos or []
        self.class_names = self._class_names(class_names)
        self.lists: dict[str, VideoList] = {}
        self.failures: dict[str, dict[str, Failure]] = {}  # by stage and path, of this process

        # A checkpoint carries what a later test or prediction needs, in types that load without running code.
        self.save_hyperparameters(ignore="videos", logger=False)
        self.hparams.pop("videos", None)
        self.hparams.update(
            class_names=self.class_names,
            motion=asdict(motion) if motion else None,
            short_side=list(short_side),
        )

    def _class_names(self, given: list[str] | str | None) -> list[str]:
        if isinstance(given, str):
            if not Path(given).is_file():
                raise InputError(f"there is no file {given} of class names (data.class_names)")
            given = [line.strip() for line in Path(given).read_text(encoding="utf-8").splitlines() if line.strip()]
        names = given or (list(motion12.CLASSES) if self.motion else names_of(read_rows(self.root / self.train)))
        repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else None
        if repeated:
            raise InputError(f"data.class_names has {', '.join(sorted(repeated))} more than once; names have to differ")
        return names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def prepare_data(self) -> None:
        if self.motion and self.trainer and self.trainer.state.fn != "predict":
            motion12.prepare(self.root, self.motion)

    def setup(self, stage: str) -> None:
        if self.trainer and self.trainer._accelerator_connector.use_distributed_sampler:
            raise InputError(
                "trainer.use_distributed_sampler has to be false: this project deals videos to ranks itself"
            )
        root = self.root / self.motion.folder if self.motion else self.root
        splits = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}.get(stage, [])
        for split in splits:
            if split not in self.lists:
                self.lists[split] = read_list(root / getattr(self, split), root, self.class_names)
        if stage == "predict":
            self.lists["predict"] = find_videos(self.given_videos)
        if stage == "fit":
            needed = self.batch_size * self.trainer.world_size
            if len(self.lists["train"]) < needed:
                raise InputError(
                    f"{len(self.lists['train'])} training videos do not fill one step of {needed} clips "
                    f"({self.trainer.world_size} processes x data.batch_size={self.batch_size}); take a smaller batch"
                )

    def _loader(self, split: str, views: Callable, batch_size: int, training: bool = False) -> DataLoader:
        # Validation draws the same views every epoch, so that epochs compare.
        epoch = partial(epoch_to_load, self.trainer) if training else int
        videos = self.lists[split]
        return DataLoader(
            VideoViews(videos, views, self.seed, replace=training),
            batch_size=batch_size,
            sampler=RowSampler(
                len(videos), epoch, self.seed, training, self.trainer.global_rank, self.trainer.world_size
            ),
            num_workers=min(self.num_workers, len(videos)),
            collate_fn=collate,
            drop_last=training,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0 and split in ("train", "val"),
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.random_view, self.batch_size, training=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", self.random_view, self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self.protocol_views, 1)  # whole frames differ in size from video to video

    def predict_dataloader(self) -> DataLoader:
        return self._loader("predict", self.protocol_views, 1)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        stage = self.trainer.state.stage.value  # each stage names its unreadable videos once
        named = self.failures.setdefault(stage, {})
        for failure in batch.failures:
            if failure.path not in named:
                named[failure.path] = failure
                end = {"train": "another video takes its place", "predict": "left out"}.get(stage, "it counts as wrong")
                log.warning("cannot read %s: %s; %s", failure.path, failure.reason, end)
        return batch
