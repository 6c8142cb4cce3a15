"""Networks by name: `i3d_r50_gn` is arch `i3d`, 50 layers, GroupNorm; `i3d_r50_nl5_gn` has 5 non-local blocks."""

import itertools
import re
from fnmatch import fnmatchcase

from video_gn.errors import InputError
from video_gn.models.architectures import ARCHS, DEPTHS, NONLOCAL
from video_gn.models.norm import NORMS
from video_gn.models.resnet3d import ResNet3d
from video_gn.weights.hub import load_weights
from video_gn.weights.inflate import start_net


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` takes, of those that match a pattern as of file names (`*gn*`, `i3d_r50_*`)."""
    sizes = [f"r{depth}" for depth in DEPTHS] + [f"r{depth}_nl{blocks}" for depth, blocks in NONLOCAL]
    names = map("_".join, itertools.product(ARCHS, sizes, NORMS))
    return [name for name in names if fnmatchcase(name, pattern)]


def create_model(
    name: str, num_classes: int = 400, norm: str | None = None, pretrained: str | None = None, **settings: object
) -> ResNet3d:
    """A network by its name, in training mode.

    It takes floats `[N, 3, T, H, W]`, RGB less `net.mean` and divided by `net.std`, both on the scale from 0 to 1, and
    gives logits `[N, num_classes, 1, h, w]`, 1 x 1 x 1 for crops of 224 pixels.

    Args:
        name: Of `list_models`; its norm may be left out (`i3d_r50`).
        num_classes: K.
        norm: In the place of the name's; `gn` where neither says one.
        pretrained: Weights to start from, a file or a public name (docs/weights.md); 2D ones are inflated.
        settings: More of `video_gn.models.resnet3d.ResNet3d`: width, num_groups, dropout and the like.

    Raises:
        InputError: There is no such network, or the weights are not of it.
    """
    match = re.fullmatch(rf"({'|'.join(ARCHS)})_r(\d+)(?:_nl(5|10))?(?:_({'|'.join(NORMS)}))?", name)
    if not match or int(match[2]) not in DEPTHS:
        raise InputError(f"there is no network {name!r}; names are made as i3d_r50_gn, and list_models() lists them")
    if norm and match[4] and norm != match[4]:
        raise InputError(f"{name} has the norm {match[4]}, and norm is {norm}; say one of them")
    if match[3]:
        settings = {"nonlocal_blocks": int(match[3])} | settings
    try:
        net = ResNet3d(num_classes, match[1], int(match[2]), norm=norm or match[4] or "gn", **settings)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(f"ResNet3d: {error}") from None
    weights = load_weights(pretrained) if pretrained else None
    names = weights.settings.get("class_names", ()) if weights else ()
    start_net(net, weights, names if len(names) == num_classes else list(map(str, range(num_classes))))
    return net
