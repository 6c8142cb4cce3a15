"""What a network may have besides its call from clips `[N, 3, T, H, W]` to logits, and what that is needed for.

Every `nn.Module` whose call gives logits `[N, K]`, or `[N, K, ...]` at several positions, trains, tests, resumes and
predicts. Some settings ask for more, by these names; the networks of this project have all of them.

| name              | what it is                                                  | needed for                         |
|-------------------|-------------------------------------------------------------|------------------------------------|
| `stages`          | list of modules, from the first layer on                    | `model.start.freeze_stages`        |
| `head`            | the module that is new for other classes                    | `model.optimizer.head_lr`          |
| `min_frames`      | T of the shortest clip that it takes (else 1)               | a clear message                    |
| `set_crop_size`   | takes the side of the training crop in pixels               | a head with a window of that size  |
| `label(settings)` | its name in the names of runs, of its constructor's settings | names of runs (else the class's)  |

Weights of others (`model.start.init`), class-activation maps and exports are of this project's networks alone, by what
`video_gn.models.interface.Known` says.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.models.interface import Known
from video_gn.models.resnet3d import ResNet3d


def make_net(make: Callable[[int], nn.Module], num_classes: int, crop_size: int) -> nn.Module:
    """A network, which knows the side of the training crop where it asks for that.

    Raises:
        InputError: It takes no number of classes, or what is made is no module.
    """
    try:
        net = make(num_classes)
    except TypeError as error:
        if "positional argument" not in str(error) or "were given" not in str(error):
            raise
        raise InputError(f"model.net: {error}; its call has to take the number of classes") from None
    if not isinstance(net, nn.Module):
        raise InputError(f"model.net gives {type(net).__name__}, which is no torch.nn.Module")
    if set_crop_size := getattr(net, "set_crop_size", None):
        set_crop_size(crop_size)
    return net


def settings_of(net: nn.Module) -> dict[str, Any]:
    """Settings of a network of this project; those of another one are the user's."""
    return net.settings if isinstance(net, Known) else {}


def needed(net: nn.Module, name: str, purpose: str) -> Any:
    """An attribute that a network may have.

    Args:
        net: The network.
        name: Of the attribute.
        purpose: What asks for it, as the user knows it.

    Raises:
        InputError: It has none.
    """
    if not hasattr(net, name):
        raise InputError(f"{purpose} needs a network that has `{name}`, and {type(net).__name__} has none")
    return getattr(net, name)


def freeze(net: nn.Module, count: int) -> tuple[nn.Module, ...]:
    """Fixes the first stages of a network, in evaluation mode; gives them.

    Raises:
        InputError: It has no stages, or fewer.
    """
    if not count:
        return ()
    stages = list(needed(net, "stages", "model.start.freeze_stages"))
    if count > len(stages):
        raise InputError(
            f"model.start.freeze_stages is {count}; it has to be from 0 to {len(stages)}: the stem, then residual "
            "stages"
        )
    for stage in stages[:count]:
        stage.requires_grad_(False).eval()
    return tuple(stages[:count])


def known(net: nn.Module, purpose: str) -> Known:
    """A network of this project.

    Raises:
        InputError: It is another one; `purpose` is what asks for it.
    """
    if not isinstance(net, Known):
        raise InputError(f"{purpose} needs a network of video_gn, and this one is {type(net).__name__}")
    return net


def resnet(net: nn.Module, purpose: str) -> ResNet3d:
    """A ResNet of this project.

    Raises:
        InputError: It is another network; `purpose` is what asks for it.
    """
    if not isinstance(net, ResNet3d):
        raise InputError(f"{purpose} needs a ResNet of video_gn (ResNet3d), and this one is {type(net).__name__}")
    return net


def check_ghost_batch(net: nn.Module, batch_size: int) -> None:
    """Raises InputError where the clips of a GPU are no whole number of the groups that share BN's statistics."""
    ghost = settings_of(net).get("ghost_batch")
    if ghost is not None and batch_size % ghost:
        raise InputError(
            f"model.net.ghost_batch is {ghost}; data.batch_size={batch_size} clips have to be a whole number of groups "
            "of that many (to share statistics among more clips than a GPU holds: trainer.sync_batchnorm)"
        )


def check_random_start(net: nn.Module, frozen: int) -> None:
    """Raises InputError where a part that is never trained would keep random weights.

    Args:
        net: The network, whose weights are random.
        frozen: How many of its stages are fixed.
    """
    settings = settings_of(net)
    if settings.get("norm") == "frozen_bn" and settings["freeze_affine"]:
        raise InputError(
            "model.net.norm=frozen_bn with freeze_affine learns no scale; set model.start.init to start from"
        )
    if frozen:
        raise InputError(
            f"model.start.freeze_stages={frozen} would keep random weights; set model.start.init to start from"
        )


def check_clips(net: nn.Module, clips: Tensor) -> None:
    """Raises InputError where clips are not uint8 `[N, 3, T, H, W]`, or are shorter than a network's strides allow."""
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[1] != 3:
        raise InputError(
            f"clips are {str(clips.dtype).removeprefix('torch.')} {list(clips.shape)}; they have to be uint8 "
            "[N, 3, T, H, W] from 0 to 255, which the model scales itself (from 0 to 1: (clips * 255).round().byte())"
        )
    least = getattr(net, "min_frames", 1)
    if clips.shape[2] < least:
        raise InputError(
            f"clips of {clips.shape[2]} frames are too short for {_called(net)}, which halves T until {least} frames "
            "are the least; raise data.clip.num_frames"
        )


def _called(net: nn.Module) -> str:
    return f"arch={net.arch}" if hasattr(net, "arch") else type(net).__name__


def check_logits(net: nn.Module, logits: Tensor, clips: int, num_classes: int) -> None:
    """Raises InputError where what a network gives is not K logits a clip."""
    if logits.ndim < 2 or logits.shape[:2] != (clips, num_classes):
        raise InputError(
            f"{type(net).__name__} gives {list(logits.shape)} for {clips} clips, and has to give logits "
            f"[{clips}, {num_classes}] (its call takes the number of classes)"
        )
