"""What a trained model is: its network, its clips, the names of its classes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from video_gn.errors import InputError
from video_gn.models.interface import Known
from video_gn.models.known import CLASSES as NETWORKS
from video_gn.rules import shown
from video_gn.train.checkpoint import read_checkpoint
from video_gn.weights.stored import OPTIONAL, clip_settings, model_settings, net_settings, read_settings


@dataclass(frozen=True)
class Settings:
    """What a trained model is, as JSON in every export.

    Attributes:
        model: What `video_gn.weights.stored.model_settings` gives: class_names, net, optimizer, schedule, start.
        clip: How a clip is made, as `video_gn.weights.stored.clip_settings` gives it.
        run: The run's name, steps and epochs, where they are known.
        versions: Of Python and the packages.
    """

    model: Mapping[str, Any]
    clip: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def net(self) -> Mapping[str, Any]:
        """Settings of the network, of this project's class."""
        return net_settings(self.model, self.run.get("name", "this file"))

    @property
    def kind(self) -> type[Known]:
        """The network's class."""
        assert self.net  # it is of this project
        return NETWORKS[self.model["net"]["class_path"]]

    @property
    def scale(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the input, RGB on the scale from 0 to 1."""
        return list(self.model["start"]["mean"]), list(self.model["start"]["std"])

    @property
    def class_names(self) -> list[str]:
        """In the order of the scores."""
        return list(self.model["class_names"])

    @property
    def multi_label(self) -> bool:
        """Whether a video may be of several classes: scores do not add up to 1."""
        return bool(self.model.get("loss", {}).get("multi_label"))

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
        clip = {name: value for name, value in found.clip.items() if name not in OPTIONAL}
        return cls(found.model, clip, {"steps": found.global_step, "epochs": found.epoch + 1})


def _texts(given: Any) -> bool:
    """Whether it is names, with text or a number each."""
    return isinstance(given, dict) and all(isinstance(value, str | int | float | None) for value in given.values())
