"""Arrays out of pickles, as Caffe2 programs wrote them, without running what else a pickle may hold."""

import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_gn.errors import InputError


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in "fiub":
        raise pickle.UnpicklingError(f"an array of {dtype}")
    return dtype


def _scalar(dtype: np.dtype, data: Any) -> np.generic:
    """numpy's own would unpack objects."""
    return np.frombuffer(data if isinstance(data, bytes) else data.encode("latin1"), _plain(dtype))[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy's arrays of numbers and nothing else that can be called."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, dtype: np.empty(0),
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
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
    arrays = {
        name: np.asarray(blob) for name, blob in blobs.items() if isinstance(blob, np.ndarray | np.generic | float)
    }
    return {name: torch.from_numpy(np.array(array, _plain(array.dtype))) for name, array in arrays.items()}
