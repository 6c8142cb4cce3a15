"""What is private in jsonargparse and Lightning, and used all the same.

Methods of `LightningCLI` and of argparse's formatter that are replaced are where their classes are, `commands.py` and
`help.py`.
"""

from typing import Any

import docstring_parser
from jsonargparse import ArgumentParser, _typehints, set_parsing_settings
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

_parse_from_object = docstring_parser.parse_from_object


def forget_other_class() -> None:
    """Has a class that is named after another one begin with its own defaults.

    jsonargparse carries over what both have (SGD's `base_lr` to AdamW), which is hardly ever meant.
    """
    assert callable(_typehints.discard_init_args_on_class_path_change)  # else another version has it elsewhere
    _typehints.discard_init_args_on_class_path_change = _discard


def _discard(parser_or_action: Any, prev_val: Any, value: Any) -> None:
    if prev_val and "init_args" in prev_val and prev_val["class_path"] != value["class_path"]:
        prev_val["init_args"] = type(prev_val["init_args"])()


def describe_attributes(asked: bool) -> None:
    """Has jsonargparse look for texts below attributes, or not; never in classes of PyTorch and Lightning.

    Those have none, and to look for them is to parse their source, for half a second.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=asked)
    docstring_parser.parse_from_object = _without_source


def _without_source(obj: Any, *args: Any, **kwargs: Any) -> docstring_parser.Docstring:
    if obj.__module__.partition(".")[0] in ("torch", "pytorch_lightning", "lightning_fabric"):
        return docstring_parser.parse(obj.__doc__ or "", *args, **kwargs)
    return _parse_from_object(obj, *args, **kwargs)


def starts_processes(trainer: Any) -> bool:
    """Whether the trainer starts further processes of this program by itself."""
    return isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)


def cluster_environment(trainer: Any) -> Any:
    """What started the run's processes, as Lightning sees it; None on one device."""
    return trainer._accelerator_connector.cluster_environment


def forget_average(callback: Any) -> None:
    """Has a WeightAveraging whose average is the model's own, as training has ended, exchange the two no more.

    It would do so in a later validation, and with the weights take out the statistics of BatchNorm put in for it.
    """
    callback._average_model = None


def last_rates(scheduler: Any) -> list[Any]:
    """Learning rates that a schedule set last, by group, whatever a checkpoint has in their place."""
    return scheduler._last_lr


def begin_epoch(trainer: Any) -> None:
    """Has a resumed fit begin an epoch; the loop's own setter takes `max_steps` for a restart within one."""
    _Loop.restarting.fset(trainer.fit_loop, False)  # type: ignore[attr-defined]


def enter_epoch(trainer: Any, validated: bool) -> None:
    """Has a resumed fit take up an epoch at its position, which Lightning has repeat a validation there.

    Args:
        trainer: With the loops' counters at the position.
        validated: Whether the validation that is due there has been made.
    """
    loop = trainer.fit_loop.epoch_loop
    if not loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
        return
    loop._batches_that_stepped -= 1  # counted after a validation
    if not validated:  # which Lightning repeats if it was broken off in a batch
        loop.val_loop.batch_progress.total.ready = 1
        loop.val_loop.batch_progress.total.started = 1


def actions(parser: ArgumentParser) -> list[Any]:
    """Options of a parser."""
    return parser._actions
