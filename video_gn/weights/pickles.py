"""What is in pickles, torch's and Caffe2's: tensors, arrays and plain values. What else they may hold is not run."""

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_gn.compat import PythonUnpickler
from video_gn.errors import InputError
from video_gn.weights.archives import DICTIONARIES, INERT, MOST_VALUES, check_pickle, look_through


def load_torch(path: str, mmap: bool = False, inert: bool = False) -> Any:
    """Tensors and plain values of a file, on the CPU; no code in it runs.

    Args:
        path: The file, its name in UTF-8.
        mmap: As `torch.load`.
        inert: Whether values of Python's library and numpy (`archives.INERT`) may be among them; nothing of them is
            made.

    Raises:
        Exception: Of many kinds, where it is damaged or something else.
    """
    look_through(path)
    stand_ins = [(_Inert, name) for name in INERT] + [(_Dictionary, name) for name in DICTIONARIES] if inert else []
    with torch.serialization.safe_globals([(kind, name.replace(" ", ".")) for kind, name in stand_ins]):
        content = torch.load(path, "cpu", weights_only=True, mmap=mmap)
    _check_content(content, Path(path).stat().st_size)
    return content


class _Inert:
    """In the place of a value that nobody here needs: it takes what the file says of it, and drops it."""

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...


class _Dictionary:
    """A plain one, for whatever kind of dictionary a file names."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


def _check_content(content: Any, size: int) -> None:
    """Raises UnpicklingError where values would take no end to go through, or tensors more bytes than the file has."""
    counts: dict[int, int | None] = {}  # of values in each; None while they are counted
    storages: dict[int, int] = {}
    waiting = [content]
    while waiting:
        one = waiting[-1]
        if isinstance(one, Tensor) and one.layout == torch.strided and one.device.type == "cpu":
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        inside = _inside(one)
        if id(one) not in counts:
            counts[id(one)] = None
            if isinstance(one, OrderedDict) and not _is_ordinary(vars(one)):
                raise pickle.UnpicklingError("a dictionary with attributes")  # one named values would be the method
            if any(counts.get(id(part), 1) is None for part in inside):
                raise pickle.UnpicklingError("a value in itself")
            waiting += [part for part in inside if id(part) not in counts]
            continue
        waiting.pop()
        if counts[id(one)] is None:
            counts[id(one)] = count = 1 + sum(counts[id(part)] or 0 for part in inside)
            if count > MOST_VALUES:
                raise pickle.UnpicklingError("values without end")
    if sum(storages.values()) > size:
        raise pickle.UnpicklingError("tensors that are not in the file")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    return list(value) if isinstance(value, list | tuple | set) else []


def _is_ordinary(attributes: dict[str, Any]) -> bool:
    """Whether the attributes of an OrderedDict are those of a module's state, or none."""
    versions = attributes.get("_metadata", {})
    if attributes.keys() - {"_metadata"} or not isinstance(versions, dict):
        return False
    parts = list(dict.values(versions))
    return all(type(part) is dict and all(type(value) in (int, bool) for value in part.values()) for part in parts)


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


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError("a codec other than latin1")  # punycode's takes no end
    return text.encode(encoding)


class _ArrayUnpickler(PythonUnpickler):
    """Admits numpy's arrays of numbers and nothing else that can be called.

    It is Python's own, not the one in C, which takes as much memory as a pickle says it remembers.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in allowed:
            raise InputError(f"it holds code ({module}.{name})")
        return allowed[module, name]


def read_arrays(path: str) -> dict[str, Tensor]:
    """The arrays of a Caffe2 pickle under their names, at the top or under "blobs"; text beside them is left out.

    Raises:
        InputError: It holds something that could be called. Damaged ones raise what pickle does.
    """
    with open(path, "rb") as file:
        check_pickle(file)
        file.seek(0)
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
