"""Trained models for use in Python: `load_model(path).predict(paths)`."""

from collections.abc import Iterable
from os import PathLike
from typing import NamedTuple

from video_gn.data.decoding.open import BACKENDS
from video_gn.data.folders import IMAGE_SUFFIXES, SUFFIXES
from video_gn.data.lists import find_videos
from video_gn.predict.model_file import Trained, open_trained
from video_gn.predict.score import score
from video_gn.rules import check, one_of


class Prediction(NamedTuple):
    """What a model says of a video.

    Attributes:
        path: The file.
        classes: Names of all classes, the likeliest first; none where the video cannot be read.
        scores: Of these, averaged over the views; their sum is 1, but for a multi-label model.
        error: Why it cannot be read, or None.
    """

    path: str
    classes: list[str]
    scores: list[float]
    error: str | None = None


class Model:
    """A trained model out of a file; `load_model` makes it.

    Args:
        trained: The file's.

    Attributes:
        trained: What runs: `trained.scores(clips)` takes uint8 `[N, 3, T, H, W]` and gives scores `[N, K]`.
        class_names: In the order of the scores.
        clip: How its clips are made: num_frames, frame_interval, test_short_side, test_protocol and the like.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.class_names = trained.settings.class_names
        self.clip = dict(trained.settings.clip)

    def predict(
        self,
        paths: str | PathLike[str] | Iterable[str | PathLike[str]],
        batch_size: int = 8,
        num_workers: int = 0,
        protocol: str | None = None,
        backend: str = "decord",
    ) -> list[Prediction]:
        """Classes and scores of videos, in the order in which they are found.

        Args:
            paths: A file, folder or pattern, or several.
            batch_size: Clips that go through the network at once.
            num_workers: Processes that decode; 0 decodes in this one.
            protocol: A key of `video_gn.data.protocols.PROTOCOLS`; None takes the model's own.
            backend: decord or pyav.

        Raises:
            InputError: There is no such file.
        """
        check({"backend": backend}, {"backend": one_of(BACKENDS)}, "predict")
        given = [paths] if isinstance(paths, str | PathLike) else list(paths)
        videos = find_videos([str(path) for path in given], IMAGE_SUFFIXES if self.clip["images"] else SUFFIXES)
        found = []
        for one in score(self.trained, videos, batch_size, num_workers, protocol, backend):
            path = videos.path(one.row)
            if one.scores is None:
                found.append(Prediction(path, [], [], one.reason))
                continue
            best = one.scores.mean(0).sort(descending=True, stable=True)
            names = [self.class_names[i] for i in best.indices.tolist()]
            found.append(Prediction(path, names, best.values.tolist()))
        return found


def load_model(path: str | PathLike[str], device: str = "cpu", trust: bool = False) -> Model:
    """A trained model from a checkpoint or an export; no code in the file runs.

    Args:
        path: `.ckpt`, `.safetensors`, `.onnx`, `.pth`, or `.pt2` (a program: it needs `trust`).
        device: Of torch, on which it runs; ONNX runs on the CPU.
        trust: Whether the code in a `.pt2` may run.

    Raises:
        InputError: There is no such file, or it is damaged or something else.
    """
    return Model(open_trained(str(path), device, trust))
