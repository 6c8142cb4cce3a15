"""The data half of a run: which videos each process loads, in which order, for Kinetics or any other set.

What is drawn for a video (its frames, its crop, its flip) follows from (seed, epoch, row of the list) alone: neither
the number of workers nor of GPUs changes it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from video_gn import motion as motion12
from video_gn import sampling
from video_gn.errors import InputError
from video_gn.lists import VideoList, find_videos, names_of, read_list, read_rows
from video_gn.views import BadVideo, Batch, ProtocolViews, RandomView, VideoViews, collate

log = logging.getLogger(__name__)


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
        inspect: Whether test and prediction also name videos that decode but are damaged (flipped bits, cut short
            without an index); they are evaluated all the same. Each video is decoded once more for it.
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
        inspect: bool = False,
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
        self.given_videos, self.inspect = videos or [], inspect
        self.class_names = self._class_names(class_names)
        self.lists: dict[str, VideoList] = {}
        # By stage and path, of this process.
        self.failures: dict[str, dict[str, BadVideo]] = {}
        self.damaged: dict[str, dict[str, BadVideo]] = {}

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
            VideoViews(videos, views, self.seed, training, self.inspect and split in ("test", "predict")),
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
        stage = self.trainer.state.stage.value.replace("sanity_check", "validate")
        end = {"train": "another video takes its place", "predict": "left out"}.get(stage, "it counts as wrong")
        self._name(batch.failures, self.failures.setdefault(stage, {}), "cannot read %s: %s; " + end)
        self._name(batch.damaged, self.damaged.setdefault(stage, {}), "damaged: %s: %s; used as it is")
        return batch

    def _name(self, found: list[BadVideo], named: dict[str, BadVideo], message: str) -> None:
        """Names each video once a stage."""
        for failure in found:
            if failure.path not in named:
                named[failure.path] = failure
                log.warning(message, failure.path, failure.reason)
