"""What is in pickles, torch's and Caffe2's: tensors, arrays and plain values. What else they may hold is not run."""

import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from video_gn.errors import InputError

DEEPEST = 100  # values in each other
FILLING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # operations on the value below the others
LEGACY = 5  # pickles at the beginning of a file that torch wrote before it wrote archives


def load_torch(path: str, mmap: bool = False) -> Any:
    """Tensors and plain values of a file, on the CPU; no code in it runs.

    Args:
        path: The file, its name in UTF-8.
        mmap: As `torch.load`.

    Raises:
        Exception: Of many kinds, where it is damaged or something else.
    """
    _look_through(path)
    content = torch.load(path, "cpu", weights_only=True, mmap=mmap)
    waiting, seen = [content], {id(content)}
    while waiting:
        one = waiting.pop()
        if isinstance(one, OrderedDict) and not _is_ordinary(vars(one)):
            raise pickle.UnpicklingError("a dictionary with attributes")  # one named values would stand for the method
        inside = list(dict.values(one)) if isinstance(one, dict) else one if isinstance(one, list | tuple | set) else ()
        waiting += (new := [part for part in inside if id(part) not in seen])
        seen.update(map(id, new))
    return content


def _look_through(path: str) -> None:
    """Refuses what would take the stack or the memory of who reads it, before torch does."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            for _ in range(LEGACY):
                _check_depth(file)
            return
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:  # torch writes none, and would map the bytes as they are
                    raise pickle.UnpicklingError("a compressed archive")
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as pickled:
                        _check_depth(pickled)


def _check_depth(file: IO[bytes]) -> None:
    """Raises UnpicklingError where values lie deeper in each other than `DEEPEST`, in the next pickle of a file.

    Their hash and their text are made by recursion in C. The pickle is gone through by what each of its operations
    takes from the stack and puts there.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for operation, argument, _ in pickletools.genops(file):
        name, taken, given = operation.name, operation.stack_before, operation.stack_after
        if name == "MARK":
            marks.append(len(stack))
            continue
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]  # type: ignore[index]
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])  # type: ignore[index]
            continue
        if pickletools.markobject in taken:
            first = marks.pop() - taken.index(pickletools.markobject)
        else:
            first = len(stack) - len(taken)
        if first < 0:
            raise pickle.UnpicklingError("an empty stack")
        inside = stack[first:]
        del stack[first:]
        into = [inside.pop(0)] if name in FILLING and inside else []
        depth = max([0, *into, *(one + 1 for one in inside)])
        if depth > DEEPEST:
            raise pickle.UnpicklingError("values too deep in each other")
        stack += [depth] * len([one for one in given if one is not pickletools.markobject])


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


class _ArrayUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
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
        _check_depth(file)
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
