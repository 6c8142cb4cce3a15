"""What BatchNorm normalizes by when it is evaluated, and how far its running statistics are from the true ones.

The true statistics of a layer are those of its input over the training set, while every layer before it normalizes by
its batch as in training: mean E[mu], variance E[sigma^2 + mu^2] - E[mu]^2 over the groups of clips that share
statistics (Wu & Johnson 2021, *Rethinking "Batch" in BatchNorm*, section 3). "Precise BN" evaluates with them.
"""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from video_gn.compat import BatchNorm
from video_gn.console import progress
from video_gn.models.norm import batch_norms, own_statistics
from video_gn.rules import Rule, check, one_of, whole

log = logging.getLogger(__name__)
CHOICES = ("running", "precise", "batch")
RULES: dict[str, Rule] = {"use": one_of(CHOICES), "batches": whole(1, 10**9)}


class Distance(NamedTuple):
    """How far statistics are from the true ones, root mean square over channels (and groups of clips).

    Attributes:
        mean: Of the means, in true standard deviations.
        variance: Of the variances, in powers of 2.
    """

    mean: float
    variance: float


class LayerStatistics:
    """True mean and variance of one layer's input, and the spread of single groups' about them.

    Args:
        layer: A batch norm.

    Attributes:
        sums: float64 `[5, C]`: over groups, of mu, mu^2, sigma^2, log2(sigma^2 + eps) and its square.
    """

    def __init__(self, layer: BatchNorm) -> None:
        self.layer, self.ghost_batch = layer, getattr(layer, "ghost_batch", None)
        self.groups = 0
        self.sums = torch.zeros(5, layer.num_features, dtype=torch.float64, device=_running(layer).device)

    def add(self, x: Tensor) -> None:
        """Counts the groups of a batch `[N, C, T, H, W]`."""
        for group in x.split(self.ghost_batch or len(x)):
            var, mean = torch.var_mean(group.float(), [0, *range(2, group.ndim)], correction=0)
            var, mean = var.double(), mean.double()
            log_var = (var + self.layer.eps).log2()
            self.sums += torch.stack([mean, mean**2, var, log_var, log_var**2])
            self.groups += 1

    @property
    def true(self) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, float64 `[C]`."""
        mean, mean_square, var = self.sums[:3] / self.groups
        return mean, var + mean_square - mean**2

    def of_running(self) -> Distance:
        """Distance of the layer's running statistics."""
        assert self.layer.running_mean is not None and self.layer.running_var is not None
        mean, var = self.true
        shift = (self.layer.running_mean - mean) / (var + self.layer.eps).sqrt()
        ratio = (self.layer.running_var.double() + self.layer.eps).log2() - (var + self.layer.eps).log2()
        return Distance(_rms(shift**2), _rms(ratio**2))

    def of_groups(self) -> Distance:
        """Distance of a single group's own statistics."""
        mean, var = self.true
        _, mean_square, _, log_var, log_square = self.sums / self.groups
        true_log = (var + self.layer.eps).log2()
        shift = (mean_square - mean**2) / (var + self.layer.eps)
        return Distance(_rms(shift), _rms(log_square - 2 * log_var * true_log + true_log**2))


def _running(layer: BatchNorm) -> Tensor:
    assert layer.running_mean is not None
    return layer.running_mean


def _rms(squares: Tensor) -> float:
    return float(squares.mean().clamp_min(0).sqrt())


def measure(pl_module: Any, batches: Iterable[Tensor]) -> dict[str, LayerStatistics]:
    """The statistics of every batch norm of `pl_module.net` over batches of clips, uint8 `[N, 3, T, H, W]`."""
    found = {name: LayerStatistics(layer) for name, layer in batch_norms(pl_module.net).items()}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(own_statistics(pl_module.net))
        for one in found.values():
            hook = one.layer.register_forward_pre_hook(lambda layer, inputs, one=one: one.add(inputs[0]))
            stack.callback(hook.remove)
        for clips in batches:
            pl_module(clips.to(pl_module.device, non_blocking=True))
    return found


class EvaluationStatistics(pl.Callback):
    """What `bn` and `brn` normalize by in validate, test and predict.

    Validation during training always takes the running averages. Distances of precise statistics from the running
    ones are left in `pl_module.norm_layers`, and the running ones are back in place afterwards.

    Args:
        use: "running" averages, "precise" ones recomputed over training batches before ("precise BN"), or those of the
            evaluated "batch" itself.
        batches: Training batches of each process over which precise statistics are recomputed (200 in
            video-nonlocal-net).
    """

    def __init__(self, use: Literal["running", "precise", "batch"] = "running", batches: int = 200) -> None:
        check({"use": use, "batches": batches}, RULES, "bn_statistics")
        self.use, self.batches = use, batches
        self._until_end = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        """What a test of this run's checkpoint uses too, where nothing else is asked for."""
        return {"use": self.use, "batches": self.batches}

    def _start(self, trainer: Any, pl_module: Any) -> None:
        layers = batch_norms(pl_module.net)
        pl_module.norm_layers = []
        if trainer.state.fn == "fit" or self.use == "running" or not layers:
            return
        if self.use == "batch":
            self._until_end.enter_context(own_statistics(pl_module.net))
            return
        batches = trainer.datamodule.training_clips(self.batches)
        bar = progress(
            batches, "precise BN", self.batches, unit=" batches", leave=False, disable=not trainer.is_global_zero
        )
        found = measure(pl_module, bar)
        for name, one in found.items():
            one.sums = trainer.strategy.reduce(one.sums, reduce_op="sum")
            one.groups *= trainer.world_size
            running, own = one.of_running(), one.of_groups()
            pl_module.norm_layers.append({"layer": name, "running": running._asdict(), "batch": own._asdict()})
        for one in found.values():
            layer = one.layer
            assert layer.running_mean is not None and layer.running_var is not None
            for buffer, value in zip((layer.running_mean, layer.running_var), one.true, strict=True):
                self._until_end.callback(buffer.copy_, buffer.clone())
                buffer.copy_(value)
        log.info("%d batch norms take statistics recomputed over %d training batches", len(found), self.batches)

    def _end(self, trainer: Any, pl_module: Any) -> None:
        self._until_end.close()

    on_validation_start = on_test_start = on_predict_start = _start
    on_validation_end = on_test_end = on_predict_end = _end
