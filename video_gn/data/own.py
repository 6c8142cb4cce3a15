"""Videos of a user's own: what a folder holds, and one list divided into training, validation and test videos."""

import logging
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple

from video_gn.data.division import (
    TEST,
    TRAIN,
    VAL,
    Division,
    Label,
    by_folder,
    by_pattern,
    divided_groups,
    joined,
)
from video_gn.data.folders import SUFFIXES, Scan
from video_gn.data.lists import above
from video_gn.data.rows import Rows, is_list
from video_gn.data.video_list import shown
from video_gn.distributed import first_process
from video_gn.errors import InputError

log = logging.getLogger(__name__)
AUTO = "auto"  # a split that is found, or taken from the training list
NAMES = {
    TRAIN: ("train", "training"),
    VAL: ("val", "valid", "validation", "validate", "dev"),
    TEST: ("test", "testing"),
}
COLUMNS = ("path", "label", "group", "split", "copy_of")
FAR = 0.1  # from the share of a split that is asked for, as a share of all videos


def find_splits(root: Path, suffixes: Set[str] = SUFFIXES) -> dict[str, str]:
    """The lists and folders of a data set by their splits, below its folder.

    They are `train`, `val` and `test` (a CSV file, or a folder of class folders; other usual names too). Without them
    the one CSV file with the columns path and label is the training list, and without that the folder itself is it.

    Raises:
        InputError: There is no such folder, or it holds several lists.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder or list {root}; name that of your videos with --data.root FOLDER")
    scan = Scan(suffixes)
    folders, files = scan.entries(str(root))
    found = {}
    for split, names in NAMES.items():
        lists = [file for name in names for file in (f"{name}.csv", f"{name}.txt") if file in files]
        below = [name for name in names if name in folders and scan.entries(str(root / name))[0]]
        if lists or below:
            found[split] = (lists or below)[0]
    others = [name for name in folders if name not in found.values()]
    if TRAIN in found and (len(found) > 1 or not others or found[TRAIN] in files):
        return found
    lists = [name for name in files if name.endswith((".csv", ".tsv")) and is_list(root / name, root)]
    if len(lists) > 1:
        raise InputError(
            f"{root} holds several lists ({', '.join(lists[:5])}); name one: --data.root {root / lists[0]}"
        )
    return {TRAIN: lists[0] if lists else "."}


def splits_in(rows: Rows) -> list[str] | None:
    """The split of each row by the list's own column; None if it has none.

    Raises:
        InputError: A cell is no split; names the line.
    """
    split_of = {name: split for split, names in NAMES.items() for name in names}
    for row, cell in enumerate(rows.columns.get("split", ())):
        if cell.lower() not in split_of:
            raise InputError(f"{rows.where(row)}: split {shown(cell)} is none of: {', '.join(split_of)}")
    cells = rows.columns.get("split")
    return None if cells is None else [split_of[cell.lower()] for cell in cells]


class Places(NamedTuple):
    """Where the lists of a run are: a folder, and below it those of the splits, or `AUTO` for a share of `train`."""

    root: str
    train: str
    val: str | None
    test: str | None


def find_places(given: Places, suffixes: Set[str] = SUFFIXES) -> Places:
    """Where the lists are, with what the folder holds in the place of `AUTO`; a root may be a list itself.

    Raises:
        InputError: As `find_splits`.
    """
    root, train, val, test = given
    if train != AUTO:
        return given
    if Path(root).is_file():
        if Path(root).suffix.lower() in suffixes:
            raise InputError(
                f"data.root is {root}, a single file; name the folder of class folders, or a CSV file with the columns "
                "path and label"
            )
        return Places(str(Path(root).parent), Path(root).name, val, test)
    found = find_splits(Path(root), suffixes)
    if val == AUTO:
        val = found.get(VAL, AUTO)
    if test == AUTO:  # None takes the validation videos
        test = found.get(TEST, None if VAL in found else AUTO)
    return Places(root, found[TRAIN], val, test)


class Own:
    """One list that is divided.

    Args:
        rows: Of the list, or of a table of its division.
        source: The list, or the folder of class folders.
        parts: The splits that are taken from it; the others have lists of their own.
        division: How.
        table: The file of an earlier division, which the rows are of.
    """

    def __init__(
        self, rows: Rows, source: Path, parts: Sequence[str], division: Division, table: str | None = None
    ) -> None:
        self.rows, self.source, self.parts, self.division = rows, source, list(parts), division
        before = above(source)
        self.paths = [path.removeprefix(before) for path, _ in rows]  # below the root
        self.labels = [label for _, label in rows]
        self.classes: list[Label] = [rows.classes_of(row) for row in range(len(rows))]
        if len(set(self.labels)) < 2:
            raise InputError(
                f"{source}: its {len(rows)} videos are all of one class, {shown(self.labels[0])}; to tell classes "
                "apart there have to be two: folders CLASS/VIDEO.mp4, or a column label (is data.root right?)"
            )
        self.table_file = table
        self.copy_of = rows.columns.get("copy_of", [""] * len(rows)) if table else [""] * len(rows)
        self.splits: list[str] = []
        self.groups, self._by, self._sure = self._groups()
        self._test = TEST if TEST in parts else VAL  # the split that is tested

    def _groups(self) -> tuple[list[str], str, bool]:
        """The group of each video, what says so, and whether the user does."""
        if self.table_file:  # a record of what was found, and no claim of the user's
            cells = zip(self.rows.columns.get("group", self.paths), self.paths, strict=True)
            return [cell or path for cell, path in cells], f"as {self.table_file} has them", False
        if self.division.group:
            return by_pattern(self.paths, self.division.group), "data.group", True
        if "group" in self.rows.columns:
            cells = zip(self.rows.columns["group"], self.paths, strict=True)
            return [cell or path for cell, path in cells], "the column group", True
        groups = by_folder(self.paths, self.classes)
        by = "their folders" if groups != self.paths else "each video is one"
        return groups, by, False

    def divide(self, copies: Sequence[tuple[int, int]] = ()) -> None:
        """Says which split each video is in.

        Args:
            copies: Pairs of rows whose videos show the same, and so are of one group.

        Raises:
            InputError: The list's own columns cannot be used, or divide a group; or a split would be empty.
        """
        for first, second in copies:
            self.copy_of[second] = self.copy_of[second] or self.paths[first]
        if any(self.copy_of):
            self._by += ", copies together"
        self.groups = joined(self.groups, copies)
        given = self._given()
        if given is None:
            self.splits = self.division.divide(self.classes, self.groups, self.parts, self._folds())
        else:
            self.splits = given
            missing = [part for part in self.parts if part not in given]
            if missing == [TEST] and VAL in given:
                self._test = VAL
            elif missing:
                rows = [row for row, split in enumerate(given) if split == TRAIN]
                labels, groups = [self.classes[row] for row in rows], [self.groups[row] for row in rows]
                for row, split in zip(rows, self.division.divide(labels, groups, [TRAIN, *missing]), strict=True):
                    self.splits[row] = split
        between = divided_groups(self.groups, self.splits)
        if between and given is None and "fold" not in self.rows.columns:
            raise AssertionError(f"the group {between[0]} is in two splits")
        self._say(between)
        if given is None and self.division.folds is None:
            self._say_shares()
        if empty := [part for part in self.parts if not self.places(part)]:
            raise InputError(
                f"{self.source}: {len(self.rows)} videos of {len(set(self.groups))} groups ({self._by}) leave none for "
                f"{empty[0]}; add videos, set data.shares, or take the training videos for it: --data.{empty[0]} null"
            )

    def _given(self) -> list[str] | None:
        """The split of each video by the list's own column."""
        found = splits_in(self.rows)
        if found is None:
            return None
        if self.division.folds:
            raise InputError(f"{self.source} has a column split, and data.folds is set; take one of the two")
        if TRAIN not in found:
            raise InputError(f"{self.source}: its column split has no row with train")
        self._check_given("split", found)
        return found

    def _folds(self) -> list[int] | None:
        """The fold of each video by the list's own column, where folds are asked for."""
        count, cells = self.division.folds, self.rows.columns.get("fold")
        if count is None or cells is None:
            return None
        for row, cell in enumerate(cells):
            if not cell.isdecimal() or int(cell[:9]) >= count:
                raise InputError(
                    f"{self.rows.where(row)}: fold {shown(cell)} is no number from 0 to {count - 1} (data.folds="
                    f"{count}); correct the column fold, or data.folds"
                )
        self._check_given("fold", cells)
        return [int(cell) for cell in cells]

    def _check_given(self, column: str, cells: Sequence[str]) -> None:
        """Raises InputError where the list's own division and its own groups do not fit together."""
        if self._sure and (between := divided_groups(self.groups, cells)):
            rows = [row for row, group in enumerate(self.groups) if group == between[0]]
            first, other = rows[0], next(row for row in rows if cells[row] != cells[rows[0]])
            raise InputError(
                f"{self.source}: of {len(set(self.groups))} groups ({self._by}), {len(between)} are in several "
                f"{column}s, e.g. {shown(between[0])}: {self.paths[first]} is in {column} {cells[first]}, "
                f"{self.paths[other]} in {cells[other]}; correct the list"
            )

    def _say(self, between: Sequence[str]) -> None:
        """Says how the list is divided, and which groups it has in two splits by itself."""
        if not first_process():
            return
        counts = Counter(self.splits)
        parts = ", ".join(f"{counts[part]} {part}" for part in (TRAIN, VAL, TEST) if counts[part])
        log.info(
            "%s: %d videos of %d classes are divided: %s; %d groups (%s), %d of them in two splits",
            self.source, len(self.rows), len(self.rows.classes), parts, len(set(self.groups)),
            self._by, len(between),
        )  # fmt: skip
        if others := {part: n for part, n in counts.items() if part not in (*self.parts, self._test)}:
            log.warning(
                "%s: %s are left out: data has other lists for them, or none", self.source,
                ", ".join(f"{n} {part} videos" for part, n in others.items()),
            )  # fmt: skip
        if copies := sum(map(bool, self.copy_of)):
            row = next(row for row, path in enumerate(self.copy_of) if path)
            log.warning(
                "%s: %d videos show the same as others, whole or in part, and are of their groups, e.g. %s and %s",
                self.source, copies, self.copy_of[row], self.paths[row],
            )  # fmt: skip
        if between:
            log.warning(
                "%s: %d groups (%s) are in two splits, e.g. %s: figures on them are too good",
                self.source, len(between), self._by, between[0],
            )  # fmt: skip

    def _say_shares(self) -> None:
        """Says where groups are so large that the splits are far from their shares."""
        wanted = dict(zip((TRAIN, VAL, TEST), self.division.shares, strict=True))
        found = {part: len(self.places(part)) / len(self.rows) for part in (VAL, TEST) if part in self.parts}
        ((largest, size),) = Counter(self.groups).most_common(1)
        if size > 1 and any(abs(share - wanted[part]) > FAR for part, share in found.items()) and first_process():
            log.warning(
                "%s: groups (%s) are so large, e.g. %s of %d videos, that %s; if they are none, give a column group, "
                "or data.group ('.+' takes each video for one)", self.source, self._by, largest, size,
                " and ".join(f"{part} has {share:.0%} for {wanted[part]:.0%}" for part, share in found.items()),
            )  # fmt: skip

    def places(self, split: str) -> list[int]:
        """The rows of a split; those of validation as the test of a list that names them and no test."""
        split = self._test if split == TEST else split
        return [row for row, part in enumerate(self.splits) if part == split]

    def part(self, split: str) -> Rows:
        """The videos of a split, as a list."""
        return self.rows.take(self.places(split), f"{self.source}, {split}")

    def table(self) -> list[tuple[str, ...]]:
        """The division, a row for each video: `COLUMNS`."""
        return list(zip(self.paths, self.labels, self.groups, self.splits, self.copy_of, strict=True))
