"""Exported graphs: ONNX, and `torch.export` programs."""

import itertools
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from video_gn.errors import InputError
from video_gn.extras import optional
from video_gn.predict.settings import Settings
from video_gn.train.classifier import VideoClassifier
from video_gn.weights.opening import METADATA


class OnnxGraph:
    """An ONNX export, run by onnxruntime.

    Args:
        path: The file.

    Raises:
        InputError: It is damaged, or reaches for more than this project's networks need (`_read_onnx`).
    """

    model: VideoClassifier | None = None

    def __init__(self, path: str) -> None:
        ort, self.path = optional("onnxruntime"), path
        content, text = _read_onnx(path)
        self.settings = Settings.from_json(text, path)
        options = ort.SessionOptions()
        options.add_session_config_entry("session.load_model_format", "ONNX")
        ort.set_default_logger_severity(4)  # what goes wrong is raised, too
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many kinds
            raise InputError(f"{path} is not an ONNX model, or is damaged ({type(error).__name__})") from None

    def scores(self, clips: Tensor) -> Tensor:
        """As `Trained.scores`."""
        _check_size(self.path, clips, self.settings)
        try:
            found = torch.from_numpy(self._session.run(["scores"], {"clips": clips.contiguous().numpy()})[0])
        except Exception as error:  # onnxruntime has many kinds
            raise _cannot_run(self.path, clips, error) from None
        return _checked_scores(self.path, found, len(clips), self.settings)


def _read_onnx(path: str) -> tuple[bytes, str | None]:
    """An ONNX model as bytes that say all of it, and the settings in it.

    Raises:
        InputError: It is damaged, names other files, or has operators that are not ONNX's own, functions or loops.
    """
    onnx = optional("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
        content = model.SerializeToString()  # what is run is what was looked at
    except Exception as error:  # protobuf's, of several kinds
        raise InputError(f"{path} is not an ONNX model, or is damaged ({type(error).__name__})") from None
    if location := next(_external_files(model), None):
        raise InputError(
            f"{path} keeps its weights in another file ({location}), which was not opened; export it as a single file"
        )
    if foreign := {node.domain for node in model.graph.node} - {"", "ai.onnx"}:
        raise InputError(f"{path} has operators of {min(foreign)}; only ONNX's own are run")
    if model.functions or any(one.HasField("g") or one.graphs for node in model.graph.node for one in node.attribute):
        raise InputError(f"{path} has functions or loops in it, which this project's networks do not; it was not run")
    return content, next((one.value for one in model.metadata_props if one.key == METADATA), None)


def _external_files(message: Any) -> Iterator[str]:
    """The files that a protobuf message of ONNX names for its tensors, wherever in it they are."""
    if type(message).__name__ == "TensorProto":
        if message.external_data or message.data_location:
            yield next((one.value for one in message.external_data if one.key == "location"), "not named")
        return
    for field_of, value in message.ListFields():
        if field_of.message_type is not None:
            for one in [value] if hasattr(value, "ListFields") else value:
                yield from _external_files(one)


class Program:
    """A `torch.export` archive. To load it is to run what is in it: PyTorch evaluates expressions and calls functions.

    Args:
        path: The file, of somebody who is trusted.
        device: Of torch.

    Raises:
        InputError: It is damaged or something else.
    """

    model: VideoClassifier | None = None

    def __init__(self, path: str, device: str = "cpu") -> None:
        self.path, self.device = path, device
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(f"extra/{METADATA}.json")]
                text = archive.read(names[0]) if names else None
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.11's, about itself
                program = torch.export.load(path)
        except Exception as error:  # torch.export has many kinds
            raise InputError(f"{path} is not an exported program, or is damaged ({type(error).__name__})") from None
        self.settings = Settings.from_json(text, path)
        self._run = program.module().to(device)

    def __call__(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and scores `[N, K]` of clips."""
        with torch.inference_mode():
            return self._run(clips.to(self.device))

    def scores(self, clips: Tensor) -> Tensor:
        """As `Trained.scores`."""
        _check_size(self.path, clips, self.settings)
        try:
            found = self(clips)[1].cpu()
        except (RuntimeError, AssertionError, IndexError, TypeError) as error:
            raise _cannot_run(self.path, clips, error) from None
        return _checked_scores(self.path, found, len(clips), self.settings)


def smallest_side(settings: Settings) -> int:
    """Pixels of the smallest frame that a graph takes: torch.export makes a case of its own of a single position."""
    net, kind = settings.net, settings.kind
    return next(pixels for pixels in itertools.count(1) if kind.positions(net, pixels) > 1)


def _check_size(path: str, clips: Tensor, settings: Settings) -> None:
    if min(clips.shape[3:]) < (least := smallest_side(settings)):
        raise InputError(
            f"{path} takes frames from {least} pixels a side, and these have {clips.shape[3]} x {clips.shape[4]}; take "
            "the checkpoint or its .safetensors"
        )


def _cannot_run(path: str, clips: Tensor, error: Exception) -> InputError:
    size = " x ".join(map(str, clips.shape[2:]))
    return InputError(
        f"{path} cannot be run on clips of {size} ({type(error).__name__}); it is damaged, or no classifier"
    )


def _checked_scores(path: str, scores: Tensor, clips: int, settings: Settings) -> Tensor:
    """A graph's scores, which have to be what its settings promise."""
    classes = len(settings.class_names)
    sound = scores.shape == (clips, classes) and scores.is_floating_point()
    sums = settings.multi_label or (sound and ((scores.sum(1) - 1).abs() < 1e-2).all())
    if not sound or not ((scores >= 0) & (scores <= 1.001)).all() or not sums:
        rule = "from 0 to 1" if settings.multi_label else "that add up to 1"
        raise InputError(
            f"{path} gives {list(scores.shape)} scores of {clips} clips, not {classes} of each {rule}; it is "
            "damaged, no classifier of its classes, or of before frames below the training crop were taken: export it "
            "again"
        )
    return scores
