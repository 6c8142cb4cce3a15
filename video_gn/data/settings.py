"""What a user sets of clips, of evaluation and of loading: each a group of the config, which checks itself."""

from dataclasses import dataclass
from typing import Literal

from video_gn.data import protocols, sampling
from video_gn.data.decoding.open import BACKENDS
from video_gn.errors import InputError
from video_gn.rules import AUGMENT, CLIP, EVALUATION, LOADING, check, one_of


@dataclass(frozen=True)
class Clip:
    """How clips are made in training, and how many frames they have everywhere."""

    num_frames: int = 32
    """Frames of a clip."""
    frame_interval: int = 2
    """Raw frames from one frame of a clip to the next; 0 repeats a single frame."""
    max_span: int = 300
    """Longest clip allowed, in raw frames: a longer one would loop nearly every video."""
    short_side: tuple[int, int] = (256, 320)
    """Range of the random short side in training, in pixels, both ends counted."""
    crop_size: int = 224
    """Side of the random crop in training, in pixels."""
    flip: bool = True
    """Whether half of the training clips are flipped left to right."""
    shrink: bool = False
    """Whether a video that is shorter than a clip is seen at a smaller frame interval, from its first frame to its
    last, before it is looped."""

    def __post_init__(self) -> None:
        check(vars(self), CLIP, "data.clip")
        low, high = self.short_side
        object.__setattr__(self, "short_side", (low, high))
        span = sampling.span(self.num_frames, self.frame_interval)
        if span > self.max_span:
            raise InputError(
                f"{self.num_frames} frames at interval {self.frame_interval} span {span} raw frames, more than "
                f"data.clip.max_span={self.max_span}; take fewer frames or a smaller interval, or raise "
                "data.clip.max_span"
            )
        if not self.crop_size <= low <= high:
            raise InputError(
                f"data.clip.short_side is {[low, high]}; it has to be [low, high] with "
                f"data.clip.crop_size={self.crop_size} <= low <= high"
            )

    @property
    def label(self) -> str:
        """As it is called in the names of runs: `32x2`."""
        return f"{self.num_frames}x{self.frame_interval}"


@dataclass(frozen=True)
class Augment:
    """What is changed of training clips beyond crop and flip, alike in all frames of a clip. All are off by default."""

    mixup: float = 0.0
    """Alpha of Beta(alpha, alpha), from which the shares are drawn with which two videos are added; 0 for none. The
    source is Zhang et al. 2018."""
    cutmix: float = 0.0
    """Alpha, likewise, of a part of all frames that is another video's; 0 for none. With `mixup` each comes half of the
    time. The source is Yun et al. 2019."""
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation may move, up or down, as a fraction."""
    hue: float = 0.0
    """How far the hue may move, of its circle, up to 0.5."""
    rand_augment: int = 0
    """Operations of RandAugment on each clip; 0 for none. The source is Cubuk et al. 2020."""
    magnitude: int = 9
    """Strength of these operations, from 0 to 30."""
    random_erasing: float = 0.0
    """Fraction of the clips of which a part becomes grey in all frames. The source is Zhong et al. 2020."""

    def __post_init__(self) -> None:
        check(vars(self), AUGMENT, "data.augment")

    @property
    def changes_frames(self) -> bool:
        """Whether clips are changed by themselves."""
        return bool(self.color_jitter or self.hue or self.rand_augment or self.random_erasing)

    @property
    def mixes(self) -> bool:
        """Whether each video gets another one into it."""
        return bool(self.mixup or self.cutmix)


@dataclass(frozen=True)
class Evaluation:
    """How videos are seen in test and prediction, and in validation during training."""

    protocol: str = "gn-10clip"
    """Views of a video, a key of `video_gn.data.protocols.PROTOCOLS`."""
    short_side: int = 256
    """Short side of the frames, in pixels."""
    validation: Literal["random", "center"] = "random"
    """What validation during training takes of a video: random, a clip with training's crop and flip, as the papers
    do; center, the middle clip and the middle crop of training's size, where the short side is `short_side`."""
    inspect: bool = False
    """Whether to name videos that decode but are damaged (flipped bits, cut short without an index); they are
    evaluated all the same. Each video is decoded once more for it."""

    def __post_init__(self) -> None:
        check(vars(self), EVALUATION, "data.evaluation")
        protocols.find_protocol(self.protocol)


@dataclass(frozen=True)
class Loading:
    """How files are read, and what becomes of those that cannot be."""

    num_workers: int | None = 4
    """Loader processes per GPU; None for as many as there are cores for, up to 12."""
    backend: str = "decord"
    """What decodes videos; one that it refuses goes to the other."""
    decode_timeout: float = 60.0
    """Seconds that a video may take in a loader process before it counts as hanging."""
    quarantine: str = "quarantine.csv"
    """File below data.root of the videos on which a decoder hung or crashed; they are not opened again."""
    max_bad: float = 0.01
    """Fraction of the training list that may turn out to be unreadable before training stops. Of a small list it may be
    5 videos too, as long as that is no more than a tenth of it, or a single one; 0 allows none."""

    def __post_init__(self) -> None:
        check(vars(self), LOADING | {"backend": one_of(BACKENDS)}, "data.loading")
