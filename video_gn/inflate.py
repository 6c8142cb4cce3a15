"""2D ResNet weights as the start of the 3D one (Carreira & Zisserman 2017; Wang et al. 2018, section 3.1).

Each 2D kernel is repeated along T and divided by the temporal size, so that a clip of one repeated image gives the
2D network's features, away from the clip's ends where the temporal padding reaches. Gamma, beta and running
statistics are carried over; loaded gammas replace zero-initialised ones. The names read are those of torchvision's
`resnet50` and timm's `resnet50_gn` (conv1, bn1, layer1.0.conv1, ..., fc).
"""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from video_gn.errors import InputError
from video_gn.resnet3d import Net, ResStage

_PART = {"conv1": "branch2.conv_a", "conv2": "branch2.conv_b", "conv3": "branch2.conv_c",
         "bn1": "branch2.norm_a", "bn2": "branch2.norm_b", "bn3": "branch2.norm_c",
         "downsample.0": "branch1_conv", "downsample.1": "branch1_norm"}  # fmt: skip
BATCH_NORMS = ("bn", "brn", "frozen_bn")


def load_inflated(net: Net, path: str, norm: str, file_norm: str | None = None) -> str:
    """Starts a 3D network from a 2D checkpoint, in place, and says in one line what was done.

    Args:
        net: Of `video_gn.resnet3d.resnet3d`.
        path: `.pth`, `.pt` (a state dict, opened with `weights_only=True`) or `.safetensors`.
        norm: The network's norm as `video_gn.norm.norm_label` writes it.
        file_norm: The norm that the file was trained with. None takes "bn" where it has running statistics and "gn"
            (32 groups, as the public ones) where it has none.

    Raises:
        InputError: The file cannot be read, its norm is not the network's, or a name or shape does not match.
    """
    weights = read_2d(path)
    has_statistics = any(name.endswith("running_mean") for name in weights)
    file_norm = file_norm or ("bn" if has_statistics else "gn")
    if file_norm in BATCH_NORMS and not has_statistics:
        raise InputError(f"{path} has no running statistics, so it was not trained with init_norm={file_norm}")
    if norm != file_norm and not (norm in BATCH_NORMS and file_norm in BATCH_NORMS):
        raise InputError(
            f"{path} was trained with norm {file_norm}, the model has {norm}, and weights do not carry over between "
            f"norms; take a checkpoint trained with {norm}, or give the model the norm {file_norm}"
            + ("" if has_statistics else "; if the file was trained with another norm, name it with --model.init_norm")
        )
    inflated, head = inflate(weights, net, path)
    net.load_state_dict(inflated, strict=False)  # `inflate` has matched every name
    return f"started from {path}: {len(inflated)} tensors inflated; {head}"


def read_2d(path: str) -> dict[str, Tensor]:
    """The state dict in a file, opened so that no code in it can run.

    Raises:
        InputError: There is no such file, or it holds no state dict.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path} to start from (model.init); see data/README.md for where to get it")
    try:
        weights = load_file(path) if path.endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # each reader has many kinds
        raise InputError(f"{path} is not a file of weights, or is damaged ({type(error).__name__})") from None
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not weights or not all(isinstance(w, Tensor) for w in weights.values()):
        raise InputError(f"{path} holds no state dict (names and tensors)")
    return weights


def inflate(weights: dict[str, Tensor], net: Net, path: str = "the checkpoint") -> tuple[dict[str, Tensor], str]:
    """2D weights under the 3D network's names and shapes, and what became of the classifier.

    Raises:
        InputError: Names that only one of the two has, or a shape that differs in more than T.
    """
    target = net.state_dict()
    head = f"blocks.{len(net.blocks) - 1}.proj."
    named = {_name_3d(name, net): weight for name, weight in weights.items()}
    classes_2d, classes_3d = len(named.get(f"{head}weight", ())), len(target[f"{head}weight"])
    said = "the classifier carried over"
    if classes_2d != classes_3d:
        said = f"the classifier starts at random ({classes_2d} classes there, {classes_3d} here)"
        named = {name: weight for name, weight in named.items() if not name.startswith(head)}
    kept = {name for name in target if classes_2d == classes_3d or not name.startswith(head)}

    counters = {name for name in target if name.endswith("num_batches_tracked")}  # missing in old files
    missing, unused = sorted(kept - named.keys() - counters), sorted(named.keys() - kept)
    if missing or unused:
        raise InputError(
            f"{path} is another architecture: {_few('without', missing)}{_few('with unknown', unused)}"
            "the model's depth, width and norm have to be those of the file"
        )
    return {name: _inflate_one(name, weight, target[name], path) for name, weight in named.items()}, said


def _inflate_one(name: str, weight: Tensor, target: Tensor, path: str) -> Tensor:
    if weight.ndim == 4 and target.ndim == 5:
        time = target.shape[2]
        weight = weight.unsqueeze(2).expand(-1, -1, time, -1, -1) / time
    if weight.shape != target.shape:
        raise InputError(f"{path} is another architecture: {name} is {list(weight.shape)}, not {list(target.shape)}")
    return weight


def _name_3d(name: str, net: Net) -> str:
    """torchvision's name as pytorchvideo's, or as it is where there is none."""
    name = name.removeprefix("module.")
    stages = [i for i, block in enumerate(net.blocks) if isinstance(block, ResStage)]
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv[123]|bn[123]|downsample\.[01])\.(\w+)", name):
        stage, block, part, what = match.groups()
        if 1 <= int(stage) <= len(stages):
            return f"blocks.{stages[int(stage) - 1]}.res_blocks.{block}.{_PART[part]}.{what}"
    for old, new in {
        "conv1.": "blocks.0.conv.",
        "bn1.": "blocks.0.norm.",
        "fc.": f"blocks.{len(net.blocks) - 1}.proj.",
    }.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _few(word: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{word} {', '.join(names[:3])}{more}; " if names else ""
