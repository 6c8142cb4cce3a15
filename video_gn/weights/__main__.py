"""What there is by name: networks, norms and public weights.

Each line's first word is what a config or the command line takes; `fit --help` names the options. With a pattern:
parameters, and multiply-adds of the clip that a network is published with.
"""

import argparse
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch

from video_gn.models.architectures import ARCHS, DEPTHS, Arch
from video_gn.models.count import multiply_adds, parameters
from video_gn.models.interface import Known
from video_gn.models.known import NAMES
from video_gn.models.networks import NETWORKS
from video_gn.models.norm import NORMS
from video_gn.models.published import PublishedClip
from video_gn.weights.public import PUBLIC


def main(args: list[str] | None = None, prog: str = "python -m video_gn.weights") -> int:
    """Runs the command line; gives its exit code."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=how)
    parser.add_argument("pattern", nargs="?", help="networks by name, as files are (x3d_*, '*'): how large they are")
    given = parser.parse_args(args)
    if given.pattern:
        sizes = {name: _size(*NAMES[name]) for name in NAMES if fnmatchcase(name, given.pattern)}
        print(_listed("networks with 400 classes", sizes) if sizes else f"no network is called {given.pattern}")
        return 0 if sizes else 2
    depths = " ".join(map(str, DEPTHS))
    print(_listed(f"networks, each of depth {depths}", {name: _network(one) for name, one in ARCHS.items()}))
    print("\n" + _listed("norms", {name: _first_line(norm) for name, norm in NORMS.items()}))
    print("\n" + _listed("networks of other libraries", {name: _first_line(kind) for name, kind in NETWORKS.items()}))
    print("\n" + _listed("public weights to start from", PUBLIC))
    print(f"\nby name the first ones are i3d_r50, i3d_r50_nl5 and so on; how large they are: {prog} 'i3d_r50*'")
    return 0


def _listed(title: str, lines: Mapping[str, str]) -> str:
    wide = max(map(len, lines)) + 2
    return "\n".join((f"{title}:", *(f"  {name:{wide}}{says}" for name, says in lines.items())))


def _size(kind: type[Known], settings: Mapping[str, Any], clip: PublishedClip | None) -> str:
    """Parameters and multiply-adds, which are counted without memory for them."""
    with torch.device("meta"):
        net: Any = kind(400, norm="bn", **settings)  # type: ignore[call-arg]
    size = f"{parameters(net) / 1e6:.2f} M parameters"
    if clip is None:
        return size
    cost = multiply_adds(net, clip.num_frames, clip.crop_size) / 1e9
    made = f"{clip.num_frames}x{clip.frame_interval} at {clip.crop_size} pixels"
    return f"{size}, {cost:.2f} GMACs for {made}"


def _network(one: Arch) -> str:
    kernel, stride = ("x".join(map(str, sizes)) for sizes in (one.stem_kernel, one.stem_stride))
    layers = sum(map(any, one.inflated))
    inflated = f"kernels over time in {layers} of {len(one.inflated)} stages" if layers else "no kernels over time"
    return f"stem {kernel} at stride {stride}, {inflated}, at least {one.min_frames} frame{'s' * (one.min_frames > 1)}"


def _first_line(norm: Any) -> str:
    if isinstance(norm, partial):
        settings = (f"{key}={value}" for key, value in norm.keywords.items())
        return f"{next(name for name, one in NORMS.items() if one is norm.func)} of {', '.join(settings)}"
    return (norm.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
