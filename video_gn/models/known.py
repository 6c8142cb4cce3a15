"""The networks of this project: by their classes, as files name them, and by name, as users do."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from video_gn.models.architectures import ARCHS, DEPTHS, NONLOCAL
from video_gn.models.interface import Known
from video_gn.models.networks import NETWORKS
from video_gn.models.published import OURS, PublishedClip
from video_gn.models.resnet3d import ResNet3d

_KINDS: tuple[type[Known], ...] = (ResNet3d, *NETWORKS.values())
# By the path of the class.
CLASSES = {f"{kind.__module__}.{kind.__name__}": kind for kind in _KINDS}


class Named(NamedTuple):
    """A network by its name.

    Attributes:
        kind: Its class.
        settings: What of the class's settings makes it.
        clip: The clips that it is published with; None where it is of images, or of this project's own data.
    """

    kind: type[Known]
    settings: Mapping[str, Any] = {}
    clip: PublishedClip | None = None


# By name, without the norm: those of this project (`i3d_r50`), then those of other libraries (`r3d_18`).
NAMES: dict[str, Named] = {
    **{
        f"{arch}_r{depth}{f'_nl{blocks}' if blocks else ''}": Named(
            ResNet3d, {"arch": arch, "depth": depth, "nonlocal_blocks": blocks}, OURS.get(arch)
        )
        for arch, (depth, blocks) in itertools.product(ARCHS, [*((depth, 0) for depth in DEPTHS), *NONLOCAL])
    },
    **{name: Named(kind, {}, kind.published) for name, kind in NETWORKS.items()},
}


def is_known(net: nn.Module) -> bool:
    """Whether a network is of a class that files may name."""
    return type(net) in CLASSES.values()
