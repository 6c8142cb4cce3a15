"""What logits mean, `model.loss`: the loss of a training step, and the scores of classes.

It is cross-entropy, with weights of classes and softer labels where asked; where a video may be of several classes,
the binary cross-entropy of each.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from video_gn.batch import Batch
from video_gn.errors import InputError
from video_gn.rules import LOSS, check

log = logging.getLogger(__name__)


class Targets(NamedTuple):
    """What clips are of.

    Attributes:
        labels: int64 `[N]`; or float32 `[N, K]` of 0 and 1, where there may be several.
        seconds: Labels of what is mixed in, likewise.
        shares: Of the first labels, float32 `[N]`.
    """

    labels: Tensor
    seconds: Tensor | None = None
    shares: Tensor | None = None


def targets_of(batch: Batch) -> Targets:
    """Those of a batch's clips, all views of each video."""
    views = batch.clips.shape[1]
    seconds, shares = (
        part if part is None else part.repeat_interleave(views, 0) for part in (batch.seconds, batch.shares)
    )
    return Targets(batch.labels.repeat_interleave(views, 0), seconds, shares)


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of the training clips. Validation and tests report the plain one."""

    class_weights: Literal["none", "inverse", "effective"] = "none"
    """By what the loss of a clip is multiplied, by the number n of its class's training videos: inverse, 1 / n;
    effective, 1 / (1 - beta^n), by the effective number of Cui et al. 2019. A clip as it is drawn weighs 1 on
    average."""
    beta: float = 0.999
    """Beta of `effective`: at 0 all classes weigh the same, near 1 as by `inverse`."""
    label_smoothing: float = 0.0
    """Fraction of a label that is spread over all classes (Szegedy et al. 2016); with `multi_label`, over yes and no of
    each class."""
    multi_label: bool = False
    """Whether a video may be of several classes, or of none. Each is then a question of its own: the loss is the mean
    of the classes' binary cross-entropies, and scores are sigmoids. On a command line it is data.multi_label."""

    def __post_init__(self) -> None:
        check(vars(self), LOSS, "model.loss")
        if self.multi_label and self.class_weights != "none":
            raise InputError(
                f"model.loss.class_weights is {self.class_weights}, which is defined for videos of one class each, and "
                "data.multi_label is true; take none, or data.sampling balanced"
            )

    def scores(self, logits: Tensor, dim: int = 1) -> Tensor:
        """Scores of the classes, of which `dim` is the dimension: their softmax, or the sigmoid of each."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim)

    def weights(self, counts: np.ndarray, drawn: np.ndarray) -> Tensor | None:
        """Weights of the classes, float32 `[K]`, with which a drawn clip counts 1 on average; None where all are 1.

        Args:
            counts: Training videos of each class, int64 `[K]`; a class that has none weighs 0.
            drawn: Probability of each class to be drawn, float64 `[K]`.
        """
        if self.class_weights == "none":
            return None
        number = counts if self.class_weights == "inverse" else -np.expm1(counts * np.log(self.beta or 1e-300))
        raw = np.divide(1.0, number, out=np.zeros(len(counts)), where=counts > 0)
        return torch.tensor(raw / (raw * drawn).sum(), dtype=torch.float32)

    def __call__(self, logits: Tensor, targets: Targets, weights: Tensor | None = None) -> Tensor:
        """Mean over clips of each one's loss times its weight.

        It is divided by the number of clips, and not by the sum of their weights as PyTorch does: that sum differs
        between processes and batches, so that the step would depend on how its clips are divided among them.

        Args:
            logits: `[N, K]`.
            targets: Of the clips; of two labels, each one's loss counts by its share.
            weights: Of the classes, `[K]`.
        """
        labels, seconds, shares = targets
        if weights is None and seconds is None and not self.multi_label:
            return nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        losses = self._of_clips(logits, labels, weights)
        if seconds is not None and shares is not None:
            losses = shares * losses + (1 - shares) * self._of_clips(logits, seconds, weights)
        return losses.mean()

    def _of_clips(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        if self.multi_label:
            soft = (1 - self.label_smoothing) * labels.to(logits.dtype) + self.label_smoothing / 2
            return nn.functional.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(1)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return losses if weights is None else losses * weights[labels]


def class_weights(model: Any) -> Tensor | None:
    """Weights of the classes in a classifier's training, by its data's training list.

    Raises:
        InputError: They are asked for, and there is no such list.
    """
    data: Any = getattr(model.trainer, "datamodule", None)
    if model.loss.class_weights == "none":
        return None
    if not hasattr(data, "class_counts"):
        raise InputError(
            f"model.loss.class_weights is {model.loss.class_weights}, and the loaders are not of video_gn's data, "
            "which counts the videos of each class; take none, or VideoData"
        )
    counts, drawn = data.class_counts()
    weights = model.loss.weights(counts, drawn)
    there = weights[torch.from_numpy(counts > 0)]
    log.info("class weights (%s) are from %.3g to %.3g", model.loss.class_weights, there.min(), there.max())
    return weights.to(model.device)
