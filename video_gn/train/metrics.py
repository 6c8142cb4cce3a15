"""Ranks of true classes, and accuracy over videos, exact over any number of processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

LEAST = 0.5  # score from which on a class is predicted, where a video may be of several


def ranks(scores: Tensor, labels: Tensor, least: float = LEAST) -> Tensor:
    """Rank of the true class among the scores, int64 `[...]`: 1 is top-1, at most k is top-k.

    Every other class with at least its score is before it, so that scores that are all alike are no success; 0 where a
    score is not finite, which is no rank and wrong in every accuracy. Of several true classes it is the rank of the
    first among the wrong ones; where none is true, every class that is predicted is before "none of them".

    Args:
        scores: `[..., K]`.
        labels: int64 `[...]`; or `[..., K]` of 0 and 1, where there may be several.
        least: The score from which on a class is predicted, where there may be several.
    """
    if labels.ndim == scores.ndim:
        true = labels > 0
        best = scores.where(true, -torch.inf).amax(-1).where(true.any(-1), least)
        rank = 1 + ((scores >= best.unsqueeze(-1)) & ~true).sum(-1)
    else:
        rank = (scores >= scores.gather(-1, labels.unsqueeze(-1))).sum(-1)
    return torch.where(scores.isfinite().all(-1), rank, 0)


def top(rank: Tensor, k: int) -> Tensor:
    """Whether a rank is among the first k."""
    return (rank >= 1) & (rank <= k)


def predictions(scores: Tensor, labels: Tensor, rank: Tensor) -> Tensor:
    """Predicted classes, int64 `[B]`: -1 where scores are not finite, or the true class shares the highest one.

    Args:
        scores: `[B, K]`.
        labels: int64 `[B]`.
        rank: Of the true class (`ranks`).
    """
    highest = scores.argmax(-1)
    return torch.where((rank == 0) | ((highest == labels) & (rank != 1)), -1, highest)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each class, float64 `[K]`; nan of those that no video is of.

    It is the mean over a class's videos of the precision among all videos with at least the same score, so that equal
    scores have no order (as scikit-learn's; torchmetrics' takes scores outside 0 to 1 for logits).

    Args:
        scores: `[N, K]`.
        labels: `[N, K]` of 0 and 1.
    """
    order = scores.argsort(0, descending=True)
    scores, true = scores.gather(0, order), labels.gather(0, order).double()
    place = torch.arange(1, len(scores) + 1, device=scores.device, dtype=torch.float64)[:, None]
    precision = true.cumsum(0) / place
    # That of the last among equal scores, which is the least of what comes from there on back to a video.
    last = torch.ones_like(true, dtype=torch.bool)
    last[:-1] = scores[:-1] != scores[1:]
    ends = torch.where(last, place - 1, len(scores)).flip(0).cummin(0).values.flip(0).long()
    return (precision.gather(0, ends) * true).sum(0) / true.sum(0)


class Accuracy(Metric):
    """Top-1 and top-5 over videos, top-1 over clips, figures over classes and mean loss, exact over any processes.

    An unreadable video is wrong in every accuracy, and one whose scores are not finite; `loss` is the mean over the
    others. A prediction is the class with the highest score; where another has the same score as the true one, none.

    Args:
        num_classes: K.
    """

    top1: Tensor
    top5: Tensor
    clip_top1: Tensor
    loss: Tensor
    videos: Tensor
    unreadable: Tensor
    not_finite: Tensor
    true: Tensor
    predicted: Tensor
    right: Tensor
    full_state_update = False
    names: tuple[str, ...] = ("loss", "top1", "top5", "clip_top1", "mean_class_accuracy", "macro_f1")  # figures
    sums = ("loss", "top1", "top5", "clip_top1")
    counts = ("videos", "unreadable", "not_finite")
    by_class = ("true", "predicted", "right")  # videos of each class, in truth, as predicted, and both

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name in (*self.sums, *self.counts):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in self.by_class:
            self.add_state(name, torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, unreadable: Sequence[int]) -> None:  # type: ignore[override]
        """Counts a batch: softmax scores `[B, V, K]`, labels `[B]`, and the labels of videos that are missing."""
        found: dict[str, Any] = {"videos": len(labels) + len(unreadable), "unreadable": len(unreadable)}
        found["true"] = self._by_class(torch.cat([labels, labels.new_tensor(list(unreadable))]))
        if len(labels):
            mean = scores.mean(1)
            rank = ranks(mean, labels)
            by_clip = top(ranks(scores, labels[:, None].expand(scores.shape[:2])), 1)
            losses = -mean.gather(1, labels[:, None])[:, 0].clamp_min(1e-12).log()
            found |= {
                "top1": top(rank, 1).sum(),
                "top5": top(rank, 5).sum(),
                "clip_top1": by_clip.double().mean(1).sum(),
                "not_finite": (rank == 0).sum(),
                "loss": torch.where(rank > 0, losses, 0).sum(),
                "predicted": self._by_class(predictions(mean, labels, rank)),
                "right": self._by_class(torch.where(rank == 1, labels, -1)),
            }
        for name, value in found.items():  # not in place: an evaluation before training leaves inference tensors
            setattr(self, name, getattr(self, name) + value)

    def _by_class(self, labels: Tensor) -> Tensor:
        """How many of the labels are of each class; -1 is of none."""
        return (labels[:, None] == torch.arange(self.num_classes, device=labels.device)).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Fractions, and the counts `videos`, `unreadable` and `not_finite` (of the readable ones).

        `mean_class_accuracy` is the mean recall of the classes that have videos, and `macro_f1` the mean F1 of those
        that have or are predicted.
        """
        recall, f1 = self.right / self.true, 2 * self.right / (self.true + self.predicted)
        return {
            "loss": self.loss / (self.videos - self.unreadable - self.not_finite),
            **{name: getattr(self, name) / self.videos for name in ("top1", "top5", "clip_top1")},
            "mean_class_accuracy": recall.nanmean(),
            "macro_f1": f1.nanmean(),
            **{name: getattr(self, name) for name in self.counts},
        }


class MultiLabelAccuracy(Accuracy):
    """As `Accuracy`, where a video may be of several classes or of none, and mean average precision.

    A class is predicted by a score of at least `LEAST`; recall, F1 and their means are of that. `top1` is whether the
    surest class is one of the true ones; of a video of no class, whether none is predicted (`ranks`). `map` is the
    mean over the classes that have videos. In it an unreadable video, and one whose scores are not finite, comes after
    all others, as one in which nothing was found; `loss` is the mean of the others' binary cross-entropies.

    Args:
        num_classes: K.
    """

    scores: Any
    labels: Any
    names = (*Accuracy.names, "map")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        for name in ("scores", "labels"):  # flat, as what torchmetrics has a process send that saw no video
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor, unreadable: Sequence[Any]) -> None:  # type: ignore[override]
        """Counts a batch: scores `[B, V, K]`, labels `[B, K]`, and the labels of videos that are missing."""
        labels = labels.reshape(len(scores), self.num_classes).to(scores)
        missing = torch.tensor(np.array(unreadable), device=scores.device).reshape(-1, self.num_classes).to(scores)
        mean, true = scores.mean(1), torch.cat([labels, missing])
        rank = ranks(mean, labels)
        by_clip = top(ranks(scores, labels[:, None].expand_as(scores)), 1)
        yes, no = (share.log().clamp_min(-100) for share in (mean, 1 - mean))  # as PyTorch's, which autocast refuses
        losses = -(labels * yes + (1 - labels) * no).mean(1)
        known = torch.cat([mean.where(rank[:, None] > 0, -1), torch.full_like(missing, -1)])
        found = {
            "videos": len(true), "unreadable": len(missing), "not_finite": (rank == 0).sum(),
            "top1": top(rank, 1).sum(), "top5": top(rank, 5).sum(), "clip_top1": by_clip.double().mean(1).sum(),
            "loss": losses.where(rank > 0, 0).double().sum(),
            "true": true.sum(0), "predicted": (known >= LEAST).sum(0), "right": (true * (known >= LEAST)).sum(0),
        }  # fmt: skip
        for name, value in found.items():
            setattr(self, name, getattr(self, name) + value)
        self.scores.append(known.flatten())
        self.labels.append(true.flatten())

    def compute(self) -> dict[str, Tensor]:
        """As `Accuracy`, and `map`."""
        scores, labels = (dim_zero_cat(part).reshape(-1, self.num_classes) for part in (self.scores, self.labels))
        return super().compute() | {"map": average_precision(scores, labels).nanmean()}


class EpochSums:
    """Sums over an epoch's clips, of one process: loss, right ones, clips, unreadable videos, fallbacks.

    Args:
        sums: Of its clips so far.
    """

    def __init__(self, sums: Sequence[float] = (0.0,) * 5) -> None:
        self.sums = torch.tensor(sums, dtype=torch.float64)
        self._waiting = torch.zeros_like(self.sums)  # of batches whose gradients wait for the step's others

    def add(self, counts: Sequence[Any], ends_step: bool) -> None:
        """Counts a batch, and with the last of a step all of its batches."""
        for i, count in enumerate(counts):
            self._waiting[i] += count
        if ends_step:
            self.sums += self._waiting
            self._waiting.zero_()

    def clear(self) -> None:
        """Begins an epoch."""
        self.sums.zero_()
        self._waiting.zero_()

    def over(self, strategy: Any) -> list[float]:
        """The sums over all processes."""
        return strategy.reduce(self.sums.to(strategy.root_device, copy=True), reduce_op="sum").tolist()

    def to(self, device: torch.device) -> None:
        """Moves the sums to where batches are."""
        self.sums = self.sums.to(device)
        self._waiting = torch.zeros_like(self.sums)


def means(sums: Sequence[float]) -> dict[str, float]:
    """Mean loss and top-1 of such sums over all processes; videos that were unreadable or fell back."""
    loss, right, clips, unreadable, fallbacks = sums
    found = {"epoch_loss": loss / clips, "epoch_top1": right / clips} if clips else {}
    return {**found, "unreadable": unreadable, "fallbacks": fallbacks}
