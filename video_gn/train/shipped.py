"""The configs that come with the package, found by name: `demo`, `configs/demo.yaml`, `imagenet/base`.

A path that exists always comes first, so that a folder's own `configs/` is what is found there.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from video_gn.errors import InputError
from video_gn.train.configs import read_yaml

log = logging.getLogger(__name__)
GPU = ".gpu.yaml"  # of a config that is laid over the one without it, on a machine with a GPU
PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Of the configs: an installed package has it inside, a clone beside the package."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.with_name("configs")


def shipped(grids: bool = False) -> dict[str, Path]:
    """The files by name: configs of runs, or the grids of ablations, without `ablations/` before them."""
    return {
        path.relative_to(folder()).with_suffix("").as_posix().removeprefix("ablations/"): path
        for path in sorted(folder().rglob("*.yaml"))
        if not path.name.endswith(GPU) and grids == ("\naxes:" in path.read_text(encoding="utf-8"))
    }


def find_config(name: str, grid: bool = False) -> str:
    """The path of a config: the name itself where such a file exists, else that of the package's file so named.

    Raises:
        InputError: There is neither.
    """
    if Path(name).exists() and not Path(name).is_dir():
        return name
    there = shipped(grid)
    short = Path(name).as_posix().removeprefix("configs/")
    short = short.removeprefix("ablations/" if grid else "").removesuffix(".yaml")
    if short in there:
        return str(there[short])
    kind = "grid" if grid else "config"
    raise InputError(f"there is no {kind} {name}; name a YAML file, or one of: {', '.join(there)}")


def with_configs(args: Sequence[str]) -> list[str]:
    """A command line with the path of each config in its name's place, and behind it what is laid over it on a GPU.

    Raises:
        InputError: There is no such config, or it cannot be read.
    """
    found: list[str] = []
    for i, word in enumerate(args):
        before = next((start for start in ("--config=", "-c=") if word.startswith(start)), "")
        if before or (i and args[i - 1] in ("-c", "--config")):
            path = find_config(word.removeprefix(before))
            read_yaml(path)
            found.append(f"{before}{path}")
            overlay = Path(path).with_suffix(GPU)
            if overlay.is_file() and _uses_gpu(args):
                log.info("this machine has a GPU: %s is laid over %s", overlay, path)
                found += ["--config", str(overlay)]
        else:
            found.append(word)
    return found


def _uses_gpu(args: Sequence[str]) -> bool:
    """Whether there is a GPU, and it is wanted."""
    return torch.cuda.is_available() and "--trainer.accelerator=cpu" not in "=".join(args)
