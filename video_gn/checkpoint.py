"""Checkpoints as files: which one a run goes on from, and the settings that travel in it."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from video_gn.errors import InputError
from video_gn.messages import first_process

log = logging.getLogger(__name__)
# What a checkpoint has to have in common with the model that it is loaded into.
ARCHITECTURE = ("geometry", "depth", "width", "norm", "num_groups", "channels_per_group", "class_names")


def find_resume(run_dir: Path, ckpt_path: str | None) -> str | None:
    """The checkpoint that fit resumes from, if any.

    Args:
        run_dir: The run's folder.
        ckpt_path: A file; or the word last, which means the run's own newest one that can be read, if there is one.

    Raises:
        InputError: A new run would overwrite one that is there; or none of the run's checkpoints can be read.
    """
    last, previous = (run_dir / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    requeued = list(run_dir.glob("hpc_ckpt_*.ckpt"))  # Lightning's, when it requeues a SLURM job
    began = any(run_dir.glob("checkpoints/*.ckpt")) or any(
        (run_dir / name).exists() for name in ("results.json", "history.csv")
    )
    if ckpt_path == "last":
        there = sorted((path for path in (last, previous, *requeued) if path.is_file()), key=_age)
        ckpt_path = _first_readable(there) if there else None
        if ckpt_path is None and not began:
            return None  # nothing is lost by a start from the beginning
    elif ckpt_path is not None:
        read_checkpoint(ckpt_path)
    own = ckpt_path is not None and run_dir.resolve() in Path(ckpt_path).resolve().parents
    began |= (run_dir / "config.yaml").exists()
    if first_process() and began and not own and not requeued:
        remedy = f"resume it with --ckpt_path {last}, or " if last.is_file() else ""
        if not remedy and not any(run_dir.glob("checkpoints/*.ckpt")):
            remedy = "start it again with --ckpt_path last (it has no checkpoint yet), or "
        raise InputError(f"{run_dir} already holds a run; {remedy}start another with --run_dir FOLDER")
    return ckpt_path


def _age(path: Path) -> tuple[float, bool]:
    """Sorts newest files first; of two that were written at once, `last.ckpt`."""
    return -path.stat().st_mtime, path.name != "last.ckpt"


def _first_readable(paths: list[Path]) -> str:
    """The first checkpoint that is not damaged; says which ones are."""
    for path in paths[:-1]:
        try:
            read_checkpoint(str(path))
            return str(path)
        except InputError as error:
            log.warning("%s; the one before it is taken", error)
    read_checkpoint(str(paths[-1]))
    return str(paths[-1])


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
    return [args[0], "--config", yaml.safe_dump(stored), *args[1:]]


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
