"""How the learning rate moves over training, as a fraction of its peak: `model.schedule`, a class by its name."""

import math
from dataclasses import dataclass, field

from video_gn.rules import SCHEDULE, check


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
