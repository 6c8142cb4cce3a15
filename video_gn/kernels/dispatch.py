"""When the Triton kernels are taken, and for which devices they are.

A norm, residual sum and ReLU of features in channels_last_3d are one function of theirs, forward and backward, in the
type of the features, with statistics and parameters in float32. Everything else, a CPU above all, has PyTorch's own
operators and the same results. Triton is imported when a kernel is first wanted, and need not be installed.
"""

import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from video_gn.compat import constant_result, is_fake, transforming
from video_gn.errors import InputError

SETTINGS = ("auto", "triton", "torch")
_MAX_GROUP = 2048  # channels of a group that a kernel's program can hold
_MAX_CLIPS = 65535  # of CUDA's grid
_ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by dimensions
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_CAPABILITY = (8, 0)  # the first with bfloat16
# Their 3D convolutions in 16 bits are wrong (pytorch/pytorch issue 163539), and PyTorch avoids them at 10 to 20 times
# the time and 17 times the memory (issues 166643, 174051).
_BAD_CUDNN = (90800, 91500)

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_device(
    launch: Callable[Concatenate[Tensor, Arguments], Result],
) -> Callable[Concatenate[Tensor, Arguments], Result]:
    """Has a function launch kernels on the device of its first argument."""

    @wraps(launch)
    def launch_there(x: Tensor, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if is_fake(x):  # perhaps of a device that is not there
            return launch(x, *args, **kwargs)
        with torch.cuda.device_of(x):
            return launch(x, *args, **kwargs)

    return launch_there


def interpreted() -> bool:
    """Whether Triton's kernels run on a CPU, by its interpreter: `TRITON_INTERPRET=1`."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def obstacle(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if interpreted():
        return None
    if device.type != "cuda" or not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.version.hip:
        return "they are untried on AMD's GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}, below 8.0"
    return None


def takes(layer: Any, x: Tensor, group_size: int = 1) -> bool:
    """Whether the kernels run a layer.

    Args:
        layer: With `kernels`: "torch" never; "auto" where the features are in channels_last(_3d) on a CUDA device that
            can, and what else is on one is said once; "triton" in any memory order, which costs copies. None of them
            what is empty, nor within a transform of `torch.func`.
        x: The features, `[N, C, H, W]` or `[N, C, T, H, W]`.
        group_size: Channels of a group.
    """
    if layer.kernels == "torch" or (layer.kernels == "auto" and not x.is_cuda) or not x.numel():
        return False
    compiling = torch.compiler.is_compiling()
    if not compiling and transforming():
        return False
    reason = _refusal(layer.kernels, x, group_size)
    if reason is None:
        return (x.is_cuda and is_fake(x)) or _able(x.device)
    if x.is_cuda and not compiling and _able(x.device):
        _say_once(f"{type(layer).__name__} of {x.shape[1]} channels runs on PyTorch's kernels: {reason}")
    return False


def _refusal(setting: str, x: Tensor, group_size: int) -> str | None:
    """Why the kernels do not take features; None if they do."""
    if x.ndim not in _ORDERS:
        return f"features have {x.ndim} dimensions, and 4 or 5 are known"
    if x.dtype not in _TYPES:
        return f"features are {x.dtype}"
    if group_size > _MAX_GROUP:
        return f"a group has {group_size} channels, and {_MAX_GROUP} at most are known"
    if len(x) > _MAX_CLIPS:
        return f"there are {len(x)} clips, and {_MAX_CLIPS} at most are known"
    if setting == "auto" and not x.is_contiguous(memory_format=(order := _ORDERS[x.ndim])):
        return f"features are not in {str(order).removeprefix('torch.')}, in which the kernels need no copies"
    return None


@cache
def _say_once(line: str) -> None:
    log.warning(line)


@constant_result
def _able(device: torch.device) -> bool:
    return obstacle(device) is None


def check(setting: str, device: torch.device) -> str:
    """One line on which kernels the norms run on a device.

    Raises:
        InputError: Triton's kernels are demanded where they cannot run, or the version of cuDNN computes 3D
            convolutions wrongly.
    """
    if device.type == "cuda":
        check_cudnn(torch.backends.cudnn.version())
    reason = _hindrance(setting, device)
    if reason is None:
        return "norms run on fused Triton kernels (norm + residual + ReLU)"
    if setting == "triton":
        raise InputError(
            f"model.execution.kernels is triton, and {reason}; take auto, which takes PyTorch's kernels here"
        )
    return f"norms run on PyTorch's kernels: {reason}"


def triton_runs(setting: str, device: torch.device) -> bool:
    """Whether the kernels run on a device."""
    return _hindrance(setting, device) is None


def _hindrance(setting: str, device: torch.device) -> str | None:
    if setting == "torch":
        return "model.execution.kernels=torch"
    if setting == "auto" and device.type != "cuda":
        return obstacle(device) or "there is no CUDA device"
    return obstacle(device)


def check_cudnn(version: int | None) -> None:
    """Refuses the versions of cuDNN, as 90800 for 9.8.0, whose 3D convolutions are wrong or avoided.

    Raises:
        InputError: It is one of them.
    """
    if version is not None and _BAD_CUDNN[0] <= version < _BAD_CUDNN[1]:
        number = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
        raise InputError(
            f"cuDNN {number} computes 3D convolutions in bf16 and fp16 wrongly, and PyTorch avoids it at 10 times the "
            "time (pytorch issues 163539 and 166643); install cuDNN 9.15 or newer, as torch 2.11 brings it: "
            "pip install 'nvidia-cudnn-cu13>=9.15'"
        )


def check_once() -> None:
    """Refuses a backward whose result is to be differentiated.

    Raises:
        InputError: It is.
    """
    if torch.is_grad_enabled():
        raise InputError(
            "the kernels have no second derivative, which create_graph=True asks for; set "
            "model.execution.kernels=torch (in Python: select_kernels(net, 'torch'))"
        )
