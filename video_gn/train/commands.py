"""The commands fit, validate, test and predict: what each takes, and what its run has."""

import inspect
import logging
import os
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import get_loader, set_dumper, set_loader
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from video_gn.data.datamodule import DataModule
from video_gn.data.image_data import ImageData
from video_gn.distributed import first_process
from video_gn.errors import InputError
from video_gn.files.locks import FolderLock
from video_gn.models.norm import batch_norms
from video_gn.rules import TRAINER, check, shown
from video_gn.train.callbacks.bad_videos import BadVideos
from video_gn.train.callbacks.best import LastCheckpoint
from video_gn.train.callbacks.bn_statistics import CHOICES, EvaluationStatistics
from video_gn.train.callbacks.interrupt import StopAfterStep
from video_gn.train.callbacks.saving import WholeCheckpoints
from video_gn.train.checkpoint import check_architecture
from video_gn.train.classifier import VideoClassifier
from video_gn.train.compat import forget_other_class, starts_processes
from video_gn.train.configs import dump, looking_through
from video_gn.train.from_checkpoint import split_of_run
from video_gn.train.help import refusal, sections, shorten
from video_gn.train.names import network, run_name
from video_gn.train.resume import find_resume
from video_gn.train.run import (
    bar,
    check_best,
    check_monitors,
    check_synchronised,
    loggers,
    next_steps,
    of_evaluation,
    of_training,
    slip_of,
    words_of_own_network,
    writes_last,
)
from video_gn.train.shipped import shipped

log = logging.getLogger(__name__)
PREFERRED = {  # classes whose settings need no class_path
    "model.net": "video_gn.ResNet3d",
    "model.optimizer": "video_gn.SGD",
    "model.schedule": "video_gn.Step",
}
PATIENCE = 10.0  # seconds for which another run's lock on the same folder is waited for: it may just be ending
LAUNCHER = "VIDEO_GN_LAUNCHER"  # in the environment of processes that Lightning starts: the number of the first
_made: dict[tuple, tuple] = {}  # parsers

set_loader("yaml", looking_through(get_loader("yaml")), (yaml.YAMLError, RecursionError))
set_dumper("yaml", dump)
forget_other_class()
# Python's typing takes Lightning's `int | float` for an earlier `float | int`, by which 1 is 1.0: all batches, not one.
for _part in ("train", "val", "test", "predict"):
    inspect.unwrap(Trainer.__init__).__annotations__[f"limit_{_part}_batches"] = int | float | None  # type: ignore[misc]


class CLI(LightningCLI):
    """The command line: links between model and data, the run's name, and what every run has.

    Args:
        args: Its words. Where the first is a command, only that one's parser is made: each takes a tenth of a second.
        data: The kind of data.
    """

    lock: FolderLock | None = None

    def __init__(self, *, args: list[str], data: type[DataModule], **kwargs: Any) -> None:
        self._words, self._first, self._data = args, args[0] if args else "", data
        self._asks_for_help = bool({"-h", "--help"} & set(args))
        super().__init__(VideoClassifier, data, args=args, **kwargs)

    def setup_parser(self, add_subcommands: bool, main_kwargs: dict, subparser_kwargs: dict) -> None:
        """Makes the parser, or takes that of an earlier command: making one takes as long as parsing a command line."""
        key = (self._first, self._data, self._asks_for_help, main_kwargs["prog"])
        if key not in _made:
            super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
            _made[key] = self.parser, self._subcommand_parsers, self._subcommand_method_arguments
        self.parser, self._subcommand_parsers, self._subcommand_method_arguments = _made[key]

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a static method there
        """The commands, and what of their arguments comes from elsewhere."""
        every = LightningCLI.subcommands()
        return {self._first: every[self._first]} if self._first in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str | None, help="Folder of the run; by default named from its values.")
        parser.add_argument("--test_after_fit", type=bool, default=False, help="Whether fit ends with a test.")
        parser.add_argument(
            "--compare_statistics",
            type=bool,
            default=False,
            help="Whether fit ends with validations of BatchNorm by its running, precise and the batch's statistics.",
        )
        # The newest state, to resume from; Lightning's own save_last would follow only the best one's steps.
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        defaults = {"filename": "last", "enable_version_counter": False, "save_on_train_epoch_end": True}
        parser.set_defaults({f"checkpoint.{name}": value for name, value in defaults.items()})
        parser.add_lightning_class_args(EvaluationStatistics, "bn_statistics")
        parser.add_argument("--images", type=bool, default=False, help="Whether the data is images: data is ImageData.")
        parser.set_defaults({key: {"class_path": path} for key, path in PREFERRED.items()})
        # What model and data need is said once, on the data's side.
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("data.batch_size", "model.batch_size")
        parser.link_arguments("data.multi_label", "model.loss.multi_label")
        crop = "data.crop_size" if self._data is ImageData else "data.clip.crop_size"
        parser.link_arguments(crop, "model.crop_size")
        for part in ("data", "model"):
            parser.link_arguments("seed_everything", f"{part}.seed", compute_fn=_seed)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self.parser.allow_abbrev = False  # nor its subcommands
        parser.set_defaults({"weights_only": True})
        if subcommand in ("test", "validate"):
            parser.set_defaults({"verbose": False})
        if subcommand == "fit":
            parser.description = (
                f"{parser.description} -c takes files, and names of the package: {', '.join(shipped())}."
            )
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})
            parser.add_argument("--videos", type=str, nargs="+", default=[], help="Files and folders to predict.")
            parser.add_argument("--json", type=str | None, help="File for JSON lines; - is standard output.")
            parser.link_arguments("videos", "data.videos")
        if self._asks_for_help:
            parser.epilog = sections()
            shorten(parser, f"{self.parser.prog} {subcommand} [-c FILE ...] [--KEY VALUE ...]")
        return parser

    def dump(self, settings: Any) -> str:
        """Settings of the command as YAML, every one of them."""
        return self._parser(self.subcommand).dump(settings, skip_none=False)

    def _set_seed(self) -> None:  # pinned private method
        config = self.config[self.subcommand]
        if not isinstance(seed := config.seed_everything, bool) and not 0 <= (seed or 0) < 2**32:
            raise InputError(f"seed_everything is {seed}; it has to be a whole number from 0 to {2**32 - 1}")
        if seed is True:
            config.seed_everything = _seed(seed)
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:  # pinned private method
        """Lightning would put the checkpoint's settings above the user's; `with_checkpoint` puts them below."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        check(config.trainer, TRAINER, "trainer")
        for part, owner in (("model", VideoClassifier), ("data", self._data), ("checkpoint", ModelCheckpoint)):
            _check_given(part, config.get(part) or {}, owner)
        if "\0" in (config.run_dir or ""):
            raise InputError(f"run_dir is {shown(config.run_dir)}; no folder has such a name")
        self.name = run_name(config, self._data, () if config.run_dir else self._words)
        self.run_dir = Path(config.run_dir or Path("runs", self.name))
        if self.subcommand == "fit":
            check_best(config)
            self.asked = config.ckpt_path
            config.ckpt_path = find_resume(self.run_dir, self.asked)
            if config.ckpt_path and "split" in config.data and config.data.split is None:
                config.data.split = split_of_run(config.ckpt_path, self.run_dir)
            config.checkpoint.dirpath = str(self.run_dir / "checkpoints")

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:  # jsonargparse's, about a class that refuses its values or needs a package
            if "Union subtypes" not in str(error):
                raise
            raise (error.__cause__ if isinstance(error.__cause__, InputError) else refusal(error)) from None
        except ModuleNotFoundError as error:  # of a callback or a logger
            raise InputError(" ".join(str(error).split())) from None

    def instantiate_trainer(self, **kwargs: Any):
        given = self.config_init[self.subcommand].trainer
        if self.config[self.subcommand].get("json") == "-":
            given.enable_progress_bar = False  # it goes to standard output too
        kwargs["default_root_dir"] = str(self.run_dir)
        callbacks = given.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            said = config.clone()
            said.ckpt_path = None  # which is no setting of the run
            own = of_training(config, given, self.run_dir, self.name, self.dump(said))
        else:
            own = of_evaluation(str(self.subcommand), config, given, self.run_dir, self.name)
        kwargs["callbacks"] = [*bar(given), *own, *callbacks]
        if given.logger is None:
            kwargs["logger"] = loggers(self.run_dir) if self.subcommand == "fit" else False
        plugins = given.plugins if isinstance(given.plugins, list) else [given.plugins] if given.plugins else []
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeCheckpoints()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:  # how Lightning refuses some of its settings
            raise InputError(f"trainer: {error}") from error
        except RuntimeError as error:
            if "more than one stateful callback" not in str(error):
                raise
            raise InputError(
                "trainer.callbacks has a callback twice; a ModelCheckpoint with the settings of the run's own (those "
                "of checkpoint) needs another monitor, mode, every_n_epochs or every_n_train_steps"
            ) from None
        if starts_processes(trainer):
            os.environ[LAUNCHER] = str(os.getpid())
        if self.subcommand == "fit":
            trainer.callbacks.sort(key=writes_last)  # type: ignore[attr-defined]
            trainer.callbacks += [StopAfterStep(self.run_dir), BadVideos(self.run_dir)]  # type: ignore[attr-defined]
        check_synchronised(given.sync_batchnorm, network(config.model.net)[1], trainer)
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:  # pinned private method
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ModelCheckpoint)]
        return super()._instantiate_trainer(config, callbacks)

    def after_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            if self.datamodule.val is None:
                check_monitors(self.trainer.callbacks)  # type: ignore[attr-defined]
            self._take_folder()
        if config.ckpt_path:
            check_architecture(config.ckpt_path, self.model.hparams)
            self.model.to_convert = ()

    def _take_folder(self) -> None:
        """Keeps the run's folder for this run alone, and looks again what is in it: another one may have ended."""
        if first_process() and not self.config.fit.trainer.fast_dev_run:
            self.lock = FolderLock(self.run_dir, PATIENCE)
            for part in (*self.run_dir.glob("*.part"), *self.run_dir.glob("checkpoints/*.part")):
                part.unlink()  # of a run that was killed while it wrote
        resume = find_resume(self.run_dir, self.asked)
        if self.asked and not resume:
            log.info("%s has no checkpoint yet: training begins at its start", self.run_dir)
        self.config.fit.ckpt_path = self.config_init.fit.ckpt_path = resume

    def _run_subcommand(self, subcommand: str) -> None:  # pinned private method
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if slip := slip_of(error, self.trainer, self.model, str(self.config[subcommand].ckpt_path)):
                raise slip from None
            raise
        finally:
            self.datamodule.close()
            if self.lock:
                self.lock.close()

    def after_fit(self) -> None:
        if self.trainer.state.status != "finished":
            return
        self._then_test()
        if first_process() and not self.config.fit.trainer.fast_dev_run:
            print(next_steps(self.run_dir, self.parser.prog, words_of_own_network(self.config.fit.model.net)))

    def _then_test(self) -> None:
        if self.config.fit.test_after_fit and self.datamodule.test is None:
            log.info("no test after fit: data.test and data.val are null")
        elif self.config.fit.test_after_fit:
            self.trainer.test(self.model, self.datamodule, verbose=False)
        if self.config.fit.compare_statistics and self.datamodule.val is None:
            log.info("compare_statistics compares nothing: data.val is null")
        elif self.config.fit.compare_statistics and batch_norms(self.model.net):
            found = (one for one in self.trainer.callbacks if isinstance(one, EvaluationStatistics))  # type: ignore[attr-defined]
            statistics: Any = next(found)
            for choice in CHOICES:
                statistics.use = choice
                self.trainer.validate(self.model, self.datamodule, verbose=False)


def _seed(given: int | bool | None) -> int:
    """Of data and model; `seed_everything` may be true or false."""
    return 0 if given is None or isinstance(given, bool) else given


def _check_given(part: str, settings: Any, owner: type) -> None:
    """Raises InputError for a setting that is null and has to have a value."""
    for name, known in inspect.signature(owner).parameters.items():
        optional = known.default is None or type(None) in get_args(known.annotation)
        if settings.get(name, 0) is None and not optional:
            raise InputError(f"{part}.{name} is null; it has to have a value, as its default {known.default!r}")
