"""Ranks of true classes, and accuracy over videos, exact over any number of processes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class among the scores, int64 `[...]`: 1 is top-1, at most k is top-k.

    Every other class with at least its score is before it, so that scores that are all alike are no success; 0 where a
    score is not finite, which is no rank and wrong in every accuracy.

    Args:
        scores: `[..., K]`.
        labels: int64 `[...]`.
    """
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
    names = ("loss", "top1", "top5", "clip_top1", "mean_class_accuracy", "macro_f1")  # figures
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
