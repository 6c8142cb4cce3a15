"""Figures of each training step, put where Lightning's `self.log` puts them.

It copies its record of each figure in each step (Lightning 2.6, `_ResultMetric.to`), which on a CPU takes half a
millisecond (docs/kernels.md).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from video_gn.train.callbacks.bars import asks_each_step
from video_gn.train.optim import ends_step


class StepFigures:
    """The last step's figures, and those that a run was stopped with."""

    def __init__(self) -> None:
        self._latest: dict[str, Tensor] = {}
        self._before: dict[str, float] = {}

    def show(self, trainer: Any, figures: Mapping[str, Tensor]) -> None:
        """Puts figures into `callback_metrics` and `logged_metrics`, and before a bar of Lightning's.

        Args:
            trainer: Of the run.
            figures: By name, a number each on any device, without a graph.
        """
        self._latest.update(figures)
        trainer.callback_metrics.update(figures)
        trainer.logged_metrics.update(figures)
        if asks_each_step(trainer):
            trainer.progress_bar_metrics.update({name: value.item() for name, value in figures.items()})

    def send(self, trainer: Any, batch_idx: int) -> None:
        """Sends them to the loggers after each `log_every_n_steps` steps; a GPU is asked for them then alone."""
        every, steps = trainer.log_every_n_steps, trainer.global_step
        due = trainer.fast_dev_run or (every and (steps % every == 0 or trainer.should_stop))
        if due and trainer.loggers and ends_step(trainer, batch_idx):
            values = {name: value.item() for name, value in self._latest.items()} | {"epoch": trainer.current_epoch}
            for logger in trainer.loggers:
                logger.log_metrics(values, steps - 1)  # as Lightning numbers them
                logger.save()

    def state(self, trainer: Any) -> dict[str, float]:
        """All that callbacks may ask for, for a checkpoint."""
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    def load_state(self, state: dict[str, float]) -> None:
        """Takes what a checkpoint has."""
        self._before = state

    def restore(self, trainer: Any) -> None:
        """Puts it where callbacks ask for it before the next batch."""
        for name, value in self._before.items():
            trainer.callback_metrics.setdefault(name, torch.tensor(value, device=trainer.strategy.root_device))
