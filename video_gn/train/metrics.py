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


class Accuracy(Metric):
    """Top-1 and top-5 over videos, top-1 over clips and mean loss, exact over any number of processes.

    An unreadable video is wrong in every accuracy, and one whose scores are not finite; `loss` is the mean over the
    others.
    """

    top1: Tensor
    top5: Tensor
    clip_top1: Tensor
    loss: Tensor
    videos: Tensor
    unreadable: Tensor
    not_finite: Tensor
    full_state_update = False
    names = ("top1", "top5", "clip_top1", "loss")
    counts = ("videos", "unreadable", "not_finite")

    def __init__(self) -> None:
        super().__init__()
        for name in (*self.names, *self.counts):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, unreadable: int) -> None:  # type: ignore[override]
        """Counts a batch: softmax scores `[B, V, K]`, labels `[B]`, and the number of videos that are missing."""
        found: dict[str, Any] = {"videos": len(labels) + unreadable, "unreadable": unreadable}
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
            }
        for name, value in found.items():  # not in place: an evaluation before training leaves inference tensors
            setattr(self, name, getattr(self, name) + value)

    def compute(self) -> dict[str, Tensor]:
        """Fractions, and the counts `videos`, `unreadable` and `not_finite` (of the readable ones)."""
        return {
            "loss": self.loss / (self.videos - self.unreadable - self.not_finite),
            **{name: getattr(self, name) / self.videos for name in ("top1", "top5", "clip_top1")},
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

    def to(self, device: torch.device) -> None:
        """Moves the sums to where batches are."""
        self.sums = self.sums.to(device)
        self._waiting = torch.zeros_like(self.sums)


def means(sums: Sequence[float]) -> dict[str, float]:
    """Mean loss and top-1 of such sums over all processes; videos that were unreadable or fell back."""
    loss, right, clips, unreadable, fallbacks = sums
    found = {"epoch_loss": loss / clips, "epoch_top1": right / clips} if clips else {}
    return {**found, "unreadable": unreadable, "fallbacks": fallbacks}
