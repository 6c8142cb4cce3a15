"""Trains, validates, tests and predicts: `train.py {fit,validate,test,predict} --help`."""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from video_gn.console import exit_code, set_up_messages
from video_gn.data.datamodule import DataModule
from video_gn.data.image_data import ImageData
from video_gn.data.video_data import VideoData
from video_gn.distributed import first_process
from video_gn.errors import InputError
from video_gn.files.names import from_home
from video_gn.processes import end_with_parent
from video_gn.train.callbacks.bn_statistics import EvaluationStatistics
from video_gn.train.callbacks.interrupt import Stopped
from video_gn.train.classifier import VideoClassifier
from video_gn.train.commands import CLI, LAUNCHER
from video_gn.train.compat import describe_attributes
from video_gn.train.configs import SAFE_LOADER, config_at
from video_gn.train.from_checkpoint import with_checkpoint
from video_gn.train.help import Short, explain, known_keys
from video_gn.train.named import with_networks
from video_gn.train.names import run_name
from video_gn.train.shipped import with_configs

DESCRIPTION = (
    "Trains, tests and runs video classifiers. A first run, on a CPU: %(prog)s fit -c demo. With its checkpoint: "
    "%(prog)s test --ckpt_path FILE, %(prog)s predict --ckpt_path FILE --videos FILE FOLDER ..."
)
RESUME = "resume with --ckpt_path last"
C = TypeVar("C", bound=CLI)
SLIPS = (InputError, MisconfigurationException, ArgumentError)  # what a user can correct


class _Parser(CLI):
    """Has a parser, and parses, makes and runs nothing by itself."""

    @property
    def own_parser(self) -> ArgumentParser:
        """Of the words behind the command."""
        return self._parser(self._first)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = Namespace(subcommand=self._first)

    def _set_seed(self) -> None: ...
    def before_instantiate_classes(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def after_instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...


def resolve(args: list[str]) -> dict[str, Any]:
    """Every setting of a command line as nested dictionaries, as a run writes them into its config.yaml.

    Raises:
        InputError: A setting or a file that cannot be used.
    """
    set_up_messages()
    _look_here()
    try:
        args = _words(args)
        parser = _parser(args[0], _images(args))
        return yaml.load(parser.dump(_parse(args), skip_none=False, skip_validation=True), SAFE_LOADER)
    except SLIPS as error:
        raise InputError(_explain(error)) from None


def make_data(args: list[str]) -> DataModule:
    """The data module of a command line of fit, and nothing else of its run.

    Raises:
        InputError: A setting or a file that cannot be used.
    """
    settings, parser = resolve(args), ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ImageData if settings["images"] else VideoData, "data")
    try:
        return parser.instantiate_classes(parser.parse_object({"data": settings["data"]})).data
    except SLIPS as error:
        raise InputError(_explain(error)) from None


def main(args: list[str] | None = None, prog: str = "train.py") -> int:
    """Runs a command line.

    Args:
        args: Its words; by default those of this process.
        prog: What was typed before them.

    Returns:
        Its exit code: 0; 2 for what the user can correct, in one line; 128 + the number of a signal that stopped it.
    """
    set_up_messages()
    launcher = int(os.environ.pop(LAUNCHER, os.getpid()))
    if launcher != os.getpid():  # it started this process, which does not outlive it
        end_with_parent(signal.SIGKILL, launcher)
    words = sys.argv[1:] if args is None else args
    _look_here()
    return exit_code(lambda: _job(words, prog), _stopped(signal.SIGINT, words), SLIPS, _explain)


def _look_here() -> None:
    """Has a network of the user's found in the current folder, after all that is installed."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)


def _job(args: list[str], prog: str) -> int:
    try:
        _make(CLI, _words(args), prog)
    except Stopped as stop:
        said, number = f"{stop}; {RESUME}", stop.number
    except SIGTERMException:  # Lightning's, where nothing is trained; it is a SystemExit with code 0
        said, number = _stopped(signal.SIGTERM, args), signal.SIGTERM
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C
            raise end.__context__ from None
        raise
    else:
        return 0
    if first_process():
        print(said, file=sys.stderr)
    return 128 + number


def _stopped(number: int, args: list[str]) -> str:
    kept = f" at once; what it saved before is kept: {RESUME}"
    left = kept if "fit" in args else "; nothing of this evaluation is kept"
    return f"stopped by {signal.Signals(number).name}{left}"


def _words(args: list[str]) -> list[str]:
    """A command line with all that its words stand for."""
    args = with_configs([_at_home(word) for word in args])
    args = with_networks(args, clips=args[:1] == ["fit"] and not _images(args))
    return with_checkpoint(_with_file(args))


def _parser(command: str, images: bool) -> ArgumentParser:
    """The parser of a command's own words."""
    return _make(_Parser, [command, "--images", str(images)]).own_parser


def _parse(args: list[str]) -> Namespace:
    return _parser(args[0], _images(args)).parse_args(args[1:])


def _make(cli: type[C], args: list[str], prog: str = "train.py") -> C:
    describe_attributes(any(word in ("-h", "--help") or word.endswith(".help") for word in args))  # it takes time
    return cli(
        args=args,
        data=_kind(args),
        save_config_callback=None,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,  # which writes all settings out once more; a classifier keeps its own
        seed_everything_default=0,
        trainer_defaults={"enable_model_summary": False},
        parser_kwargs={"exit_on_error": False, "prog": prog, "description": DESCRIPTION, "formatter_class": Short},
    )


def _with_file(args: list[str]) -> list[str]:
    """A command line whose checkpoint is no word, best or last, but that file of the run that it is about."""
    given = [i for i, word in enumerate(args) if word.partition("=")[0] == "--ckpt_path"]
    if not given or args[0] not in ("validate", "test", "predict"):
        return args
    option, _, value = args[given[-1]].partition("=")
    name = value or "".join(args[given[-1] + 1 : given[-1] + 2])
    if name not in ("best", "last") or Path(name).exists():
        return args
    rest = args[: given[-1]] + args[given[-1] + (1 if value else 2) :]
    config = _parse(rest)
    run_dir = Path(config.run_dir or Path("runs", run_name(config, _kind(rest), rest)))
    if not (path := run_dir / "checkpoints" / f"{name}.ckpt").is_file():
        raise InputError(f"there is no {path}; name the run by --run_dir FOLDER, or the file by {option}")
    return [*rest, option, str(path)]


def _kind(args: list[str]) -> type[DataModule]:
    return ImageData if _images(args) else VideoData


def _at_home(word: str) -> str:
    """A word of the command line with the home folder for `~/`, which shells leave as it is in `--key=~/file`."""
    option, equals, value = word.partition("=")
    return f"{option}={from_home(value)}" if equals and option.startswith("-") else from_home(word)


def _images(args: list[str]) -> bool:
    """Whether a command line is about images: what is said last, in a file or as an option."""
    said: Any = False
    for word, after in itertools.pairwise([*args, ""]):
        option, _, value = word.partition("=")
        if option in ("-c", "--config"):
            said = config_at(value or after).get("images", said)
        elif option == "--images":
            said = {"true": True, "false": False}.get((value or after).lower(), said)
    return said is True


def _explain(error: Exception) -> str:
    owners = {"model": VideoClassifier, "data": VideoData, "trainer": Trainer, "bn_statistics": EvaluationStatistics}
    return explain(str(error), known_keys(owners))
