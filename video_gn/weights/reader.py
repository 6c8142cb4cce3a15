"""Files of ResNet weights as others publish them, opened so that no code in them can run.

| layout       | files                                                              | first name               |
|--------------|--------------------------------------------------------------------|--------------------------|
| torchvision  | torchvision's and timm's 2D ResNets (`.pth`, `.pt`, `.safetensors`) | `conv1.weight`           |
| Detectron    | `R-50-GN.pkl`, `R-101-GN.pkl`: 2D, BGR from 0 to 255                | `conv1_w`, `conv1_gn_s`  |
| Caffe2       | video-nonlocal-net's and PySlowFast's `.pkl`, 2D or 3D              | `conv1_w`, `res_conv1_bn_s` |
| PySlowFast   | its `.pyth` of C2D, I3D and Slow                                    | `s1.pathway0_stem.conv.weight` |
| pytorchvideo | its `.pyth`; this project's exports                                 | `blocks.0.conv.weight`   |
| ours         | this project's checkpoints                                          | `net.blocks.0.conv.weight` |

Any of these names may be below others (`module.`, `model.backbone.`), and the state dict within what a training script
saves (`STATES`).

Names and shapes were read in torchvision 0.29 and timm 1.0; Detectron `detectron/modeling/ResNet.py` and `detector.py`
(04155a0); video-nonlocal-net `lib/models/resnet_video_org.py`, `{resnet,nonlocal}_helper.py` and
`lib/utils/checkpoints.py` (c253ed5); PySlowFast `slowfast/models/{stem,resnet,nonlocal,head}_helper.py` and
`utils/checkpoint.py` (287ec00); pytorchvideo 0.1.5.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.files.names import utf8_named
from video_gn.models.resnet3d import norm_of
from video_gn.weights.layouts import (
    DETECTRON_MEAN,
    IMAGENET,
    KINETICS,
    Layout,
    detectron_name,
    nonlocal_name,
    pyslowfast_name,
    pytorchvideo_name,
    torchvision_name,
)
from video_gn.weights.nonlocal_blocks import count_blocks
from video_gn.weights.pickles import load_torch, read_arrays
from video_gn.weights.stored import model_settings, net_settings, read_settings

log = logging.getLogger(__name__)
METADATA = "video_gn"  # key of an export's settings in a safetensors file
# Where training scripts put a network's state dict; of several the first is taken.
STATES = (
    *("state_dict", "model_state", "model_state_dict", "model", "module", "net", "network", "weights"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
# By the layout's first name, another one that each of its files has.
FIRST = {
    "conv1.weight": "layer1.0.conv1.weight",
    "conv1_w": "conv1_w",
    "s1.pathway0_stem.conv.weight": "s1.pathway0_stem.conv.weight",
    "blocks.0.conv.weight": "blocks.0.conv.weight",
}
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


@dataclass(frozen=True)
class Weights:
    """What is in a file of weights.

    Attributes:
        source: The file, as messages name it.
        tensors: Under the names of its layout.
        layout: Gives these names.
        kind: The layout's name.
        norm: The norm that they were trained with, as `video_gn.models.norm.norm_label` writes it; None if it has no
            running statistics and says nothing.
        scale: Mean and standard deviation of the input, RGB on the scale from 0 to 1, if they are known.
        archs: Of `video_gn.models.architectures.ARCHS`, those whose strides these weights may have been
            trained with; empty for 2D ones and where it is unknown.
        settings: The model's hyper-parameters, of this project's own.
    """

    source: str
    tensors: dict[str, Tensor]
    layout: Layout
    kind: str
    norm: str | None
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    archs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: str | Path, opened: Any = None) -> Weights:
    """The weights in a file, whatever the layout.

    Args:
        path: The file.
        opened: What is in it, where that is known.

    Raises:
        InputError: There is no such file, it is damaged, holds code, or none of the layouts.
    """
    path = str(path)
    if not Path(path).is_file():
        raise InputError(
            f"there is no file {path} to start from (model.start.init), and no public name of that kind; see "
            "docs/weights.md"
        )
    found, settings = read_tensors(path, opened)
    norm = "bn" if any(name.endswith(("running_mean", "_bn_rm")) for name in found) else None
    weights = Weights(path, found, torchvision_name, "torchvision", norm)
    if "conv1.weight" in found and "layer1.0.conv1.weight" in found:
        return weights
    if "conv1_w" in found:
        return _caffe2(weights)
    if "s1.pathway0_stem.conv.weight" in found:
        if any("pathway1" in name for name in found):
            raise InputError(f"{path} is a SlowFast network with two pathways; only C2D, I3D and Slow can be read")
        if count_blocks(found):  # no tensor says so, and its default is another one
            log.warning(
                "%s has non-local blocks, which are taken for embedded Gaussians (PySlowFast's NONLOCAL.INSTANTIATION "
                "softmax); trained as dot_product they are another network", path,
            )  # fmt: skip
        zoo = ("i3d_8x8", "c2d_8x8", "slow_8x8")
        return replace(weights, layout=pyslowfast_name, kind="PySlowFast", scale=KINETICS, archs=zoo)
    if "blocks.0.conv.weight" in found:
        return _pytorchvideo(weights, settings)
    raise InputError(
        f"{path} has none of the layouts that can be read (torchvision, timm, Detectron, Caffe2, PySlowFast, "
        f"pytorchvideo, this project's): its first names are {', '.join(sorted(found)[:3])}"
    )


def _caffe2(weights: Weights) -> Weights:
    found = weights.tensors
    kept = {name: w for name, w in found.items() if not name.endswith("_momentum") and name not in ("lr", "model_iter")}
    if "pred_w" in kept and kept["pred_w"].ndim > 1:  # of a linear layer, or of a 1x1x1 convolution
        kept["pred_w"] = kept["pred_w"].flatten(1)
    if "conv1_gn_s" in kept:
        if kept["conv1_w"].ndim not in (4, 5) or kept["conv1_w"].shape[1] != 3:
            raise InputError(f"{weights.source} is another architecture: its first kernel is not of 3 colours")
        # Its input is BGR less the mean, from 0 to 255. Channels are turned round and the scale is multiplied into the
        # kernels; the mean has to be the model's, because the zeros of the padding are the mean.
        std = torch.tensor(IMAGENET[1]).view(3, *(1,) * (kept["conv1_w"].ndim - 2))
        kept["conv1_w"] = kept["conv1_w"].flip(1) * (255 * std)
        scale = (DETECTRON_MEAN, IMAGENET[1])
        return replace(weights, tensors=kept, layout=detectron_name, kind="Detectron", norm="gn", scale=scale)
    if weights.norm is None:
        raise InputError(f"{weights.source} has no running statistics: its BN was made part of affine layers")
    video = kept["conv1_w"].ndim == 5
    return replace(
        weights, tensors=kept, layout=nonlocal_name, kind="Caffe2", scale=KINETICS if video else None,
        archs=("i3d_nonlocal", "i3d_8x8", "c2d_8x8", "slow_8x8") if video else (),
    )  # fmt: skip


def _pytorchvideo(weights: Weights, settings: Any) -> Weights:
    block = re.compile(r"blocks\.(\d{1,3})\.(res_blocks)?")
    found = [match.groups() for match in map(block.match, weights.tensors) if match]
    stages = sorted({int(number) for number, stage in found if stage})
    layout = pytorchvideo_name(stages, max(int(number) for number, _ in found))
    if not settings and weights.norm is None:  # the zoo is all BN: somebody's own
        return replace(weights, layout=layout, kind="pytorchvideo")
    if not settings:
        zoo = ("i3d_8x8", "c2d_8x8", "slow_8x8")
        return replace(weights, layout=layout, kind="pytorchvideo", scale=KINETICS, archs=zoo)
    settings = model_settings(settings, weights.source)
    net = net_settings(settings, weights.source)
    return replace(
        weights,
        layout=layout,
        kind="ours",
        norm=norm_of(net),
        scale=(tuple(settings["start"]["mean"]), tuple(settings["start"]["std"])),
        archs=(net["arch"],),
        settings=settings,
    )


# Opening files


def read_tensors(path: str, opened: Any = None) -> tuple[dict[str, Tensor], Any]:
    """Names and tensors of a file, and the model's settings, as they stand there, if it is one of this project's.

    Args:
        path: The file.
        opened: What is in it, where that is known.

    Raises:
        InputError: As `read_content`, or it holds no state dict of plain tensors.
    """
    content, metadata = (opened, {}) if opened is not None else read_content(path)
    settings = _own_settings(content, metadata, path)
    content = _state(content, path, bool(settings))
    for name, value in content.items():
        _check_plain(path, name, value)
    return _of_one_network(content, path, bool(settings)), settings


def _own_settings(content: Any, metadata: Mapping[str, str], path: str) -> Any:
    """The model's settings as this project's exports and checkpoints have them; empty in files of others."""
    if not isinstance(content, dict):
        return {}
    if isinstance(text := content.get(METADATA, metadata.get(METADATA)), str):
        return read_settings(text, path).get("model") or {}
    found: Any = content.get("hyper_parameters")  # as every module of Lightning's may have
    ours = isinstance(found, dict) and "class_names" in found
    return found if ours and ("format" in found or "datamodule_hyper_parameters" in content) else {}


def _state(content: Any, path: str, whole: bool) -> dict[str, Tensor]:
    """The state dict in what was saved, by the words of `STATES`; its tensors, or `whole` if it has nothing else."""
    above = "the file"
    while isinstance(content, dict):
        inside = [key for key in STATES if isinstance(content.get(key), dict)]
        if not inside:
            break
        if len(inside) > 1:
            log.info("%s has %s; %s is taken", path, " and ".join(inside), inside[0])
        above, content = inside[0], content[inside[0]]
    found = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): value for name, value in found if isinstance(value, Tensor)}
    if not tensors or (whole and len(tensors) < len(found)):
        raise InputError(f"{path} holds no state dict (names and tensors) in {above}")
    return tensors


def _of_one_network(tensors: dict[str, Tensor], path: str, whole: bool) -> dict[str, Tensor]:
    """Tensors by their names within the network, which training scripts have below model., module., backbone., ...

    Args:
        tensors: By their names.
        path: The file, for messages.
        whole: Whether what is not below that name stays, to be refused.
    """
    named = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}  # torch.compile's
    above = {
        name.removesuffix(first)
        for first, second in FIRST.items()
        for name in named
        if name.endswith(first) and name.removesuffix(first) + second in named
    }
    above = {prefix for prefix in above if not prefix or prefix.endswith(".")}
    if len(named) < len(tensors) or len(above) > 1:
        which = f" ({', '.join(repr(prefix) for prefix in sorted(above))} before the name)" if len(above) > 1 else ""
        raise InputError(f"{path} has the tensors of more than one network{which}; save the one that is meant alone")
    prefix = next(iter(above), "")
    if whole and prefix not in ("", "net.", "module.", "module.net."):
        return named
    other = [name for name in named if not name.startswith(prefix)]
    if other and not whole:
        log.info("%s: what is not below %s is left out: %s", path, prefix, ", ".join(other[:3]))
    kept = [name for name in named if whole or name.startswith(prefix)]
    found = {name.removeprefix(prefix): named[name] for name in kept}
    if len(found) < len(kept):
        raise InputError(f"{path} has some tensors twice (with and without {prefix} before the name)")
    return found


def _check_plain(path: str, name: str, value: Tensor) -> None:
    """Raises InputError if a tensor is not numbers in memory, one for each of its elements."""
    plain = type(value) in (Tensor, nn.Parameter) and not object.__getattribute__(value, "__dict__")
    plain = plain and value.layout == torch.strided and value.device.type == "cpu"
    if not plain or value.is_quantized or value.is_nested or value.dtype not in _DTYPES:
        what = f"{str(value.dtype).removeprefix('torch.')}, {str(value.layout).removeprefix('torch.')}, {value.device}"
        raise InputError(f"{path} has a tensor of a kind that no weights are: {name} ({what}); the file is damaged")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{path} has fewer numbers than {name} {list(value.shape)} takes; the file is damaged")


def read_content(path: str) -> tuple[Any, dict[str, str]]:
    """What is in a file, and the metadata of a safetensors file.

    Raises:
        InputError: It is damaged or no such file, or has code in it, which does not run.
    """
    try:
        if path.endswith(".safetensors"):
            with utf8_named(path) as name, safe_open(name, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, file.metadata() or {}
        if path.endswith(".pkl"):
            return read_arrays(path), {}
        return load_torch(path, inert=True), {}
    except InputError:
        raise
    except Exception as error:  # each reader has many kinds
        raise InputError(f"{path} is not a file of weights, or is damaged ({_why(error)})") from None


def _why(error: Exception) -> str:
    if "Unsupported" not in str(error):
        return type(error).__name__
    what = re.search(r"Unsupported (?:global: GLOBAL|call of) ([\w.]+(?: [\w.]+)?)", str(error))
    return f"it holds code{f' ({what[1]})' if what else ''}, which was not run; its state dict, saved alone, is read"
