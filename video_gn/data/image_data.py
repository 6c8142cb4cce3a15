"""The data half of a run on images, on which networks for video are pre-trained."""

from typing import Literal

from video_gn.data.augment import augmented
from video_gn.data.datamodule import DataModule
from video_gn.data.folders import IMAGE_SUFFIXES
from video_gn.data.settings import Augment, Loading
from video_gn.data.views import CentreImage, RandomImage
from video_gn.errors import InputError
from video_gn.rules import IMAGES, check


class ImageData(DataModule):
    """Loaders of images (ImageNet's layout: class folders of JPEGs), for a network that is flat in time.

    Training takes a random part of each, validation and test the middle of the scaled image.

    Args:
        root: Folder of the data set.
        train: Training split, below `root`, as of `VideoData`.
        val: Validation split, below `root`; None trains without validation.
        test: Test split, below `root`; None takes `val`.
        class_names: The classes in the order of their labels, or a text file with one a line; None takes those of
            the training split.
        crop_size: Side of the crop, in pixels.
        short_side: Short side to which an image is scaled before its middle is taken, in pixels.
        flip: Whether half of the training images are flipped left to right.
        loading: How files are read; `backend` is of videos.
        batch_size: Images per GPU.
        seed: Of everything drawn.
        videos: Images, folders and patterns to predict.
        sampling: How training draws from its list: "shuffled", each video once an epoch; "balanced", every class with
            the same probability, in epochs of the same length.
        augment: What is changed of training clips beyond crop and flip.
        multi_label: Whether a video may be of several classes, or of none: a label names them with | between, and a
            file that is in several class folders is of all of them. Each class is then a question of its own.
    """

    suffixes = IMAGE_SUFFIXES
    label = "1x1"

    def __init__(
        self,
        root: str = "data",
        train: str = "train",
        val: str | None = "val",
        test: str | None = None,
        class_names: list[str] | str | None = None,
        crop_size: int = 224,
        short_side: int = 256,
        flip: bool = True,
        loading: Loading = Loading(),
        batch_size: int = 8,
        seed: int = 0,
        videos: list[str] | None = None,
        sampling: Literal["shuffled", "balanced"] = "shuffled",
        augment: Augment = Augment(),
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        check(locals(), IMAGES, "data")
        self._set_up(locals(), "images")
        if short_side < crop_size:
            raise InputError(f"data.short_side is {short_side}; data.crop_size={crop_size} has to fit in it")
        self.test_batch = batch_size
        self.training_view = augmented(RandomImage(crop_size, flip), augment)
        self.validation_view = self.test_views = CentreImage(short_side, crop_size)
        middle = f"1 crop, the middle {crop_size} of short side {short_side}"
        self.seen = {split: {"protocol": "centre-crop", "views": middle} for split in ("val", "test")}
