"""What BatchNorm normalizes by when it is evaluated, and how far its running statistics are from the true ones.

The true statistics of a layer are those of its input over the training set, while every layer before it normalizes by
its batch as in training: mean E[mu], variance E[sigma^2 + mu^2] - E[mu]^2 over the groups of clips that share
statistics (Wu & Johnson 2021, *Rethinking "Batch" in BatchNorm*, section 3). "Precise BN" evaluates with them.
"""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from tqdm import tqdm

from video_gn.models.norm import batch_norms, own_statistics

log = logging.getLogger(__name__)
CHOICES = ("running", "precise", "batch")


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

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm) -> None:
        self.layer, self.norm_batch = layer, getattr(layer, "norm_batch", None)
        self.groups = 0
        self.sums = torch.zeros(5, layer.num_features, dtype=torch.float64, device=layer.weight.device)

    def add(self, x: Tensor) -> None:
        """Counts the groups of a batch `[N, C, T, H, W]`."""
        for group in x.split(self.norm_batch or len(x)):
            var, mean = torch.var_mean(group.float(), (0, 2, 3, 4), correction=0)
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
    """Has validate, test and predict take the statistics that `model.bn_statistics` asks for.

    Precise ones are recomputed over `model.precise_steps` training batches of each process, and their distances from
    the running ones are left in `pl_module.norm_layers`. The running statistics are back in place afterwards.
    """

    def __init__(self) -> None:
        self._until_end = ExitStack()

    def _start(self, trainer: Any, pl_module: Any) -> None:
        choice, layers = pl_module.hparams.bn_statistics, batch_norms(pl_module.net)
        pl_module.norm_layers = []
        if trainer.state.fn == "fit" or choice == "running" or not layers:
            return
        if choice == "batch":
            self._until_end.enter_context(own_statistics(pl_module.net))
            return
        steps = pl_module.hparams.precise_steps
        batches = trainer.datamodule.training_clips(steps)
        bar = tqdm(batches, "precise BN", steps, unit=" batches", leave=False, disable=not trainer.is_global_zero)
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
        log.info("%d batch norms take statistics recomputed over %d training batches", len(found), steps)

    def _end(self, trainer: Any, pl_module: Any) -> None:
        self._until_end.close()

    on_validation_start = on_test_start = on_predict_start = _start
    on_validation_end = on_test_end = on_predict_end = _end
