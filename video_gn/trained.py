"""Trained models out of files, to be used without a trainer: checkpoints and what `video_gn.export` writes of them.

All of them take clips uint8 RGB `[N, 3, T, H, W]` and give scores `[N, K]`. What they expect of a clip, and the names
of the classes, travel in the file: `Settings`. No code in a file runs, but in a `.pt2`: it is a program, and is opened
only where the user trusts it.
"""

import importlib
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from video_gn.errors import InputError
from video_gn.rules import shown
from video_gn.train.checkpoint import check_network, read_checkpoint
from video_gn.train.classifier import VideoClassifier
from video_gn.weights.reader import METADATA, read_content, read_weights
from video_gn.weights.stored import CLIP, clip_settings, model_settings, read_settings

SUFFIXES = (".ckpt", ".safetensors", ".pth", ".onnx", ".pt2")


@dataclass(frozen=True)
class Settings:
    """What a trained model is, as JSON in every export.

    Attributes:
        model: Hyper-parameters of `VideoClassifier`, `class_names`, `mean` and `std` among them.
        clip: How a clip is made: num_frames, frame_interval, crop_size, test_short_side, test_protocol and so on.
        run: The run's name, steps and epochs, where they are known.
        versions: Of Python and the packages.
    """

    model: Mapping[str, Any]
    clip: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """In the order of the scores."""
        return list(self.model["class_names"])

    def to_json(self) -> str:
        """As exports carry it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes | None, path: str) -> "Settings":
        """Of an export.

        Raises:
            InputError: The file has none, or they are not whole.
        """
        if not isinstance(text, str | bytes) or not text:
            raise InputError(f"{path} does not say how its clips are made; it is no export of this project")
        found = read_settings(text, path)
        model, clip = model_settings(found.get("model"), path), clip_settings(found.get("clip"), path)
        run, versions = (found.get(name) or {} for name in ("run", "versions"))
        if not _texts(run) or not _texts(versions):
            raise InputError(f"the settings in {path} have {shown(run)} for a run; the file is damaged")
        return cls(model, clip, run, versions)

    @classmethod
    def of_checkpoint(cls, path: str) -> "Settings":
        """Of a checkpoint."""
        found = read_checkpoint(path)
        clip = {name: found.clip[name] for name in CLIP}
        return cls(found.model, clip, {"steps": found.global_step, "epochs": found.epoch + 1})


def _texts(given: Any) -> bool:
    """Whether it is names, with text or a number each."""
    return isinstance(given, dict) and all(isinstance(value, str | int | float | None) for value in given.values())


class Trained(Protocol):
    """A trained model; `open_trained` makes it.

    Attributes:
        settings: What it is.
        model: With which class-activation maps can be had; None for a graph.
    """

    settings: Settings
    model: VideoClassifier | None

    def scores(self, clips: Tensor) -> Tensor:
        """Softmax scores `[N, K]` on the CPU of clips uint8 `[N, 3, T, H, W]`, averaged over the head's positions."""


def open_trained(path: str, device: str = "cpu", trust: bool = False) -> Trained:
    """A trained model from a checkpoint or an export.

    Args:
        path: `.ckpt`, `.safetensors`, `.pth` (pytorchvideo's names), `.onnx` or `.pt2`.
        device: Of torch, on which it runs; ONNX runs on the CPU.
        trust: Whether the code in a `.pt2` may run.

    Raises:
        InputError: There is no such file, it is damaged or something else, or has code in it, which does not run.
    """
    suffix = Path(path).suffix
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    if suffix not in SUFFIXES:
        raise InputError(f"{path} is no model; they end in {', '.join(SUFFIXES)}")
    if suffix == ".onnx":
        return OnnxGraph(path)
    if suffix == ".pt2" and not trust:
        raise InputError(
            f"{path} is a torch.export program, and to open it runs the code in it; take the model's .safetensors or "
            ".onnx file, which hold no code, or pass --trust if you trust whoever made it"
        )
    if suffix == ".pt2":
        return Program(path, device)
    if suffix == ".ckpt":
        settings = Settings.of_checkpoint(path)
    else:
        content, metadata = read_content(path)
        text = metadata.get(METADATA) if suffix == ".safetensors" else _get(content, METADATA)
        settings = Settings.from_json(text, path)
    return Network(path, settings, device)


def _get(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None


class Network:
    """The network itself, from weights.

    Args:
        path: A checkpoint or weights of this project.
        settings: Of that file.
        device: Of torch.
    """

    model: VideoClassifier | None

    def __init__(self, path: str, settings: Settings, device: str = "cpu") -> None:
        self.settings = settings
        self.model = rebuild(path, settings).to(device)

    def scores(self, clips: Tensor) -> Tensor:
        """As `Trained.scores`."""
        assert self.model is not None
        with torch.inference_mode():
            return self.model.scores(clips.to(self.model.device)[None])[0].cpu()


def rebuild(path: str, settings: Settings) -> VideoClassifier:
    """The classifier of a file of weights, in evaluation.

    Raises:
        InputError: The weights are not those that the settings promise.
    """
    state = check_network(read_weights(path), settings.model, settings.clip)
    own = {"init": None, "freeze_stages": 0, "compile": False, "low_memory": False, "bn_statistics": "running"}
    model = VideoClassifier(**{**settings.model, **own})
    counters = {name: value for name, value in model.net.state_dict().items() if name.endswith("num_batches_tracked")}
    model.net.load_state_dict(counters | state)  # old files lack the counters
    return model.eval()


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
        try:
            found = self(clips)[1].cpu()
        except (RuntimeError, AssertionError, IndexError, TypeError) as error:
            raise _cannot_run(self.path, clips, error) from None
        return _checked_scores(self.path, found, len(clips), self.settings)


def _cannot_run(path: str, clips: Tensor, error: Exception) -> InputError:
    size = " x ".join(map(str, clips.shape[2:]))
    return InputError(
        f"{path} cannot be run on clips of {size} ({type(error).__name__}); it is damaged, or no classifier"
    )


def _checked_scores(path: str, scores: Tensor, clips: int, settings: Settings) -> Tensor:
    """A graph's scores, which have to be what its settings promise."""
    classes = len(settings.class_names)
    sound = scores.shape == (clips, classes) and scores.is_floating_point()
    if not sound or not ((scores >= 0) & (scores <= 1.001)).all():
        raise InputError(
            f"{path} gives {list(scores.shape)} scores of {clips} clips, not {classes} from 0 to 1 of each; it is "
            "damaged, or no classifier of its classes"
        )
    return scores


def optional(name: str) -> Any:
    """A package that not every user needs.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"this needs the package {name}: pip install 'video_gn[onnx]'") from None
