"""Writes the lists of a data set: `ROOT/train.csv`, `val.csv`, `test.csv` (path, label) and `ROOT/classes.txt`.

From Kinetics-400, -600 or -700 as CVDF distributes them: reads each `ROOT/annotations/SPLIT.csv` (label, youtube_id,
time_start, time_end, split) and looks for `YOUTUBEID_START_END` with any video ending, anywhere below `ROOT/SPLIT`;
some may be in `ROOT/replacement`, as CVDF has them. Without annotations, from class folders:
`ROOT/SPLIT/CLASS/*.mp4`. A split without labels (the later sets' test split) is left out, and said so.

UCF101 and HMDB51 beside their official lists get `train1.csv`, `test1.csv` and so on of the three splits; the segmented
clips of UT-Interaction and the Surveillance Camera Fight set one list, `folds.csv`, with the columns group and fold.

Counts what is expected, found and missing, for each split and (in `ROOT/counts.csv`) each class; names what is missing
in `ROOT/SPLIT.missing.csv`, and files below the split that belong to no row in `ROOT/SPLIT.unlisted.csv`.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from video_gn.console import exit_code, is_text, printable, progress
from video_gn.data.folders import Scan, read_class_folders
from video_gn.data.tools.known_sets import KnownSet, Split, read_known_set
from video_gn.errors import InputError
from video_gn.files.names import as_label, as_text
from video_gn.files.tables import numbered_rows, write_table
from video_gn.files.text import write_text

COLUMNS = ("youtube_id", "time_start", "time_end")
SPLITS = ("train", "val", "test")
EXTRA = "replacement"  # CVDF's folder of videos that were broken in its archives


def main(args: list[str] | None = None, prog: str | None = None) -> int:
    """Runs the command line; returns 2 with one line for what the user can correct, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the data set, such as data/kinetics400")
    parser.add_argument("--overwrite", action="store_true", help="replace lists that exist")
    given = parser.parse_args(args)
    return exit_code(lambda: write_lists(given.root, given.overwrite), "stopped; nothing was written")


def write_lists(root: Path, overwrite: bool = False) -> None:
    """Writes the lists below `root` and prints how many videos of each split were expected, found and missing.

    Raises:
        InputError: Neither annotations nor class folders, other columns, no videos, or lists that already exist.
    """
    annotated = (root / "annotations").is_dir()
    known = None if annotated or (root / "train").is_dir() else read_known_set(root)
    names = known.splits if known else SPLITS
    there = [path for name in (*(f"{split}.csv" for split in names), "classes.txt") if (path := root / name).exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]} already exists; pass --overwrite to replace it")
    found = known or KnownSet("", _splits(root, annotated), ("path", "label"))
    labels = [label for split in found.splits.values() for _, label, *_ in (*split.found, *split.missing)]
    if odd := [name for name in labels if not is_text(name) or not name.isprintable()]:
        raise InputError(f"a class is named {odd[0]!r}; names of classes are text in one line")
    for name, split in found.splits.items():
        write_table(root / f"{name}.csv", found.columns, split.found)
        if annotated or known:
            write_table(root / f"{name}.missing.csv", ("video", "label"), split.missing)
        if annotated:
            write_table(root / f"{name}.unlisted.csv", ("path",), [(path,) for path in split.unlisted])
    if known:
        print(f"{known.name}:")
    _count(root, found)


def _splits(root: Path, annotated: bool) -> dict[str, Split]:
    splits = {}
    for name in SPLITS:
        split = from_annotations(root, name) if annotated else from_folders(root, name)
        if split is not None:
            splits[name] = split
    if "train" not in splits:
        wanted = root / ("annotations/train.csv" if annotated else "train")
        raise InputError(f"there is no {wanted}; CVDF's annotations go into {root / 'annotations'}, videos into "
                         f"{root}/train/CLASS/; data/README.md has the layout of other sets")  # fmt: skip
    return splits


def from_annotations(root: Path, name: str) -> Split | None:
    """A split by CVDF's annotations; None if it has none."""
    labels = read_annotations(root / "annotations" / f"{name}.csv")
    if labels is None:
        return None
    paths = {Path(path).stem: path for folder in (EXTRA, name) for path in find_videos(root, folder)}
    found = [(as_text(paths[stem]), label) for stem, label in labels.items() if stem in paths]
    if not found:
        raise InputError(f"none of the {len(labels)} videos of annotations/{name}.csv is below {root / name}")
    missing = [(stem, label) for stem, label in labels.items() if stem not in paths]
    unlisted = sorted(
        as_text(path) for stem, path in paths.items() if stem not in labels and path.startswith(f"{name}/")
    )
    return Split(found, missing, unlisted)


def from_folders(root: Path, name: str) -> Split | None:
    """A split by its class folders; None if it has none."""
    if not (root / name).is_dir():
        return None
    folders = read_class_folders(root / name)
    _say(folders.notes)
    found = [(as_text(f"{name}/{label}/{path}"), as_label(label)) for label, path in folders.videos]
    if not found:
        raise InputError(f"{root / name} holds no videos in class folders: {name}/CLASS/VIDEO.mp4")
    return Split(found, [], [as_text(f"{name}/{path}") for path in folders.outside])


def read_annotations(path: Path) -> dict[str, str] | None:
    """Label of each video of an annotation file, by the name of the video's file without its ending."""
    if not path.is_file():
        return None
    labels = {}
    for number, row in numbered_rows(path, COLUMNS):
        if "label" not in row:
            print(printable(f"{path.stem}: {path} gives no labels; left out"))
            return None
        try:
            stem = f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
        except (ValueError, OverflowError):
            raise InputError(f"{path}, line {number}: time_start and time_end have to be seconds") from None
        labels[stem] = row["label"]
    return labels


def find_videos(root: Path, folder: str) -> list[str]:
    """Path below `root` of every video below a folder, in order; says what was passed over."""
    if not (root / folder).is_dir():
        return []
    with progress(desc=printable(f"looking through {root / folder}"), unit=" files") as bar:
        scan = Scan(progress=bar.update)
        found = scan.below(root / folder)
    _say(scan.notes(root / folder))
    return [f"{folder}/{path}" for path in found]


def _say(notes: list[str]) -> None:
    for note in notes:
        print(printable(note), file=sys.stderr)


def _count(root: Path, known: KnownSet) -> None:
    """Prints the counts of the splits, writes those of the classes, and the classes' names."""
    parts = [part for split in known.splits.values() for part in (split.found, split.missing)]
    names = list(known.class_names) or sorted({row[1] for part in parts for row in part})
    rows = []
    for name, split in known.splits.items():
        found, missing = (Counter(row[1] for row in part) for part in (split.found, split.missing))
        rows += [(name, label, found[label] + missing[label], found[label], missing[label]) for label in names]
        total = len(split.found) + len(split.missing)
        print(f"{name}: {total} expected, {len(split.found)} found, {len(split.missing)} missing", end="")
        empty = [label for label in names if not found[label]]
        print(f"; {len(split.unlisted)} files belong to none" if split.unlisted else "", end="")
        print(printable(f"; no video of {len(empty)} classes, e.g. {empty[0]}") if empty else "")
    write_table(root / "counts.csv", ("split", "label", "expected", "found", "missing"), rows)
    write_text(root / "classes.txt", "".join(f"{name}\n" for name in names))
    print(printable(f"{len(names)} classes; lists in {root}, counts of each class in {root / 'counts.csv'}"))
