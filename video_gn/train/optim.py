"""Learning rates, by the linear rule and over training; and which batches end a step of the optimiser."""

import math
from typing import Any

REFERENCE_CLIPS = 64  # clips per step to which base_lr belongs (Wu & He 2018: 8 GPUs x 8 clips)


def scaled_lr(base_lr: float, clips_per_step: int) -> float:
    """The linear rule: `base_lr` is for 64 clips a step (Goyal et al. 2017; Wu & He 2018, section 4)."""
    return base_lr * clips_per_step / REFERENCE_CLIPS


def lr_factor(
    progress: float,
    schedule: str,
    decay_points: tuple[float, ...] = (),
    decay: float = 0.1,
    warmup: float = 0.0,
) -> float:
    """The learning rate as a fraction of its peak.

    Args:
        progress: Fraction of training that is done, from 0 to 1.
        schedule: "step" multiplies by `decay` at each of `decay_points`; "cosine" falls to 0 at the end.
        decay_points: Fractions of training.
        decay: Factor at each decay point.
        warmup: Fraction of training over which the rate rises linearly from 0.
    """
    rise = min(1.0, progress / warmup) if warmup else 1.0
    if schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return rise * decay ** sum(progress >= point for point in decay_points)


def ends_step(trainer: Any, batch_idx: int) -> bool:
    """Whether the optimiser steps after this training batch; before, its gradients wait for the step's others."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
