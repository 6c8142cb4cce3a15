"""Public weights by name: `torchvision:resnet50`, `timm:resnet50_gn.a1h_in1k`, `pytorchvideo:i3d_r50` and the like.

Files come from where their publishers keep them, into the caches of torch.hub and of the Hugging Face hub, once a
machine; a cached file needs no network.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from pytorchvideo.models import hub as pytorchvideo

from video_gn.errors import InputError
from video_gn.extras import optional
from video_gn.files.locks import locked
from video_gn.files.names import from_home
from video_gn.models.architectures import ARCHS
from video_gn.models.norm import STANDARDIZED
from video_gn.models.resnet3d import norm_of
from video_gn.weights.inflate import BATCH_NORMS
from video_gn.weights.public import DETECTRON, NAMED, NONLOCAL, OWN, PYTORCHVIDEO, TORCHVISION
from video_gn.weights.reader import Weights, read_weights

log = logging.getLogger(__name__)
FILES = Path(__file__).with_name("files")
Scale = tuple[tuple[float, ...], tuple[float, ...]]


class Public(NamedTuple):
    """Where a file of weights is published.

    Attributes:
        url: Of the file.
        fetch: Gives the file, downloaded unless it is cached.
        scale: Mean and standard deviation of the input, where the file itself does not tell.
    """

    url: str
    fetch: Callable[[], str | Path]
    scale: Scale | None = None


def is_there(init: str) -> bool:
    """Whether weights to start from are a file, or a name that may be public."""
    return Path(from_home(init)).exists() or init.partition(":")[0] in HUBS


def load_weights(init: str) -> Weights:
    """The weights of a file, or of a public name.

    Raises:
        InputError: As `video_gn.weights.reader.read_weights`; or there is no such name, or no network to get it by.
    """
    init = from_home(init)
    hub, _, name = init.partition(":")
    if Path(init).exists() or hub not in HUBS:
        return read_weights(init)
    public = HUBS[hub](name)
    try:
        path = public.fetch()
    except (OSError, RuntimeError) as error:  # no network; what torch.hub says of another hash
        raise InputError(
            f"cannot download {init} ({' '.join(str(error).split())[:100]}); fetch {public.url} by hand "
            f"and name the file: --model.start.init {public.url.rpartition('/')[2]}"
        ) from None
    weights = replace(read_weights(path), source=init)
    return replace(weights, scale=weights.scale or public.scale)


def _torchvision(name: str) -> Public:
    model, _, tag = name.partition(".")
    try:
        of = torchvision.models.get_model_weights(model)
        found = of[tag] if tag else next(iter(of))  # its first: IMAGENET1K_V1 or KINETICS400_V1
    except (ValueError, KeyError):
        raise InputError(
            f"torchvision has no weights {name!r}; there are torchvision:resnet50 and torchvision:resnet101, which are "
            "their IMAGENET1K_V1, and with .IMAGENET1K_V2 after them the newer ones; and of videos torchvision:"
            f"{', torchvision:'.join(TORCHVISION)}"
        ) from None
    sized = found.transforms()
    return _by_url(found.url, (tuple(sized.mean), tuple(sized.std)))


def _timm(name: str) -> Public:
    timm = optional("timm")  # here, because it takes a second
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that the network does not have
        cfg = None
    if cfg is None or not cfg.hf_hub_id:
        raise InputError(f"timm has no pretrained weights {name!r}; timm:resnet50_gn.a1h_in1k is its ResNet-50 with GN")

    def fetch() -> str:
        return optional("huggingface_hub").hf_hub_download(repo, file)

    repo, file = cfg.hf_hub_id, "model.safetensors"
    return Public(f"https://huggingface.co/{repo}/resolve/main/{file}", fetch, (cfg.mean, cfg.std))


def _listed(hub: str, urls: dict[str, str]) -> Callable[[str], Public]:
    def find(name: str) -> Public:
        if name not in urls:
            raise InputError(f"there are no weights {hub}:{name}; there are: {', '.join(urls)}")
        return _by_url(urls[name])

    return find


def _by_url(url: str, scale: Scale | None = None) -> Public:
    return Public(url, lambda: _download(url), scale)


def _download(url: str) -> Path:
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(Path(f"{path}.lock")):  # the processes of a node download it once
        if not path.exists():
            log.info("downloading %s to %s", url, path)
            digest = re.search(r"-([a-f0-9]{8,})\.", path.name)  # torch.hub's convention
            torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None)
    return path


def _packaged(name: str) -> Public:
    if name not in OWN:
        raise InputError(f"there are no weights video_gn:{name}; there are: {', '.join(OWN)}")
    return Public("", lambda: FILES / f"{name}.safetensors")


def fitting(settings: Mapping[str, Any], network: str = "ResNet3d") -> str | None:
    """Public weights for a network of this project, of videos before images; None if none fit.

    Args:
        settings: The network's.
        network: Name of its class.
    """
    sizes = (settings.get("depth"), settings.get("width"))
    batch_norm, standardized = settings.get("norm") in BATCH_NORMS, settings.get("weight_standardization")
    divided = settings.get("norm") == "gn" and not settings.get("channels_per_group")
    groups = settings.get("num_groups") if divided else None
    if settings.get("arch") == "i3d_small" and sizes == (11, 16):
        if batch_norm:
            return None if standardized else "video_gn:motion12_bn"
        return f"video_gn:motion12_gn{'_ws' if standardized else ''}" if groups == 8 else None
    preactivated = settings.get("arch") in [name for name, arch in ARCHS.items() if arch.preactivated]
    if preactivated or standardized:
        fits = preactivated and norm_of(settings) == f"gn{STANDARDIZED}"
        return f"timm:resnetv2_{sizes[0]}x1_bit.goog_in21k" if fits and sizes in ((50, 64), (101, 64)) else None
    if network != "ResNet3d":
        return NAMED.get(network) if batch_norm else None
    if sizes not in ((50, 64), (101, 64)) or settings.get("arch") in ("i3d_small", "flat_small"):
        return None
    if batch_norm:
        name = str(settings["arch"]).replace("_8x8", f"_r{sizes[0]}")
        return f"pytorchvideo:{name}" if name in PYTORCHVIDEO else f"torchvision:resnet{sizes[0]}"
    return {50: "timm:resnet50_gn.a1h_in1k", 101: "detectron:R-101-GN"}[sizes[0]] if groups == 32 else None


def _pytorchvideo_urls() -> dict[str, str]:
    published = (pytorchvideo.resnet, pytorchvideo.r2plus1d, pytorchvideo.x3d, pytorchvideo.slowfast, pytorchvideo.csn)
    urls = {name: url for module in published for name, url in module.checkpoint_paths.items()}
    return {name: urls[name] for name in PYTORCHVIDEO}


HUBS: dict[str, Callable[[str], Public]] = {
    "video_gn": _packaged,
    "torchvision": _torchvision,
    "timm": _timm,
    "pytorchvideo": _listed("pytorchvideo", _pytorchvideo_urls()),
    "detectron": _listed("detectron", DETECTRON),
    "nonlocal": _listed("nonlocal", NONLOCAL),
}
