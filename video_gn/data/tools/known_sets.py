"""Data sets known by their files: UCF101, HMDB51, UT-Interaction, Surveillance Camera Fight.

Their lists follow from how they are distributed. Videos may be in any folders below the root, and are found by their
names.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from video_gn.data.copies import Signature, cache_folder, read_signatures
from video_gn.data.division import Division, joined
from video_gn.data.folders import Scan
from video_gn.errors import InputError
from video_gn.files.names import as_label, as_text

FOLDS = 5
UCF101, HMDB51 = "ucfTrainTestlist", ("testTrainMulti_7030_splits", "test_train_splits")
IN_HMDB51 = {"1": "train", "2": "test"}  # a 0 is in neither
UT_NAME = re.compile(r"\d+_(\d+)_([0-5])")  # number in its sequence, sequence, action
UT_ACTIONS = ("handshake", "hug", "kick", "point", "punch", "push")
UT_SEQUENCES = 20
FIGHTS = ("fight", "noFight")
LIKE = 0.85  # correlation of the median pictures of two videos of one camera


class Split(NamedTuple):
    """Rows (path, label, ...) that are there, (name, label) that are not, and files that nobody asked for."""

    found: Sequence[tuple[str, ...]]
    missing: Sequence[tuple[str, str]] = ()
    unlisted: Sequence[str] = ()


class KnownSet(NamedTuple):
    """A data set.

    Attributes:
        name: Of it.
        splits: By the names of the lists.
        columns: Of the lists.
        class_names: In the order of their numbers, where the set has one; else they are sorted.
    """

    name: str
    splits: Mapping[str, Split]
    columns: Sequence[str]
    class_names: Sequence[str] = ()


def read_known_set(root: Path) -> KnownSet | None:
    """The data set that a folder holds, if it is one of these.

    Raises:
        InputError: It is one, but none of its videos is there, or its lists are not what they should be.
    """
    below = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    folders = {path.name: path for folder in below for path in sorted(folder.iterdir()) if path.is_dir()}
    if UCF101 in folders:
        return _ucf101(root, folders[UCF101])
    if splits := next((folders[name] for name in HMDB51 if name in folders), None):
        nested = splits / HMDB51[0]
        return _hmdb51(root, nested if nested.is_dir() else splits)
    names = [Path(path).stem for path in Scan().below(root)] if root.is_dir() else []
    if names and all(map(UT_NAME.fullmatch, names)):
        return _ut_interaction(root)
    if set(FIGHTS) <= folders.keys():
        return _fights(root, folders)
    return None


def _videos(root: Path) -> dict[str, str]:
    """Path below the root of every video, by its name without ending, in lower case, alone and behind its folder's."""
    found: dict[str, str] = {}
    for path in Scan().below(root):
        name = Path(path).stem.lower()
        found |= {name: path, f"{Path(path).parent.name.lower()}/{name}": path}
    return found


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """What comes before the last space of each line, and after it."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it is a part of the data set") from None
    for line in text.splitlines():
        if line.strip():
            before, _, after = line.strip().rpartition(" ")
            yield (before, after) if before else (after, "")


def _listed(videos: Mapping[str, str], rows: Sequence[tuple[str, ...]]) -> Split:
    """Rows of (name, label, ...), as those whose videos are there, and the others."""
    found: list[tuple[str, ...]] = []
    missing = []
    for name, label, *rest in rows:
        stem = Path(name).stem.lower()
        path = videos.get(f"{label.lower()}/{stem}") or videos.get(stem)
        if path:
            found.append((as_text(path), label, *rest))
        else:
            missing.append((as_text(name), label))
    return Split(found, missing)


def _ucf101(root: Path, lists: Path) -> KnownSet:
    """Three splits, by `trainlist01.txt` (path and number) and `testlist01.txt` (path); groups by names (`_g08_`).

    The folder of a class is spelled as in the lists; one class's files are not, and are found all the same.
    """
    videos, splits = _videos(root), {}
    for number in (1, 2, 3):
        for split in ("train", "test"):
            names = [name for name, _ in _lines(lists / f"{split}list0{number}.txt")]
            splits[f"{split}{number}"] = _listed(videos, [(name, *_class_and_group(name)) for name in names])
    class_names = [name for _, name in _lines(lists / "classInd.txt")]
    return _checked(KnownSet("UCF101", splits, ("path", "label", "group"), class_names), lists)


def _class_and_group(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"([^/]+)/.*_(g\d+)_.*", name)
    if match is None:
        raise InputError(f"a list of UCF101 names {name!r}; its videos are called CLASS/v_CLASS_g01_c01.avi")
    return match[1], f"{match[1]} {match[2]}"


def _hmdb51(root: Path, lists: Path) -> KnownSet:
    """Three splits, by `CLASS_test_split1.txt`: a name, and 1 for training, 2 for the test, 0 for neither."""
    videos, splits = _videos(root), dict[str, Split]()
    for number in (1, 2, 3):
        rows: dict[str, list[tuple[str, ...]]] = {"train": [], "test": []}
        end = f"_test_split{number}.txt"
        for path in sorted(path for path in lists.iterdir() if path.name.endswith(end)):
            for name, use in _lines(path):
                if use not in ("0", *IN_HMDB51):
                    raise InputError(f"{path} has the line {f'{name} {use}'!r}; it ends in 0, 1 or 2")
                if use in IN_HMDB51:
                    rows[IN_HMDB51[use]].append((name, path.name.removesuffix(end)))
        splits |= {f"{split}{number}": _listed(videos, of_split) for split, of_split in rows.items()}
    return _checked(KnownSet("HMDB51", splits, ("path", "label")), lists)


def _ut_interaction(root: Path) -> KnownSet:
    """One list: a sequence, of the same people in the same place, is a group, and folds are of whole sequences."""
    rows = []
    for path in Scan().below(root):
        match = UT_NAME.fullmatch(Path(path).stem)
        assert match
        rows.append((as_text(path), UT_ACTIONS[int(match[2])], f"seq{int(match[1]):02d}"))
    there = {(label, group) for _, label, group in rows}
    wanted = [(label, f"seq{number + 1:02d}") for number in range(UT_SEQUENCES) for label in UT_ACTIONS]
    missing = [(f"{group} {label}", label) for label, group in wanted if (label, group) not in there]
    return KnownSet("UT-Interaction", {"folds": Split(_with_folds(rows), missing)}, ("path", "label", "group", "fold"))


def _fights(root: Path, folders: Mapping[str, Path]) -> KnownSet:
    """One list: videos with the same background, of one camera, are a group, and folds are of whole groups."""
    rows = []
    for label in FIGHTS:
        paths = Scan().below(folders[label])
        rows += [(os.path.relpath(folders[label] / path, root), as_label(label)) for path in paths]
    files = [str(root / path) for path, _ in rows]
    if not files:
        raise InputError(f"{root} has the folders {' and '.join(FIGHTS)}, and no video in them")
    kept = read_signatures(files, len(os.sched_getaffinity(0)), cache_folder())
    groups = joined([path for path, _ in rows], same_background(kept))
    grouped = [(as_text(path), label, as_text(group)) for (path, label), group in zip(rows, groups, strict=True)]
    folds = Split(_with_folds(grouped))
    return KnownSet("Surveillance Camera Fight", {"folds": folds}, ("path", "label", "group", "fold"))


def same_background(kept: Sequence[Signature]) -> list[tuple[int, int]]:
    """Pairs of places of videos whose median pictures correlate above `LIKE`, as those of one camera do."""
    places = [place for place, one in enumerate(kept) if len(one.pictures)]
    if not places:
        return []
    medians = np.stack([np.median(kept[place].pictures, 0).ravel() for place in places])
    medians -= medians.mean(1, keepdims=True)
    medians /= np.linalg.norm(medians, axis=1, keepdims=True).clip(1e-9)
    first, second = np.nonzero(np.triu(medians @ medians.T > LIKE, 1))
    return [(places[i], places[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]


def _with_folds(rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    folds = Division(folds=FOLDS, fold=0).folds_of([label for _, label, _ in rows], [group for *_, group in rows])
    return [(*row, str(fold)) for row, fold in zip(rows, folds, strict=True)]


def _checked(found: KnownSet, lists: Path) -> KnownSet:
    if not any(split.found or split.missing for split in found.splits.values()):
        raise InputError(f"{lists} holds no lists of {found.name}")
    if not any(split.found for split in found.splits.values()):
        raise InputError(f"none of the videos that {found.name}'s lists in {lists} name is below {lists.parent}")
    return found
