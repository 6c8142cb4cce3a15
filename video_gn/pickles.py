"""Arrays out of pickles, as Caffe2 programs wrote them, without running what else a pickle may hold."""

import pickle
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_gn.errors import InputError


class _Type:
    """What a pickle says of a type of numbers: numpy's own would take flags, fields and objects from it."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[fiub]\d{1,2}", name):
            raise pickle.UnpicklingError("an array of something else than numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("a type of no byte order")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What a pickle says of an array, until its numbers are taken out of the bytes."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.array = _numbers(kind, data).reshape(shape, order="F" if fortran else "C")


def _numbers(kind: Any, data: Any) -> np.ndarray:
    if not isinstance(kind, _Type):
        raise pickle.UnpicklingError("an array of no type")
    return np.frombuffer(data if isinstance(data, bytes) else data.encode("latin1"), kind.dtype)


def _scalar(kind: Any, data: Any) -> np.ndarray:
    return _numbers(kind, data)[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy's arrays of numbers and nothing else that can be called."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
        }
        if (module, name) not in allowed:
            raise InputError(f"it holds code ({module}.{name})")
        return allowed[module, name]


def read_arrays(path: str) -> dict[str, Tensor]:
    """The arrays of a Caffe2 pickle under their names, which lie bare or under "blobs"; text beside them is left out.

    Raises:
        InputError: It holds something that could be called. Damaged ones raise what pickle does.
    """
    with open(path, "rb") as file:
        try:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        except InputError as error:
            raise InputError(f"{path}: {error}, which was not run; only arrays are read from a pickle") from None
    blobs = content.get("blobs", content) if isinstance(content, dict) else {}
    if type(blobs) is not dict:
        return {}
    arrays = {name: blob.array if isinstance(blob, _Array) else blob for name, blob in blobs.items()}
    numbers = {name: one for name, one in arrays.items() if isinstance(one, np.ndarray | np.generic | float)}
    return {name: torch.from_numpy(_native(np.asarray(one))) for name, one in numbers.items()}


def _native(array: np.ndarray) -> np.ndarray:
    return np.array(array, array.dtype.newbyteorder("="))
