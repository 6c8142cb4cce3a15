"""Files of ResNet weights as others publish them, opened so that no code in them can run.

| layout       | files                                                              | first name               |
|--------------|--------------------------------------------------------------------|--------------------------|
| torchvision  | torchvision's and timm's 2D ResNets (`.pth`, `.pt`, `.safetensors`) | `conv1.weight`           |
| Detectron    | `R-50-GN.pkl`, `R-101-GN.pkl`: 2D, BGR from 0 to 255                | `conv1_w`, `conv1_gn_s`  |
| Caffe2       | video-nonlocal-net's and PySlowFast's `.pkl`, 2D or 3D              | `conv1_w`, `res_conv1_bn_s` |
| PySlowFast   | its `.pyth` of C2D, I3D and Slow                                    | `s1.pathway0_stem.conv.weight` |
| pytorchvideo | its `.pyth`; this project's exports                                 | `blocks.0.conv.weight`   |
| ours         | this project's checkpoints                                          | `net.blocks.0.conv.weight` |

Names and shapes were read in torchvision 0.29 and timm 1.0; Detectron `detectron/modeling/ResNet.py` and `detector.py`
(04155a0); video-nonlocal-net `lib/models/resnet_video_org.py`, `resnet_helper.py` and `lib/utils/checkpoints.py`
(c253ed5); PySlowFast `slowfast/models/{stem,resnet,head}_helper.py` and `utils/checkpoint.py` (287ec00);
pytorchvideo 0.1.5.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.files import utf8_named
from video_gn.norm import norm_label
from video_gn.pickles import load_torch, read_arrays
from video_gn.stored import model_settings, read_settings

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of torchvision's and timm's ResNets
KINETICS = ((0.45,) * 3, (0.225,) * 3)  # of video-nonlocal-net, PySlowFast and pytorchvideo
_DETECTRON_MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)  # RGB; detectron/core/config.py
METADATA = "video_gn"  # key of an export's settings in a safetensors file
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


class Place(NamedTuple):
    """Where in a ResNet a tensor belongs.

    Attributes:
        stage: 0 is the stem, 1 to 4 are res2 to res5, 5 is the head.
        block: Bottleneck of the stage.
        part: "conv" or "norm" of the stem; "conv_a" to "norm_c", "branch1_conv" or "branch1_norm" of a bottleneck;
            "proj" of the head.
        what: "weight", "bias", "running_mean", "running_var" or "num_batches_tracked".
    """

    stage: int
    block: int
    part: str
    what: str


Layout = Callable[[Place], str]  # the name of a place's tensor


def torchvision_name(place: Place) -> str:
    """As in torchvision's and timm's ResNet."""
    parts = {
        "conv": "conv1",
        "norm": "bn1",
        "proj": "fc",
        "branch1_conv": "downsample.0",
        "branch1_norm": "downsample.1",
    }
    for number, letter in enumerate("abc", 1):
        parts |= {f"conv_{letter}": f"conv{number}", f"norm_{letter}": f"bn{number}"}
    stage = f"layer{place.stage}.{place.block}." if 1 <= place.stage <= 4 else ""
    return f"{stage}{parts[place.part]}.{place.what}"


def _caffe2_name(place: Place, norm: str, stem_norm: str) -> str:
    what = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}.get(place.what, place.what)
    if place.part == "proj":
        return f"pred_{'w' if place.what == 'weight' else 'b'}"
    if place.stage == 0:
        return "conv1_w" if place.part == "conv" else f"{stem_norm}_{norm}_{what}"
    kind, _, letter = place.part.removeprefix("branch1_").partition("_")
    branch = f"res{place.stage + 1}_{place.block}_branch" + ("1" if "branch1" in place.part else f"2{letter}")
    return f"{branch}_w" if kind == "conv" else f"{branch}_{norm}_{what}"


def _detectron_name(place: Place) -> str:
    return _caffe2_name(place, "gn", "conv1")


def _nonlocal_name(place: Place) -> str:
    return _caffe2_name(place, "bn", "res_conv1")


def _pyslowfast_name(place: Place) -> str:
    if place.part == "proj":
        return f"head.projection.{place.what}"
    if place.stage == 0:
        return f"s1.pathway0_stem.{'conv' if place.part == 'conv' else 'bn'}.{place.what}"
    kind, _, letter = place.part.removeprefix("branch1_").partition("_")
    branch = "branch1" if "branch1" in place.part else f"branch2.{letter}"
    bn = "" if kind == "conv" else "_bn"
    return f"s{place.stage + 1}.pathway0_res{place.block}.{branch}{bn}.{place.what}"


def pytorchvideo_name(stages: list[int], head: int, prefix: str = "") -> Layout:
    """As in a pytorchvideo `Net`.

    Args:
        stages: The numbers of the blocks that are residual stages.
        head: The number of the last block.
        prefix: Before every name.
    """

    def name(place: Place) -> str:
        if place.stage == 0:
            return f"{prefix}blocks.0.{place.part}.{place.what}"
        if place.part == "proj":
            return f"{prefix}blocks.{head}.proj.{place.what}"
        stage = str(stages[place.stage - 1]) if place.stage <= len(stages) else f"(res{place.stage + 1})"
        block = f"{prefix}blocks.{stage}.res_blocks.{place.block}."
        return block + ("" if "branch1" in place.part else "branch2.") + f"{place.part}.{place.what}"

    return name


@dataclass(frozen=True)
class Weights:
    """What is in a file of weights.

    Attributes:
        source: The file, as messages name it.
        tensors: Under the names of its layout.
        layout: Gives these names.
        kind: The layout's name.
        norm: The norm that they were trained with, as `video_gn.norm.norm_label` writes it; None if it has no running
            statistics and says nothing.
        scale: Mean and standard deviation of the input, RGB on the scale from 0 to 1, if they are known.
        geometries: Of `video_gn.resnet3d.GEOMETRIES`, those whose strides these weights may have been trained with;
            empty for 2D ones and where it is unknown.
        settings: The model's hyper-parameters, of this project's own.
    """

    source: str
    tensors: dict[str, Tensor]
    layout: Layout
    kind: str
    norm: str | None
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    geometries: tuple[str, ...] = ()
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
            f"there is no file {path} to start from (model.init), and no public name of that kind; see docs/weights.md"
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
        zoo = ("i3d_8x8", "c2d_8x8", "slow_8x8")
        return replace(weights, layout=_pyslowfast_name, kind="PySlowFast", scale=KINETICS, geometries=zoo)
    for prefix in ("", "net."):
        if f"{prefix}blocks.0.conv.weight" in found:
            return _pytorchvideo(weights, prefix, settings)
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
        scale = (_DETECTRON_MEAN, IMAGENET[1])
        return replace(weights, tensors=kept, layout=_detectron_name, kind="Detectron", norm="gn", scale=scale)
    if weights.norm is None:
        raise InputError(f"{weights.source} has no running statistics: its BN was made part of affine layers")
    video = kept["conv1_w"].ndim == 5
    return replace(
        weights, tensors=kept, layout=_nonlocal_name, kind="Caffe2", scale=KINETICS if video else None,
        geometries=("i3d_nonlocal", "i3d_8x8", "c2d_8x8", "slow_8x8") if video else (),
    )  # fmt: skip


def _pytorchvideo(weights: Weights, prefix: str, settings: Any) -> Weights:
    block = re.compile(re.escape(prefix) + r"blocks\.(\d{1,3})\.(res_blocks)?")
    found = [match.groups() for match in map(block.match, weights.tensors) if match]
    stages = sorted({int(number) for number, stage in found if stage})
    layout = pytorchvideo_name(stages, max(int(number) for number, _ in found), prefix)
    if not settings and weights.norm is None:  # the zoo is all BN: somebody's own
        return replace(weights, layout=layout, kind="pytorchvideo")
    if not settings:
        zoo = ("i3d_8x8", "c2d_8x8", "slow_8x8")
        return replace(weights, layout=layout, kind="pytorchvideo", scale=KINETICS, geometries=zoo)
    settings = model_settings(settings, weights.source)
    return replace(
        weights,
        layout=layout,
        kind="ours",
        norm=norm_label(*(settings[name] for name in ("norm", "num_groups", "channels_per_group"))),
        scale=(tuple(settings["mean"]), tuple(settings["std"])),
        geometries=(settings["geometry"],),
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
    settings: Any = {}
    if isinstance(content, dict):
        text = content.get(METADATA, metadata.get(METADATA))
        settings = read_settings(text, path).get("model") if isinstance(text, str) else content.get("hyper_parameters")
    for key in ("state_dict", "model_state"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(w, Tensor) for w in content.values()):
        raise InputError(f"{path} holds no state dict (names and tensors)")
    named = [str(name).removeprefix("module.") for name in content]
    bare = {name.removeprefix("net.") for name in named}
    if len(bare) < len(named):
        raise InputError(f"{path} has some tensors twice (with and without module. or net. before the name)")
    content = dict(zip(named, content.values(), strict=True))
    for name, value in content.items():
        _check_plain(path, name, value)
    return content, settings or {}


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
        return load_torch(path), {}
    except InputError:
        raise
    except Exception as error:  # each reader has many kinds
        raise InputError(f"{path} is not a file of weights, or is damaged ({_why(error)})") from None


def _why(error: Exception) -> str:
    return "it holds code, which was not run" if "Unsupported" in str(error) else type(error).__name__
