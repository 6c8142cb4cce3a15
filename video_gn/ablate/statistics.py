"""What the runs of a grid measured: figures of each cell over its seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from video_gn import rules
from video_gn.ablate.grid import Cell
from video_gn.ablate.run import Run
from video_gn.errors import InputError
from video_gn.files.tables import read_table
from video_gn.train.callbacks.bn_statistics import CHOICES
from video_gn.train.callbacks.history import HISTORY_FILE, read_history
from video_gn.train.callbacks.speed import SPEED_FILE
from video_gn.train.callbacks.split_table import FILE as SPLIT_FILE

FRACTION = rules.number(0, 1)
Values = tuple[str, ...]  # a cell, by its values in the axes' order


class Videos(NamedTuple):
    """The videos of a test.

    Attributes:
        paths: Below the folder of the data set.
        labels: Names of the true classes.
        predicted: Of the predicted ones; empty where there is none.
        ranks: Of the true class among the scores, int64 `[N]`; 0 of an unreadable video.
        groups: What is drawn together, because it was recorded together; each video for itself where none is known.
    """

    paths: list[str]
    labels: list[str]
    predicted: list[str]
    ranks: np.ndarray
    groups: list[str]

    @property
    def names(self) -> list[str]:
        """What tells one video of the test from another."""
        return [f"{path} {label}" for path, label in zip(self.paths, self.labels, strict=True)]

    def right(self, best: int = 1) -> np.ndarray:
        """Whether the true class is among the `best` ones, `[N]`."""
        return (self.ranks > 0) & (self.ranks <= best)


NO_VIDEOS = Videos([], [], [], np.empty(0, np.int64), [])


@dataclass(frozen=True)
class Measured:
    """A finished run.

    Attributes:
        run: What was asked for.
        results: Its results.json.
    """

    run: Run
    results: Mapping[str, Any]

    @property
    def test(self) -> Mapping[str, Any]:
        """The newest test."""
        test = self.results["tests"][-1]
        for name in ("top1", "top5", "clip_top1"):
            self._percent(test[name], name)
        return test

    @property
    def several(self) -> bool:
        """Whether a video may be of several classes."""
        return bool(self.results.get("run", {}).get("data", {}).get("multi_label"))

    @property
    def seconds(self) -> float:
        """That it took, nan where it is not known."""
        return self.run.note().get("seconds", float("nan"))

    def _percent(self, value: Any, name: str, file: str = "results.json") -> float:
        """A fraction that the run wrote, in %."""
        if not FRACTION.holds(value):
            raise InputError(
                f"{self.run.folder / file} says that {name} is {rules.shown(value)}; it has to be {FRACTION.words}. "
                "The file is damaged; move it away"
            )
        return 100 * value

    @cached_property
    def videos(self) -> Videos:
        """Those of the test.

        None where a part of the list was tested: the others have no rank either, and are not wrong.
        """
        name = self.test.get("videos_file") or "none"
        if name != Path(name).name:
            raise InputError(f"{self.run.folder / 'results.json'} names {name!r} as a file of its folder")
        rows = read_table(self.run.folder / name)
        ranks = np.array([int(row["rank"] or 0) for row in rows])
        count = self.test["videos"]
        for figure, best in (("top1", 1), ("top5", 5)):
            right = int(((ranks > 0) & (ranks <= best)).sum())
            if rows and not (len(rows) >= count and abs(right - self.test[figure] * count) < 0.5):
                raise InputError(
                    f"by {self.run.folder / name} {figure} is {right} of {len(rows)} videos, and by results.json "
                    f"{100 * self.test[figure]:.2f} % of {count:g}; they are not of one test: test the run again"
                )
        if len(rows) > count:
            return NO_VIDEOS
        paths, labels, predicted = ([row[key] for row in rows] for key in ("path", "label", "predicted"))
        root = str(self.results.get("run", {}).get("data", {}).get("root", ""))
        for before in (root, str(Path(root).parent)):  # a root may be a list itself
            paths = [path.removeprefix(f"{before}/") for path in paths]
        divided = {row["path"]: row.get("group", "") for row in read_table(self.run.folder / SPLIT_FILE)}
        groups = [row.get("group") or divided.get(path) or path for row, path in zip(rows, paths, strict=True)]
        return Videos(paths, labels, predicted, ranks, groups)

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Figures of each epoch, by the names that they are logged under; nan where there is none."""
        rows = read_history(self.run.folder / HISTORY_FILE)
        figures = [{key: float(value) if value else float("nan") for key, value in row.items()} for row in rows]
        for name, value in ((name, value) for row in figures for name, value in row.items() if name.endswith("top1")):
            if not isnan(value):
                self._percent(value, name, HISTORY_FILE)
        return figures

    def timeline(self, unit: str) -> dict[int, float]:
        """Steps or seconds of training at the end of each epoch; nothing where none were noted."""
        rows = read_table(self.run.folder / SPEED_FILE)
        return {int(row["epoch"]): float(row[unit]) for row in rows if row.get("epoch", "").isdecimal()}

    def val_median(self, name: str) -> float:
        """Of a validation figure over the last 5 epochs, in %; nan where there were fewer."""
        median = self.results["fit"].get("val_median")
        return self._percent(median[name], f"val_median.{name}") if median else float("nan")

    @property
    def training_top1(self) -> float:
        """Of training clips in the last epoch, in %; nan where it is not known."""
        top1 = self.results["fit"]["train"]["top1"]
        return float("nan") if top1 is None else self._percent(top1, "fit.train.top1")

    def top1_by(self, choice: str) -> float:
        """Of validation clips by one kind of BN's statistics, in %."""
        return self._percent(self.compared[choice]["top1"], f"top1 by {choice} statistics")

    @property
    def compared(self) -> dict[str, Mapping[str, Any]]:
        """The newest validation by each kind of BN's statistics."""
        return {one["bn_statistics"]: one for one in self.results.get("validations", []) if one.get("bn_statistics")}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the latter None for a single one."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Of finite values; None if there is none."""
        values = [value for value in values if value is not None and np.isfinite(value)]
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass
class CellResult:
    """A cell and its finished runs, by seed."""

    cell: Cell
    runs: dict[int, Measured] = field(default_factory=dict)

    def spread(self, figure: Any) -> Spread | None:
        """Of `figure(run)` over the seeds."""
        return Spread.of([figure(one) for one in self.runs.values()])

    @property
    def compared(self) -> bool:
        """Whether each of its runs compared BN's statistics."""
        return bool(self.runs) and all(set(CHOICES) <= set(run.compared) for run in self.runs.values())

    def val_median(self, name: str) -> Spread | None:
        """Of the median over the last 5 epochs of a validation figure, in %."""
        return self.spread(lambda one: one.val_median(name))

    def test(self, name: str) -> Spread | None:
        """Of a fraction that the test measured, in %."""
        return self.spread(lambda one: 100 * one.test[name])


Cells = Mapping[Values, CellResult]
