"""Non-local blocks in files of weights, whatever the layout: whether there are as many as the network has."""

import re
from collections.abc import Iterable

from torch import nn

from video_gn.errors import InputError
from video_gn.models.blocks import NonLocal

# Begins the names of a block's tensors in the layouts that have some: Caffe2, PySlowFast, and this project's.
_NAME = re.compile(r"nonlocal_conv\d+_\d+_|s\d+\.pathway0_nonlocal\d+\.|blocks\.\d+\.res_blocks\.\d+\.nonlocal_block\.")


def count_blocks(names: Iterable[str]) -> int:
    """How many non-local blocks the tensors of these names are of."""
    return len({match[0] for name in names if (match := _NAME.match(name))})


def joining_blocks(source: str, names: Iterable[str], net: nn.Module) -> int:
    """How many blocks of a network join weights that have none, as they join ImageNet's (Wang et al. 2018, 4.1).

    Args:
        source: The file, as messages name it.
        names: Of its tensors.
        net: The network.

    Raises:
        InputError: They could never learn to be more than the identity.
    """
    ours = 0 if count_blocks(names) else count_blocks(net.state_dict())
    gammas = [module.norm.weight for module in net.modules() if isinstance(module, NonLocal)]
    if ours and not all(gamma.requires_grad for gamma in gammas):
        raise InputError(
            f"{source} has no non-local blocks, and with model.net.freeze_affine the new ones would keep gamma 0; set "
            "it to false, or model.net.nonlocal_blocks to 0"
        )
    return ours


def other_blocks(names: Iterable[str], net: nn.Module) -> str:
    """The setting to take, for the end of a message, where a file has another number of blocks than a network."""
    theirs, ours = count_blocks(names), count_blocks(net.state_dict())
    if theirs in (0, ours):
        return ""
    return f"; it has {theirs} non-local blocks, the model {ours}: take --model.net.nonlocal_blocks {theirs}"
