"""How many clips fit, counted without a GPU: `video-gn memory -c CONFIG ...`, with the words of fit."""

import re
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from video_gn.console import exit_code, progress, set_up_messages
from video_gn.data import motion12
from video_gn.data.labels import read_class_names
from video_gn.errors import InputError
from video_gn.models import contract
from video_gn.models.blocks import select_kernels
from video_gn.models.interface import Known
from video_gn.models.recompute import set_recompute, ways_of
from video_gn.rules import DATA, TRAINER, check
from video_gn.train.cli import resolve
from video_gn.train.memory.count import (
    GIB,
    Clip,
    Counted,
    Setting,
    clip_of,
    count_flops,
    count_ways,
    count_weights,
    usable,
)
from video_gn.train.names import network
from video_gn.train.settings import Execution

CARDS = (8.0, 12.0, 16.0, 24.0, 40.0, 80.0)  # GB
CLASSES = 400  # where the settings do not name them
HELP = """usage: {prog} -c CONFIG [--KEY VALUE ...] [--gb GB ...]

Counts how many clips of a training with these words fit into a GPU: for its norm, BN and GN, its clip length and one
more, both precisions, and each word of model.execution.recompute. It needs no GPU and no videos.

  -c, --KEY  as of fit: video-gn fit --help lists them
  --gb GB    memory of the GPUs, as they are sold; by default {cards}"""
NOTES = """* these settings. GiB are of a training step on each GPU, counted, without cuDNN's workspaces. Clips that fit
leave a tenth of a GPU and 0.5 GiB to those and to CUDA, as an H100 did (docs/kernels.md). FLOPs are of a step,
beside one that recomputes nothing: the least that it costs in time. Fewer clips a step have a lower learning rate
(base_lr is for 64); half the clips with --trainer.accumulate_grad_batches 2 keep it, and with GN all the rest."""


class Row(NamedTuple):
    """A setting, and what its step takes.

    Attributes:
        own: Whether it is the user's own.
        counted: Bytes.
        flops: Of a step, beside those of one in which nothing is recomputed.
    """

    own: bool
    norm: str
    frames: int
    precision: str
    recompute: str
    counted: Counted
    flops: float


def main(args: list[str] | None = None, prog: str = "video-gn memory") -> int:
    """Runs the command; gives its exit code."""
    words = list(args or [])
    if not words or {"-h", "--help"} & set(words):
        print(HELP.format(prog=prog, cards=" ".join(f"{card:g}" for card in CARDS)))
        return 0 if words else 2
    set_up_messages()
    return exit_code(lambda: _show(*take_out(words)), "stopped by SIGINT")


def take_out(words: list[str]) -> tuple[list[str], list[float]]:
    """The words of fit, and the GPUs' memory in GB.

    Raises:
        InputError: `--gb` is no such memory.
    """
    rest: list[str] = []
    given: list[str] | None = None
    takes = False
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--gb":
            takes, given = not equals, [value] if equals else []
        elif takes and given is not None and not re.match("-+[A-Za-z]", word):
            given.append(word)
        else:
            takes = False
            rest.append(word)
    return rest, [*CARDS] if given is None else [_gigabytes(value) for value in given or [""]]


def _gigabytes(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 1e4:
        raise InputError(f"--gb is {value!r}; it has to be the memory of GPUs in GB, from 1 to 10000, as --gb 12 24")
    return number


def _show(words: list[str], cards: list[float]) -> None:
    settings = resolve(["fit", *words])
    data, model = settings["data"], settings["model"]
    check(settings["trainer"], TRAINER, "trainer")
    check(data, DATA, "data")
    clip = clip_of(data)
    own = Setting(str(settings["trainer"]["precision"] or "32-true"), Execution(**model["execution"]))
    classes = _classes(data)
    rows = count(model, classes, clip, own)
    kind, given = network(model["net"])
    net = kind.summary(given) if isinstance(kind, type) and issubclass(kind, Known) else kind.__name__
    print(f"{net}, {classes} classes; clips of {clip.side} x {clip.side} pixels; kernels: {own.execution.kernels}")
    for line in lines(rows, data["batch_size"], cards):
        print(line)
    print(NOTES)


def _classes(data: Mapping[str, Any]) -> int:
    """How many the settings of the data name; a file of names need not be there, as videos need not."""
    names = data["class_names"]
    if not names:
        return len(motion12.CLASSES) if data.get("motion") else CLASSES
    there = not isinstance(names, str) or Path(names).is_file()
    return len(read_class_names(names)) if there else CLASSES


def count(model: Mapping[str, Any], classes: int, clip: Clip, own: Setting) -> list[Row]:
    """The rows of the table.

    Args:
        model: Settings of the model, as nested dictionaries.
        classes: Of the network.
        clip: Size of a clip.
        own: How the user runs it.
    """
    kind, given = network(model["net"])
    maker, settings = network(model["optimizer"])
    norms = list(dict.fromkeys([given["norm"], "bn", "gn"])) if given.get("norm") else [""]
    lengths = [clip.frames] if clip.frames == 1 else sorted({clip.frames, clip.frames * 2 if clip.frames < 64 else 32})
    precisions = list(dict.fromkeys([own.precision, "bf16-mixed", "32-true"]))
    found: dict[str, dict[tuple[int, str, str], Counted]] = {}
    flops: dict[str, float] = {}
    with progress(total=len(norms) * len(lengths) * len(precisions), desc="counting", unit=" settings") as bar:
        for norm in norms:
            net = _network(kind, given | ({"norm": norm} if norm else {}), classes, clip.side, model, own.execution)
            ways = ways_of(net, own.execution.kernels != "torch")
            found[norm] = {}
            try:
                flops = flops or {way: count_flops(net, clip, way) for way in ways}
                for frames, precision in product(lengths, precisions):
                    setting = own._replace(precision=precision)
                    weights = count_weights(net, setting.dtype, maker(**settings))
                    for way, counted in count_ways(net, Clip(frames, clip.side), setting, weights, ways).items():
                        found[norm][frames, precision, way] = counted
                    bar.update()
            except Exception as error:  # of a network that does what no tensor without memory can
                said = str(error).partition("\n")[0]
                raise InputError(f"the memory of {type(net).__name__} cannot be counted: {said}") from error
    mine = clip.frames, own.precision, own.execution.recompute
    return [
        Row(
            norms[0] in same and key == mine,
            ", ".join(same),
            *key,
            found[same[0]][key],
            flops[key[2]] / flops["none"],
        )
        for same in _alike(found)
        for key in found[same[0]]
    ]


def _alike(found: Mapping[str, Mapping[Any, Counted]]) -> list[list[str]]:
    """Norms whose figures are the same but for a hundredth, together."""
    groups: list[list[str]] = []
    for norm, figures in found.items():
        for group in groups:
            first = found[group[0]]
            if all(abs(figures[key].needs(8) / first[key].needs(8) - 1) < 0.01 for key in figures):
                group.append(norm)
                break
        else:
            groups.append([norm])
    return groups


def _network(
    kind: Any, settings: dict[str, Any], classes: int, side: int, model: Mapping[str, Any], execution: Execution
) -> nn.Module:
    net = contract.make_net(partial(kind, **settings), classes, side)
    contract.freeze(net, model["start"]["freeze_stages"])
    select_kernels(net, execution.kernels)
    set_recompute(net, execution.recompute)  # refuses what fit would
    return net


def lines(rows: list[Row], clips: int, cards: list[float]) -> list[str]:
    """The table as lines of text: what a step of so many clips needs, and clips that fit into cards of so many GB."""
    names = [f"{card:g} GB" for card in cards]
    head = f"{'norm':12} {'frames':>6}  {'precision':10}  {'recompute':9}  {'FLOPs':>5}  {f'GiB of {clips}':>9}"
    found = [f"{head}  {'  '.join(f'{name:>6}' for name in names)}"]
    for before, row in zip([rows[0], *rows], rows, strict=False):
        if before[1:3] != row[1:3]:
            found.append("")
        fits = [row.counted.fits(usable(card)) for card in cards]
        mark = "*" if row.own else " "
        found.append(
            f"{mark} {row.norm or '-':10} {row.frames:6}  {row.precision:10}  {row.recompute:9}  {row.flops:5.2f}  "
            f"{row.counted.needs(clips) / GIB:9.2f}  {'  '.join(f'{number:6}' for number in fits)}"
        )
    return found
