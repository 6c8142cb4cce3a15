#!/usr/bin/env python
"""Trains, validates, tests and predicts: `python train.py {fit,validate,test,predict} --help`."""

import difflib
import inspect
import itertools
import logging
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from video_gn.classifier import VideoClassifier
from video_gn.errors import InputError
from video_gn.kinetics import KineticsData
from video_gn.norm import norm_label
from video_gn.report import PredictionWriter, ProgressBar, RunReport

# What both halves need is said once, on the data's side.
SHARED = ("batch_size", "crop_size")
# What a checkpoint has to have in common with the model that it is loaded into.
ARCHITECTURE = ("geometry", "depth", "width", "norm", "num_groups", "channels_per_group", "class_names")


class CLI(LightningCLI):
    """The command line: links between the halves, the run's name, and what every run has."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str | None, help="Folder of the run; by default named from its values.")
        parser.add_argument("--test_after_fit", type=bool, default=False, help="Whether fit ends with a test.")
        # The newest state, for going on; Lightning's own save_last would follow only the best one's steps.
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.filename": "last", "checkpoint.enable_version_counter": False})
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        for name in SHARED:
            parser.link_arguments(f"data.{name}", f"model.{name}")
        parser.link_arguments("seed_everything", "data.seed")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        if subcommand in ("test", "validate"):
            parser.set_defaults({"verbose": False})
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})
            parser.add_argument("--videos", type=str, nargs="+", default=[], help="Files and folders to predict.")
            parser.add_argument("--json", type=str | None, help="File for JSON lines; - is standard output.")
            parser.link_arguments("videos", "data.videos")
        return parser

    def _parse_ckpt_path(self) -> None:  # pinned private method
        """Lightning would put the checkpoint's settings above the user's; `with_checkpoint` puts them below."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.name = run_name(config.model, config.data, config.seed_everything)
        self.run_dir = Path(config.run_dir or Path("runs", self.name))
        if self.subcommand == "fit":
            config.ckpt_path = find_resume(self.run_dir, config.ckpt_path)
            config.checkpoint.dirpath = str(self.run_dir / "checkpoints")

    def instantiate_trainer(self, **kwargs: Any):
        config = self.config[self.subcommand]
        trainer = self.config_init[self.subcommand].trainer
        callbacks: list[Any] = []
        if self.subcommand == "predict":
            callbacks.append(PredictionWriter(config.json))
            if config.json == "-":
                kwargs["enable_progress_bar"] = False  # it goes to standard output too
        else:
            text = self._parser("fit").dump(config, skip_none=False) if self.subcommand == "fit" else None
            settings = {
                "seed": config.seed_everything,
                "precision": trainer.precision,
                "max_epochs": trainer.max_epochs,
            }
            callbacks.append(RunReport(self.run_dir, self.name, settings, text))
        if trainer.logger is None:
            folder = str(self.run_dir)
            fit = self.subcommand == "fit"
            kwargs["logger"] = (
                [TensorBoardLogger(folder, "tensorboard", ""), CSVLogger(folder, "csv")] if fit else False
            )
            callbacks += [LearningRateMonitor("step")] if fit else []
        if self.subcommand == "fit":
            folder = config.checkpoint.dirpath
            callbacks.append(
                ModelCheckpoint(folder, "best", monitor="val/top1", mode="max", enable_version_counter=False)
            )
        if trainer.enable_progress_bar is not False and kwargs.get("enable_progress_bar", True):
            callbacks.append(ProgressBar(leave=True))
        kwargs |= {"callbacks": [*(trainer.callbacks or []), *callbacks], "default_root_dir": str(self.run_dir)}
        try:
            made = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:  # how Lightning refuses some of its settings
            raise InputError(f"trainer: {error}") from error
        if trainer.sync_batchnorm and isinstance(made.accelerator, CPUAccelerator):
            raise InputError("trainer.sync_batchnorm is true, and PyTorch synchronises BatchNorm on GPUs only")
        return made

    def after_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.ckpt_path:
            check_architecture(config.ckpt_path, self.model)

    def after_fit(self) -> None:
        if self.config.fit.test_after_fit and self.trainer.state.status == "finished":
            self.trainer.test(self.model, self.datamodule, verbose=False)


def run_name(model: Any, data: Any, seed: int) -> str:
    """The run's name from its values: network, norm, frames x interval, clips per GPU, and a seed other than 0."""
    width = "" if model.width == 64 else f"w{model.width}"
    norm = norm_label(model.norm, model.num_groups, model.channels_per_group)
    clip = f"{data.num_frames}x{data.frame_interval}"
    return f"{model.geometry}_r{model.depth}{width}_{norm}_{clip}_b{data.batch_size}" + (f"_s{seed}" if seed else "")


def find_resume(run_dir: Path, ckpt_path: str | None) -> str | None:
    """The checkpoint that fit goes on from, if any; the word last means the run's own last one, if there is one.

    Raises:
        InputError: A new run would overwrite one that is there.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    if ckpt_path == "last":
        ckpt_path = str(last) if last.is_file() else None
    elif ckpt_path is not None:
        read_checkpoint(ckpt_path)
    own = ckpt_path is not None and run_dir.resolve() in Path(ckpt_path).resolve().parents
    requeued = any(run_dir.glob("hpc_ckpt_*.ckpt"))  # Lightning goes on from these by itself under SLURM
    filled = (run_dir / "results.json").exists() or any(run_dir.glob("checkpoints/*.ckpt"))
    if first_process() and filled and not own and not requeued:
        go_on = f"go on with it by --ckpt_path {last}, or " if last.is_file() else ""
        raise InputError(f"{run_dir} already holds a run; {go_on}start another by --run_dir FOLDER")
    return ckpt_path


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint of this project, opened so that no code in it can run.

    Raises:
        InputError: There is no such file, or it is something else.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, "cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load fails in many ways on what is no checkpoint
        raise InputError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__})") from None
    if not {"state_dict", "hyper_parameters", "datamodule_hyper_parameters"} <= set(checkpoint):
        raise InputError(f"{path} is not a checkpoint of this project's training; 2D weights go into --model.init")
    return checkpoint


def with_checkpoint(args: list[str]) -> list[str]:
    """Puts the settings stored in a checkpoint below those given, so that a checkpoint alone is enough to use it."""
    if not args or args[0] not in ("validate", "test", "predict") or {"-h", "--help"} & set(args):
        return args
    paths = [value for arg, value in itertools.pairwise(args) if arg == "--ckpt_path"]
    paths += [arg.partition("=")[2] for arg in args if arg.startswith("--ckpt_path=")]
    if not paths:
        raise InputError(f"{args[0]} needs a checkpoint: --ckpt_path runs/NAME/checkpoints/last.ckpt")
    checkpoint = read_checkpoint(paths[-1])
    run_dir = Path(paths[-1]).absolute().parent.parent
    model, data = (
        {name: value for name, value in checkpoint[key].items() if not name.startswith("_")}
        for key in ("hyper_parameters", "datamodule_hyper_parameters")
    )
    for name in ("class_names", *SHARED):
        model.pop(name, None)
    model["init"] = None  # the checkpoint holds the weights
    seed = data.pop("seed", 0)
    data.pop("videos", None)
    stored = {"seed_everything": seed, "model": model, "data": data}
    if (run_dir / "config.yaml").is_file():
        stored["run_dir"] = str(run_dir)
    return [args[0], "--config", yaml.safe_dump(stored), *args[1:]]


def check_architecture(path: str, model: VideoClassifier) -> None:
    """Raises InputError if the checkpoint belongs to another network than the model."""
    stored = read_checkpoint(path)["hyper_parameters"]
    different = [name for name in ARCHITECTURE if stored.get(name) != model.hparams.get(name)]
    if different:
        raise InputError(
            f"{path} is of another architecture: it has {_setting(stored, different[0])}, the settings ask for "
            f"{_setting(model.hparams, different[0])}; leave them to the checkpoint, or take another checkpoint"
        )


def _setting(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return f"{len(value)} classes ({value[0]}, ...)" if isinstance(value, list) else f"{name}={value}"


def first_process() -> bool:
    """Whether this is the process that prints and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def one_line(message: str) -> str:
    """An error's message as one line, with the keys that a mistyped one may have meant."""
    if "Traceback" in message:  # a loader's worker sends its whole traceback; the last line is the message
        return message.strip().splitlines()[-1].removeprefix("video_gn.errors.InputError: ")
    line = re.sub(r"Does not validate .*?Subtypes: (.*) Errors: .* Given value: ", r"Expected one of \1. Got value: ",
                  " ".join(message.split()))  # fmt: skip
    if match := re.search(
        r"(?:unrecognized arguments: --|[Kk]ey \"?)(?:fit\.|test\.|validate\.|predict\.)?([\w.]+)", line
    ):
        owners = {"model": VideoClassifier, "data": KineticsData, "trainer": Trainer}
        keys = [f"{owner}.{key}" for owner, it in owners.items() for key in inspect.signature(it).parameters]
        close = difflib.get_close_matches(match[1], keys, n=2, cutoff=0.8) if match[1] not in keys else []
        line += f" (did you mean {' or '.join(close)}?)" if close else ""
    return line


class _Handler(logging.Handler):
    """Writes above the progress bar: everything of the first process, warnings of the others."""

    def emit(self, record: logging.LogRecord) -> None:
        if first_process() or record.levelno >= logging.WARNING:
            tqdm.write(record.getMessage(), file=sys.stderr)


def set_up_messages() -> None:
    """Our messages are shown; of the libraries' warnings, not those that a user can do nothing about."""
    logger = logging.getLogger("video_gn")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Handler()]
    logger.propagate = False
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    for noise in (
        "LightningCLI's args parameter",
        "The '.*dataloader' does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "The number of training batches",
        "Be aware that when using `ckpt_path`, callbacks",
    ):
        warnings.filterwarnings("ignore", noise)


def main(args: list[str] | None = None) -> int:
    """Runs a command line, and returns its exit code: 0, or 2 for what the user can mend, said in one line."""
    args = sys.argv[1:] if args is None else args
    set_up_messages()
    try:
        CLI(
            VideoClassifier,
            KineticsData,
            args=with_checkpoint(args),
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False, "enable_model_summary": False},
            parser_kwargs={"exit_on_error": False, "prog": "train.py"},
        )
    except (InputError, MisconfigurationException, ArgumentError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
