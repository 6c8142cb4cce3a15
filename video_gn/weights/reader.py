"""Files of ResNet weights as others publish them.

| layout       | files                                                              | first name               |
|--------------|--------------------------------------------------------------------|--------------------------|
| torchvision  | torchvision's and timm's 2D ResNets (`.pth`, `.pt`, `.safetensors`) | `conv1.weight`           |
| BiT          | timm's ResNetV2 of BiT: 2D, pre-activation                          | `stem.conv.weight`       |
| Detectron    | `R-50-GN.pkl`, `R-101-GN.pkl`: 2D, BGR from 0 to 255                | `conv1_w`, `conv1_gn_s`  |
| Caffe2       | video-nonlocal-net's and PySlowFast's `.pkl`, 2D or 3D              | `conv1_w`, `res_conv1_bn_s` |
| PySlowFast   | its `.pyth` of C2D, I3D and Slow                                    | `s1.pathway0_stem.conv.weight` |
| pytorchvideo | its `.pyth`; this project's exports                                 | `blocks.0.conv.weight`   |
| ours         | this project's checkpoints                                          | `net.blocks.0.conv.weight` |
| by library   | torchvision's video networks, pytorchvideo's X3D and SlowFast       | those of `LIBRARIES`     |

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
from torch import Tensor

from video_gn.errors import InputError
from video_gn.models.norm import STANDARDIZED
from video_gn.models.published import TORCHVISION_VIDEO
from video_gn.models.resnet3d import norm_of
from video_gn.weights.layouts import (
    DETECTRON_MEAN,
    HALF,
    IMAGENET,
    KINETICS,
    Layout,
    detectron_name,
    nonlocal_name,
    pyslowfast_name,
    pytorchvideo_name,
    resnetv2_name,
    torchvision_name,
)
from video_gn.weights.nonlocal_blocks import count_blocks
from video_gn.weights.opening import BODY, LIBRARIES, read_tensors
from video_gn.weights.stored import model_settings, net_settings

log = logging.getLogger(__name__)
ZOO = ("i3d_8x8", "c2d_8x8", "slow_8x8")


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
        preactivated: Whether they are of a network with pre-activation.
        settings: The model's hyper-parameters, of this project's own.
        as_in_library: Whether they have the names of a network that is here as its library has it, and no places in a
            ResNet.
    """

    source: str
    tensors: dict[str, Tensor]
    layout: Layout
    kind: str
    norm: str | None
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    archs: tuple[str, ...] = ()
    preactivated: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    as_in_library: bool = False


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
    if "stem.conv.weight" in found and "stages.0.blocks.0.norm1.weight" in found:
        if norm:  # another pool in the stem, and kernels as they are
            raise InputError(f"{path} is a ResNetV2 with BN; of timm's, BiT's with GN can be read (resnetv2_50x1_bit)")
        return _bit(weights)
    if "conv1_w" in found:
        return _caffe2(weights)
    if any(name.startswith("s1.pathway0_stem.conv") for name in found):
        return _pyslowfast(weights)
    if any(name in LIBRARIES or name.startswith(BODY) for name in found):
        return _of_library(weights, settings)
    if "blocks.0.conv.weight" in found:
        return _pytorchvideo(weights, settings)
    raise InputError(
        f"{path} has none of the layouts that can be read (torchvision, timm, BiT, Detectron, Caffe2, PySlowFast, "
        f"pytorchvideo, this project's): its first names are {', '.join(sorted(found)[:3])}"
    )


def _bit(weights: Weights) -> Weights:
    found = dict(weights.tensors)
    if "head.fc.weight" in found and found["head.fc.weight"].ndim > 1:  # a 1x1 convolution
        found["head.fc.weight"] = found["head.fc.weight"].flatten(1)
    norm = f"gn{STANDARDIZED}"
    return replace(weights, tensors=found, layout=resnetv2_name, kind="BiT", norm=norm, scale=HALF, preactivated=True)


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


def _pyslowfast(weights: Weights) -> Weights:
    path, found = weights.source, weights.tensors
    if any("pathway1" in name for name in found):
        raise InputError(
            f"{path} is a SlowFast network with two pathways under PySlowFast's names, of which C2D, I3D and Slow "
            "alone are read; pytorchvideo:slowfast_r50 and pytorchvideo:slowfast_r101 are read"
        )
    if "s1.pathway0_stem.conv.weight" not in found:
        raise InputError(f"{path} is an X3D under PySlowFast's names, which are not read; pytorchvideo:x3d_m is read")
    if count_blocks(found):  # no tensor says so, and its default is another one
        log.warning(
            "%s has non-local blocks, which are taken for embedded Gaussians (PySlowFast's NONLOCAL.INSTANTIATION "
            "softmax); trained as dot_product they are another network", path,
        )  # fmt: skip
    return replace(weights, layout=pyslowfast_name, kind="PySlowFast", scale=KINETICS, archs=ZOO)


def _of_library(weights: Weights, settings: Any) -> Weights:
    """Of a network that is here as its library has it: the library's file, or one of this project."""
    if settings:
        return replace(_ours(weights, settings), as_in_library=True)
    if any(name.startswith("blocks.") for name in weights.tensors):
        return replace(weights, kind="pytorchvideo", scale=KINETICS, as_in_library=True)
    return replace(weights, scale=TORCHVISION_VIDEO, as_in_library=True)


def _pytorchvideo(weights: Weights, settings: Any) -> Weights:
    block = re.compile(r"blocks\.(\d{1,3})\.(res_blocks)?")
    found = [match.groups() for match in map(block.match, weights.tensors) if match]
    stages = sorted({int(number) for number, stage in found if stage})
    layout = pytorchvideo_name(stages, max(int(number) for number, _ in found))
    weights = replace(weights, preactivated="blocks.0.norm.weight" not in weights.tensors)
    if not settings and weights.norm is None:  # the zoo is all BN: somebody's own
        return replace(weights, layout=layout, kind="pytorchvideo")
    if not settings:
        return replace(weights, layout=layout, kind="pytorchvideo", scale=KINETICS, archs=ZOO)
    return _ours(replace(weights, layout=layout), settings)


def _ours(weights: Weights, settings: Any) -> Weights:
    settings = model_settings(settings, weights.source)
    net = net_settings(settings, weights.source)
    return replace(
        weights,
        kind="ours",
        norm=norm_of(net),
        scale=(tuple(settings["start"]["mean"]), tuple(settings["start"]["std"])),
        archs=(net["arch"],) if "arch" in net else (),
        settings=settings,
    )
