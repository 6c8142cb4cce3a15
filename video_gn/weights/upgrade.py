"""Settings of format 1, which were flat, in today's form: those in checkpoints and exports, and names in configs."""

from collections.abc import Mapping
from typing import Any

from video_gn.rules import FORMAT

_NET = {
    **{name: name for name in ("norm", "num_groups", "channels_per_group", "r_max", "d_max", "freeze_affine")},
    **{name: name for name in ("depth", "width", "dropout", "zero_init_gamma")},
    "geometry": "arch",
    "norm_batch": "ghost_batch",
}
_OPTIMIZER = ("base_lr", "head_lr", "momentum", "weight_decay", "norm_weight_decay")
_START = ("init", "init_norm", "freeze_stages", "mean", "std")
_EXECUTION = ("compile", "channels_last", "kernels", "low_memory")
_CLIP = ("num_frames", "frame_interval", "max_span", "short_side", "crop_size", "flip")
_EVALUATION = {"test_protocol": "protocol", "test_short_side": "short_side", "inspect": "inspect"}
_LOADING = ("num_workers", "backend", "decode_timeout", "quarantine", "max_bad")
# Today's names of settings.
RENAMED = {
    **{f"model.{old}": f"model.net.{new}" for old, new in _NET.items()},
    **{f"model.{name}": f"model.optimizer.{name}" for name in _OPTIMIZER},
    **{f"model.{name}": f"model.start.{name}" for name in _START},
    **{f"model.{name}": f"model.execution.{name}" for name in _EXECUTION},
    **{f"model.{part}low_memory": "model.execution.recompute" for part in ("", "execution.")},
    **{f"model.{name}": f"model.schedule.{name}" for name in ("decay_points", "warmup")},
    "model.lr_schedule": "model.schedule",
    "model.bn_statistics": "bn_statistics.use",
    "model.precise_steps": "bn_statistics.batches",
    **{f"data.{name}": f"data.clip.{name}" for name in _CLIP},
    **{f"data.{old}": f"data.evaluation.{new}" for old, new in _EVALUATION.items()},
    **{f"data.{name}": f"data.loading.{name}" for name in _LOADING},
    "data.images": "images",
}
_KNOWN = {*_NET, *_OPTIMIZER, *_START, *_EXECUTION, "decay_points", "warmup", "lr_schedule", "bn_statistics"}
_KNOWN |= {"precise_steps", "class_names", "batch_size", "crop_size", "seed"}


def upgrade_model(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings of format 1 in format 2, not checked; what is not known keeps its name."""
    kept = {name: flat[name] for name in ("class_names", "batch_size", "crop_size", "seed") if name in flat}
    cosine = flat.get("lr_schedule") == "cosine"
    known = _KNOWN if flat.get("lr_schedule", "step") in ("step", "cosine") else _KNOWN - {"lr_schedule"}
    schedule = ("warmup",) if cosine else ("decay_points", "warmup")
    return {
        **{name: value for name, value in flat.items() if name not in known},
        **kept,
        "format": FORMAT,
        "net": _class("models.resnet3d.ResNet3d", {new: flat[old] for old, new in _NET.items() if old in flat}),
        "optimizer": _class("train.optim.SGD", {name: flat[name] for name in _OPTIMIZER if name in flat}),
        "schedule": _class(
            f"train.schedule.{'Cosine' if cosine else 'Step'}", {name: flat[name] for name in schedule if name in flat}
        ),
        "start": {name: flat[name] for name in _START if name in flat},
    }


def _class(path: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"video_gn.{path}", "init_args": settings}


def upgrade_clip(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What format 1 says of clips; the first files had no images."""
    return {"images": False} | dict(flat)


def upgrade_data(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A data module's settings of format 1 in format 2, not checked."""
    images = bool(flat.get("images"))
    moved = {*_CLIP, *_EVALUATION, *_LOADING, "images"}
    found = {name: value for name, value in flat.items() if name not in moved}
    found |= {"format": FORMAT, "kind": "images" if images else "videos"}
    found["loading"] = {name: flat[name] for name in _LOADING if name in flat}
    if images:
        clip = {"crop_size": flat.get("crop_size"), "flip": flat.get("flip"), "short_side": flat.get("test_short_side")}
        return {name: value for name, value in found.items() if name not in ("motion", "clips_per_video")} | clip
    found["clip"] = {name: flat[name] for name in _CLIP if name in flat}
    found["evaluation"] = {new: flat[old] for old, new in _EVALUATION.items() if old in flat}
    return found
