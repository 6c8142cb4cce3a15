"""Checkpoints as files: what is taken from them, and the one that a run resumes from.

A checkpoint brings along the network and how its clips are made. Where the data is comes with it only out of a run's
folder, which is trusted as a config is (docs/security.md); a single file names no folder, list or program.
"""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import yaml

from video_gn import motion
from video_gn.errors import InputError
from video_gn.inflate import own_state
from video_gn.messages import first_process, printable
from video_gn.norm import make_norm
from video_gn.resnet3d import resnet3d
from video_gn.rules import DATA, Rule, shown
from video_gn.sampling import find_protocol
from video_gn.stored import CLIP, clip_settings, model_settings
from video_gn.weights import Weights, read_weights

log = logging.getLogger(__name__)
# What a checkpoint has to have in common with the model that it is loaded into.
ARCHITECTURE = ("geometry", "depth", "width", "norm", "num_groups", "channels_per_group", "class_names")
# What describes the network to `validate`, `test` and `predict`.
NETWORK = (
    "norm", "num_groups", "channels_per_group", "r_max", "d_max", "freeze_affine", "depth", "width", "geometry",
    "dropout", "zero_init_gamma", "mean", "std",
)  # fmt: skip
# What a checkpoint says besides, and is asked for only in the folder of its run.
RUN_MODEL = ("norm_batch", "bn_statistics", "precise_steps", "compile", "channels_last", "low_memory")
_PATH = Rule(lambda x: x is None or (isinstance(x, str) and 0 < len(x) < 4096 and x.isprintable()), "a path")
RUN_DATA = {
    **dict.fromkeys(("root", "train", "val", "test"), _PATH),
    "motion": Rule(lambda x: x is None or _is_motion(x), "parameters of the embedded set"),
    **{name: DATA[name] for name in ("batch_size", "clips_per_video", "num_workers")},
    "backend": _PATH,
    "inspect": DATA["flip"],
    "decode_timeout": Rule(lambda x: type(x) in (int, float) and 0 < x <= 3600, "at most an hour, in seconds"),
    "quarantine": Rule(
        lambda x: isinstance(x, str) and x.isprintable() and x == Path(x).name and x.endswith(".csv"),
        "a file name that ends in .csv",
    ),
}


def _is_motion(given: Any) -> bool:
    return isinstance(given, dict) and all(
        name in motion.RULES and motion.RULES[name].holds(given[name]) for name in given
    )


class Checkpoint(NamedTuple):
    """What a checkpoint says of itself, checked.

    Attributes:
        path: The file.
        model: Hyper-parameters of `VideoClassifier`, class names among them.
        clip: How its clips are made (`CLIP`), and `max_span` and `seed` where it has them.
        epoch: The last one.
        global_step: Steps of the optimiser.
        content: All of it, not checked but for the weights.
    """

    path: str
    model: Mapping[str, Any]
    clip: Mapping[str, Any]
    epoch: int
    global_step: int
    content: Mapping[str, Any]

    @property
    def run_dir(self) -> Path | None:
        """The folder of its run, if it lies in one: beside `checkpoints` is the run's config.yaml."""
        folder = Path(self.path).absolute().parent
        return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file() else None


def find_resume(run_dir: Path, ckpt_path: str | None) -> str | None:
    """The checkpoint that fit goes on from, if any; the word last means the run's own last one, if there is one.

    Raises:
        InputError: A new run would overwrite one that is there, or the checkpoint is damaged.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    requeued = list(run_dir.glob("hpc_ckpt_*.ckpt"))  # Lightning's, when it requeues a SLURM job
    if ckpt_path == "last":
        there = [path for path in (last, *requeued) if path.is_file()]
        ckpt_path = str(max(there, key=lambda path: path.stat().st_mtime)) if there else None
    if ckpt_path is not None:
        check_state(read_checkpoint(ckpt_path))
    own = ckpt_path is not None and run_dir.resolve() in Path(ckpt_path).resolve().parents
    filled = (run_dir / "results.json").exists() or any(run_dir.glob("checkpoints/*.ckpt"))
    if first_process() and filled and not own and not requeued:
        go_on = f"go on with it by --ckpt_path {last}, or " if last.is_file() else ""
        raise InputError(f"{run_dir} already holds a run; {go_on}start another by --run_dir FOLDER")
    return ckpt_path


def read_checkpoint(path: str) -> Checkpoint:
    """A checkpoint of this project, opened so that no code in it can run.

    Raises:
        InputError: There is no such file, it is something else, or says what makes no sense.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, "cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load fails in many ways on what is no checkpoint
        raise InputError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__})") from None
    needed = {"state_dict", "hyper_parameters", "datamodule_hyper_parameters", "epoch", "global_step"}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise InputError(
            f"{path} is not a checkpoint of this project's training; weights to start from go into "
            "--model.init, exports into python -m video_gn.predict"
        )
    for name in ("epoch", "global_step"):
        if type(content[name]) is not int or not 0 <= content[name] < 2**53:
            raise InputError(f"{path} says that {name} is {shown(content[name])}; the file is damaged")
    model = model_settings(content["hyper_parameters"], path)
    clip = clip_settings(content["datamodule_hyper_parameters"], path, ("max_span", "seed"))
    find_protocol(clip["test_protocol"])
    check_network(read_weights(path, content), model, clip)
    return Checkpoint(path, model, clip, content["epoch"], content["global_step"], content)


def check_network(weights: Weights, model: Mapping[str, Any], clip: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state of the network that a file describes, nothing left out; the network itself takes no memory here.

    Raises:
        InputError: The weights are of another network, or it cannot see such clips.
    """
    crop, frames, names = model["crop_size"], clip["num_frames"], model["class_names"]
    norm = make_norm(model["norm"], num_groups=model["num_groups"], channels_per_group=model["channels_per_group"])
    with torch.device("meta"):
        net = resnet3d(len(names), norm, model["depth"], model["width"], model["geometry"], crop, 0.0).eval()
    state = own_state(weights, net, names)
    try:
        if crop != clip["crop_size"]:
            raise ValueError("two sizes of crops")
        for side in (crop, clip["test_short_side"]):
            net(torch.empty(1, 3, frames, side, side, device="meta"))
    except (RuntimeError, ValueError):
        raise InputError(
            f"{weights.source} says that a clip is {frames} frames with crops of {clip['crop_size']}, tested at "
            f"{clip['test_short_side']}, which its network ({model['geometry']} at {crop}) cannot see; it is damaged"
        ) from None
    return state


def with_checkpoint(args: list[str], linked: tuple[str, ...]) -> list[str]:
    """Puts what a checkpoint says below the settings given, so that a checkpoint alone is enough to use it.

    That is the network and its clips. Out of a run's folder it is also where the data is and how it is read, each by
    its rule; results go into that folder, and those of a single file into `runs/tested/`.

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
    model = {name: _plain(checkpoint.model[name]) for name in NETWORK if name in checkpoint.model}
    data = {name: _plain(checkpoint.clip[name]) for name in (*CLIP, "max_span") if name in checkpoint.clip}
    data["class_names"] = list(checkpoint.model["class_names"])
    if checkpoint.run_dir:
        model |= {name: checkpoint.model[name] for name in RUN_MODEL if name in checkpoint.model}
        data |= _of_run(checkpoint)
    stored = {
        "seed_everything": checkpoint.clip.get("seed", 0) % 2**32,
        "model": {name: value for name, value in model.items() if name not in linked},
        "data": data,
        "run_dir": str(checkpoint.run_dir or Path("runs", "tested", Path(paths[-1]).stem)),
    }
    return [args[0], "--config", yaml.safe_dump(stored), *args[1:]]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _of_run(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where a run's data is and how it was read; what breaks its rule is left to the user, and said."""
    given = checkpoint.content["datamodule_hyper_parameters"]
    found = {name: given[name] for name in RUN_DATA if name in given}
    for name in [name for name in found if not RUN_DATA[name].holds(found[name])]:
        log.warning(
            "data.%s=%s is not taken from %s: it is not %s; give it by --data.%s",
            name, shown(found.pop(name)), checkpoint.path, RUN_DATA[name].words, name,
        )  # fmt: skip
    return found


def check_architecture(path: str, settings: Mapping[str, Any]) -> None:
    """Raises InputError if a checkpoint belongs to another network than a model with these hyper-parameters."""
    stored = read_checkpoint(path).model
    different = [name for name in ARCHITECTURE if stored.get(name) != settings.get(name)]
    if different:
        raise InputError(
            f"{path} is of another architecture: it has {_setting(stored, different[0])}, the settings ask for "
            f"{_setting(settings, different[0])}; leave them to the checkpoint, or take another checkpoint"
        )


def _setting(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return f"{len(value)} classes ({value[0]}, ...)" if isinstance(value, list) else f"{name}={value}"


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
            f"from its weights with --model.init {path}"
        )
    loop = content["loops"].get("fit_loop")
    kept = loop.keys() if isinstance(loop, dict) else set()
    wrong = [f"{name} is missing" for name in ("epoch_progress", "epoch_loop.batch_progress") if name not in kept]
    wrong += [f"{len(content[one])} {one}" for one in ("optimizer_states", "lr_schedulers") if len(content[one]) != 1]
    wrong += [shown(leaf) for leaf in _leaves(content["loops"]) if not _is_count(leaf)]
    named = [leaf for leaf in _leaves(content["callbacks"]) if isinstance(leaf, str)]
    wrong += [shown(leaf) for leaf in named if ".." in Path(leaf).parts]
    for state in content["lr_schedulers"]:
        names = state.keys() if isinstance(state, dict) else [state]
        known = torch.optim.lr_scheduler.LambdaLR
        wrong += [
            shown(x) for x in names if not isinstance(x, str) or callable(getattr(known, x, None)) or x == "optimizer"
        ]
    if wrong:
        raise InputError(f"{path} has a state of training that cannot be ({wrong[0]}); take another checkpoint")


def _is_count(leaf: Any) -> bool:
    return leaf is None or type(leaf) is bool or (type(leaf) is int and 0 <= leaf < 2**53)


def _leaves(state: Any, depth: int = 0) -> Any:
    """Keys that are no names, and what is in dictionaries and lists, however deep; what is deeper than a state is."""
    if depth < 20 and isinstance(state, dict):
        for name, value in state.items():
            yield from [] if isinstance(name, str) and ".." not in Path(name).parts else [name]
            yield from _leaves(value, depth + 1)
    elif depth < 20 and isinstance(state, list | tuple):
        for value in state:
            yield from _leaves(value, depth + 1)
    else:
        yield state


class CheckResumed(pl.Callback):
    """Refuses a resumed optimiser whose state is not of this model's parameters, before the first step."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.ckpt_path and (wrong := next(_wrong_state(trainer), None)):
            raise InputError(f"{trainer.ckpt_path} has an optimiser's state that cannot be ({wrong})")


def _wrong_state(trainer: Any) -> Any:
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for name, default in optimizer.defaults.items():
                kinds = (int, float) if type(default) in (int, float) else (bool, type(None))
                value = group.get(name, "missing")
                if type(value) not in kinds or not -1e9 < float(value or 0) < 1e9:
                    yield f"{name} is {shown(value)}"
        for parameter, state in optimizer.state.items():
            for name, value in state.items() if isinstance(state, dict) else [("state", state)]:
                sound = isinstance(value, torch.Tensor) and value.shape == parameter.shape
                if value is not None and not (sound and value.isfinite().all()):
                    yield f"{name} of a parameter {list(parameter.shape)}"
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        rates, groups = [*scheduler.base_lrs, *scheduler._last_lr], len(scheduler.optimizer.param_groups)
        if len(rates) != 2 * groups or not all(type(rate) in (int, float) and 0 <= rate < 1e9 for rate in rates):
            yield f"learning rates {shown(rates)}"
        if not _is_count(scheduler.last_epoch) or scheduler.last_epoch is None:
            yield f"the schedule's step {shown(scheduler.last_epoch)}"


def not_restored(error: Exception, path: str) -> InputError | None:
    """What to say where Lightning fails to take a checkpoint's state; None if the error is of something else."""
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if code.co_filename.endswith("checkpoint_connector.py") and (
            "restore" in code.co_name or "resume" in code.co_name
        ):
            why = printable(" ".join(str(error).split())[:200])
            return InputError(
                f"{path} cannot be loaded ({type(error).__name__}: {why}); it is damaged, or of other settings or "
                "another version"
            )
        frame = frame.tb_next
    return None
