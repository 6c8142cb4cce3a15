"""Programs of `torch.export` out of files, looked through before they are loaded.

PyTorch does not promise that to load an archive, or to run what was loaded, runs no code: it evaluates expressions for
sizes, calls functions that are named, and unpickles. Here one may name the operators of this project's networks,
integer arithmetic on sizes, and tensors, and nothing else.
"""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from video_gn.errors import InputError

# What `video_gn.export.Graph` comes to; ATen as a whole could open files.
_OPERATORS = {
    "__and__", "_assert_tensor_metadata", "add", "addcmul", "arange", "avg_pool3d", "batch_norm", "conv3d", "detach_",
    "div", "flatten", "group_norm", "lift_fresh_copy", "linear", "lt", "max_pool3d", "mul", "pad", "relu_", "slice",
    "softmax", "sum", "sym_size", "to", "transpose", "unsqueeze", "view",
}  # fmt: skip
_TARGET = re.compile(rf"torch\.ops\.aten\.({'|'.join(_OPERATORS)})\.\w+|_operator\.(add|sub|mul|floordiv)")
_SIZE_WORDS = {
    "Symbol", "Integer", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv", "PythonMod", "CleanDiv", "CeilDiv",
    "True", "positive", "integer", "nonnegative", "L", "clips", "size", "torch", "sym_max", "sym_min", "max", "min",
    "and", "or", "not",
}  # fmt: skip
_FOLDERS = ("models/", "data/weights/", "data/constants/", "data/sample_inputs/", "extra/", ".data/")
_FILES = ("version", "byteorder", "archive_format", "archive_version", ".format_version", ".storage_alignment")


def load_program(path: str, extra: str) -> tuple[torch.export.ExportedProgram, bytes | None]:
    """A program and the extra file of that name in its archive, if there is one.

    Raises:
        InputError: It is damaged or something else, or holds more than a program of this project needs.
    """
    try:
        found = _looked_through(path, extra)
        return _load(path), found
    except InputError:
        raise
    except Exception as error:  # torch.export has many kinds
        raise InputError(f"{path} is not an exported program, or is damaged ({type(error).__name__})") from None


def _looked_through(path: str, wanted: str) -> bytes | None:
    """Refuses an archive that could run code when it is loaded or run; gives the extra file in it."""
    with zipfile.ZipFile(path) as archive:
        extra = None
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if not inner.startswith(_FOLDERS) and inner not in _FILES:
                raise InputError(f"{path} holds {inner}, which is more than a program of tensors; it was not loaded")
            if inner == f"extra/{wanted}":
                extra = archive.read(name)
            elif inner.endswith(".json"):
                for key, value in _strings(json.loads(archive.read(name))):
                    _check_string(key, value, path)
    return extra


def _strings(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf, with the key under which it stands."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _strings(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, key)
    else:
        yield key, content


def _check_string(key: str, value: Any, path: str) -> None:
    refused = f"{path} holds code ({str(value)[:60]}), which was not run"
    if key == "use_pickle" and value:
        raise InputError(f"{path} holds pickles, which were not opened")
    if key == "target" and not _TARGET.fullmatch(str(value)):
        raise InputError(refused)
    if key in ("expr_str", "guards_code"):
        words = set(re.findall(r"[A-Za-z_]\w*", str(value)))
        if "__" in str(value) or any(word not in _SIZE_WORDS and not re.fullmatch(r"[su]\d+", word) for word in words):
            raise InputError(refused)


def _load(path: str) -> torch.export.ExportedProgram:
    """Loads an archive while torch.load admits tensors alone, whatever its caller asks for."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.11's, about itself
            return torch.export.load(path)
    finally:
        os.environ.pop(key) if before is None else os.environ.update({key: before})
