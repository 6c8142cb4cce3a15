"""Pixels to numbers: the deterministic arithmetic on whole batches, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalize(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 RGB `[..., 3, T, H, W]` to float32 `(x / 255 - mean) / std`, per channel."""
    return Normalize(mean, std)(clips)


class Normalize:
    """`normalize`, whose six numbers are taken to each device once: to send them there is to wait for it.

    They are no buffers, which DDP would exchange at every step.

    Args:
        mean: Of each colour, on the scale from 0 to 1.
        std: Of each colour.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = mean, std
        self._there: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, clips: Tensor) -> Tensor:
        if clips.device not in self._there:
            scale = [1 / (255 * s) for s in self.std]
            shift = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
            with torch.inference_mode(False):
                both = torch.tensor([scale, shift], device=clips.device).view(2, 3, 1, 1, 1)
            self._there[clips.device] = both[0], both[1]
        scale_there, shift_there = self._there[clips.device]
        return torch.addcmul(shift_there, clips.float(), scale_there)
