"""The data half of a run, for Kinetics or any other set: its lists, its loaders, and its account of bad videos.

What is drawn for a video (its frames, its crop, its flip) follows from (seed, epoch, row of the list) alone: neither
the number of workers nor of GPUs changes it.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from video_gn.batch import BadVideo, Batch
from video_gn.console import is_text
from video_gn.data import motion12, sampling
from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.open import BACKENDS, IMAGE
from video_gn.data.lists import IMAGE_SUFFIXES, SUFFIXES, find_videos, names_of, read_list, read_rows
from video_gn.data.loader import RowSampler, VideoLoader
from video_gn.data.quarantine import Quarantine
from video_gn.data.video_list import VideoList
from video_gn.data.views import CentreImage, ProtocolViews, RandomImage, RandomView, Views, spread
from video_gn.errors import InputError
from video_gn.files.text import read_text
from video_gn.rules import DATA, check

log = logging.getLogger(__name__)


class VideoData(pl.LightningDataModule):
    """Loaders of Kinetics, of any other labelled videos, or of the embedded set.

    A split is a folder of class folders, a CSV file with columns path and label, or a text file of `path label`
    lines; paths in it are relative to `root`. Labels are class names, or numbers from 0. What `data/check_videos.py`
    found of a list (`train.checked.csv` beside `train.csv`) is made use of: the true number of frames, the backend
    that reads a video right, and which ones cannot be read.

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
        images: Whether the files are images (ImageNet's layout: class folders of JPEGs), for a network that is flat in
            time. Training takes a random part of each at `crop_size`, validation and test the middle `crop_size`
            pixels of the image scaled to `test_short_side`; `num_frames` has to be 1, and what else is of videos is
            not used.
        test_protocol: Views of a video at test time and in prediction, a name of `video_gn.data.sampling.PROTOCOLS`.
        inspect: Whether test and prediction also name videos that decode but are damaged (flipped bits, cut short
            without an index); they are evaluated all the same. Each video is decoded once more for it.
        batch_size: Clips per GPU.
        clips_per_video: Clips drawn from one opened video in training, side by side in a batch (repeated sampling:
            frames before a clip have to be decoded once for all of them). An epoch has that many times the steps.
        num_workers: Loader processes per GPU.
        backend: What decodes: "decord" or "pyav"; a video that one refuses goes to the other.
        decode_timeout: Seconds that a video may take in a loader process before it counts as hanging.
        quarantine: File below `root` of the videos on which a decoder hung or crashed; they are not opened again.
        max_bad: Fraction of the training list that may turn out to be unreadable before training stops.
        seed: Of everything drawn.
        motion: Makes the embedded set with these parameters and takes its splits; `root` is where it goes.
        videos: Files, folders and patterns to predict.

    Attributes:
        seen: By "val" and "test", how its videos are seen: the protocol's name, and its views in words.
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
        images: bool = False,
        test_protocol: str = "gn-10clip",
        inspect: bool = False,
        batch_size: int = 8,
        clips_per_video: int = 1,
        num_workers: int = 4,
        backend: str = "decord",
        decode_timeout: float = 60.0,
        quarantine: str = "quarantine.csv",
        max_bad: float = 0.01,
        seed: int = 0,
        motion: motion12.Motion | None = None,
        videos: list[str] | None = None,
    ) -> None:
        super().__init__()
        check(locals(), DATA, "data")
        clip_span = sampling.span(num_frames, frame_interval)
        if clip_span > max_span:
            raise InputError(
                f"{num_frames} frames at interval {frame_interval} span {clip_span} raw frames, more than "
                f"data.max_span={max_span}; take fewer frames or a smaller interval, or raise data.max_span"
            )
        if images and num_frames != 1:
            raise InputError(f"data.num_frames is {num_frames} and data.images is true; an image is a clip of 1 frame")
        if images and clips_per_video != 1:
            raise InputError(
                f"data.clips_per_video is {clips_per_video} and data.images is true; an image gives one view"
            )
        if images and motion:
            raise InputError("data.images is true and data.motion is given, which makes videos; take one of the two")
        if images and test_short_side < crop_size:
            raise InputError(f"data.test_short_side is {test_short_side}; data.crop_size={crop_size} has to fit in it")
        if not images and not crop_size <= short_side[0] <= short_side[1]:
            raise InputError(
                f"data.short_side is {list(short_side)}; it has to be [low, high] with "
                f"data.crop_size={crop_size} <= low <= high"
            )
        if batch_size % clips_per_video:
            raise InputError(
                f"data.batch_size={batch_size} clips are not a whole number of videos with "
                f"data.clips_per_video={clips_per_video} clips each"
            )
        if backend not in BACKENDS:
            raise InputError(f"there is no data.backend {backend!r}; the backends are: {', '.join(BACKENDS)}")
        protocol = sampling.find_protocol(test_protocol)
        self.root = Path(root)
        self.train, self.val, self.test = train, val, test or val
        self.motion = motion
        self.clips_per_video = clips_per_video
        self.training_view: Views
        self.validation_view: Views
        self.test_views: Views
        if images:
            self.training_view = RandomImage(crop_size, flip)
            self.validation_view = self.test_views = CentreImage(test_short_side, crop_size)
            middle = f"1 crop, the middle {crop_size} of short side {test_short_side}"
            self.seen = {split: {"protocol": "centre-crop", "views": middle} for split in ("val", "test")}
        else:
            random_view = RandomView(num_frames, frame_interval, (short_side[0], short_side[1]), crop_size, flip)
            self.training_view = replace(random_view, num_clips=clips_per_video)
            self.validation_view = random_view
            self.test_views = ProtocolViews(num_frames, frame_interval, test_short_side, protocol)
            crops = f"{protocol.num_clips} clips x {protocol.num_crops} crops, short side {test_short_side}"
            self.seen = {
                "val": {"protocol": "random-1clip", "views": "1 clip x 1 crop, augmented as in training"},
                "test": {"protocol": test_protocol, "views": crops},
            }
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.given_videos, self.inspect = videos or [], inspect
        self.images, self.suffixes = images, IMAGE_SUFFIXES if images else SUFFIXES
        self.backend, self.timeout, self.max_bad = IMAGE if images else backend, decode_timeout, max_bad
        self.quarantine = Quarantine(self.root / (motion.folder if motion else "") / quarantine)
        self.class_names = self._class_names(class_names)
        self.lists: dict[str, VideoList] = {}
        self._loaders: list[VideoLoader] = []
        # Where a resumed run took up its epoch: the epoch, batches done by today's count, and videos done.
        self.origin = (0, 0, 0)
        # By stage and path, of this process.
        self.failures: dict[str, dict[str, BadVideo]] = {}
        self.damaged: dict[str, dict[str, BadVideo]] = {}
        self.fallbacks: dict[str, dict[str, BadVideo]] = {}

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
            given = [line.strip() for line in read_text(Path(given)).splitlines() if line.strip()]
        names = given or (list(motion12.CLASSES) if self.motion else self._names_in(self.root / self.train))
        if odd := [name for name in names if not is_text(name)]:
            raise InputError(f"data.class_names has {odd[0]!r}, which is no text in UTF-8; rename that class")
        repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else None
        if repeated:
            raise InputError(f"data.class_names has {', '.join(sorted(repeated))} more than once; names have to differ")
        return names

    def _names_in(self, source: Path) -> list[str]:
        return names_of(read_rows(source, self.suffixes, self.root), source)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def prepare_data(self) -> None:
        if not self.motion or not self.trainer or self.trainer.state.fn == "predict":
            return
        if self.trainer.state.fn == "fit":
            motion12.prepare(self.root, self.motion)
        elif not motion12.is_made(self.root, self.motion):  # a test may take its settings from a file: it makes nothing
            raise InputError(
                f"the embedded set {self.root / self.motion.folder} is not there; training makes it (train.py fit), "
                "and tests only read it; is data.root right?"
            )

    def setup(self, stage: str) -> None:
        if self.trainer and self.trainer._accelerator_connector.use_distributed_sampler:
            raise InputError(
                "trainer.use_distributed_sampler has to be false: this project deals videos to ranks itself"
            )
        splits = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}.get(stage, [])
        for split in splits:
            self._read(split)
        if stage == "predict":
            self.lists["predict"] = find_videos(self.given_videos, self.suffixes)
            self._set_known_aside("predict")
        if stage == "fit":
            needed = self.batch_size * self.trainer.world_size
            if len(self.lists["train"]) * self.clips_per_video < needed:
                raise InputError(
                    f"{len(self.lists['train'])} training videos do not fill one step of {needed} clips "
                    f"({self.trainer.world_size} processes x data.batch_size={self.batch_size}, data.clips_per_video="
                    f"{self.clips_per_video}); take a smaller batch"
                )

    def _read(self, split: str) -> None:
        if split not in self.lists:
            root = self.root / self.motion.folder if self.motion else self.root
            self.lists[split] = read_list(root / getattr(self, split), root, self.class_names, self.suffixes)
        self._set_known_aside(split)

    def _set_known_aside(self, split: str) -> None:
        """Has videos that are known to be bad not opened, and says how many there are."""
        videos = self.lists[split]
        self.quarantine.apply(videos)
        left_out = videos.set_aside.keys() | (videos.damaged.keys() if split == "train" else set())
        if left_out:
            end = "others take their places" if split == "train" else "they count as wrong"
            first = min(left_out)
            log.warning(
                "%s: %d of %d videos are known to be bad, e.g. %s (%s); %s",
                split, len(left_out), len(videos), videos.path(first),
                videos.set_aside.get(first) or videos.damaged[first], end,
            )  # fmt: skip

    def _loader(
        self,
        split: str,
        views: Views,
        batch_size: int,
        training: bool = False,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> VideoLoader:
        trainer, videos = self.trainer, self.lists[split]
        inspect = self.inspect and not self.images and split in ("test", "predict")
        loader = VideoLoader(
            VideoDataset(videos, views, self.seed, training, inspect, self.backend, self.timeout),
            RowSampler(len(videos), self.seed, training, trainer.global_rank, trainer.world_size, split == "val"),
            batch_size,
            min(self.num_workers, len(videos)),
            drop_last=training,
            keep_workers=split in ("train", "val"),
            position=position,
            set_aside=partial(self._set_aside, videos),
        )
        self._loaders.append(loader)
        return loader

    def close(self) -> None:
        """Ends the workers of all its loaders."""
        for loader in self._loaders:
            loader.close()
        self._loaders = []

    def teardown(self, stage: str) -> None:
        self.close()

    def _set_aside(self, videos: VideoList, row: int, reason: str) -> None:
        """Writes a video on which a decoder hung or crashed into the quarantine list."""
        path, label = videos.path(row), int(videos.labels[row])
        self.quarantine.add(path, reason)
        self._name(
            [BadVideo(path, label, reason)], self._of_stage(self.failures), f"{self.quarantine.path} takes in %s: %s"
        )

    def train_dataloader(self) -> VideoLoader:
        return self._training_loader(self._position)

    def _training_loader(self, position: Callable[[], tuple[int, int]]) -> VideoLoader:
        return self._loader("train", self.training_view, self.batch_size // self.clips_per_video, True, position)

    def training_clips(self, steps: int) -> Iterator[Tensor]:
        """Clips of training batches, uint8 `[N, 3, T, H, W]`, from the first epoch on: the same at every call."""
        self._read("train")
        epoch = itertools.count()
        loader = self._training_loader(lambda: (next(epoch), 0))
        if not len(loader):
            raise InputError(
                f"{len(self.lists['train'])} training videos do not fill one batch of {self.batch_size} clips "
                "(data.batch_size) on each process, over which to recompute BN's statistics"
            )
        epochs = itertools.chain.from_iterable(itertools.repeat(loader))
        for batch in itertools.islice(epochs, steps):
            yield batch.clips.flatten(0, 1)

    def val_dataloader(self) -> VideoLoader:
        # Always the first epoch's views, so that epochs compare.
        return self._loader("val", self.validation_view, self.batch_size)

    def test_dataloader(self) -> VideoLoader:
        return self._loader("test", self.test_views, self._test_batch)

    def predict_dataloader(self) -> VideoLoader:
        return self._loader("predict", self.test_views, self._test_batch)

    @property
    def _test_batch(self) -> int:
        return self.batch_size if self.images else 1  # whole frames differ in size from video to video

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        ends = {"train": "another video takes its place", "predict": "left out"}
        end = ends.get(self.trainer.state.stage.value, "it counts as wrong")
        self._name(batch.failures, self._of_stage(self.failures), "cannot read %s: %s; " + end)
        self._name(batch.damaged, self._of_stage(self.damaged), "damaged: %s: %s; used as it is")
        self._name(batch.fallbacks, self._of_stage(self.fallbacks))
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return spread(batch)

    def _of_stage(self, videos: dict[str, dict[str, BadVideo]]) -> dict[str, BadVideo]:
        return videos.setdefault(self.trainer.state.stage.value.replace("sanity_check", "validate"), {})

    def _name(self, found: list[BadVideo], named: dict[str, BadVideo], message: str = "") -> None:
        """Names each video once a stage."""
        for video in found:
            if video.path not in named:
                named[video.path] = video
                if message:
                    log.warning(message, video.path, video.reason)

    def _position(self) -> tuple[int, int]:
        """Epoch, and how many videos of it all processes have trained on, before a resumption too."""
        epoch, done = self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        # The same batches again and again, or new ones.
        return (0 if self.trainer.overfit_batches else epoch), self.videos_done(epoch, done)

    def videos_done(self, epoch: int, batches: int) -> int:
        """Videos of an epoch that all processes have trained on in so many of its batches."""
        size = self.trainer.world_size * self.batch_size // self.clips_per_video
        at, batch, videos = self.origin
        return videos + (batches - batch) * size if epoch == at else batches * size
