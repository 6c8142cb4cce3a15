"""The classifier out of a file of weights that says what it is: a checkpoint, or an export."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from video_gn.errors import InputError
from video_gn.models.known import CLASSES as NETWORKS
from video_gn.train.checkpoint import check_network, read_checkpoint
from video_gn.train.loss import Loss
from video_gn.train.optim import OPTIMIZERS
from video_gn.train.schedule import SCHEDULES
from video_gn.train.settings import Start
from video_gn.weights.reader import read_weights
from video_gn.weights.stored import CLASSES, net_settings

T = TypeVar("T", bound=Any)


def rebuild(make: type[T], path: str, model: Mapping[str, Any], clip: Mapping[str, Any]) -> T:
    """The classifier of a file of weights, in evaluation.

    Args:
        make: `video_gn.train.classifier.VideoClassifier`.
        path: The file.
        model: What it says of the model (`video_gn.weights.stored.model_settings`).
        clip: What it says of clips (`video_gn.weights.stored.clip_settings`).

    Raises:
        InputError: The weights are not those that the settings promise, or of a network of another class.
    """
    settings = net_settings(model, path)  # first, because it may be of no class of these
    net = partial(NETWORKS[model["net"]["class_path"]], **settings)
    state = check_network(read_weights(path), model, clip)
    built = make(**arguments(model, net))
    counters = {name: value for name, value in built.net.state_dict().items() if name.endswith("num_batches_tracked")}
    built.net.load_state_dict(counters | state)  # old files lack the counters
    return built.eval()


def rebuild_checkpoint(make: type[T], path: str, net: Callable[[int], nn.Module] | None = None) -> T:
    """The classifier of a checkpoint, in evaluation.

    Args:
        make: `video_gn.train.classifier.VideoClassifier`.
        path: The checkpoint.
        net: Makes its network from the number of classes, where that is of another class than this project's.

    Raises:
        InputError: It is none, or its network is of another class and `net` does not make it.
    """
    found = read_checkpoint(path)
    if net is None:
        return rebuild(make, path, found.model, found.clip)
    built = make(**arguments(found.model, net))
    try:
        built.load_state_dict(found.content["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"the network that net makes is not the one in {path}: {' '.join(str(error).split())[:200]}"
        ) from None
    return built.eval()


def arguments(model: Mapping[str, Any], net: Callable[[int], nn.Module]) -> dict[str, Any]:
    """What the classifier has to be given, of what a file says."""
    mean, std = (tuple(model["start"][name]) for name in ("mean", "std"))
    rest = {name: model[name] for name in ("batch_size", "seed", "freeze_bn_after") if name in model} | recipe(model)
    rest |= {"loss": Loss(**model["loss"])} if "loss" in model else {}
    needed = {"class_names": model["class_names"], "net": net, "crop_size": model["crop_size"]}
    return needed | rest | {"start": Start(mean=mean, std=std)}


def recipe(model: Mapping[str, Any]) -> dict[str, Any]:
    """Optimizer and schedule that a file says, those of this project's classes."""
    known: dict[str, dict[str, Any]] = {"optimizer": dict(OPTIMIZERS), "schedule": dict(SCHEDULES)}
    return {
        part: classes[model[part]["class_path"].rpartition(".")[2]](**model[part]["init_args"])
        for part, classes in known.items()
        if part in model and model[part]["class_path"] in CLASSES[part]
    }
