"""Files of tensors opened so that no code in them can run, and the state dict of one network in them.

Names may be below others (`module.`, `model.backbone.`), and the state dict within what a training script saves
(`STATES`).
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.files.names import utf8_named
from video_gn.weights.pickles import load_torch, read_arrays
from video_gn.weights.stored import read_settings

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
    "stem.conv.weight": "stages.0.blocks.0.norm1.weight",
    "conv1_w": "conv1_w",
    "s1.pathway0_stem.conv.weight": "s1.pathway0_stem.conv.weight",
    "blocks.0.conv.weight": "blocks.0.conv.weight",
}
# Of networks that are here as in their libraries, under the names there: the first name, and another one.
LIBRARIES = {
    "stem.0.weight": "layer1.0.conv1.1.weight",  # torchvision's r3d_18, mc3_18 and r2plus1d_18
    "features.0.0.0.weight": "features.5.branch0.0.weight",  # its s3d
    "blocks.0.conv.conv_t.weight": "blocks.0.conv.conv_t.weight",  # pytorchvideo's X3D
    "blocks.0.multipathway_blocks.0.conv.weight": "blocks.0.multipathway_blocks.1.conv.weight",  # its SlowFast
}
BODY = "body."  # before them in this project's own files
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def read_tensors(path: str, opened: Any = None) -> tuple[dict[str, Tensor], Any]:
    """Names and tensors of a file, and the model's settings, as the file has them, if it is one of this project's.

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
        for first, second in (FIRST | LIBRARIES).items()
        for name in named
        if name.endswith(first) and name.removesuffix(first) + second in named
    }
    above = {prefix for prefix in above if not prefix or prefix.endswith(".")}
    if len(named) < len(tensors) or len(above) > 1:
        which = f" ({', '.join(repr(prefix) for prefix in sorted(above))} before the name)" if len(above) > 1 else ""
        raise InputError(f"{path} has the tensors of more than one network{which}; save the one that is meant alone")
    prefix = next(iter(above), "")
    prefix = prefix.removesuffix(BODY) if whole else prefix
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
