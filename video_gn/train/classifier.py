"""A video classifier around the I3D ResNet: loss, optimisation and scores; the model half of a run."""

import logging
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from video_gn.batch import Batch
from video_gn.errors import InputError
from video_gn.kernels.dispatch import check
from video_gn.models.architectures import GEOMETRIES
from video_gn.models.blocks import select_kernels
from video_gn.models.input import normalize
from video_gn.models.norm import make_norm, norm_label, norm_parameters
from video_gn.models.resnet3d import resnet3d
from video_gn.rules import check as check_rules
from video_gn.train.metrics import Accuracy, ranks, top
from video_gn.train.optim import REFERENCE_CLIPS, ends_step, lr_factor, scaled_lr
from video_gn.weights.hub import load_weights
from video_gn.weights.inflate import check_norm, input_scale, start_from
from video_gn.weights.stored import MODEL

log = logging.getLogger(__name__)
NUMBERS = {
    name: MODEL[name] for name in (
        "base_lr", "head_lr", "momentum", "weight_decay", "norm_weight_decay", "decay_points", "warmup", "dropout",
        "mean", "std", "r_max", "d_max", "width", "num_groups", "channels_per_group", "crop_size", "batch_size",
        "precise_steps", "seed",
    )
}  # fmt: skip


class VideoClassifier(pl.LightningModule):
    """An I3D ResNet, trained as Wu & He 2018 (section 4.3) train it.

    Args:
        class_names: The classes in the order of their labels.
        batch_size: Clips per GPU in a training step.
        crop_size: Side of the training crop, in pixels.
        norm: A word of `video_gn.models.norm.NORMS`: bn, gn, ln, in, brn, frozen_bn.
        num_groups: Groups of `gn`.
        channels_per_group: Channels of each group of `gn`, in place of `num_groups`.
        norm_batch: Clips that share statistics in `bn` and `brn`: consecutive groups of so many clips of a larger
            batch, so that one GPU with 32 clips trains as 8 GPUs with 4 each. None takes all clips of the GPU.
        r_max: Largest correction of the scale in `brn`.
        d_max: Largest correction of the mean in `brn`, in standard deviations.
        bn_statistics: What `bn` and `brn` normalize by in validate, test and predict: "running" averages, "precise"
            ones recomputed over training batches before ("precise BN"), or those of the evaluated "batch" itself.
            Validation during training always takes the running ones.
        precise_steps: Training batches over which precise statistics are recomputed (200 in video-nonlocal-net).
        freeze_affine: Whether `frozen_bn` fixes gamma and beta too.
        depth: Layers: 50 or 101; 11 and 14 are small ones.
        width: Channels of the stem; 64 in the papers.
        geometry: Kernels and strides, a name of `video_gn.models.architectures.GEOMETRIES`.
        dropout: Before the last layer.
        zero_init_gamma: Whether gamma of each residual block's last norm starts at 0.
        init: Weights to start from, 2D (then inflated) or 3D: a file (`video_gn.weights.reader` lists the layouts) or a
            public name (`video_gn.weights.hub`) such as timm:resnet50_gn.a1h_in1k. None starts from random ones.
        init_norm: The norm that `init` was trained with, where the file does not tell.
        freeze_stages: How many of the stem, res2, res3, res4 and res5 stay as they are, from the first on; their BN
            keeps its running statistics too.
        mean: Of each colour on the scale from 0 to 1, subtracted from the input. None takes that of the weights in
            `init`, where it is known, and otherwise 0.45.
        std: Of each colour, by which the input is divided. None takes that of `init`, and otherwise 0.225.
        base_lr: Learning rate at 64 clips a step; the rate used is scaled to the clips of this run's steps.
        head_lr: How many times that rate the last layer learns at, for a new one on a trained network.
        momentum: Of SGD with Nesterov.
        weight_decay: Of convolutions and the last layer.
        norm_weight_decay: Of every norm's gamma and beta.
        lr_schedule: "step" (the papers') or "cosine".
        decay_points: Fractions of training at which "step" divides the rate by 10.
        warmup: Fraction of training over which the rate rises from 0.
        compile: Whether to run the network through `torch.compile`.
        channels_last: Whether to keep activations in channels_last_3d memory order. None for what is faster: on a GPU
            yes, on a CPU no.
        kernels: What norms run on: "triton", this project's kernels of norm + residual sum + ReLU; "torch", PyTorch's;
            "auto", the first where there is a GPU for them. Checkpoints do not know it.
        low_memory: Whether those kernels keep less for backward: what convolutions read after a norm and ReLU is
            computed again, and max pools keep one byte an output. Not with `compile`.
        seed: Of the dropout.
    """

    def __init__(
        self,
        class_names: list[str],
        batch_size: int = 8,
        crop_size: int = 224,
        norm: str = "gn",
        num_groups: int = 32,
        channels_per_group: int | None = None,
        norm_batch: int | None = None,
        r_max: float = 1.5,
        d_max: float = 0.5,
        bn_statistics: Literal["running", "precise", "batch"] = "running",
        precise_steps: int = 200,
        freeze_affine: bool = False,
        depth: int = 50,
        width: int = 64,
        geometry: str = "i3d",
        dropout: float = 0.5,
        zero_init_gamma: bool = True,
        init: str | None = None,
        init_norm: str | None = None,
        freeze_stages: int = 0,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        base_lr: float = 0.01,
        head_lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        norm_weight_decay: float = 0.0,
        lr_schedule: Literal["step", "cosine"] = "step",
        decay_points: list[float] = [0.375, 0.75],  # noqa: B006  (a tuple's length would be fixed in the config)
        warmup: float = 0.0,
        compile: bool = False,
        channels_last: bool | None = None,
        kernels: Literal["auto", "triton", "torch"] = "auto",
        low_memory: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_rules({name: value for name, value in locals().items() if value is not None}, NUMBERS, "model")
        if head_lr <= 0:
            raise InputError(f"model.head_lr is {head_lr}; it has to be above 0")
        if not all(0 < point < 1 for point in decay_points) or not 0 <= warmup < 1:
            raise InputError(
                f"model.decay_points is {list(decay_points)} and model.warmup {warmup}; they are fractions of training"
            )
        if norm_batch is not None and (norm_batch < 1 or batch_size % norm_batch):
            raise InputError(
                f"model.norm_batch is {norm_batch}; data.batch_size={batch_size} clips have to be a whole number of "
                "groups of that many (to share statistics among more clips than a GPU holds: trainer.sync_batchnorm)"
            )
        if low_memory and compile:
            raise InputError(
                "model.low_memory and model.compile are both true; a compiled graph decides itself what to keep"
            )
        if precise_steps < 1:
            raise InputError(f"model.precise_steps is {precise_steps}; it has to be at least 1 training batch")
        weights = None if init is None else load_weights(init)
        label = norm_label(norm, num_groups, channels_per_group)
        if weights:
            check_norm(weights, label, init_norm)
        scale = input_scale(weights, mean, std)
        self.save_hyperparameters(logger=False, ignore="kernels")
        self.hp: Any = self.hparams
        # In types that load without running code; class_names is linked, which Lightning leaves out of what it saves.
        self.hp.update(
            class_names=list(class_names), mean=list(scale[0]), std=list(scale[1]), decay_points=list(decay_points)
        )
        self.class_names = list(class_names)
        self.net = resnet3d(
            len(class_names),
            make_norm(
                norm,
                num_groups=num_groups,
                channels_per_group=channels_per_group,
                norm_batch=norm_batch,
                r_max=r_max,
                d_max=d_max,
                freeze_affine=freeze_affine,
            ),
            depth,
            width,
            geometry,
            crop_size,
            dropout,
            zero_init_gamma,
        )
        if weights:
            log.info(start_from(self.net, weights, geometry, class_names, scale[1]))
        self.kernels = kernels
        select_kernels(self.net, kernels, low_memory)
        self.frozen = self._freeze(freeze_stages)
        self.accuracy = Accuracy()
        # Of the epoch's clips, on this process: loss, right ones, clips, unreadable videos, fallbacks.
        self._sums = torch.zeros(5, dtype=torch.float64)
        self._waiting = self._sums.clone()  # of batches whose gradients wait for the step's others
        self._figures: dict[str, float] = {}  # logged last before a run was resumed
        self.results: dict[str, dict[str, float]] = {}  # of the last validation and test, in full precision
        self.outcomes: list[tuple[int, int, int]] = []  # of the test's videos: row, predicted label, rank of label
        self.norm_layers: list[dict[str, Any]] = []  # distances of running from true statistics, where measured

    def _freeze(self, stages: int) -> tuple[nn.Module, ...]:
        blocks = [block for block in self.net.blocks[:-1] if any(True for _ in block.parameters())]
        if not 0 <= stages <= len(blocks):
            raise InputError(
                f"model.freeze_stages is {stages}; it has to be from 0 to {len(blocks)}: the stem, then residual stages"
            )
        for block in blocks[:stages]:
            block.requires_grad_(False).eval()
        return tuple(blocks[:stages])

    def train(self, mode: bool = True) -> "VideoClassifier":
        """Sets the mode of all but the frozen stages."""
        super().train(mode)
        for block in self.frozen:
            block.eval()
        return self

    # The network

    def forward(self, clips: Tensor) -> Tensor:
        """Logits `[N, K, P]` of clips uint8 `[N, 3, T, H, W]`.

        P is the number of positions of the head's window: 1 at the training crop.

        Raises:
            InputError: The clips are too short for the network's strides.
        """
        least = GEOMETRIES[self.hp.geometry].min_frames
        if clips.shape[2] < least:
            raise InputError(
                f"clips of {clips.shape[2]} frames are too short for geometry={self.hp.geometry}, "
                f"which halves T until {least} frames are the least; raise data.num_frames"
            )
        x = normalize(clips, self.hp.mean, self.hp.std).contiguous(memory_format=self._layout(clips.device))
        return self.net(x).flatten(2)

    def _layout(self, device: torch.device) -> torch.memory_format:
        last = device.type == "cuda" if self.hp.channels_last is None else self.hp.channels_last
        return torch.channels_last_3d if last else torch.contiguous_format

    def scores(self, clips: Tensor) -> Tensor:
        """Softmax scores `[B, V, K]` of clips uint8 `[B, V, 3, T, H, W]`.

        Where the frames are larger than the training crop, the softmax is taken at each position of the head's
        window and averaged, as video-nonlocal-net does. Views go through in parts of `batch_size` clips.
        """
        if not len(clips):  # every video of the batch was unreadable
            return torch.empty(0, 1, len(self.class_names), device=clips.device)
        parts = clips.flatten(0, 1).split(self.hp.batch_size)
        scores = torch.cat([self(part).float().softmax(1).mean(2) for part in parts])
        return scores.unflatten(0, clips.shape[:2])

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.hp.norm == "frozen_bn" and self.hp.freeze_affine and self.hp.init is None:
            raise InputError("model.norm=frozen_bn with freeze_affine learns no scale; set model.init to start from")
        if stage == "fit" and self.frozen and self.hp.init is None:
            raise InputError(
                f"model.freeze_stages={len(self.frozen)} would keep random weights; set model.init to start from"
            )

    def configure_model(self) -> None:
        device = self.trainer.strategy.root_device
        self.norm_kernels = check(self.kernels, device)
        log.info(self.norm_kernels)
        self.net.to(memory_format=self._layout(device))  # type: ignore[call-overload]
        if self.hp.compile:
            self.net.compile()

    # Steps

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout follows from (seed, epoch, step, process), so that a resumed run has the same one.
        key = (self.hp.seed, self.trainer.current_epoch, batch_idx, self.trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch.clips.flatten(0, 1)).mean(2)
        labels = batch.labels.repeat_interleave(batch.clips.shape[1])
        loss = functional.cross_entropy(logits, labels)
        right = top(ranks(logits.detach(), labels), 1)
        self.log_dict({"train/loss": loss.detach(), "train/top1": right.float().mean()}, prog_bar=True)  # of this step
        counts: tuple[Any, ...] = (
            loss.detach() * len(labels),
            right.sum(),
            len(labels),
            len(batch.failures),
            len(batch.fallbacks),
        )
        for i, count in enumerate(counts):
            self._waiting[i] += count
        if ends_step(self.trainer, batch_idx):
            self._sums += self._waiting
            self._waiting.zero_()
        return loss

    def on_train_epoch_start(self) -> None:
        self._sums.zero_()
        self._waiting.zero_()

    def on_train_epoch_end(self) -> None:
        self.log_dict({f"train/{name}": value for name, value in self.training_means().items()})

    def training_means(self) -> dict[str, float]:
        """Of the epoch's clips over all processes, mean loss and top-1; videos that were unreadable or fell back."""
        loss, right, clips, unreadable, fallbacks = self._summed()
        means = {"epoch_loss": loss / clips, "epoch_top1": right / clips} if clips else {}
        return {**means, "unreadable": unreadable, "fallbacks": fallbacks}

    def _summed(self) -> list[float]:
        sums = self._sums.to(self.device, copy=True)
        return self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit":
            checkpoint["training_sums"], checkpoint["validation"] = self._summed(), self.results.get("val")
            checkpoint["figures"] = {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up an epoch's sums, on the first process, and the last validation."""
        if (sums := checkpoint.get("training_sums")) and self.trainer.is_global_zero:
            self._sums = torch.tensor(sums, dtype=torch.float64)
        if validation := checkpoint.get("validation"):
            self.results["val"] = validation
        self._figures = checkpoint.get("figures") or {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.accuracy.update(self.scores(batch.clips), batch.labels, len(batch.failures))

    def on_validation_epoch_end(self) -> None:
        self._log_accuracy("val")

    def on_test_start(self) -> None:
        self.outcomes = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self.scores(batch.clips)
        self.accuracy.update(scores, batch.labels, len(batch.failures))
        if len(batch.labels):
            mean = scores.mean(1)
            rank = ranks(mean, batch.labels)
            self.outcomes += zip(batch.rows.tolist(), mean.argmax(1).tolist(), rank.tolist(), strict=True)

    def on_test_epoch_end(self) -> None:
        self._log_accuracy("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Mean scores over the views, `[B, K]`, with the rows they belong to and the failures."""
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
        return self.trainer.world_size * self.hp.batch_size * self.trainer.accumulate_grad_batches

    @property
    def lr(self) -> float:
        """Peak learning rate of this run, by the linear rule."""
        return scaled_lr(self.hp.base_lr, self.clips_per_step)

    def configure_optimizers(self) -> Any:
        hp = self.hp
        norms = {id(parameter) for parameter in norm_parameters(self.net)}
        head = {id(parameter) for parameter in self.net.blocks[-1].parameters()} if hp.head_lr != 1 else set()
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) not in norms | head], "weight_decay": hp.weight_decay},
            {"params": [p for p in trained if id(p) in norms], "weight_decay": hp.norm_weight_decay},
            {
                "params": [p for p in trained if id(p) in head],
                "weight_decay": hp.weight_decay,
                "lr": hp.head_lr * self.lr,
            },
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=hp.momentum, nesterov=hp.momentum > 0)
        self._given = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
        scheduler = LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        # Asking for the number of steps before training begins would open the loader before a checkpoint has said
        # which epoch it is, and so replay the first epoch's order (Lightning issue 21938).
        return lr_factor(self.progress if step else 0.0, self.hp.lr_schedule, self.hp.decay_points, 0.1, self.hp.warmup)

    @property
    def progress(self) -> float:
        """Fraction of training that is done, in epochs or in steps, whichever ends it first.

        Batches of the epoch are counted, not steps from the start, so that it stays right where a run is resumed with
        another batch size or number of processes.
        """
        trainer = self.trainer
        batches, epochs, steps = trainer.num_training_batches, trainer.max_epochs or -1, trainer.max_steps
        done = trainer.current_epoch * batches + trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return max(done / (epochs * batches) if epochs > 0 else 0.0, trainer.global_step / steps if steps > 0 else 0.0)

    def _take_given(self) -> None:
        """Has a resumed optimiser use this run's settings; a checkpoint brings those that it was saved with."""
        optimizer, scheduler = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs[0].scheduler
        factor = self._lr_factor(self.trainer.global_step)
        for group, given in zip(optimizer.param_groups, self._given, strict=True):
            group.update(given, initial_lr=given["lr"], lr=given["lr"] * factor)
        scheduler.base_lrs = [given["lr"] for given in self._given]  # type: ignore[union-attr]

    def on_train_start(self) -> None:
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        if self.trainer.global_step and any(isinstance(one, LambdaLR) for one in schedulers):  # SWA has its own
            self._take_given()
        for name, value in self._figures.items():  # which callbacks may ask for before the next batch
            self.trainer.callback_metrics.setdefault(name, torch.tensor(value, device=self.device))
        self._sums = self._sums.to(self.device)
        self._waiting = torch.zeros_like(self._sums)
        log.info(
            "lr %g = base_lr %g x %d / %d clips a step (%d processes x %d clips x accumulation %d); %.0f steps, %s",
            self.lr, self.hp.base_lr, self.clips_per_step, REFERENCE_CLIPS,
            self.trainer.world_size, self.hp.batch_size, self.trainer.accumulate_grad_batches,
            self.trainer.estimated_stepping_batches, self.hp.lr_schedule,
        )  # fmt: skip
