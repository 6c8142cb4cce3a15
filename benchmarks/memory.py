#!/usr/bin/env python
"""Counts what each norm keeps for backward in the I3D ResNet-50, without a GPU: tensors that have shapes and no memory.

Clips of 224 x 224 in channels_last_3d under a GPU's bfloat16 autocast. What is kept is what a step's peak consists of,
but for weights and some workspace; memory measured on a GPU is in `step.py`'s table. `video-gn memory` has the whole
step, and clips that fit.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from step import Way, Workload, gpu_ways, network
from tqdm import tqdm

from video_gn.files.text import write_text
from video_gn.train.memory.count import Clip, Setting, parts
from video_gn.train.settings import Execution


def kept_bytes(way: Way, clips: int, frames: int, arch: str) -> int:
    """Bytes of activations that are alive when forward has ended."""
    net = network(way, Workload(clips, frames, 224), arch)
    setting = Setting("bf16-mixed", Execution(kernels=way.kernels))  # type: ignore[arg-type]
    found = parts(net, clips, Clip(frames, 224), setting, way.recompute == "norms")
    kept: dict[Any, int] = {}
    for part in found:
        kept |= part.input if way.recompute == "blocks" and part.input else part.kept
    return sum(kept.values())


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Prints the table, and returns bytes by workload and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--arch", nargs="+", default=["i3d", "i3d_8x8"])
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(args)
    ways = {name: way for name, way in gpu_ways().items() if not way.compiled and not way.peer and way.channels_last}
    ways["BN ours, recompute norms"] = ways["BN ours"]._replace(recompute="norms")
    ways["GN of PyTorch in ours"] = ways["GN ours"]._replace(kernels="torch")
    found: dict[str, dict[str, int]] = {}
    for arch in given.arch:
        for frames in given.frames:
            name = f"{arch}, {given.clips} clips of {frames} frames"
            found[name] = {way: kept_bytes(ways[way], given.clips, frames, arch) for way in tqdm(ways, name)}
            print(f"\n{name}\nkept for backward            GB    of BN")
            for way, size in found[name].items():
                print(f"{way:24} {size / 1e9:6.2f} {size / found[name]['BN']:8.3f}")
    if given.json:
        write_text(given.json, json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
