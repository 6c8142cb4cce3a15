"""An ablation as it was asked for, and the cells that it expands into; `video_gn.ablate.grid_file` reads it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

SHORT = {"norm": "model.net.norm", "batch": "data.batch_size"}  # axes whose key need not be spelled out


@dataclass(frozen=True)
class Overlay:
    """What one value of an axis changes.

    Attributes:
        configs: Files, or names of those that come with the package.
        settings: Value by dotted key.
    """

    configs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One combination of the axes' values; a run of it has a seed, too.

    Attributes:
        values: Name of the value on each axis, in the axes' order.
        args: What follows `fit`, without seed and folder.
        original: The cell whose runs are this one's too, where both would be the same.
    """

    values: Mapping[str, str]
    args: tuple[str, ...]
    original: "Cell | None" = None

    @property
    def run_name(self) -> str:
        """Of its runs' folders, without the seed."""
        return (self.original or self).name

    def with_words(self, words: Sequence[str], extra: Sequence[str]) -> "Cell":
        """With further words before those of the command line."""
        at = len(self.args) - len(extra)
        return replace(self, args=(*self.args[:at], *words, *self.args[at:]))

    @property
    def name(self) -> str:
        """As it appears in the folder's name: `gn_32x2_b8`."""
        words = (f"b{value}" if axis == "batch" else value for axis, value in self.values.items())
        return "_".join(re.sub(r"[^\w.+-]+", "-", word).strip("-") for word in words)


@dataclass(frozen=True)
class Paper:
    """What a publication reports: figures in % (`top1`, maybe `top5`), by the values of a cell."""

    source: str
    same_data: bool
    note: str
    figures: Mapping[tuple[str, ...], Mapping[str, float]]


@dataclass(frozen=True)
class Ceiling:
    """What no network passes but by luck.

    Attributes:
        values: Of the cells that it is true of, by axis.
        top1: In %.
        spread: Standard deviation of what such a network would have in a test, in points.
    """

    values: Mapping[str, str]
    top1: float
    spread: float = 0.0


@dataclass(frozen=True)
class Tune:
    """A setting that each cell has at its best value (`video_gn.ablate.tune`).

    Attributes:
        key: Of the config.
        values: To try.
        share: Of the training list, on which they are compared.
        seeds: Of the runs that try them.
        at: By axis, the values at which they are tried; the best one on average is taken at all values of the axis.
            Along other axes each cell has its own.
    """

    key: str
    values: tuple[str, ...]
    share: float
    seeds: tuple[int, ...]
    at: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def tries(self, cell: Cell) -> bool:
        """Whether a cell is one in which the values are tried."""
        return all(cell.values[axis] in values for axis, values in self.at.items())

    def group(self, cell: Cell) -> Mapping[str, str]:
        """What a cell has in common with all that take the same value."""
        return {axis: value for axis, value in (cell.original or cell).values.items() if axis not in self.at}


@dataclass(frozen=True)
class Grid:
    """An ablation as it was asked for.

    Attributes:
        name: Of the file, without its ending.
        title: Above the table.
        axes: Names of the values of each axis.
        rows: The axes that go down the table.
        cells: In the order of the axes.
        seeds: Of each cell.
        paper: What to set beside it.
        extra: Options of `fit` that every cell has beyond the file.
        overlays: What the values of each axis change.
        tune: What each cell has at its best.
        ceilings: What cells can reach.
        budget: Whether cells train for equal epochs, equal steps, or both (`video_gn.ablate.budget`).
    """

    name: str
    title: str
    axes: Mapping[str, tuple[str, ...]]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    paper: Paper | None = None
    extra: tuple[str, ...] = ()
    overlays: Mapping[str, tuple[Overlay, ...]] = field(default_factory=dict)
    tune: Tune | None = None
    ceilings: tuple[Ceiling, ...] = ()
    budget: str = "epochs"

    @property
    def columns(self) -> tuple[str, ...]:
        """The axes that go across the table."""
        return tuple(axis for axis in self.axes if axis not in self.rows)


def named(axis: str, value: str) -> str:
    """A value as people read it."""
    return value if re.search("[a-zA-Z]", value) else f"{axis} {value}"


def command(cell: Cell, seed: int, run_dir: Path) -> list[str]:
    """The words after `video-gn` of a cell's run; the same command begins it and continues it."""
    own = ("--seed_everything", str(seed), "--run_dir", str(run_dir), "--test_after_fit", "true")
    return ["fit", *cell.args, *own, "--ckpt_path", "last"]


def shell(words: list[str]) -> str:
    """A command as it is typed."""
    return shlex.join(["python", *words])
