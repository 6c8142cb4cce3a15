"""Where a classifier's network begins: weights as they are, or those of BN for a network with another norm."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.models import contract
from video_gn.models.conv_weights import Formed, fold_weights
from video_gn.models.convert import FITTED, Conversion, refit
from video_gn.models.norm import STANDARDIZED
from video_gn.models.replace import Replaced
from video_gn.train.settings import Start
from video_gn.weights.hub import load_weights
from video_gn.weights.inflate import BATCH_NORMS, batch_norm_of, set_input_scale, start_net

log = logging.getLogger(__name__)


def begin(
    net: nn.Module, start: Start, class_names: Sequence[str]
) -> tuple[list[float], list[float], nn.Module | None]:
    """Starts a network as the user has it.

    Args:
        net: The network, at random.
        start: Of the config, without auto (`found_start`).
        class_names: The network's.

    Returns:
        Mean and standard deviation of its input; and, where weights of BN are to be converted, the network with BN that
        they are of, until there are clips (`convert_start`).

    Raises:
        InputError: The weights are not of this network, norm or mean.
    """
    weights = None if start.init is None else load_weights(start.init)
    rest = (class_names, start.init_norm, start.mean, start.std)
    if not start.convert or weights is None:
        return *start_net(net, weights, *rest), None
    settings = contract.known(net, "model.start.convert").settings
    norm, theirs = settings["norm"], batch_norm_of(weights.norm or "")
    if not theirs or norm in BATCH_NORMS:
        return *start_net(net, weights, *rest), None
    if norm not in FITTED:
        fitted = ", ".join(name for name in FITTED if name not in BATCH_NORMS)
        raise InputError(f"model.start.convert fits gamma and beta of: {fitted}; model.net.norm is {norm}")
    of_file = {"norm": "bn", "weight_standardization": theirs.endswith(STANDARDIZED)}
    before = type(net)(len(class_names), **settings | of_file)  # type: ignore[arg-type]
    scale = start_net(before, weights, *rest)
    set_input_scale(net, weights, start.mean, start.std)
    if not settings["weight_standardization"]:
        fold_weights(before)
    net.load_state_dict(before.state_dict(), strict=False)  # but for the running statistics, names are the same
    return *scale, before


def convert_start(model: Any) -> None:
    """Re-fits gamma and beta of a classifier's norms on training clips, on the first process; DDP sends them to others.

    Args:
        model: The classifier, in its trainer, with the network with BN in `to_convert`, which is empty then.

    Raises:
        InputError: It is not in training, or there is no data module to take clips from.
    """
    if model.trainer.state.fn != "fit":
        raise InputError("model.start.convert is done by fit; test what it trained")
    (before,), model.to_convert = model.to_convert, ()
    trainer, count = model.trainer, model.hparams["start"]["convert"]
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise InputError(
            "model.start.convert takes clips of the data module; with other loaders convert the network before, by "
            "video_gn.convert_norm(net, clips=...)"
        )
    if not trainer.is_global_zero:
        return
    steps = -(-count // data.batch_size)
    clips = torch.cat(list(data.training_clips(steps, alone=True)))[:count]
    device = trainer.strategy.root_device
    try:
        done = _refitted(model, before, clips, device)
    except torch.OutOfMemoryError:
        log.warning(
            "%s has no memory for %d clips at once; they are fitted to on the CPU, which is slow", device, count
        )
        done = _refitted(model, before, clips, torch.device("cpu"))
    log.info("weights of BN: %s", done)


def _refitted(model: Any, before: nn.Module, clips: Tensor, device: torch.device) -> Conversion:
    old, new = (dict(net.to(device).named_modules()) for net in (before, model.net))
    names = [name for name, layer in old.items() if isinstance(layer, nn.BatchNorm3d)]
    replaced = Replaced(contract.settings_of(model.net)["norm"], {name: (old[name], new[name]) for name in names})
    formed = [name for name, layer in new.items() if isinstance(layer, Formed) and not isinstance(old[name], Formed)]
    replaced.kernels = [(old[name], new[name]) for name in formed]
    replaced.form = "standardized" if formed else ""
    with torch.no_grad():
        return refit(model.net, replaced, model.call.normalize(clips.to(device)))
