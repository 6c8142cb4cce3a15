"""Checkpoints as files: which one a run goes on from, and the settings that travel in it."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from video_gn.errors import InputError
from video_gn.files import is_utf8, utf8_named
from video_gn.messages import first_process

# What a checkpoint has to have in common with the model that it is loaded into.
ARCHITECTURE = ("geometry", "depth", "width", "norm", "num_groups", "channels_per_group", "class_names")


def find_resume(run_dir: Path, ckpt_path: str | None) -> str | None:
    """The checkpoint that fit goes on from, if any; the word last means the run's own last one, if there is one.

    Raises:
        InputError: A new run would overwrite one that is there.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    requeued = list(run_dir.glob("hpc_ckpt_*.ckpt"))  # Lightning's, when it requeues a SLURM job
    if ckpt_path == "last":
        there = [path for path in (last, *requeued) if path.is_file()]
        ckpt_path = str(max(there, key=lambda path: path.stat().st_mtime)) if there else None
    elif ckpt_path is not None:
        read_checkpoint(ckpt_path)
    own = ckpt_path is not None and run_dir.resolve() in Path(ckpt_path).resolve().parents
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
        with utf8_named(path) as name:
            checkpoint = torch.load(name, "cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load fails in many ways on what is no checkpoint
        raise InputError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__})") from None
    if not {"state_dict", "hyper_parameters", "datamodule_hyper_parameters"} <= set(checkpoint):
        raise InputError(
            f"{path} is not a checkpoint of this project's training; weights to start from go into "
            "--model.init, exports into python -m video_gn.predict"
        )
    return checkpoint


def with_checkpoint(args: list[str], linked: tuple[str, ...]) -> list[str]:
    """Puts the settings stored in a checkpoint below those given, so that a checkpoint alone is enough to use it.

    Args:
        args: A command line.
        linked: Settings of the model that it takes from the data.

    Raises:
        InputError: The command needs a checkpoint, and there is none or it is something else.
    """
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
    for name in linked:
        model.pop(name, None)
    model["init"] = None  # the checkpoint holds the weights
    seed = data.pop("seed", 0)
    data.pop("videos", None)
    stored = {"seed_everything": seed, "model": model, "data": data}
    if (run_dir / "config.yaml").is_file():
        stored["run_dir"] = str(run_dir)
    # YAML has no form for names that are not UTF-8, a command line has.
    raw = [f"--data.{name}={data.pop(name)}" for name, value in list(data.items()) if not _in_yaml(value)]
    raw += [] if _in_yaml(stored.get("run_dir")) else [f"--run_dir={stored.pop('run_dir')}"]
    return [args[0], "--config", yaml.safe_dump(stored), *raw, *args[1:]]


def _in_yaml(value: Any) -> bool:
    return not isinstance(value, str) or is_utf8(value)


def check_architecture(path: str, settings: Mapping[str, Any]) -> None:
    """Raises InputError if a checkpoint belongs to another network than a model with these hyper-parameters."""
    stored = read_checkpoint(path)["hyper_parameters"]
    different = [name for name in ARCHITECTURE if stored.get(name) != settings.get(name)]
    if different:
        raise InputError(
            f"{path} is of another architecture: it has {_setting(stored, different[0])}, the settings ask for "
            f"{_setting(settings, different[0])}; leave them to the checkpoint, or take another checkpoint"
        )


def _setting(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return f"{len(value)} classes ({value[0]}, ...)" if isinstance(value, list) else f"{name}={value}"
