"""What Lightning's trainer has for a run, and what to do with a run that has ended."""

import inspect
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from video_gn.console import printable
from video_gn.errors import InputError
from video_gn.files.names import utf8_name
from video_gn.models.known import CLASSES as NETWORKS
from video_gn.rules import FILE_NAME, check, one_of
from video_gn.train.callbacks.bars import ProgressBar
from video_gn.train.callbacks.best import MONITORS, BestCheckpoint
from video_gn.train.callbacks.check_resumed import CheckResumed
from video_gn.train.callbacks.first_look import FirstLook
from video_gn.train.callbacks.history import History
from video_gn.train.callbacks.memory import StepMemory, out_of_memory
from video_gn.train.callbacks.position import Position
from video_gn.train.callbacks.predictions import PredictionWriter
from video_gn.train.callbacks.results import RunReport
from video_gn.train.callbacks.saving import LAST, EpochCheckpoint
from video_gn.train.callbacks.speed import Progress
from video_gn.train.callbacks.split_table import SplitTable
from video_gn.train.memory.advice import is_out_of_memory
from video_gn.train.names import network
from video_gn.train.resume import not_restored

# What a user can correct, as Lightning says it while it runs.
_LIGHTNINGS = (
    (ValueError, "val_check_interval"),  # more than an epoch's batches
    (RuntimeError, "conditioned on metric"),  # EarlyStopping's monitor, which nothing logs
)


def slip_of(error: Exception, trainer: Any, model: Any, ckpt_path: str) -> InputError | None:
    """What a user can correct of a run that ended with an error; None for nothing."""
    if is_out_of_memory(error):
        return out_of_memory(trainer, model)
    if slip := not_restored(error, ckpt_path):
        return slip
    said = any(isinstance(error, kind) and words in str(error) for kind, words in _LIGHTNINGS)
    return InputError(str(error)) if said else None


def words_of_own_network(given: Any) -> str:
    """How a command line names a network of the user's, with the settings that are not its defaults; else nothing."""
    kind, settings = network(given)
    if kind in NETWORKS.values():
        return ""
    known = inspect.signature(kind).parameters
    changed = {name: value for name, value in settings.items() if name not in known or known[name].default != value}
    options = {"": f"{kind.__module__}.{kind.__name__}"} | {f".{name}": value for name, value in changed.items()}
    words = {key: shlex.quote("null" if value is None else str(value)) for key, value in options.items()}
    return " ".join(f"--model.net{key} {word}" for key, word in words.items())


def next_steps(run_dir: Path, prog: str, own: str = "") -> str:
    """Where a run is that has ended, and the commands for its model.

    Args:
        run_dir: Its folder.
        prog: What was typed to start it.
        own: What names a network of the user's (`words_of_own_network`), which no file may.
    """
    # The last one first: it is what fit tests, and by few validation videos the best one is little better than a guess.
    kept = [path for name in ("last.ckpt", "best.ckpt") if (path := run_dir / "checkpoints" / name).is_file()]
    if not kept:
        return f"the run is in {printable(str(run_dir))}"
    model = shlex.quote(str(kept[0]))
    start = "python -m video_gn" if prog == "train.py" else prog
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # typed after `uv run`, in whose environment alone this may be
        start = f"uv run {start}"
    if own:
        return printable(f"the run is in {run_dir}; to test its model: {start} test --ckpt_path {model} {own}")
    lines = (
        f"the run is in {run_dir}; to test its model: {start} test --ckpt_path {model}",
        f"classes of videos: {start} predict {model} VIDEO ...",
        f"for others: {start} export {model}",
    )
    return "\n".join(map(printable, lines))


def bar(given: Any) -> list[Callback]:
    """The progress bar, unless there is another one, or none is wanted.

    Args:
        given: Settings of the trainer.
    """
    own = given.callbacks if isinstance(given.callbacks, list) else [given.callbacks]
    others = any(isinstance(one, LightningProgressBar) for one in own)
    return [] if others or given.enable_progress_bar is False else [ProgressBar()]


def of_evaluation(command: str, config: Any, given: Any, run_dir: Path, name: str) -> list[Callback]:
    """The callbacks of validate, test and predict.

    Args:
        command: Which one.
        config: All settings.
        given: Settings of the trainer.
        run_dir: The run's folder.
        name: The run's.
    """
    return [PredictionWriter(config.json)] if command == "predict" else [_report(config, given, run_dir, name)]


def of_training(config: Any, given: Any, run_dir: Path, name: str, dumped: str) -> list[Callback]:
    """The callbacks of fit, as `of_evaluation`; `dumped` is the configuration as text."""
    folder, saves = config.checkpoint.dirpath, given.enable_checkpointing is not False
    return [
        CheckResumed(),
        # In this order: what is saved at an epoch's end says that the epoch is done, so its row has to be there.
        Position(),
        History(run_dir),
        Progress(run_dir),
        FirstLook(run_dir, dumped),
        StepMemory(),
        SplitTable(run_dir),
        _report(config, given, run_dir, name, dumped),
        *([BestCheckpoint(folder, config.checkpoint.monitor)] if saves and _validates(config) else []),
        *([EpochCheckpoint(folder)] if saves and not saves_each_epoch(config.checkpoint) else []),
        *([LearningRateMonitor("step")] if given.logger is None else []),
    ]


def _report(config: Any, given: Any, run_dir: Path, name: str, dumped: str | None = None) -> RunReport:
    settings = {"seed": config.seed_everything, "precision": given.precision, "max_epochs": given.max_epochs}
    return RunReport(run_dir, name, settings, dumped)


def check_synchronised(asked: bool, net: Mapping[str, Any], trainer: Trainer) -> None:
    """Raises InputError where BatchNorm is to be synchronised over processes and cannot be.

    Args:
        asked: Whether it is.
        net: Settings of the network.
        trainer: Of the run.
    """
    norm, ghost = net.get("norm"), net.get("ghost_batch")
    if asked and (norm == "brn" or (norm == "bn" and ghost)):
        having = "norm=brn" if norm == "brn" else f"ghost_batch={ghost}"
        raise InputError(f"trainer.sync_batchnorm would replace the layers of model.net.{having}; take one of the two")
    if asked and isinstance(trainer.accelerator, CPUAccelerator):
        raise InputError("trainer.sync_batchnorm is true, and PyTorch synchronises BatchNorm on GPUs only")


def loggers(run_dir: Path) -> list[Any]:
    """Of fit, where no others are asked for."""
    return [TensorBoardLogger(utf8_name(run_dir), "tensorboard", ""), CSVLogger(str(run_dir), "csv")]


def saves_each_epoch(checkpoint: Any) -> bool:
    """Whether a ModelCheckpoint with these settings leaves `last.ckpt` at each epoch's end."""
    others = ("every_n_train_steps", "train_time_interval")
    return (
        f"{checkpoint.filename}.ckpt" == LAST
        and not any(checkpoint[name] for name in others)
        and checkpoint.every_n_epochs in (None, 1)
        and bool(checkpoint.save_on_train_epoch_end and checkpoint.save_top_k)
    )


def check_monitors(callbacks: list[Callback]) -> None:
    """Raises InputError for a callback that waits for validation's figures, where there is no validation."""
    for callback in callbacks:
        if str(monitor := getattr(callback, "monitor", None)).startswith("val/"):
            raise InputError(
                f"{type(callback).__name__} monitors {monitor}, and data.val is null: nothing is validated; let it "
                "monitor train/epoch_loss, or name a validation set with --data.val"
            )


def check_best(config: Any) -> None:
    """Raises InputError where settings of checkpoints name no file, or no figure that `best.ckpt` can be the best of.

    Args:
        config: Of fit.
    """
    check(config.checkpoint, {"filename": FILE_NAME, "monitor": one_of(MONITORS)}, "checkpoint")
    if config.checkpoint.monitor == "val/map" and not config.data.multi_label:
        raise InputError("checkpoint.monitor is val/map, which is a figure of data.multi_label; take another one")
    if config.checkpoint.monitor != "val/top1" and not _validates(config):  # which is the default
        why = "data.val is null" if config.data.val is None else "trainer.limit_val_batches is 0"
        raise InputError(
            f"checkpoint.monitor is {config.checkpoint.monitor}, and {why}: nothing is validated, and there is no "
            "best.ckpt; validate, or leave it out"
        )


def _validates(config: Any) -> bool:
    return config.data.val is not None and config.trainer.limit_val_batches != 0


def writes_last(callback: Callback) -> bool:
    """Whether it writes `last.ckpt`, in which what the others keep of an epoch has to be."""
    return isinstance(callback, EpochCheckpoint) or f"{getattr(callback, 'filename', None)}.ckpt" == LAST
