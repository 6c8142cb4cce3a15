"""A video classifier around any network: loss, optimisation and scores; the model half of a run."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from video_gn import rules
from video_gn.batch import as_batch
from video_gn.errors import InputError
from video_gn.models import contract
from video_gn.models.input import Normalize
from video_gn.models.resnet3d import ResNet3d
from video_gn.train.begin import begin, convert_start
from video_gn.train.freeze_bn import check_statistics, freeze_if_due
from video_gn.train.loss import Loss, class_weights, targets_of
from video_gn.train.metrics import Accuracy, EpochSums, MultiLabelAccuracy, means, ranks, top
from video_gn.train.network_call import NetworkCall, seed_step
from video_gn.train.optim import SGD, Optimizer, check_accumulation, ends_step, make_optimizer, say_rate, scaled_lr
from video_gn.train.outcomes import Outcomes
from video_gn.train.rebuild import rebuild_checkpoint
from video_gn.train.resume import check_callbacks, check_optimizer, take_given
from video_gn.train.schedule import Schedule, Step, check_end, progress
from video_gn.train.settings import Execution, Start, described, found_start, hyper_parameters
from video_gn.train.step_figures import StepFigures

log = logging.getLogger(__name__)


class VideoClassifier(pl.LightningModule):
    """A network of clips, trained as Wu & He 2018 (section 4.3) train the I3D ResNet.

    Args:
        class_names: The classes in the order of their labels.
        net: Makes the network from the number of classes: a class or a function.
        optimizer: What moves the parameters: SGD, AdamW, or a subclass of `video_gn.train.optim.Optimizer`.
        schedule: How the learning rate moves: Step, Cosine, or a subclass of `video_gn.train.schedule.Schedule`.
        start: Where training starts from.
        execution: How the network is run; checkpoints do not know it.
        batch_size: Clips per GPU in a training step.
        crop_size: Side of the training crop, in pixels.
        seed: Of the dropout.
        loss: What a training step minimises, and what logits mean.
        freeze_bn_after: Fraction of training after which BN keeps its statistics (Wu & Johnson 2021); None for never.

    Attributes:
        net: The network.
        mean: Of each colour, subtracted from the input on the scale from 0 to 1.
        std: Of each colour, by which the input is divided.
        results: Of the last validation and test, in full precision.
        outcomes: Scores of the test's videos, by row.
        call: Of the network, by its `execution`.
        step_figures: Of the last training step; a callback may `show` more.
        norm_layers: Distances of running from true statistics, where they were measured.
        to_convert: The network with BN whose weights fit converts as it begins, if there is one.
    """

    def __init__(
        self,
        class_names: list[str],
        net: Callable[[int], nn.Module] = ResNet3d,
        optimizer: Optimizer = SGD(),
        schedule: Schedule = Step(),
        start: Start = Start(),
        execution: Execution = Execution(),
        batch_size: int = 8,
        crop_size: int = 224,
        seed: int = 0,
        loss: Loss = Loss(),
        freeze_bn_after: float | None = None,
    ) -> None:
        super().__init__()
        rules.check(locals(), rules.MODEL, "model")
        self.class_names = list(class_names)
        self.optimizer, self.schedule, self.seed = optimizer, schedule, seed
        self.loss, self.freeze_bn_after = loss, freeze_bn_after
        self._class_weights: Tensor | None = None
        self.clips_per_gpu = batch_size
        self.net = contract.make_net(net, len(self.class_names), crop_size)
        start = found_start(start, self.net)
        self.mean, self.std, before = begin(self.net, start, self.class_names)
        self.to_convert = (before,) if before else ()  # no module of this one
        start = replace(start, convert=start.convert if before else 0)
        contract.check_ghost_batch(self.net, batch_size)
        self.call = NetworkCall(self.net, Normalize(self.mean, self.std), execution, batch_size, crop_size)
        self.init = start.init
        self.frozen = contract.freeze(self.net, start.freeze_stages)
        said = {"batch_size": batch_size, "crop_size": crop_size, "seed": seed, "freeze_bn_after": freeze_bn_after}
        self._set_hparams(hyper_parameters(self, start) | said)
        self._hparams_name = "kwargs"
        self.accuracy = (MultiLabelAccuracy if loss.multi_label else Accuracy)(len(self.class_names))
        self._sums, self.step_figures = EpochSums(), StepFigures()
        self.results: dict[str, dict[str, float]] = {}
        self.outcomes = Outcomes()
        self.norm_layers: list[dict[str, Any]] = []

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = None, **kwargs: Any) -> "VideoClassifier":  # type: ignore[override]
        """The classifier of a checkpoint of this project, in evaluation. No code in the file can run.

        Args:
            checkpoint_path: The file.
            map_location: Device to move it to; by default the CPU.
            kwargs: `net`, where the network is of a class of your own: a checkpoint cannot name it.

        Raises:
            InputError: It is something else.
        """
        model = rebuild_checkpoint(cls, str(checkpoint_path), kwargs.pop("net", None))
        if kwargs:
            raise InputError(f"load_from_checkpoint takes no {next(iter(kwargs))}; the checkpoint says it")
        return model if map_location is None else model.to(map_location)

    def train(self, mode: bool = True) -> "VideoClassifier":
        """Sets the mode of all but the frozen stages."""
        super().train(mode)
        for stage in self.frozen:
            stage.eval()
        return self

    # The network

    def forward(self, clips: Tensor) -> Tensor:
        """Logits `[N, K, P]` of clips uint8 `[N, 3, T, H, W]`.

        P is the number of positions of the head's window: 1 at the training crop.

        Raises:
            InputError: They are no such clips, or too short for the network's strides; or what it gives is not K
                logits a clip.
        """
        contract.check_clips(self.net, clips)
        logits = self.call(clips)
        contract.check_logits(self.net, logits, len(clips), len(self.class_names))
        return logits.flatten(2) if logits.ndim > 2 else logits[:, :, None]

    def scores(self, clips: Tensor) -> Tensor:
        """Scores `[B, V, K]` of clips uint8 `[B, V, 3, T, H, W]`: the softmax of logits, or as `loss` has it.

        Where the frames are larger than the training crop, it is taken at each position of the head's window and
        averaged, as video-nonlocal-net does. Views go through in parts of `batch_size` clips.
        """
        if not len(clips):  # every video of the batch was unreadable
            return torch.empty(0, 1, len(self.class_names), device=clips.device)
        parts = clips.flatten(0, 1).split(self.clips_per_gpu)
        scores = torch.cat([self.loss.scores(self(part).float()).mean(2) for part in parts])
        return scores.unflatten(0, clips.shape[:2])

    def setup(self, stage: str) -> None:
        if self._trainer:
            check_callbacks(self.trainer.callbacks)  # type: ignore[attr-defined]
        if stage == "fit" and not self.training:  # out of a checkpoint; Lightning would train it in evaluation
            self.train()
        if stage == "fit" and self.init is None:
            contract.check_random_start(self.net, len(self.frozen))
        if self.to_convert:
            convert_start(self)

    def configure_model(self) -> None:
        self.hparams["net"] = described(self.net, contract.settings_of(self.net))  # convert_norm may have changed it
        self.call.prepare(self.trainer.strategy, self.trainer.state.fn == "fit")

    def to_torchscript(
        self, file_path: Any = None, method: str | None = "script", example_inputs: Any = None, **kwargs: Any
    ) -> Any:
        """As Lightning's, by tracing alone; raises InputError where it is to be scripted."""
        if method != "trace":
            raise InputError('the network cannot be scripted; trace it: method="trace", example_inputs=clips')
        return super().to_torchscript(file_path, method, example_inputs, **kwargs)

    # Steps; their batches are as `video_gn.batch.as_batch` takes them

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_step(self, batch_idx)
        freeze_if_due(self, batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch = as_batch(batch, len(self.class_names), self.loss.multi_label)
        logits = self(batch.clips.flatten(0, 1)).mean(2)
        targets = targets_of(batch)
        loss = self.loss(logits, targets, self._class_weights)
        right = top(ranks(logits.detach(), targets.labels, least=0), 1)
        self.step_figures.show(self.trainer, {"train/loss": loss.detach(), "train/top1": right.float().mean()})
        counts = (loss.detach() * len(logits), right.sum(), len(logits), len(batch.failures), len(batch.fallbacks))
        self._sums.add(counts, ends_step(self.trainer, batch_idx))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.step_figures.send(self.trainer, batch_idx)

    def on_train_epoch_start(self) -> None:
        self._sums.clear()

    def on_train_epoch_end(self) -> None:
        self.log_dict({f"train/{name}": value for name, value in self.training_means().items()})

    def on_train_end(self) -> None:
        self.call.end()

    def training_means(self) -> dict[str, float]:
        """Of the epoch's clips over all processes, mean loss and top-1; videos that were unreadable or fell back."""
        return means(self._sums.over(self.trainer.strategy))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit":
            checkpoint["training_sums"] = self._sums.over(self.trainer.strategy)
            checkpoint["validation"] = self.results.get("val")
            checkpoint["figures"] = self.step_figures.state(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up an epoch's sums, on the first process, and the last validation."""
        if self.trainer.state.fn == "fit":
            check_optimizer(checkpoint, self.hparams["optimizer"]["class_path"], str(self.trainer.ckpt_path))
        if (sums := checkpoint.get("training_sums")) and self.trainer.is_global_zero:
            self._sums = EpochSums(sums)
        if validation := checkpoint.get("validation"):
            self.results["val"] = validation
        self.step_figures.load_state(checkpoint.get("figures") or {})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        batch = as_batch(batch, len(self.class_names), self.loss.multi_label)
        self.accuracy.update(self.scores(batch.clips), batch.labels, [video.label for video in batch.failures])

    def on_validation_epoch_end(self) -> None:
        self._log_accuracy("val")

    def on_test_start(self) -> None:
        self.outcomes = Outcomes()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        batch = as_batch(batch, len(self.class_names), self.loss.multi_label)
        scores = self.scores(batch.clips)
        self.accuracy.update(scores, batch.labels, [video.label for video in batch.failures])
        if len(batch.labels):
            self.outcomes.add(batch.rows, scores.mean(1))

    def on_test_epoch_end(self) -> None:
        self._log_accuracy("test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Mean scores over the views, `[B, K]`, with the rows they belong to and the failures."""
        batch = as_batch(batch)
        return {
            "scores": self.scores(batch.clips).mean(1).cpu(),
            "rows": batch.rows.tolist(),
            "failures": batch.failures,
            "damaged": batch.damaged,
        }

    def _log_accuracy(self, split: str) -> None:
        values = self.accuracy.compute()  # already summed over processes
        self.accuracy.reset()
        if self.trainer.sanity_checking:
            return
        self.results[split] = {name: value.item() for name, value in values.items()}
        if split == "val" and self.trainer.state.fn == "fit":
            self.results[split]["epoch"] = self.current_epoch
        for name, value in values.items():
            self.log(f"{split}/{name}", value.float(), prog_bar=name == "top1", sync_dist=True)
        if count := self.results[split]["not_finite"]:
            log.warning("%s: the scores of %d videos are not finite; they count as wrong", split, count)

    # Optimisation

    @property
    def clips_per_step(self) -> int:
        """Clips behind one step of the optimiser: GPUs x clips per GPU x accumulation."""
        return self.trainer.world_size * self.clips_per_gpu * self.trainer.accumulate_grad_batches

    @property
    def lr(self) -> float:
        """Peak learning rate of this run, by the linear rule."""
        return scaled_lr(self.optimizer.base_lr, self.clips_per_step)

    def configure_optimizers(self) -> Any:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        optimizer = make_optimizer(self.optimizer, self.net, self.lr, scaler)
        self._given = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
        scheduler = LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        # Asking for the number of steps before training begins would open the loader before a checkpoint has said
        # which epoch it is, and so replay the first epoch's order (Lightning issue 21938).
        return self.schedule.factor(progress(self.trainer) if step else 0.0)

    def on_train_start(self) -> None:
        take_given(self.trainer, self._given, self._lr_factor(self.trainer.global_step))
        check_end(self.trainer, self.schedule)
        check_accumulation(self.trainer)
        check_statistics(self)
        self._class_weights = class_weights(self)
        self.step_figures.restore(self.trainer)
        self._sums.to(self.device)
        say_rate(self)
