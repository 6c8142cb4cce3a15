"""Lists of labelled videos: class folders, CSV files, and `path label` lines."""

import csv
from dataclasses import dataclass
from pathlib import Path

from video_gn.errors import InputError

SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp"}
NO_LABEL = -1  # of a video that is only predicted


@dataclass(frozen=True)
class VideoList:
    """Paths and labels of a split, row by row."""

    paths: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)


def read_rows(source: Path) -> list[tuple[str, str]]:
    """Path and label of each video, as they stand: of class folders, a CSV file with header, or `path label` lines.

    Raises:
        InputError: There is nothing, or it cannot be understood.
    """
    if source.is_dir():
        rows = [
            (str(path.relative_to(source.parent)), folder.name)
            for folder in sorted(source.iterdir())
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
    elif not source.is_file():
        raise InputError(
            f"there is no list or folder {source}; set data.root, and data.train, data.val, data.test below it"
        )
    elif source.suffix.lower() == ".csv":
        with open(source, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if not {"path", "label"} <= set(table.fieldnames or ()):
                raise InputError(f"{source} needs a header that names the columns path and label")
            rows = [(row["path"], (row["label"] or "").strip()) for row in table]
    else:
        rows = []
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                path, _, label = line.strip().rpartition(" ")
                if not path:
                    raise InputError(f"{source}, line {number}: {line!r} is not of the form: path label")
                rows.append((path.strip(), label))
    if not rows:
        raise InputError(f"{source} names no videos")
    return rows


def names_of(rows: list[tuple[str, str]]) -> list[str]:
    """Class names that the labels of a training list give: the names sorted, or the numbers from 0 to the largest."""
    labels = {label for _, label in rows}
    if all(label.isdecimal() for label in labels):
        return [str(i) for i in range(max(map(int, labels)) + 1)]
    return sorted(labels)


def read_list(source: Path, root: Path, class_names: list[str]) -> VideoList:
    """The videos of a split. Labels are class names, or numbers from 0.

    Args:
        source: A folder of class folders, or a list file.
        root: Where relative paths of a list file begin; a folder's own begin at its parent.
        class_names: In the order of their labels.

    Raises:
        InputError: As `read_rows`; a label is outside the classes; none of the files is there.
    """
    rows = read_rows(source)
    number_of = {name: label for label, name in enumerate(class_names)}
    base = source.parent if source.is_dir() else root
    paths, labels = [], []
    for row, (path, text) in enumerate(rows, 1):
        label = number_of.get(text)
        if label is None and text.isdecimal() and int(text) < len(class_names):
            label = int(text)
        if label is None:
            raise InputError(
                f"{source}, video {row} ({path}): label {text!r} is outside the {len(class_names)} classes "
                f"({', '.join(class_names[:3])}, ...); mend the list, or set data.class_names"
            )
        paths.append(str(base / path))
        labels.append(label)
    few = paths[:: max(1, len(paths) // 100)]
    if not any(Path(path).is_file() for path in few):
        raise InputError(
            f"{source}: none of {len(few)} files looked for is there, {few[0]} for one; is data.root right?"
        )
    return VideoList(paths, labels)


def find_videos(given: list[str]) -> VideoList:
    """Videos to predict: files as they are named, folders with everything below them.

    Raises:
        InputError: Nothing is given, or a folder holds no video.
    """
    paths: list[str] = []
    for item in given:
        if Path(item).is_dir():
            found = sorted(str(path) for path in Path(item).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not found:
                raise InputError(f"the folder {item} holds no videos ({', '.join(sorted(SUFFIXES))})")
            paths += found
        else:
            paths.append(item)
    if not paths:
        raise InputError("there is nothing to predict; name files or folders with --videos")
    return VideoList(paths, [NO_LABEL] * len(paths))
