"""Of several processes of one run: which is the first, and what all of them hold."""

import sys
from typing import Any


def first_process() -> bool:
    """Whether this is the process that prints and writes, as Lightning knows it; the only one where there is none."""
    lightning = sys.modules.get("lightning_utilities.core.rank_zero")  # not imported for this: it takes seconds
    return lightning is None or getattr(lightning.rank_zero_only, "rank", 0) == 0


def gather(trainer: Any, mine: Any) -> list[Any]:
    """What every process holds, in the order of the processes."""
    import torch

    parts: list[Any] = [mine] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(parts, mine)
    return parts
