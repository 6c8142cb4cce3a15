#!/usr/bin/env python
"""Writes the lists of Kinetics-400 from CVDF's annotations and the videos that are there.

Reads `ROOT/annotations/{train,val}.csv` (label, youtube_id, time_start, time_end, split) and looks for each video as
`YOUTUBEID_START_END.mp4` anywhere below `ROOT/train` and `ROOT/val`. Writes `ROOT/train.csv`, `ROOT/val.csv` (path,
label), the class names in `ROOT/classes.txt`, and what was not found in `ROOT/train.missing.csv` and so on.
"""

import argparse
import csv
import os
import sys
from pathlib import Path

COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def main(args: list[str] | None = None) -> int:
    """Runs the command line; returns 2 with one line for what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of Kinetics-400, such as data/kinetics400")
    parser.add_argument("--overwrite", action="store_true", help="write over lists that are there")
    given = parser.parse_args(args)
    try:
        write_lists(given.root, given.overwrite)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_lists(root: Path, overwrite: bool = False) -> None:
    """Writes the lists below `root` and prints how many videos of each split were expected, found and missing.

    Raises:
        ValueError: No annotations, other columns in them, no videos found, or lists that are there already.
    """
    there = [path for path in (root / name for name in ("train.csv", "val.csv", "classes.txt")) if path.exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} is there already; --overwrite writes it anew")
    expected = {split: read_annotations(root / "annotations" / f"{split}.csv") for split in ("train", "val")}
    found, missing = {}, {}
    for split, labels in expected.items():
        paths = find_videos(root, split)
        found[split] = [(paths[stem], label) for stem, label in labels.items() if stem in paths]
        missing[split] = [(stem, label) for stem, label in labels.items() if stem not in paths]
        print(f"{split}: {len(labels)} expected, {len(found[split])} found, {len(missing[split])} missing")
        if not found[split]:
            raise ValueError(f"none of the {len(labels)} videos of {split}.csv is below {root / split}")
    for split in expected:
        _write(root / f"{split}.csv", ("path", "label"), found[split])
        _write(root / f"{split}.missing.csv", ("video", "label"), missing[split])
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in sorted(set(expected["train"].values()))))


def read_annotations(path: Path) -> dict[str, str]:
    """Label of each video of an annotation file, by the name of the video's file without its ending."""
    if not path.is_file():
        raise ValueError(f"there is no {path}; CVDF's annotation files go there")
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if not set(COLUMNS) <= set(table.fieldnames or ()):
            raise ValueError(
                f"{path} needs the columns {', '.join(COLUMNS)}; it has {', '.join(table.fieldnames or ())}"
            )
        return {
            f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}": row["label"]
            for row in table
        }


def find_videos(root: Path, split: str) -> dict[str, str]:
    """Path below `root` of every .mp4 below the split's folder, by its name without the ending."""
    found = {}
    for folder, _, names in os.walk(root / split):
        for name in names:
            if name.endswith(".mp4"):
                found[name.removesuffix(".mp4")] = (Path(folder) / name).relative_to(root).as_posix()
    return found


def _write(path: Path, header: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
