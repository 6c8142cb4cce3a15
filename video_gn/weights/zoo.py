"""Networks by name: `i3d_r50` is arch `i3d` and 50 layers, `i3d_r50_nl5` has 5 non-local blocks, `r3d_18` is another's.

With the norm behind it, `i3d_r50_gn`, a name is taken too.
"""

from fnmatch import fnmatchcase
from os import PathLike
from typing import Any

from video_gn.errors import InputError
from video_gn.models.interface import Known
from video_gn.models.known import NAMES
from video_gn.models.norm import NORMS
from video_gn.rules import shown
from video_gn.weights.hub import fitting, load_weights
from video_gn.weights.inflate import start_net


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` takes, of those that match a pattern as of file names (`x3d_*`, `i3d_r50*`)."""
    return [name for name in NAMES if fnmatchcase(name, pattern)]


def create_model(
    name: str,
    num_classes: int = 400,
    norm: str | None = None,
    pretrained: str | PathLike[str] | bool | None = None,
    **settings: object,
) -> Known:
    """A network by its name, in training mode.

    It takes floats `[N, 3, T, H, W]`, RGB less `net.mean` and divided by `net.std`, both on the scale from 0 to 1, and
    gives logits `[N, num_classes, 1, h, w]`, 1 x 1 x 1 for crops of the size that it is published with.

    Args:
        name: Of `list_models`; its norm may be behind it (`i3d_r50_gn`).
        num_classes: K.
        norm: A word of `video_gn.models.norm.NORMS`; `gn` where neither it nor the name says one.
        pretrained: Weights to start from: a file, a public name (docs/weights.md), or true for the public ones that fit
            the network and its norm. 2D ones are inflated.
        settings: More of the network's class: num_groups, dropout and the like.

    Raises:
        InputError: There is no such network, no weights fit, or they are not of it.
    """
    if not isinstance(pretrained, str | PathLike | bool | None):
        raise InputError(f"pretrained is {shown(pretrained)}; it has to be a file, a public name, or true")
    short, said = _divided(name)
    if norm and said and norm != said:
        raise InputError(f"{name} has the norm {said}, and norm is {norm}; say one of them")
    kind, own, _ = NAMES[short]
    try:
        net = kind(num_classes, **{**own, "norm": norm or said or "gn", **settings})  # type: ignore[call-arg]
    except TypeError as error:
        raise InputError(f"{kind.__name__}: {error}") from None
    if pretrained is True:
        pretrained = fitting(net.settings, kind.__name__)
        if pretrained is None:
            raise InputError(
                f"there are no public weights of {short} with norm={net.settings['norm']}; name a file, or leave "
                "pretrained out (video-gn models lists the weights)"
            )
    weights = load_weights(str(pretrained)) if pretrained else None
    names: Any = weights.settings.get("class_names", ()) if weights else ()
    start_net(net, weights, names if len(names) == num_classes else list(map(str, range(num_classes))))
    return net


def _divided(name: str) -> tuple[str, str | None]:
    """A network's name, and the norm behind it."""
    if not isinstance(name, str):
        raise InputError(f"a network's name is text, not {shown(name)}; list_models() lists them")
    if name in NAMES:
        return name, None
    for norm in NORMS:
        if name.removesuffix(f"_{norm}") in NAMES:
            return name.removesuffix(f"_{norm}"), norm
    raise InputError(f"there is no network {name!r}; names are i3d_r50, r3d_18 and the like: list_models() lists them")
