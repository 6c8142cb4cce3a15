"""A look at the optimiser's state that a resumed run has taken, before the first step."""

from typing import Any

import pytorch_lightning as pl
import torch

from video_gn.errors import InputError
from video_gn.rules import shown
from video_gn.train.compat import last_rates
from video_gn.train.resume import is_count


class CheckResumed(pl.Callback):
    """Refuses a resumed optimiser whose state is not of this model's parameters, before the first step."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.ckpt_path and (wrong := next(_wrong_state(trainer), None)):
            raise InputError(f"{trainer.ckpt_path} has an optimiser's state that cannot be ({wrong})")


def _wrong_state(trainer: Any) -> Any:
    known = (torch.optim.SGD, torch.optim.AdamW)  # others may keep whatever they like
    for optimizer in (one for one in trainer.optimizers if isinstance(one, known)):
        for group in optimizer.param_groups:
            for name, default in optimizer.defaults.items():
                value = group.get(name, "missing")
                if not _is_like(value, default):
                    yield f"{name} is {shown(value)}"
        for parameter, state in optimizer.state.items():
            for name, value in state.items() if isinstance(state, dict) else [("state", state)]:
                sound = isinstance(value, torch.Tensor) and value.shape in (parameter.shape, ())  # the latter: steps
                if value is not None and not (sound and value.isfinite().all()):
                    yield f"{name} of a parameter {list(parameter.shape)}"
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        rates, groups = [*scheduler.base_lrs, *last_rates(scheduler)], len(scheduler.optimizer.param_groups)
        if len(rates) != 2 * groups or not all(type(rate) in (int, float) and 0 <= rate < 1e15 for rate in rates):
            yield f"learning rates {shown(rates)}"
        if not is_count(scheduler.last_epoch) or scheduler.last_epoch is None:
            yield f"the schedule's step {shown(scheduler.last_epoch)}"


def _is_like(value: Any, default: Any) -> bool:
    """Whether a setting of an optimiser is of the kind of its default: a number, numbers, a flag or nothing."""
    if isinstance(default, list | tuple):
        several = isinstance(value, list | tuple) and len(value) == len(default)
        return several and all(map(_is_like, value, default))
    kinds = (int, float) if type(default) in (int, float) else (bool, type(None))
    return type(value) in kinds and -1e15 < float(value or 0) < 1e15
