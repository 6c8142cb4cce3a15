"""What is private in jsonargparse and in Lightning's launchers, and used all the same.

What of `LightningCLI` is private and replaced is marked in `cli.py`, where it belongs.
"""

from typing import Any

from jsonargparse import _typehints
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher


def forget_other_class() -> None:
    """Has a class that is named after another one begin with its own defaults.

    jsonargparse carries over what both have (SGD's `base_lr` to AdamW), which is hardly ever meant.
    """
    assert callable(_typehints.discard_init_args_on_class_path_change)  # else another version has it elsewhere
    _typehints.discard_init_args_on_class_path_change = _discard


def _discard(parser_or_action: Any, prev_val: Any, value: Any) -> None:
    if prev_val and "init_args" in prev_val and prev_val["class_path"] != value["class_path"]:
        prev_val["init_args"] = type(prev_val["init_args"])()


def starts_processes(trainer: Any) -> bool:
    """Whether the trainer starts further processes of this program by itself."""
    return isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
