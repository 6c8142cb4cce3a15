#!/usr/bin/env python
"""Counts what each norm keeps for backward in the I3D ResNet-50, without a GPU: tensors that have shapes and no memory.

Clips of 224 x 224 in channels_last_3d under a GPU's bfloat16 autocast. What is kept is what a step's peak consists of,
but for weights and some workspace; memory measured on a GPU is in `step.py`'s table.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from step import CLASSES, Way, gpu_ways
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from video_gn.files.text import write_text
from video_gn.kernels import dispatch, launch, max_pool
from video_gn.models.blocks import select_kernels
from video_gn.models.resnet3d import ResNet3d

LAST = torch.channels_last_3d


@contextmanager
def kernels_without_memory() -> Iterator[None]:
    """Within it, our kernels give shapes only."""

    def forward(x: Tensor, weight: Any, bias: Any, residual: Any, sets: Any, *_: Any) -> tuple[Tensor, Tensor]:
        statistics = x.new_empty((2, sets.sets, sets.groups), dtype=torch.float32)
        return apply(x), statistics

    def apply(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=LAST)

    with (
        mock.patch.object(launch, "forward", forward),
        mock.patch.object(launch, "apply", apply),
        mock.patch.object(max_pool, "_launch", lambda *_, **__: None),
        mock.patch.object(dispatch, "_able", lambda _: True),
        mock.patch.object(torch.cuda, "device_of", nullcontext),
    ):
        yield


def kept_bytes(way: Way, clips: int, frames: int, arch: str) -> int:
    """Bytes of activations that are alive when forward has ended."""
    alive: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            alive[storage._cdata] = storage.nbytes(), tensor  # held, so that no other takes its place
        return tensor

    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with FakeTensorMode(), torch.device("cuda"), kernels_without_memory():
        net = ResNet3d(CLASSES, arch, norm=way.norm, zero_init_gamma=False)
        select_kernels(net, way.kernels, way.low_memory)
        x = torch.empty(clips, 3, frames, 224, 224).contiguous(memory_format=LAST)
        weights = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
        # torch.autocast would look for a device.
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                y = net(x)
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
        del y
    return sum(size for size, _ in alive.values())


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Prints the table, and returns bytes by workload and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--arch", nargs="+", default=["i3d", "i3d_8x8"])
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(args)
    ways = {name: way for name, way in gpu_ways().items() if not way.compiled and not way.peer and way.channels_last}
    ways["BN ours, low memory"] = ways["BN ours"]._replace(low_memory=True)
    ways["GN of PyTorch in ours"] = ways["GN ours"]._replace(kernels="torch")
    found: dict[str, dict[str, int]] = {}
    for arch in given.arch:
        for frames in given.frames:
            name = f"{arch}, {given.clips} clips of {frames} frames"
            found[name] = {way: kept_bytes(ways[way], given.clips, frames, arch) for way in ways}
            print(f"\n{name}\nkept for backward            GB    of BN")
            for way, size in found[name].items():
                print(f"{way:24} {size / 1e9:6.2f} {size / found[name]['BN']:8.3f}")
    if given.json:
        write_text(given.json, json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
