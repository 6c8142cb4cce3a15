"""What a training says of its memory: the line of its own settings, and what would fit where it ran out."""

from typing import Any

import torch

from video_gn.models.recompute import WAYS
from video_gn.train.memory.count import GIB, USABLE, Counted, Setting, count_weights

# Of errors that are no OutOfMemoryError: a CPU's, and those of CUDA's libraries.
_WORDS = ("DefaultCPUAllocator", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
    return isinstance(error, torch.OutOfMemoryError) or said


def setting_of(model: Any, trainer: Any) -> Setting:
    """How a run's network is run."""
    return Setting(trainer.precision, model.call.execution, trainer.strategy.root_device.type)


def weights_of(model: Any, trainer: Any) -> int:
    """Bytes of a run's parameters and all that is kept for them, on one of its devices."""
    return count_weights(model.net, setting_of(model, trainer).dtype, model.optimizer, trainer.world_size)


def needs(clips: int, size: int, device: torch.device) -> str:
    """The line of a run whose step takes so many bytes."""
    where = " on each GPU, without cuDNN's workspaces" if device.type == "cuda" else ""
    return f"a training step of {clips} clips needs {size / GIB:.2f} GiB (counted{where})"


def what_fits(clips: int, accumulated: int, found: dict[str, Counted], way: str, available: float | None) -> str:
    """What to set where a step ran out of memory, as words of the command line; as many clips a step stay.

    Args:
        clips: Of a batch.
        accumulated: Batches of a step.
        found: What a batch takes, by words of `model.execution.recompute`.
        way: The word of this run.
        available: Bytes that the run can have; None where nobody knows.
    """

    def options(word: str, most: int) -> str | None:
        fits = clips // 2 if available is None else found[word].fits(USABLE * available)
        each = max((part for part in range(1, min(fits, most) + 1) if clips % part == 0), default=0)
        if not each:
            return None
        more = [f"--model.execution.recompute {word}"] if word != way else []
        batches = accumulated * clips // each
        less = [f"--data.batch_size {each} --trainer.accumulate_grad_batches {batches}"] if each < clips else []
        return " ".join(more + less)

    stronger = [word for word in WAYS[WAYS.index(way) + 1 :] if word in found]
    said = [options(way, clips - 1), *(options(word, clips) for word in stronger)]
    return "; or ".join(words for words in said if words) or "shorter or smaller clips, or a smaller network"
