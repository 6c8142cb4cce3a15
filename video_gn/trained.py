"""Trained models out of files, to be used without a trainer: checkpoints and what `video_gn.export` writes of them.

All of them take clips uint8 RGB `[N, 3, T, H, W]` and give scores `[N, K]`. What they expect of a clip, and the names
of the classes, travel in the file: `Settings`.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from video_gn.checkpoint import read_checkpoint
from video_gn.classifier import VideoClassifier
from video_gn.errors import InputError
from video_gn.inflate import check_norm, start_from
from video_gn.norm import norm_label
from video_gn.programs import load_program
from video_gn.weights import METADATA, read_content, read_weights

# What of the data's settings a clip is made by, in training and after it.
CLIP = ("num_frames", "frame_interval", "crop_size", "test_short_side", "test_protocol", "images", "short_side", "flip")
NEWER = {"images": False}  # and what older checkpoints meant that lack it
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
        if not text:
            raise InputError(f"{path} does not say how its clips are made; it is no export of this project")
        try:
            found = cls(**json.loads(text))
            missing = {"class_names", "mean", "std", "geometry"} - set(found.model) | set(CLIP) - set(found.clip)
        except (ValueError, TypeError, AttributeError):
            missing = {"everything"}
        if missing:
            raise InputError(f"the settings in {path} lack {', '.join(sorted(missing))}; export the checkpoint anew")
        return found

    @classmethod
    def of_checkpoint(cls, path: str) -> "Settings":
        """Of a checkpoint."""
        content = read_checkpoint(path)
        model, data = (
            {name: value for name, value in content[key].items() if not name.startswith("_")}
            for key in ("hyper_parameters", "datamodule_hyper_parameters")
        )
        clip = {name: data[name] if name in data else NEWER[name] for name in CLIP}
        return cls(model, clip, {"steps": content["global_step"], "epochs": content["epoch"] + 1})


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


def open_trained(path: str, device: str = "cpu") -> Trained:
    """A trained model from a checkpoint or an export.

    Args:
        path: `.ckpt`, `.safetensors`, `.pth` (pytorchvideo's names), `.onnx` or `.pt2`.
        device: Of torch, on which it runs; ONNX runs on the CPU.

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
    own = {"init": None, "freeze_stages": 0, "compile": False}
    try:
        model = VideoClassifier(**{**settings.model, **own})
    except TypeError as error:
        raise InputError(f"{path} has settings of another version of this project: {error}") from None
    weights, hp = read_weights(path), model.hp
    check_norm(weights, norm_label(hp.norm, hp.num_groups, hp.channels_per_group))
    start_from(model.net, weights, hp.geometry, hp.class_names, hp.std)
    return model.eval()


class OnnxGraph:
    """An ONNX export, run by onnxruntime.

    Args:
        path: The file.
    """

    model: VideoClassifier | None = None

    def __init__(self, path: str) -> None:
        ort = optional("onnxruntime")
        try:
            self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many kinds
            raise InputError(f"{path} is not an ONNX model, or is damaged ({type(error).__name__})") from None
        self.settings = Settings.from_json(self._session.get_modelmeta().custom_metadata_map.get(METADATA), path)

    def scores(self, clips: Tensor) -> Tensor:
        """As `Trained.scores`."""
        return torch.from_numpy(self._session.run(["scores"], {"clips": clips.contiguous().numpy()})[0])


class Program:
    """A `torch.export` archive.

    Args:
        path: The file.
        device: Of torch.
    """

    model: VideoClassifier | None = None

    def __init__(self, path: str, device: str = "cpu") -> None:
        program, extra = load_program(path, f"{METADATA}.json")
        self.settings = Settings.from_json(extra, path)
        self.device = device
        self._run = program.module().to(device)

    def __call__(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and scores `[N, K]` of clips."""
        with torch.inference_mode():
            return self._run(clips.to(self.device))

    def scores(self, clips: Tensor) -> Tensor:
        """As `Trained.scores`."""
        return self(clips)[1].cpu()


def optional(name: str) -> Any:
    """A package that not every user needs.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"this needs the package {name}: pip install 'video_gn[onnx]'") from None
