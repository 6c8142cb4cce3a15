"""Packages that not every user needs, and the extra of this package that brings each."""

import importlib
from typing import Any

from video_gn.errors import InputError

EXTRAS = {
    "ablate": ("matplotlib", "submitit"),
    "hub": ("timm", "huggingface_hub"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}


def optional(name: str) -> Any:
    """A package of an extra.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = next(extra for extra, names in EXTRAS.items() if name in names)
        raise InputError(f"this needs the package {name}: pip install 'video_gn[{extra}]'") from None
