"""What a training would get, before it is begun: `video-gn data show -c CONFIG ...`, with the words of fit."""

import itertools
from pathlib import Path
from typing import Any

from video_gn.console import exit_code, printable, set_up_messages
from video_gn.data.contact_sheet import CLIPS, Labelled, labelled, sheet
from video_gn.data.own import AUTO
from video_gn.data.summary import described, remarks
from video_gn.errors import InputError
from video_gn.files.names import free_name
from video_gn.train.callbacks.first_look import CLIPS_FILE, save, summary_of
from video_gn.train.cli import make_data

HELP = """usage: {prog} -c CONFIG [--KEY VALUE ...] [--out FILE]

Shows what a training with these words would get: the videos of each class and split, their lengths, sizes and frame
rates, what is odd about them; and a picture of the first 16 clips exactly as the network would get them.

  -c, --KEY   as of fit: video-gn fit --help lists them
  --out FILE  the picture, .jpg or .png; by default {out}, or a free name like it"""
SUFFIXES = (".jpg", ".jpeg", ".png")
LONGEST = 40  # characters of a class in the table


def main(args: list[str] | None = None, prog: str = "video-gn data show") -> int:
    """Runs the command; gives its exit code."""
    words = list(args or [])
    if not words or {"-h", "--help"} & set(words):
        print(HELP.format(prog=prog, out=CLIPS_FILE))
        return 0 if words else 2
    set_up_messages()
    return exit_code(lambda: _show(*_take_out(words)), "stopped by SIGINT")


def _take_out(words: list[str]) -> tuple[list[str], Path]:
    """The words of fit, and the picture's file."""
    rest, left = [], iter(words)
    out: str | None = None
    for word in left:
        option, equals, value = word.partition("=")
        if option == "--out":
            out = value if equals else next(left, "")
        else:
            rest.append(word)
    if out is None:  # as it is typed again and again
        out = str(free_name(Path(CLIPS_FILE)))
    if Path(out).suffix.lower() not in SUFFIXES:
        raise InputError(f"--out is {out!r}; it has to be the name of a picture, {', '.join(SUFFIXES)}")
    if Path(out).exists():
        raise InputError(f"{out} already exists; name another file with --out")
    return rest, Path(out)


def _show(words: list[str], out: Path) -> None:
    data: Any = make_data(["fit", *words])
    data.prepare_data()
    data.setup("fit")
    if data.test == AUTO or data.test not in (None, data.val):
        data.setup("test")
    found = summary_of(data)
    for line in [*(described(split, its) for split, its in found.items()), "", *_table(found, data.class_names)]:
        print(printable(line))
    for line in remarks(found, data.class_names):
        print(printable(f"note: {line}"))
    try:
        # Of one process and the first epoch: an epoch with fewer clips gives fewer.
        each = data.batch_size
        batches = itertools.islice(data.train_dataloader(), -(-CLIPS // each))
        clips: list[Labelled] = []
        for batch in batches:
            clips += labelled(batch, data.class_names, CLIPS - len(clips))
            for video in batch.failures:
                print(printable(f"cannot read {video.path}: {video.reason}; another video takes its place"))
    finally:
        data.close()
    save(sheet(clips), out)
    print(printable(f"the first {len(clips)} training clips: {out}"))


def _table(found: dict[str, Any], class_names: list[str]) -> list[str]:
    """Videos by class and split, and groups where there are some."""
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for name in class_names]
    width = max(map(len, ["class", *names]))
    lines = [f"{'class':{width}}" + "".join(f"  {split:>12}" for split in found)]
    for i, name in enumerate(names):
        cells = []
        for its in found.values():
            groups = f" ({its['groups_by_class'][i]})" if "groups_by_class" in its else ""
            cells.append(f"  {str(its['by_class'][i]) + groups:>12}")
        lines.append(f"{name:{width}}{''.join(cells)}")
    if any("groups" in its for its in found.values()):
        lines.append("in brackets: groups of videos that belong together")
    return lines
