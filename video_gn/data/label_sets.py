"""Several labels of a video (`data.multi_label`): how lists write them, and which row is of which class.

The labels of a list are int64 `[rows]`, or uint8 `[rows, K]` of 0 and 1 where a video may be of several classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

SEPARATOR = "|"  # of the classes in a label


def classes_in(label: str) -> list[str]:
    """The classes that a label names, each once; none of an empty one."""
    return list(dict.fromkeys(name for part in label.split(SEPARATOR) if (name := part.strip())))


def joined(names: Iterable[str]) -> str:
    """A label that names these classes."""
    return SEPARATOR.join(dict.fromkeys(names))


def pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their classes, int64 `[pairs]`: a row for each of its classes."""
    if labels.ndim == 1:
        return np.arange(len(labels)), labels
    rows, classes = np.nonzero(labels)
    return rows, classes


def by_class(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many rows are of each class, int64 `[K]`."""
    return np.bincount(pairs(labels)[1], minlength=num_classes)


def in_words(label: Any, class_names: Sequence[str]) -> str:
    """The label of a video as lists write it.

    Args:
        label: Of an array or a tensor: a number, or `[K]`.
        class_names: Of the K classes.
    """
    numbers = [int(label)] if np.ndim(label) == 0 else np.flatnonzero(label).tolist()
    return joined(class_names[number] for number in numbers)
