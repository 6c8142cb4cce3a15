"""How the work on features is divided among programs of the norm kernels.

How S is cut into chunks follows from S, C, G and the type alone. So the same input gives the same bits, and a clip has
the same bits alone as among others.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

_TILE = 8192  # bytes of a step of a program, of each tensor that it reads; a kernel that only sums takes half
_CHUNK = 16384  # least elements of a program's chunk
_MAX_CHUNKS = 512
_SMALL = 16384  # elements that a program holds at once
_STAGES = 3  # of a program's steps: so many less one are being loaded while one is worked on
_MERGED = 4096  # sums that a program which merges gradients adds up in a step


def next_power_of_2(number: int) -> int:
    """The least power of 2 that is no less than a positive number."""
    return 1 << (number - 1).bit_length()


def cdiv(whole: int, size: int) -> int:
    """How many parts of a size there are in a whole, the last of which may be smaller."""
    return -(-whole // size)


class Sets(NamedTuple):
    """How features are read: M sets of S positions, whose C channels are in G groups."""

    sets: int
    positions: int
    channels: int
    groups: int

    @property
    def group_size(self) -> int:
        """D, channels of a group."""
        return self.channels // self.groups


class Plan(NamedTuple):
    """How the work is divided: a program has `block` groups, and a chunk of S in steps of `rows` positions."""

    padded: int  # D as a power of 2
    block: int  # a power of 2
    blocks: int
    rows: int  # a power of 2
    chunk: int
    chunks: int
    even: bool  # whether blocks have no channels to mask
    warps: int
    merge_block: int  # groups of a program that merges moments, a power of 2
    merge_blocks: int
    merge_rows: int  # chunks of one of its steps, a power of 2


def set_stages(stages: int) -> int:
    """Sets how many steps of a program are in flight, to measure what a GPU is fastest with; gives how many were."""
    global _STAGES
    before, _STAGES = _STAGES, stages
    layout_of.cache_clear()
    summing_of.cache_clear()
    return before


def held(sets: Sets) -> bool:
    """Whether one program can hold all positions of its groups, so that features are read once."""
    return next_power_of_2(sets.positions) * _narrowest(sets) <= _SMALL


def _narrowest(sets: Sets) -> int:
    """Channels of a program: whole groups, and no less than memory moves at once."""
    return max(next_power_of_2(sets.group_size), 16)


@cache
def plan_of(sets: Sets, itemsize: int, whole: bool) -> Plan:
    """For features of so many bytes an element; `whole` for a step that is all of S."""
    padded = next_power_of_2(sets.group_size)
    width = _narrowest(sets) if whole else max(padded, min(256, next_power_of_2(sets.groups) * padded))
    rows = next_power_of_2(sets.positions) if whole else max(_TILE // itemsize // width, 1)
    block = min(width // padded, next_power_of_2(sets.groups))
    width = block * padded
    least = max(_CHUNK // width, 32, cdiv(sets.positions, _MAX_CHUNKS))
    chunk = rows if whole else cdiv(least, rows) * rows
    even = padded == sets.group_size and sets.groups % block == 0
    warps = min(max(rows * width // 512, 1), 16 if whole else 8)
    chunks = cdiv(sets.positions, chunk)
    merge_block = min(next_power_of_2(sets.groups), 8)
    return Plan(
        padded=padded,
        block=block,
        blocks=cdiv(sets.groups, block),
        rows=rows,
        chunk=chunk,
        chunks=chunks,
        even=even,
        warps=warps,
        merge_block=merge_block,
        merge_blocks=cdiv(sets.groups, merge_block),
        merge_rows=min(next_power_of_2(chunks), 128),
    )


@cache
def layout_of(sets: Sets, itemsize: int, whole: bool) -> Mapping[str, Any]:
    """Constants of a kernel that a plan decides."""
    plan = plan_of(sets, itemsize, whole)
    return {
        "D": sets.group_size,
        "DP": plan.padded,
        "BG": plan.block,
        "R": plan.rows,
        "EVEN": plan.even,
        **({} if whole else {"STAGES": _STAGES}),
        "num_warps": plan.warps,
        "enable_fp_fusion": True,
    }


@cache
def summing_of(sets: Sets, itemsize: int) -> Mapping[str, Any]:
    """Layout of the kernels that only sum, `moments` and `reduce`: more programs at once hide more of their loads."""
    layout = layout_of(sets, itemsize, False)
    return {**layout, "R": max(layout["R"] // 2, 1), "num_warps": max(layout["num_warps"] // 2, 1)}


@cache
def merging_of(sets: Sets, chunks: int) -> tuple[int, Mapping[str, Any]]:
    """Blocks of groups and layout of `merge_gradients`: narrow, so that many programs have few steps each."""
    padded = next_power_of_2(sets.group_size)
    block = min(max(32 // padded, 1), next_power_of_2(sets.groups))
    rows = min(next_power_of_2(chunks), max(_MERGED // (block * padded), 1))
    even = padded == sets.group_size and sets.groups % block == 0
    layout = {"D": sets.group_size, "DP": padded, "BG": block, "R": rows, "EVEN": even}
    return cdiv(sets.groups, block), {**layout, "num_warps": 4, "enable_fp_fusion": True}
