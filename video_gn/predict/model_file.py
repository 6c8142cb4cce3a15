"""Trained models out of files, to be used without a trainer: checkpoints and what `video_gn.export` writes of them.

All of them take clips uint8 RGB `[N, 3, T, H, W]` and give scores `[N, K]`. What they expect of a clip, and the names
of the classes, travel in the file: `Settings`. No code in a file runs, but in a `.pt2`: it is a program, and is opened
only where the user trusts it.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from video_gn.errors import InputError
from video_gn.predict.programs import OnnxGraph, Program
from video_gn.predict.settings import Settings
from video_gn.train.classifier import VideoClassifier
from video_gn.train.rebuild import rebuild
from video_gn.weights.opening import METADATA, read_content

SUFFIXES = (".ckpt", ".safetensors", ".pth", ".onnx", ".pt2")


class Trained(Protocol):
    """A trained model; `open_trained` makes it.

    Attributes:
        settings: What it is.
        model: With which class-activation maps can be had; None for a graph.
    """

    settings: Settings
    model: VideoClassifier | None

    def scores(self, clips: Tensor) -> Tensor:
        """Scores `[N, K]` on the CPU of clips uint8 `[N, 3, T, H, W]`, averaged over the head's positions."""


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
        self.model = rebuild(VideoClassifier, path, settings.model, settings.clip).to(device)

    def scores(self, clips: Tensor) -> Tensor:
        """As `Trained.scores`."""
        assert self.model is not None
        with torch.inference_mode():
            return self.model.scores(clips.to(self.model.device)[None])[0].cpu()
