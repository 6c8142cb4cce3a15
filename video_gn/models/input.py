"""Pixels to numbers: the deterministic arithmetic on whole batches, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalize(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 RGB `[..., 3, T, H, W]` to float32 `(x / 255 - mean) / std`, per channel."""
    shape = (3, 1, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in std], device=clips.device).view(shape)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=clips.device).view(shape)
    return torch.addcmul(shift, clips.float(), scale)
