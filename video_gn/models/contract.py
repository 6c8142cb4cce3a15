"""What a network may have besides its call from clips `[N, 3, T, H, W]` to logits, and what that is needed for.

Every `nn.Module` whose call gives logits `[N, K]`, or `[N, K, ...]` at several positions, trains, tests, resumes and
predicts. Some settings ask for more, by these names; `video_gn.models.resnet3d.ResNet3d` has all of them.

| name              | what it is                                                  | needed for                         |
|-------------------|-------------------------------------------------------------|------------------------------------|
| `stages`          | list of modules, from the first layer on                    | `model.start.freeze_stages`        |
| `head`            | the module that is new for other classes                    | `model.optimizer.head_lr`          |
| `min_frames`      | T of the shortest clip that it takes (else 1)               | a clear message                    |
| `set_crop_size`   | takes the side of the training crop in pixels               | a head with a window of that size  |
| `label(settings)` | its name in the names of runs, of its constructor's settings | names of runs (else the class's)  |

Weights of others (`model.start.init`), class-activation maps and exports are of `ResNet3d` alone.
"""

from typing import Any

from torch import nn

from video_gn.errors import InputError
from video_gn.models.resnet3d import ResNet3d


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


def resnet(net: nn.Module, purpose: str) -> ResNet3d:
    """A network of this project.

    Raises:
        InputError: It is another one; `purpose` is what asks for it.
    """
    if not isinstance(net, ResNet3d):
        raise InputError(f"{purpose} needs a network of video_gn (ResNet3d), and this one is {type(net).__name__}")
    return net
