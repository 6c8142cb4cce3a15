"""The data half of a run, for Kinetics or any other set: its lists, its loaders, and its account of bad videos.

What is drawn for a video (its frames, its crop, its flip) follows from (seed, epoch, row of the list) alone: neither
the number of workers nor of GPUs changes it.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Set
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from video_gn.batch import BadVideo, Batch
from video_gn.data import motion12
from video_gn.data.augment import Mixed
from video_gn.data.copies import copies_of
from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.open import IMAGE
from video_gn.data.folders import SUFFIXES
from video_gn.data.lists import find_videos
from video_gn.data.loader import RowSampler, VideoLoader, workers_of
from video_gn.data.order import class_counts, rows_of
from video_gn.data.quarantine import Quarantine, set_known_aside
from video_gn.data.splits import find_lists, splits_of
from video_gn.data.video_list import VideoList
from video_gn.data.views import Views, spread
from video_gn.errors import InputError
from video_gn.files.names import from_home
from video_gn.rules import DATA, FORMAT, check, plain

log = logging.getLogger(__name__)
NOT_SAID = ("self", "__class__", "videos", "split")  # of the arguments, what is none of a checkpoint's settings


class DataModule(pl.LightningDataModule):
    """What videos and images have in common: lists, loaders, and the account of bad files.

    A split is a folder of class folders, a CSV file with columns path and label, or a text file of `path label`
    lines (data/README.md has all forms); paths in it are relative to `root`. What is `auto` is looked for below
    `root`, and without it a share of the training list (`video_gn.data.own`). Labels are class names, or numbers from
    0. What `data/check_videos.py` found of a list (`train.checked.csv` beside `train.csv`) is made use of: the true
    number of frames, the backend that reads a video right, and which ones cannot be read.

    Attributes:
        seen: By "val" and "test", how its videos are seen: the protocol's name, and its views in words.
        label: A clip in a word: `32x2`.
        class_names: The classes in the order of their labels.
        lists: The videos of each split that is set up.
        origin: Where a resumed run took up its epoch: the epoch, batches done by today's count, and videos done.
        failures: Unreadable videos by stage and path, of this process; `damaged` and `fallbacks` likewise.
    """

    trainer: Any
    suffixes: Set[str] = SUFFIXES
    motion: motion12.Motion | None = None
    clips_per_video = 1
    clips_per_epoch = 0
    find_copies = False
    training_view: Views
    validation_view: Views
    test_views: Views
    seen: dict[str, dict[str, str]]
    label: str

    def _set_up(self, given: dict[str, Any], kind: str) -> None:
        """Takes the arguments of a subclass, checked."""
        check(given, DATA, "data")
        paths = ("root", "train", "val", "test", "class_names", "split")
        given |= {name: from_home(given[name]) for name in paths if isinstance(given.get(name), str)}
        given |= find_lists(given, self.suffixes)
        self.root, self.loading = Path(given["root"]), given["loading"]
        self.train, self.val, self.test = given["train"], given["val"], given["test"] or given["val"]
        self.batch_size, self.seed = given["batch_size"], given["seed"]
        self.sampling, self.mix = given["sampling"], Mixed(given["augment"]) if given["augment"].mixes else None
        self.given_videos = given["videos"] or []
        self.quarantine = Quarantine(self._folder / from_home(self.loading.quarantine))
        self.splits = splits_of(given, self._folder, self.suffixes)
        names = list(motion12.CLASSES) if self.motion and not given["class_names"] else given["class_names"]
        self.splits.name_classes(names)
        self.class_names = self.splits.class_names
        self.lists: dict[str, VideoList] = {}
        self._loaders: list[VideoLoader] = []
        self._passes = itertools.count()
        self.origin = (0, 0, 0)
        self.failures: dict[str, dict[str, BadVideo]] = {}
        self.damaged: dict[str, dict[str, BadVideo]] = {}
        self.fallbacks: dict[str, dict[str, BadVideo]] = {}
        # A checkpoint carries what a later test or prediction needs, in types that load without running code.
        said = {name: plain(value) for name, value in given.items() if name not in NOT_SAID}
        self._set_hparams({"format": FORMAT, "kind": kind} | said | {"class_names": self.class_names})
        self._hparams_name = "kwargs"

    @property
    def _folder(self) -> Path:
        """Where the lists are."""
        return self.root / self.motion.folder if self.motion else self.root

    # What the kinds differ in

    inspect = False
    backend = IMAGE
    test_batch = 1  # videos of a batch of whole frames, whose sizes differ from video to video

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.trainer.world_size if self.trainer else 1

    @property
    def num_workers(self) -> int:
        """Loader processes of this process."""
        workers = self.loading.num_workers
        return workers_of(self.trainer.num_devices if self.trainer else 1) if workers is None else workers

    # Lightning's hooks, which work without a trainer too

    def prepare_data(self) -> None:
        command = self.trainer.state.fn if self.trainer else "fit"
        if not self.motion or command == "predict":
            return
        if command == "fit":
            motion12.prepare(self.root, self.motion)
        elif not motion12.is_made(self.root, self.motion):  # a test may take its settings from a file: it makes nothing
            raise InputError(
                f"the embedded set {self.root / self.motion.folder} is not there; training makes it (train.py fit), "
                "and tests only read it; is data.root right?"
            )

    def setup(self, stage: str) -> None:
        splits = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}.get(stage, [])
        if any(self.splits.shares(split, getattr(self, split)) for split in splits):
            self.splits.divide(partial(copies_of, trainer=self.trainer) if self.find_copies else lambda videos: ())
        for split in splits:
            if split != "val" or stage == "validate" or self.val is not None:
                self._read(split)
            self.splits.compare(self.lists, split)
        if stage == "predict":
            self.lists["predict"] = find_videos(self.given_videos, self.suffixes)
            set_known_aside("predict", self.lists["predict"], self.quarantine)
        if stage == "fit":
            if self.val is None and self.trainer:
                self.trainer.limit_val_batches = 0  # Lightning warns of a list of no loaders
            needed = self.batch_size * self.world_size
            if self.videos_per_epoch * self.clips_per_video < needed:
                raise InputError(
                    f"{len(self.lists['train'])} training videos do not fill one step of {needed} clips "
                    f"({self.world_size} processes x data.batch_size={self.batch_size}, data.clips_per_video="
                    f"{self.clips_per_video}); take a smaller batch"
                )

    def _read(self, split: str) -> None:
        if split not in self.lists:
            source = getattr(self, split)
            if source is None:
                null = "data.val is null" if split == "val" else "data.test and data.val are null"
                raise InputError(f"there are no {split} videos: {null}; name a list with --data.{split}")
            self.lists[split] = self.splits.read(source, split)
        set_known_aside(split, self.lists[split], self.quarantine)

    def _loader(
        self,
        split: str,
        views: Views,
        batch_size: int,
        training: bool = False,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        alone: bool = False,
    ) -> VideoLoader:
        if split not in self.lists:
            raise InputError(f"the {split} videos are not listed yet; call setup first")
        videos = self.lists[split]
        rank, processes = (0, 1) if alone or not self.trainer else (self.trainer.global_rank, self.world_size)
        inspect, timeout = self.inspect and split in ("test", "predict"), self.loading.decode_timeout
        rows = rows_of(videos.labels, self.sampling, self.passes) if training else None
        mix = self.mix if training else None
        loader = VideoLoader(
            VideoDataset(videos, views, self.seed, training, inspect, self.backend, timeout, rows, mix),
            RowSampler(len(videos), self.seed, training, rank, processes, split == "val", rows),
            batch_size,
            min(self.num_workers, len(videos)),
            drop_last=training,
            keep_workers=split in ("train", "val"),
            position=position,
            set_aside=partial(self._set_aside, videos),
        )
        self._loaders.append(loader)
        return loader

    def class_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Training videos of each class, int64 `[K]`, and its probability to be drawn, float64 `[K]`."""
        return class_counts(self.lists["train"].labels, self.num_classes, self.sampling)

    def close(self) -> None:
        """Ends the workers of all its loaders."""
        for loader in self._loaders:
            loader.close()
        self._loaders = []

    def teardown(self, stage: str) -> None:
        self.close()

    def _set_aside(self, videos: VideoList, row: int, reason: str) -> None:
        """Writes a video on which a decoder hung or crashed into the quarantine list."""
        path, label = videos.path(row), videos.label(row)
        self.quarantine.add(path, reason)
        self._name(
            [BadVideo(path, label, reason)], self._of_stage(self.failures), f"{self.quarantine.path} takes in %s: %s"
        )

    def train_dataloader(self) -> VideoLoader:
        return self._training_loader(self._position)

    def _training_loader(self, position: Callable[[], tuple[int, int]], alone: bool = False) -> VideoLoader:
        return self._loader("train", self.training_view, self.batch_size // self.clips_per_video, True, position, alone)

    def training_clips(self, steps: int, alone: bool = False) -> Iterator[Tensor]:
        """Clips of training batches, uint8 `[N, 3, T, H, W]`: always the same, of this process or of a single one."""
        self._read("train")
        epoch = itertools.count()
        loader = self._training_loader(lambda: (next(epoch), 0), alone)
        if not len(loader):
            raise InputError(
                f"{len(self.lists['train'])} training videos do not fill one batch of data.batch_size="
                f"{self.batch_size} clips on each process, over which to recompute BN's statistics"
            )
        epochs = itertools.chain.from_iterable(itertools.repeat(loader))
        for batch in itertools.islice(epochs, steps):
            yield batch.clips.flatten(0, 1)

    def val_dataloader(self) -> VideoLoader | list[VideoLoader]:  # none of a run without validation
        if self.val is None:
            return []
        # Always the first epoch's views, so that epochs compare.
        return self._loader("val", self.validation_view, self.batch_size)

    def test_dataloader(self) -> VideoLoader:
        return self._loader("test", self.test_views, self.test_batch)

    def predict_dataloader(self) -> VideoLoader:
        return self._loader("predict", self.test_views, self.test_batch)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, Batch):  # another loader's, or what a model is exported with
            return batch
        ends = {"train": "another video takes its place", "predict": "left out"}
        end = ends.get(self.trainer.state.stage.value, "it counts as wrong")
        self._name(batch.failures, self._of_stage(self.failures), "cannot read %s: %s; " + end)
        self._name(batch.damaged, self._of_stage(self.damaged), "damaged: %s: %s; used as it is")
        self._name(batch.fallbacks, self._of_stage(self.fallbacks))
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return spread(batch) if isinstance(batch, Batch) else batch

    def _of_stage(self, videos: dict[str, dict[str, BadVideo]]) -> dict[str, BadVideo]:
        stage = self.trainer.state.stage.value.replace("sanity_check", "validate") if self.trainer else ""
        return videos.setdefault(stage, {})

    def _name(self, found: list[BadVideo], named: dict[str, BadVideo], message: str = "") -> None:
        """Names each video once a stage."""
        for video in found:
            if video.path not in named:
                named[video.path] = video
                if message:
                    log.warning(message, video.path, video.reason)

    @property
    def passes(self) -> int:
        """How often an epoch goes through the training list."""
        return max(1, -(-self.clips_per_epoch // max(1, len(self.lists.get("train", ())) * self.clips_per_video)))

    @property
    def videos_per_epoch(self) -> int:
        """Videos of an epoch, of all processes; one that comes again counts again."""
        return len(self.lists.get("train", ())) * self.passes

    def _position(self) -> tuple[int, int]:
        """Epoch, and how many videos of it all processes have trained on, before a resumption too."""
        if not self.trainer:  # a loop of the user's: each pass is the next epoch
            return next(self._passes), 0
        epoch, done = self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        # The same batches again and again, or new ones.
        return (0 if self.trainer.overfit_batches else epoch), self.videos_done(epoch, done)

    def videos_done(self, epoch: int, batches: int) -> int:
        """Videos of an epoch that all processes have trained on in so many of its batches."""
        size = self.world_size * self.batch_size // self.clips_per_video
        at, batch, videos = self.origin
        return videos + (batches - batch) * size if epoch == at else batches * size
