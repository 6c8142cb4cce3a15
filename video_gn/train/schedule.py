"""How the learning rate moves over training, as a fraction of its peak: `model.schedule`, a class by its name."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any

from video_gn.errors import InputError
from video_gn.rules import SCHEDULE, check

log = logging.getLogger(__name__)
END = "trainer.max_epochs or trainer.max_steps (of a loader without a length the latter)"


class Schedule:
    """A learning rate over training. A subclass gives `after_warmup`.

    Attributes:
        warmup: Fraction of training over which the rate rises linearly from 0.
    """

    warmup: float = 0.0

    def factor(self, progress: float) -> float:
        """The rate as a fraction of its peak, where so much of training is done, from 0 to 1."""
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return rise * self.after_warmup(progress)

    def after_warmup(self, progress: float) -> float:
        """As `factor`, without the warm-up."""
        raise NotImplementedError

    def __str__(self) -> str:
        """As logs and model cards name it."""
        return type(self).__name__


@dataclass(frozen=True)
class Step(Schedule):
    """A tenth of the rate from each decay point on, as in the papers (Wu & He 2018; Wang et al. 2018)."""

    decay_points: list[float] = field(default_factory=lambda: [0.375, 0.75])
    """Fractions of training at which the rate is divided by 10."""
    warmup: float = 0.0
    """Fraction of training over which the rate rises linearly from 0."""

    def __post_init__(self) -> None:
        check(vars(self), SCHEDULE, "model.schedule")

    def after_warmup(self, progress: float) -> float:
        return 0.1 ** sum(progress >= point for point in self.decay_points)

    def __str__(self) -> str:
        points = ", ".join(f"{point:g}" for point in self.decay_points)
        return f"step at {points} of training{_warmup(self)}"


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine, down to 0 at the end (Loshchilov & Hutter 2017)."""

    warmup: float = 0.0
    """Fraction of training over which the rate rises linearly from 0."""

    def __post_init__(self) -> None:
        check(vars(self), SCHEDULE, "model.schedule")

    def after_warmup(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def __str__(self) -> str:
        return f"cosine{_warmup(self)}"


def _warmup(schedule: Schedule) -> str:
    return f" after {schedule.warmup:g} of warm-up" if schedule.warmup else ""


SCHEDULES: dict[str, type[Schedule]] = {"Step": Step, "Cosine": Cosine}


def progress(trainer: Any) -> float:
    """Fraction of training that is done, in epochs or in steps, whichever ends it first.

    Batches of the epoch are counted, not steps from the start, so that it stays right where a run is resumed with
    another batch size or number of processes. A loader without a length has steps alone.
    """
    return fraction_done(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def fraction_done(trainer: Any, batch: int) -> float:
    """As `progress`, after so many batches of the epoch."""
    batches, epochs, steps = trainer.num_training_batches, trainer.max_epochs or -1, trainer.max_steps
    done = trainer.current_epoch * batches + batch
    counted = epochs > 0 and math.isfinite(batches)
    return max(done / (epochs * batches) if counted else 0.0, trainer.global_step / steps if steps > 0 else 0.0)


def has_end(trainer: Any) -> bool:
    """Whether training ends after a number of steps that is known: not after epochs of a loader without a length."""
    return ((trainer.max_epochs or -1) >= 0 and math.isfinite(trainer.num_training_batches)) or trainer.max_steps >= 0


def check_end(trainer: Any, schedule: Schedule) -> None:
    """Raises InputError where a rate would rise over a fraction of a training that has no end, and so stay 0."""
    if not has_end(trainer) and schedule.warmup:
        raise InputError(
            f"model.schedule.warmup is {schedule.warmup:g} of a training without end: the rate would stay 0; set "
            f"{END}, or model.schedule.warmup to 0"
        )
    if not has_end(trainer):
        log.warning(
            "training has no end that is known, so that the learning rate stays as it is at first; for another set %s",
            END,
        )
