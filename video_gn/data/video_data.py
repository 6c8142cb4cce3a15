"""The data half of a run on videos: Kinetics or any other set."""

from dataclasses import replace

from video_gn.data import motion12, protocols
from video_gn.data.datamodule import DataModule
from video_gn.data.settings import Clip, Evaluation, Loading
from video_gn.data.views import ProtocolViews, RandomView
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
        seed: Of everything drawn.
        motion: Makes the embedded set with these parameters and takes its splits; `root` is where it goes.
        videos: Files, folders and patterns to predict.
        shares: Of training, validation and test videos, where they are taken from the training split.
        group: A regular expression whose match in a path (or that of its brackets) names the video's group, which is
            never divided; None takes the list's column group, or else the videos' folders.
        folds: Parts of the training split for cross-validation, each of which is the test once.
        fold: Which of them is the test, from 0.
        split: A table of which video is in which split, `split.csv` of a run; None divides them.
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
        seed: int = 0,
        motion: motion12.Motion | None = None,
        videos: list[str] | None = None,
        shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
        group: str | None = None,
        folds: int | None = None,
        fold: int = 0,
        split: str | None = None,
    ) -> None:
        super().__init__()
        self.motion, self.clips_per_video = motion, clips_per_video
        self._set_up(locals(), "videos")
        if batch_size % clips_per_video:
            raise InputError(
                f"data.batch_size={batch_size} clips are not a whole number of videos with "
                f"data.clips_per_video={clips_per_video} clips each"
            )
        self.inspect, self.backend, self.label = evaluation.inspect, loading.backend, clip.label
        self.validation_view = RandomView(
            clip.num_frames, clip.frame_interval, clip.short_side, clip.crop_size, clip.flip
        )
        self.training_view = replace(self.validation_view, num_clips=clips_per_video)
        protocol, side = protocols.find_protocol(evaluation.protocol), evaluation.short_side
        self.test_views = ProtocolViews(clip.num_frames, clip.frame_interval, side, protocol)
        self.seen = {
            "val": {"protocol": "random-1clip", "views": "1 clip x 1 crop, augmented as in training"},
            "test": {"protocol": evaluation.protocol, "views": f"{protocol.says}, short side {side}"},
        }
