"""What became of each video of a test: its scores, gathered over processes, and the table of them."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_gn.data.label_sets import in_words
from video_gn.distributed import gather
from video_gn.files.tables import spreadsheet, write_table
from video_gn.train.metrics import LEAST, ranks

OUTCOMES = ("path", "label", "predicted", "rank", "predicted_score", "label_score")
NOTHING = -1  # predicted for a video without scores, or with ones that are not finite


class Outcomes:
    """Mean scores over the views of a test's videos, of one process, on the CPU: 32 MB for 20,000 of 400 classes."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._scores: list[Tensor] = []

    def add(self, rows: Tensor, scores: Tensor) -> None:
        """Keeps the scores float `[B, K]` of videos by their rows, int64 `[B]`."""
        self._rows.append(rows.cpu())
        self._scores.append(scores.float().cpu())

    def parts(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows int64 `[n]` and scores float32 `[n, K]`; None where no video was seen."""
        return (torch.cat(self._rows).numpy(), torch.cat(self._scores).numpy()) if self._rows else None


class VideoScores:
    """The videos of a test, and the scores of the network.

    Args:
        paths: Of every video of the list.
        labels: int64 `[N]`; or `[N, K]` of 0 and 1, where a video may be of several classes.
        class_names: Of the K classes.
        parts: Rows and scores of each process, as `Outcomes.parts` gives them.
        failures: Why a video could not be read, by its path.
        groups: What each video is recorded together with, where that is known.

    Attributes:
        scores: float32 `[N, K]`; nan where there are none.
        seen: Whether a video was tested, `[N]`: a test may be limited to a part of them.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        class_names: Sequence[str],
        parts: Sequence[tuple[np.ndarray, np.ndarray] | None],
        failures: dict[str, str],
        groups: Sequence[str] | np.ndarray | None = None,
    ) -> None:
        self.paths, self.labels, self.class_names, self.groups = paths, labels, list(class_names), groups
        self.scores = np.full((len(paths), len(class_names)), np.nan, np.float32)
        self.seen = np.zeros(len(paths), bool)
        for rows, scores in filter(None, parts):
            self.scores[rows], self.seen[rows] = scores, True
        self.unreadable = {row: failures[path] for row, path in enumerate(paths) if path in failures}
        self.seen[list(self.unreadable)] = True

    @cached_property
    def rank(self) -> np.ndarray:
        """Of the true class among the scores, int64 `[N]`, as `video_gn.train.metrics.ranks`; 0 without scores."""
        return ranks(torch.from_numpy(self.scores), torch.from_numpy(self.labels)).numpy()

    @cached_property
    def best(self) -> np.ndarray:
        """The class with the highest score, the surest, int64 `[N]`; `NOTHING` without scores."""
        return np.where(self.rank > 0, np.nan_to_num(self.scores).argmax(1), NOTHING)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether what is predicted is what is true, `[N]`; where there may be several, of every class."""
        return (self.rank > 0) & (self.predicted == self.labels).all(1) if self.several else self.rank == 1

    @cached_property
    def sure(self) -> np.ndarray:
        """How sure the network is of what it says, `[N]`: the score of that class; -1 without scores.

        Where there may be several, the lowest score of a class that it says, or of the absence of another one.
        """
        known = self._said().min(1) if self.several else np.nan_to_num(self.score_of(self.best))
        return np.where(self.rank > 0, known, -1)

    @cached_property
    def margin(self) -> np.ndarray:
        """How far what it says is above the label, `[N]`: the score of that class less that of the true one.

        Where there may be several, the highest score of a class of which it is wrong, or of the absence of one.
        """
        if self.several:
            return np.where(self.predicted != self.labels, self._said(), 0).max(1)
        return self.sure - np.nan_to_num(self.score_of(self.labels))

    def _said(self) -> np.ndarray:
        """Scores of what is said of each class, that a video is of it or that it is not, `[N, K]`."""
        scores = np.nan_to_num(self.scores)
        return np.where(self.predicted > 0, scores, 1 - scores)

    @property
    def several(self) -> bool:
        """Whether a video may be of several classes."""
        return self.labels.ndim == 2

    @cached_property
    def predicted(self) -> np.ndarray:
        """As `best`, but `NOTHING` where another class has the same score as the true one, which is not right.

        Where there may be several: all with a score of at least `LEAST`, uint8 `[N, K]` of 0 and 1.
        """
        if self.several:
            return (np.nan_to_num(self.scores) >= LEAST).astype(np.uint8) * (self.rank > 0)[:, None]
        return np.where((self.best == self.labels) & (self.rank != 1), NOTHING, self.best)

    @cached_property
    def true(self) -> np.ndarray:
        """The true class, int64 `[N]`; of several the one with the highest score, and `NOTHING` where none is true."""
        if not self.several:
            return self.labels
        known = np.where(self.labels > 0, np.nan_to_num(self.scores), -1)
        return np.where(self.labels.any(1), known.argmax(1), NOTHING)

    def score_of(self, classes: np.ndarray) -> np.ndarray:
        """Each video's score of a class, float32 `[N]`; nan where it has none, or the class is `NOTHING`."""
        found = np.take_along_axis(self.scores, classes.clip(0)[:, None], 1)[:, 0]
        return np.where(classes == NOTHING, np.float32(np.nan), found)

    def write(self, path: Path) -> None:
        """Writes the table of the videos."""
        rows = []
        best, true = self.score_of(self.best), self.score_of(self.true)
        said = self.predicted if self.several else self.best
        for row, (video, label, rank) in enumerate(zip(self.paths, self.labels, self.rank.tolist(), strict=True)):
            # People open it in spreadsheets; an ablation only compares its names with those of other such tables.
            named = (video, in_words(label, self.class_names), in_words(said[row], self.class_names) if rank else "")
            scores = (f"{score:.6g}" if rank and score == score else "" for score in (best[row], true[row]))
            group = () if self.groups is None else (spreadsheet(str(self.groups[row])),)
            rows.append((*map(spreadsheet, named), rank or "", *scores, *group))
        write_table(path, OUTCOMES if self.groups is None else (*OUTCOMES, "group"), rows)


def gather_scores(
    trainer: Any, outcomes: Outcomes, class_names: Sequence[str], failures: dict[str, str]
) -> VideoScores:
    """The videos of a test over all processes, each of which has to ask; `failures` as of `VideoScores`."""
    videos = trainer.datamodule.lists["test"]
    parts = gather(trainer, outcomes.parts())
    return VideoScores(videos.paths, videos.labels, class_names, parts, failures, videos.groups)
