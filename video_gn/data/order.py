"""Which rows of its list training draws: each once an epoch, or every class equally often."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from video_gn.data.label_sets import by_class, pairs

SAMPLINGS = ("shuffled", "balanced")  # data.sampling


class Rows(Protocol):
    """How training draws rows.

    Attributes:
        total: Rows of an epoch.
    """

    total: int

    def epoch(self, rng: np.random.Generator) -> list[int]:
        """The rows of an epoch, in order."""
        ...

    def another(self, rng: np.random.Generator) -> int:
        """A row by itself: of a video to be mixed in, or in the place of an unreadable one."""
        ...


class Shuffled:
    """Each row once, in a random order.

    Args:
        total: Rows of the list.
    """

    def __init__(self, total: int) -> None:
        self.total = total

    def epoch(self, rng: np.random.Generator) -> list[int]:
        return rng.permutation(self.total).tolist()

    def another(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.total))


class Balanced:
    """Each class with the same probability, and within a class each row.

    In an epoch the classes' numbers of draws differ by at most one, and so do those of a class's rows: the rest is
    drawn. Of a large class an epoch has a part, of a small one several times all.

    Args:
        labels: Of the rows; a class that has none is not drawn. A row of several classes is drawn for each of them,
            and those of no class are as one more.
    """

    def __init__(self, labels: np.ndarray) -> None:
        rows, classes = pairs(labels)
        bare = np.setdiff1d(np.arange(len(labels)), rows)
        rows, classes = np.append(rows, bare), np.append(classes, np.full(len(bare), -1))
        order = np.argsort(classes, kind="stable")
        self.classes = np.split(rows[order], np.flatnonzero(np.diff(classes[order])) + 1)
        self.total = len(labels)

    def epoch(self, rng: np.random.Generator) -> list[int]:
        draws, rest = divmod(self.total, len(self.classes))
        more = set(rng.permutation(len(self.classes))[:rest].tolist())
        parts = [np.resize(rng.permutation(rows), draws + (i in more)) for i, rows in enumerate(self.classes)]
        return rng.permutation(np.concatenate(parts)).tolist()

    def another(self, rng: np.random.Generator) -> int:
        rows = self.classes[rng.integers(len(self.classes))]
        return int(rows[rng.integers(len(rows))])


class Passes:
    """An epoch of several passes over the list, one after the other.

    Args:
        rows: How a pass draws them.
        count: Of the passes.
    """

    def __init__(self, rows: Rows, count: int) -> None:
        self.rows, self.count, self.total = rows, count, rows.total * count

    def epoch(self, rng: np.random.Generator) -> list[int]:
        return [row for _ in range(self.count) for row in self.rows.epoch(rng)]

    def another(self, rng: np.random.Generator) -> int:
        return self.rows.another(rng)


def rows_of(labels: np.ndarray, sampling: str, passes: int = 1) -> Rows:
    """How rows with these labels are drawn by `data.sampling`, in epochs of so many passes."""
    rows = Balanced(labels) if sampling == "balanced" else Shuffled(len(labels))
    return Passes(rows, passes) if passes > 1 else rows


def with_turns(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each row of an epoch, and how often it was there before: what is drawn for it has to differ."""
    seen: Counter[int] = Counter()
    for row in rows:
        yield row, seen[row]
        seen[row] += 1


def class_counts(labels: np.ndarray, classes: int, sampling: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each class, int64 `[K]`, and its probability to be drawn, float64 `[K]`."""
    counts = by_class(labels, classes)
    drawn = counts > 0 if sampling == "balanced" else counts
    return counts, drawn / drawn.sum()
