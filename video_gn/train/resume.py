"""The checkpoint that a run resumes from: which one, and whether its state of training can be one."""

import logging
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import BatchSizeFinder, Callback, GradientAccumulationScheduler, LearningRateFinder
from torch.optim.lr_scheduler import LambdaLR

from video_gn.console import printable
from video_gn.distributed import first_process
from video_gn.errors import InputError
from video_gn.rules import shown
from video_gn.train.checkpoint import Checkpoint, read_checkpoint
from video_gn.train.optim import SGD
from video_gn.train.settings import described

log = logging.getLogger(__name__)
# As torch says that a tensor of a network has another shape in a checkpoint.
MISMATCH = r"size mismatch for (?:net\.)?(\S+): .* shape torch.Size\(\[(.*?)\]\) .* is torch.Size\(\[(.*?)\]\)"
# As video_gn/train/callbacks/position.py keeps it.
POSITION = ("epoch", "videos", "validated", "steps", "list", "seed", "stopped")
SETTINGS_OF: dict[type, str] = {  # callbacks that change one
    GradientAccumulationScheduler: "trainer.accumulate_grad_batches",
    BatchSizeFinder: "data.batch_size",
    LearningRateFinder: "model.optimizer.base_lr",
}


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raises InputError for a callback by which a run has other settings than those that it is resumed with."""
    for callback in callbacks:
        if setting := SETTINGS_OF.get(type(callback)):
            raise InputError(
                f"{type(callback).__name__} changes {setting} within the run, which a resumed run would not know; "
                f"set {setting} instead"
            )


def find_resume(run_dir: Path, ckpt_path: str | None) -> str | None:
    """The checkpoint that fit resumes from, if any.

    Args:
        run_dir: The run's folder.
        ckpt_path: A file; or the word last, which means the run's own newest one that can be read, if there is one;
            or best, its best one.

    Raises:
        InputError: A new run would overwrite one that is there; or the checkpoint is damaged.
    """
    last, previous = (run_dir / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    requeued = list(run_dir.glob("hpc_ckpt_*.ckpt"))  # Lightning's, when it requeues a SLURM job
    began = any(run_dir.glob("checkpoints/*.ckpt")) or any(
        (run_dir / name).exists() for name in ("config.yaml", "results.json", "history.csv")
    )
    if ckpt_path == "last":
        there = sorted((path for path in (last, previous, *requeued) if path.is_file()), key=_age)
        best = run_dir / "checkpoints" / "best.ckpt"
        if not there and not best.is_file():
            _check_nothing_lost(run_dir, last)
            return None
        ckpt_path = _first_readable(there or [best])
    elif ckpt_path is not None:
        if ckpt_path == "best":
            ckpt_path = str(run_dir / "checkpoints" / "best.ckpt")
        check_state(read_checkpoint(ckpt_path))
    folders = {run_dir.resolve(), (run_dir / "checkpoints").resolve()}  # of which either may be a link
    own = ckpt_path is not None and not folders.isdisjoint(Path(ckpt_path).resolve().parents)
    if first_process() and began and not own and not requeued:
        remedy = f"resume it with --ckpt_path {last}, or " if last.is_file() else ""
        if not remedy and not any(run_dir.glob("checkpoints/*.ckpt")):
            remedy = "start it again with --ckpt_path last (it has no checkpoint yet), or "
        raise InputError(f"{run_dir} already holds a run; {remedy}start another with --run_dir FOLDER")
    return ckpt_path


def _check_nothing_lost(run_dir: Path, last: Path) -> None:
    """Raises InputError where a run without a checkpoint is not one that was killed before its first."""
    results, history = (
        path.read_bytes() if path.is_file() else b"" for path in (run_dir / "results.json", run_dir / "history.csv")
    )
    measured = b'"fit": {' in results or b'"tests": [\n' in results
    if last.exists() or measured or history.count(b"\n") > 2:  # a header, and the epoch in which it was killed
        raise InputError(
            f"{run_dir} holds a run whose checkpoints are gone: there is no file {last}; start another with --run_dir "
            "FOLDER, or move its results away"
        )


def _age(path: Path) -> tuple[float, bool]:
    """Sorts newest files first; of two that were written at once, `last.ckpt`."""
    return -path.stat().st_mtime, path.name != "last.ckpt"


def _first_readable(paths: list[Path]) -> str:
    """The first checkpoint that is not damaged; says which ones are."""
    for path in paths[:-1]:
        try:
            check_state(read_checkpoint(str(path)))
            return str(path)
        except InputError as error:
            log.warning("%s; the one before it is taken", error)
    check_state(read_checkpoint(str(paths[-1])))
    return str(paths[-1])


# The state of training


def check_state(checkpoint: Checkpoint) -> None:
    """Raises InputError where the state of training in a checkpoint cannot be one.

    Lightning takes counters, paths and attributes as they are: wrong ones would fail steps later, or name files
    elsewhere.
    """
    content, path = checkpoint.content, checkpoint.path
    kinds = {"loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
    missing = sorted(name for name, kind in kinds.items() if not isinstance(content.get(name), kind))
    if missing:
        raise InputError(
            f"{path} has no state of training ({', '.join(missing)}), so that nothing can be resumed from it; start "
            f"from its weights with --model.start.init {path}"
        )
    loop = content["loops"].get("fit_loop")
    kept = loop.keys() if isinstance(loop, dict) else set()
    wrong = [f"{name} is missing" for name in ("epoch_progress", "epoch_loop.batch_progress") if name not in kept]
    wrong += [f"{len(content[one])} {one}" for one in ("optimizer_states", "lr_schedulers") if len(content[one]) != 1]
    wrong += [shown(leaf) for leaf in _leaves(content["loops"]) if not is_count(leaf)]
    position = content["callbacks"].get("Position", dict.fromkeys(POSITION, 0))
    counts = position.values() if isinstance(position, dict) and set(position) == set(POSITION) else [position]
    wrong += [f"its position: {shown(leaf)}" for leaf in counts if leaf is None or not is_count(leaf)]
    wrong += [f"the epoch's sums: {shown(leaf)}" for leaf in _numbers(content.get("training_sums", [0.0] * 5), 5)]
    for name in ("validation", "figures"):
        wrong += [f"its {name}: {shown(leaf)}" for leaf in _numbers(content.get(name) or {})]
    named = [leaf for leaf in _leaves(content["callbacks"]) if isinstance(leaf, str)]
    wrong += [shown(leaf) for leaf in named if ".." in Path(leaf).parts]
    for state in content["lr_schedulers"]:
        names = state.keys() if isinstance(state, dict) else [state]
        methods = {name for name in names if isinstance(name, str) and callable(getattr(LambdaLR, name, None))}
        wrong += [shown(x) for x in names if not isinstance(x, str) or x in methods or x == "optimizer"]
    if wrong:
        raise InputError(f"{path} has a state of training that cannot be ({wrong[0]}); take another checkpoint")


def _numbers(content: Any, count: int | None = None) -> list[Any]:
    """What is no finite number in a list or dictionary, or the whole where it is not of so many; NaN stays a figure."""
    values = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(values, list) or (count is not None and len(values) != count):
        return [content]
    return [one for one in values if type(one) not in (int, float) or (count and not isfinite(one))]


def is_count(leaf: Any) -> bool:
    """Whether a value of a state can be a counter: nothing, a flag, or a whole number."""
    return leaf is None or type(leaf) is bool or (type(leaf) is int and 0 <= leaf < 2**53)


def _leaves(state: Any, depth: int = 0) -> Any:
    """Keys that are no names, and what is in dictionaries and lists, however deep; what is deeper than a state is."""
    if depth < 8 and isinstance(state, dict):
        for name, value in state.items():
            yield from [] if isinstance(name, str) and ".." not in Path(name).parts else [name]
            yield from _leaves(value, depth + 1)
    elif depth < 8 and isinstance(state, list | tuple) and len(state) < 64:
        for value in state:
            yield from _leaves(value, depth + 1)
    else:
        yield state


def not_restored(error: Exception, path: str) -> InputError | None:
    """What to say where Lightning fails to take a checkpoint's state; None if the error is of something else."""
    frame = None if isinstance(error, InputError) else error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if code.co_filename.endswith("checkpoint_connector.py") and (
            "restore" in code.co_name or "resume" in code.co_name
        ):
            if match := re.search(MISMATCH, str(error)):
                return InputError(
                    f"{path} is of another network, or of other settings of it: {printable(match[1])} is [{match[2]}] "
                    f"there and [{match[3]}] here; name the settings that it was trained with (config.yaml has them)"
                )
            why = printable(" ".join(str(error).split())[:200])
            return InputError(
                f"{path} cannot be loaded ({type(error).__name__}: {why}); it is damaged, or of other settings or "
                "another version"
            )
        frame = frame.tb_next
    return None


# The optimiser


def check_optimizer(checkpoint: Mapping[str, Any], now: str, path: str) -> None:
    """Raises InputError where training was by another optimiser, whose state would be taken for this one's.

    Args:
        checkpoint: What is in it.
        now: Class path of this run's.
        path: The checkpoint.
    """
    stored = checkpoint["hyper_parameters"].get("optimizer") or described(SGD())  # format 1 had SGD alone
    if (before := stored["class_path"]) != now:
        old, new = (one.rpartition(".")[2] for one in (before, now))
        raise InputError(
            f"{path} was trained by {old}, and model.optimizer is {new}; resume with the same, or start a new run from "
            f"its weights with --model.start.init {path}"
        )


def take_given(trainer: Any, groups: Sequence[Mapping[str, Any]], factor: float) -> None:
    """Has a resumed optimiser use this run's settings; a checkpoint brings those that it was saved with.

    Args:
        trainer: Lightning's.
        groups: Settings of each group of parameters.
        factor: The schedule's.
    """
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    if not trainer.global_step or not any(isinstance(one, LambdaLR) for one in schedulers):  # SWA has its own
        return
    for group, given in zip(trainer.optimizers[0].param_groups, groups, strict=True):
        group.update(given, initial_lr=given["lr"], lr=given["lr"] * factor)
    schedulers[0].base_lrs = [given["lr"] for given in groups]
