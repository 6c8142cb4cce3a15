"""How a report names the values of an ablation's axes: `BN, 8 frames, 2 clips` rather than `bn 8x8 batch 2`."""

import re
from collections.abc import Mapping, Sequence

from video_gn.ablate.grid import named

NORMS = {"frozen_bn": "frozen BN", "evonorm_s0": "EvoNorm-S0"}
SHORT = re.compile(r"\b(bn|gn|ln|in|brn|mabn|ws)\b")  # abbreviations of the field, which are written in capitals
Axes = Mapping[str, Sequence[str]]


def word(axes: Axes, axis: str, value: str) -> str:
    """A value of an axis as people read it, with its unit."""
    if axis == "norm":
        return NORMS.get(value) or SHORT.sub(lambda match: match[1].upper(), value)
    if axis == "budget":
        return f"equal {value}"
    if axis == "batch" and value.isdecimal():
        return f"{value} clip{'s' * (value != '1')}"
    if axis == "clip" and (match := re.fullmatch(r"(\d+)x(\d+)", value)):
        if match[2] == "0":
            return "1 frame repeated"
        alike = [other for other in axes[axis] if other.startswith(f"{match[1]}x") and not other.endswith("x0")]
        return f"{match[1]} frames" + (f" at interval {match[2]}" if len(alike) > 1 else "")
    return named(axis.rpartition(".")[2], value)


def label(axes: Axes, values: Sequence[str | None]) -> str:
    """The values of a cell, in the axes' order; without those that are None."""
    return ", ".join(word(axes, axis, value) for axis, value in zip(axes, values, strict=True) if value is not None)
