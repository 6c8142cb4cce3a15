"""What there is by name: networks, norms and public weights.

Each line's first word is what a config or the command line takes; `fit --help` names the options.
"""

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from video_gn.models.architectures import ARCHS, DEPTHS, Arch
from video_gn.models.norm import NORMS
from video_gn.weights.public import PUBLIC


def main(args: list[str] | None = None, prog: str = "python -m video_gn.weights") -> int:
    """Runs the command line; gives its exit code."""
    how = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog, description=__doc__, formatter_class=how).parse_args(args)
    depths = " ".join(map(str, DEPTHS))
    print(_listed(f"networks, each of depth {depths}", {name: _network(one) for name, one in ARCHS.items()}))
    print("\n" + _listed("norms", {name: _first_line(norm) for name, norm in NORMS.items()}))
    print("\n" + _listed("public weights to start from", PUBLIC))
    return 0


def _listed(title: str, lines: Mapping[str, str]) -> str:
    wide = max(map(len, lines)) + 2
    return "\n".join((f"{title}:", *(f"  {name:{wide}}{says}" for name, says in lines.items())))


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
