"""The data half of a run on videos: Kinetics or any other set."""

from dataclasses import replace
from typing import Literal

from video_gn.data import motion12, protocols
from video_gn.data.augment import augmented
from video_gn.data.datamodule import DataModule
from video_gn.data.settings import Augment, Clip, Evaluation, Loading
from video_gn.data.views import CentreView, ProtocolViews, RandomView, Views
from video_gn.errors import InputError


class VideoData(DataModule):
    """Loaders of Kinetics, of any other labelled videos, or of the embedded set.

    Args:
        root: Folder of the data set; with `train: auto` also a list itself.
        train: Training split, below `root`: a folder of class folders, a CSV file with columns path and label, or a
            text file of `path label` lines. `auto` looks for it below `root`.
        val: Validation split, below `root`; None trains without validation; `auto` looks for it, and else takes a
            share of the training split.
        test: Test split, below `root`; None takes `val`; `auto` as for `val`.
        class_names: The classes in the order of their labels, or a text file with one a line; None takes those of
            the training split.
        clip: How clips are made in training.
        evaluation: How videos are seen in test and prediction.
        loading: How files are read.
        batch_size: Clips per GPU.
        clips_per_video: Clips drawn from one opened video in training, side by side in a batch (repeated sampling:
            frames before a clip have to be decoded once for all of them). An epoch has that many times the steps.
        clips_per_epoch: Clips that an epoch has at least: through a shorter list it goes several times.
        seed: Of everything drawn.
        motion: Makes the embedded set with these parameters and takes its splits; `root` is where it goes.
        videos: Files, folders and patterns to predict.
        sampling: How training draws from its list: "shuffled", each video once an epoch; "balanced", every class with
            the same probability, in epochs of the same length.
        augment: What is changed of training clips beyond crop and flip.
        shares: Of training, validation and test videos, where they are taken from the training split.
        group: A regular expression whose match in a path (or that of its brackets) names the video's group, which is
            never divided; None takes the list's column group, or else the videos' folders.
        folds: Parts of the training split for cross-validation, each of which is the test once.
        fold: Which of them is the test, from 0.
        find_copies: Whether videos that show the same (re-encoded, or cuts that overlap) are looked for, and are one
            group where the training split is divided. Each video is read once for it.
        split: A table of which video is in which split, `split.csv` of a run; None divides them.
        multi_label: Whether a video may be of several classes, or of none: a label names them with | between, and a
            file that is in several class folders is of all of them. Each class is then a question of its own.
    """

    def __init__(
        self,
        root: str = "data",
        train: str = "train.csv",
        val: str | None = "val.csv",
        test: str | None = None,
        class_names: list[str] | str | None = None,
        clip: Clip = Clip(),
        evaluation: Evaluation = Evaluation(),
        loading: Loading = Loading(),
        batch_size: int = 8,
        clips_per_video: int = 1,
        clips_per_epoch: int = 0,
        seed: int = 0,
        motion: motion12.Motion | None = None,
        videos: list[str] | None = None,
        sampling: Literal["shuffled", "balanced"] = "shuffled",
        augment: Augment = Augment(),
        shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
        group: str | None = None,
        folds: int | None = None,
        fold: int = 0,
        split: str | None = None,
        find_copies: bool = False,
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        self.motion, self.clips_per_video, self.clips_per_epoch = motion, clips_per_video, clips_per_epoch
        self.find_copies = find_copies
        self._set_up(locals(), "videos")
        if batch_size % clips_per_video:
            raise InputError(
                f"data.batch_size={batch_size} clips are not a whole number of videos with "
                f"data.clips_per_video={clips_per_video} clips each"
            )
        self.inspect, self.backend, self.label = evaluation.inspect, loading.backend, clip.label
        length = (clip.num_frames, clip.frame_interval)
        random = RandomView(*length, clip.short_side, clip.crop_size, clip.flip, shrink=clip.shrink)
        self.training_view = augmented(replace(random, num_clips=clips_per_video), augment)
        protocol, side = protocols.find_protocol(evaluation.protocol), evaluation.short_side
        self.test_views = ProtocolViews(*length, side, protocol, clip.shrink)
        self.validation_view: Views = random
        validation, views = "random-1clip", "1 clip x 1 crop, augmented as in training"
        if evaluation.validation == "center":
            if side < clip.crop_size:
                raise InputError(
                    f"data.evaluation.short_side is {side}; data.clip.crop_size={clip.crop_size} has to fit in it "
                    "where data.evaluation.validation is center"
                )
            self.validation_view = CentreView(*length, side, clip.crop_size, clip.shrink)
            validation, views = "center-1crop", f"the middle clip x the middle {clip.crop_size} of short side {side}"
        self.seen = {
            "val": {"protocol": validation, "views": views},
            "test": {"protocol": evaluation.protocol, "views": f"{protocol.says}, short side {side}"},
        }
