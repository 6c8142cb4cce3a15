"""What moves the parameters, `model.optimizer`, a class by its name; the linear rule; which batches end a step."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from video_gn.errors import InputError
from video_gn.models.contract import needed
from video_gn.models.known import is_known
from video_gn.models.norm import norm_parameters
from video_gn.rules import OPTIMIZER, check

log = logging.getLogger(__name__)

REFERENCE_CLIPS = 64  # clips per step to which base_lr belongs (Wu & He 2018: 8 GPUs x 8 clips)


def scaled_lr(base_lr: float, clips_per_step: int) -> float:
    """The linear rule: `base_lr` is for 64 clips a step (Goyal et al. 2017; Wu & He 2018, section 4)."""
    return base_lr * clips_per_step / REFERENCE_CLIPS


class Optimizer:
    """What moves the parameters. A subclass has these attributes as fields, and gives `make`.

    Attributes:
        base_lr: Learning rate at 64 clips a step; the rate used is scaled to the clips of this run's steps.
        head_lr: How many times that rate the head learns at, for a new one on a trained network.
        weight_decay: Of every parameter but those of norms.
        norm_weight_decay: Of every norm's gamma and beta.
        layer_decay: By what the rate is multiplied from a stage to the one before it, from the head's 1 down to the
            stem's (Bao et al. 2022, *BEiT*; He et al. 2022, *MAE*).
    """

    base_lr: float
    head_lr: float
    weight_decay: float
    norm_weight_decay: float
    layer_decay: float = 1.0

    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """PyTorch's optimiser of groups of parameters, at a peak rate."""
        raise NotImplementedError

    def groups(
        self, net: nn.Module, head: Sequence[nn.Parameter], lr: float, stages: Sequence[nn.Module] = ()
    ) -> list[dict[str, Any]]:
        """The parameters that are trained, in groups with their rate and weight decay: most, norms', and the others'.

        Args:
            net: The network.
            head: Parameters that learn at `head_lr` times the rate.
            lr: The peak rate.
            stages: From the first on, those that learn at rates of `layer_decay`.
        """
        norms = {id(parameter) for parameter in norm_parameters(net)}
        factors = {id(parameter): self.head_lr for parameter in head}
        for depth, stage in enumerate(reversed(stages), 1):
            factors |= {id(parameter): self.layer_decay**depth for parameter in stage.parameters()}
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = []
        for factor in dict.fromkeys([1.0, *factors.values()]):
            at_rate = [parameter for parameter in trained if factors.get(id(parameter), 1.0) == factor]
            rate = {} if factor == 1 else {"lr": factor * lr}
            for is_norm, decay in ((False, self.weight_decay), (True, self.norm_weight_decay)):
                params = [parameter for parameter in at_rate if (id(parameter) in norms) == is_norm]
                groups += [{"params": params, "weight_decay": decay, **rate}] if params else []
        return groups


def groups(optimizer: Optimizer, net: nn.Module, lr: float) -> list[dict[str, Any]]:
    """An optimizer's groups of the parameters of a network.

    Raises:
        InputError: The network does not say what its head or its stages are, where that is needed.
    """
    head, layers = [], {}
    if optimizer.head_lr != 1:
        head = list(needed(net, "head", "model.optimizer.head_lr").parameters())
    if optimizer.layer_decay != 1:
        layers = {"stages": needed(net, "stages", "model.optimizer.layer_decay")}
    return optimizer.groups(net, head, lr, **layers)


@dataclass(frozen=True)
class SGD(Optimizer):
    """SGD with Nesterov momentum, as in the papers (Wu & He 2018; Wang et al. 2018)."""

    base_lr: float = 0.01
    """Learning rate at 64 clips a step; the rate used is scaled to the clips of this run's steps."""
    head_lr: float = 1.0
    """How many times that rate the head learns at, for a new one on a trained network."""
    momentum: float = 0.9
    """Nesterov's; 0 for none."""
    weight_decay: float = 1e-4
    """Of every parameter but those of norms."""
    norm_weight_decay: float = 0.0
    """Of every norm's gamma and beta."""
    layer_decay: float = 1.0
    """By what the rate is multiplied from each stage (stem, res2, ...) to the stage before it; 1 is the same rate."""

    def __post_init__(self) -> None:
        check(vars(self), OPTIMIZER, "model.optimizer")

    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.momentum > 0)

    def __str__(self) -> str:
        return f"SGD, momentum {self.momentum:g}"


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019)."""

    base_lr: float = 1e-3
    """Learning rate at 64 clips a step; the rate used is scaled to the clips of this run's steps."""
    head_lr: float = 1.0
    """How many times that rate the head learns at, for a new one on a trained network."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of the running means of gradients and of their squares."""
    weight_decay: float = 0.05
    """Of every parameter but those of norms."""
    norm_weight_decay: float = 0.0
    """Of every norm's gamma and beta."""
    layer_decay: float = 1.0
    """By what the rate is multiplied from each stage (stem, res2, ...) to the stage before it; 1 is the same rate."""

    def __post_init__(self) -> None:
        check(vars(self), OPTIMIZER, "model.optimizer")

    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas)

    def __str__(self) -> str:
        return f"AdamW, betas {self.betas[0]:g} and {self.betas[1]:g}"


def make_optimizer(optimizer: Optimizer, net: nn.Module, lr: float, scaler: Any) -> torch.optim.Optimizer:
    """PyTorch's optimizer of a network; `scaler` as for `fuse`."""
    made = optimizer.make(groups(optimizer, net, lr), lr)
    if is_known(net):  # PyTorch's fused step fails where a parameter gets its first gradient after the first step
        fuse(made, scaler)
    return made


def fuse(optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    """Has SGD on a GPU step in one kernel: 0.5 of 17.7 ms of an I3D ResNet-50's step on an H100 (docs/kernels.md).

    Args:
        optimizer: PyTorch's.
        scaler: Of the loss, in float16: a fused optimizer would undo it itself, and Lightning could not clip gradients.
    """
    on_gpus = all(parameter.is_cuda for group in optimizer.param_groups for parameter in group["params"])
    if type(optimizer) is torch.optim.SGD and on_gpus and scaler is None:
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = True, False


OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": SGD, "AdamW": AdamW}


def ends_step(trainer: Any, batch_idx: int) -> bool:
    """Whether the optimiser steps after this training batch; before, its gradients wait for the step's others."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def check_accumulation(trainer: Any) -> None:
    """Raises InputError where a step would add up more batches than an epoch has: it ends with the epoch.

    The rate would be one for clips that no step sees.
    """
    batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    if accumulated > batches and not trainer.fast_dev_run:
        raise InputError(
            f"trainer.accumulate_grad_batches is {accumulated}, and an epoch has {batches} batches on each process, "
            f"with which a step ends; take at most {batches}, or a smaller data.batch_size"
        )


def say_rate(model: Any) -> None:
    """Logs the peak rate of a classifier in training, what it follows from, and how it moves."""
    trainer = model.trainer
    log.info(
        "lr %g = base_lr %g x %d / %d clips a step (%d processes x %d clips x accumulation %d); %.0f steps; %s; %s",
        model.lr, model.optimizer.base_lr, model.clips_per_step, REFERENCE_CLIPS,
        trainer.world_size, model.clips_per_gpu, trainer.accumulate_grad_batches,
        trainer.estimated_stepping_batches, model.optimizer, model.schedule,
    )  # fmt: skip
