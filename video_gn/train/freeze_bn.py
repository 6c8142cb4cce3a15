"""`model.freeze_bn_after`: BatchNorm that keeps its running statistics in the last part of training.

It then normalizes by them in training as in evaluation, whatever the batch (Wu & Johnson 2021, *Rethinking "Batch" in
BatchNorm*, section 3.3); gamma and beta learn on.
"""

import logging
from typing import Any

from pytorch_lightning.callbacks import StochasticWeightAveraging

from video_gn.errors import InputError
from video_gn.models.mabn import MovingAverageBatchNorm
from video_gn.models.norm import batch_norms
from video_gn.train.schedule import END, fraction_done, has_end

log = logging.getLogger(__name__)


def check_statistics(model: Any) -> None:
    """Says where `model.freeze_bn_after` can have no effect.

    Raises:
        InputError: Training has no end, or averages weights in a way that such statistics do not allow.
    """
    after, trainer = model.freeze_bn_after, model.trainer
    averages = any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks)
    if averages and any(isinstance(layer, MovingAverageBatchNorm) for layer in model.net.modules()):
        raise InputError(
            "StochasticWeightAveraging takes new statistics of BatchNorm alone when training ends, and those of mabn "
            "would be of other weights; take EMAWeightAveraging"
        )
    if after is None:
        return
    if not has_end(trainer):
        raise InputError(f"model.freeze_bn_after is {after:g} of a training without end; set {END}")
    if averages:
        raise InputError(
            "StochasticWeightAveraging takes new statistics of BatchNorm when training ends, and model.freeze_bn_after "
            f"is {after:g}; take null, or EMAWeightAveraging"
        )
    if not batch_norms(model.net):
        log.warning("model.freeze_bn_after is %g, and no norm of the network has running statistics", after)


def freeze_if_due(model: Any, batch_idx: int) -> None:
    """Has the batch norms keep their statistics in a batch of training where they are to: all batches of a step."""
    after, trainer = model.freeze_bn_after, model.trainer
    if after is None or fraction_done(trainer, batch_idx - batch_idx % trainer.accumulate_grad_batches) < after:
        return
    for layer in batch_norms(model.net).values():
        layer.eval()
