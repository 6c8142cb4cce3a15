"""What a user sets of where a network starts and of how it is run: each a group of the config, which checks itself.

The network itself is `model.net`, its optimiser `video_gn.train.optim`, its schedule `video_gn.train.schedule`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from video_gn.errors import InputError
from video_gn.models.contract import settings_of
from video_gn.models.recompute import WAYS
from video_gn.rules import FLAG, FORMAT, START, check, one_of, or_none, plain
from video_gn.weights.hub import fitting

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where training starts from, and what of it stays."""

    init: str | None = None
    """Weights to start from, 2D (then inflated) or 3D: a file (`video_gn.weights.reader` lists the layouts) or a public
    name (`video_gn.weights.hub`) such as timm:resnet50_gn.a1h_in1k. None starts from random ones; auto from public ones
    that fit the network, if there are any."""
    init_norm: str | None = None
    """The norm that `init` was trained with, where the file does not tell."""
    convert: int = 0
    """Training clips on which gamma and beta are re-fitted, layer after layer, where `init` was trained with BN and the
    network has GN, LN or IN (`video_gn.models.convert`); a few dozen are enough. 0 refuses weights of another norm."""
    freeze_stages: int = 0
    """How many of the stem, res2, res3, res4 and res5 stay as they are, from the first on; their BN keeps its running
    statistics too."""
    mean: tuple[float, float, float] | None = None
    """Of each colour on the scale from 0 to 1, subtracted from the input. None takes that of the weights in `init`,
    where it is known, and otherwise 0.45."""
    std: tuple[float, float, float] | None = None
    """Of each colour, by which the input is divided. None takes that of `init`, and otherwise 0.225."""

    def __post_init__(self) -> None:
        check(vars(self), START, "model.start")
        if self.convert and self.init is None:
            raise InputError(
                f"model.start.convert is {self.convert}, and model.start.init null; name the weights of BN to convert"
            )


def found_start(start: Start, net: nn.Module) -> Start:
    """A start with the public weights that fit a network in the place of `auto`."""
    if start.init != "auto":
        return start
    found = fitting(settings_of(net), type(net).__name__)
    log.info(
        "model.start.init is %s%s", found or "null", "" if found else ": no public weights fit this network and norm"
    )
    return replace(start, init=found, convert=start.convert if found else 0)


@dataclass(frozen=True)
class Execution:
    """How the network is run. It changes speed and memory, not the network: checkpoints do not know it."""

    compile: bool = False
    """Whether to run the network through `torch.compile`."""
    channels_last: bool | None = None
    """Whether to keep activations in channels_last_3d memory order. None for what is faster: on a GPU yes; on a CPU for
    ResNet3d in float32 on clips of up to 160 x 160 pixels."""
    kernels: Literal["auto", "triton", "torch"] = "auto"
    """What norms run on: triton, this project's kernels of norm + residual sum + ReLU; torch, PyTorch's; auto, the
    first where there is a GPU for them."""
    recompute: Literal["none", "norms", "blocks"] = "none"
    """What is computed again in backward, bit-identical, so as not to keep it: norms, what convolutions read after a
    norm and ReLU of those kernels, at nearly no time; blocks, each residual block but for its input, at about a quarter
    more time and the least memory. `video-gn memory` counts what each saves. Not with `compile`."""
    cuda_graph: bool | None = None
    """Whether forward and backward of a training step are recorded once, as CUDA graphs, and then launched whole, which
    saves the host its time. Not with `compile`. None for: on a GPU, where the network is one of this project's."""

    def __post_init__(self) -> None:
        rules = {"compile": FLAG, "channels_last": or_none(FLAG), "kernels": one_of(("auto", "triton", "torch"))}
        check(vars(self), rules | {"recompute": one_of(WAYS), "cuda_graph": or_none(FLAG)}, "model.execution")
        if self.recompute != "none" and self.compile:
            raise InputError(
                f"model.execution.recompute is {self.recompute} and model.execution.compile true; a compiled graph "
                "decides itself what to keep"
            )
        if self.cuda_graph and self.compile:
            raise InputError("model.execution.cuda_graph and model.execution.compile are both true; take one of them")

    def layout(self, device: torch.device) -> torch.memory_format:
        """Memory order of activations on a device, whatever the network."""
        last = device.type == "cuda" if self.channels_last is None else self.channels_last
        return torch.channels_last_3d if last else torch.contiguous_format


def described(one: Any, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An object by its class and settings, as configs and checkpoints name it.

    Args:
        one: Of this project or somebody else's.
        settings: Its settings; by default its fields.
    """
    path = f"{type(one).__module__}.{type(one).__qualname__}"
    given = settings if settings is not None else plain(one) if is_dataclass(one) else {}
    return {"class_path": path, "init_args": plain(given)}


def hyper_parameters(model: Any, start: Start) -> dict[str, Any]:
    """What a classifier is made by, as checkpoints have it: in types that load without running code."""
    return {
        "format": FORMAT,
        "class_names": model.class_names,
        "net": described(model.net, settings_of(model.net)),
        "optimizer": described(model.optimizer),
        "schedule": described(model.schedule),
        "start": plain(start) | {"mean": model.mean, "std": model.std},
        "loss": plain(model.loss),
    }
