"""The lists of a run, each read once, and what is to be said of them."""

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from video_gn.data.division import TEST, TRAIN, VAL, Division
from video_gn.data.duplicates import in_both
from video_gn.data.folders import SUFFIXES
from video_gn.data.label_sets import SEPARATOR
from video_gn.data.labels import check_case, check_class_names, names_of, read_class_names
from video_gn.data.lists import above, read_list, read_rows
from video_gn.data.own import AUTO, Own, Places, find_places, splits_in
from video_gn.data.rows import Rows
from video_gn.data.video_list import VideoList
from video_gn.distributed import first_process
from video_gn.errors import InputError
from video_gn.rules import DIVISION

log = logging.getLogger(__name__)
LISTS = {"train": "train.csv", "val": "val.csv", "test": None}  # what the splits are by default


def find_lists(given: Mapping[str, Any], suffixes: Set[str]) -> dict[str, Any]:
    """A data module's root, train, val and test, with the lists that there are in the place of `auto`.

    Raises:
        InputError: There are none; or lists are named, and the embedded set is to be made.
    """
    own = {name: (LISTS[name], None, *((AUTO,) if name == "val" else ())) for name in LISTS}  # of the embedded set
    if given.get("motion") and (other := [name for name in LISTS if given[name] not in own[name]]):
        raise InputError(
            f"data.motion makes the embedded set, and data.{other[0]}={given[other[0]]} names another list; set "
            "data.motion to null for your own videos (or take -c own), or leave out the list"
        )
    if "split" not in given and AUTO in (given["train"], given["val"], given["test"]):
        raise InputError("data.train, val and test of images are folders or lists, and not auto; name them")
    if given["class_names"] and not Path(given["root"]).exists():  # of a checkpoint whose videos are not needed
        return {}
    return find_places(Places(*(given[name] for name in Places._fields)), suffixes)._asdict()


def splits_of(given: Mapping[str, Any], folder: Path, suffixes: Set[str]) -> "Splits":
    """The splits of a data module.

    Args:
        given: Its arguments.
        folder: Where its lists are.
        suffixes: Of the files to take from folders.

    Raises:
        InputError: They do not fit together.
    """
    division = Division(seed=given["seed"], **{name: given[name] for name in DIVISION if name in given})
    parts = [TRAIN, *(split for split in (VAL, TEST) if given[split] == AUTO)]
    if division.folds and TEST not in parts:
        raise InputError(
            f"data.folds is {division.folds}, which makes the test a part of the training list, and data.test is "
            f"{given['test'] or given['val']}; set data.test to auto, and name one list with --data.train"
        )
    return Splits(folder, suffixes, given["train"], parts, division, given.get("split"), given["multi_label"])


class Splits:
    """Reads the lists of a run's splits, and its class names.

    Args:
        root: Where the lists are, and relative paths in them begin.
        suffixes: Of the files to take from folders.
        train: The training list, below the root.
        parts: The splits that are taken from it: training, and those that have no list of their own.
        division: How it is divided among them.
        table: A CSV file that says which video is in which split, as a run writes it; None divides them.
        several: Whether a label may name several classes.

    Attributes:
        class_names: The classes in the order of their labels; `name_classes` sets them.
        own: The training list, where it is divided.
    """

    def __init__(
        self,
        root: Path,
        suffixes: Set[str] = SUFFIXES,
        train: str = "train.csv",
        parts: Sequence[str] = (TRAIN,),
        division: Division | None = None,
        table: str | None = None,
        several: bool = False,
    ) -> None:
        self.root, self.suffixes, self.several = root, suffixes, several
        self.class_names: list[str] = []
        self.own: Own | None = None
        self._train, self._parts, self._table = train, parts, table
        self._division = division or Division()
        self._divides = len(parts) > 1 or self._division.folds is not None or table is not None
        self._by_number = True
        self._rows: dict[Path, Rows] = {}  # read for the names of classes, until they become a list
        self._said: set[str] = set()

    def name_classes(self, given: Sequence[str] | str | None) -> None:
        """Takes the names of classes that are given, or those of the training list.

        Raises:
            InputError: There are none, or they cannot be used.
        """
        self._by_number = bool(given)
        if given:
            self.class_names = read_class_names(given)
        else:
            source = self.root / self._train
            rows = self._rows[source] = self._read_rows(source)
            self.class_names = names_of(rows)
            check_case(self.class_names)
            if not self.several and (odd := [name for name in self.class_names if SEPARATOR in name]):
                rows.notes.append(
                    f"{rows.called}: {len(odd)} of {len(self.class_names)} classes have a {SEPARATOR} in their names, "
                    f"e.g. {odd[0]}; if that is several classes of a video, set data.multi_label to true"
                )
        check_class_names(self.class_names, self.several)

    def _read_rows(self, source: Path) -> Rows:
        if self._table is None or source != self.root / self._train:
            return self._rows.pop(source, None) or read_rows(source, self.suffixes, self.root, self.several)
        if not Path(self._table).is_file():
            raise InputError(f"there is no table {self._table} (data.split); name split.csv of a run")
        rows = read_rows(Path(self._table), self.suffixes, self.root, self.several)
        if "split" not in rows.columns:
            raise InputError(f"{self._table} has no column split (data.split); name a table with path, label and split")
        before = above(source)
        rows[:] = [(f"{before}{path}", label) for path, label in rows]
        rows.named = source.is_dir()
        return rows

    def shares(self, split: str, source: str | None) -> bool:
        """Whether a split, of a list or `AUTO`, is a share of the training list."""
        return self._divides and (split in self._parts or source == AUTO)

    def divide(self, copies: Callable[[VideoList], Sequence[tuple[int, int]]] = lambda videos: ()) -> None:
        """Divides the training list; once.

        Args:
            copies: Gives pairs of rows whose videos show the same.

        Raises:
            InputError: As `read_rows` and `Own.divide`.
        """
        if self.own is None:
            source = self.root / self._train
            division = replace(self._division, folds=None, fold=0) if self._table else self._division
            rows = self._read_rows(source)
            self._say(rows.notes)
            own = Own(rows, source, self._parts, division, self._table)
            whole = read_list(source, self.root, self.class_names, self.suffixes, rows, self._by_number)
            own.divide(() if self._table else copies(whole))
            self.own = own

    def read(self, source: str, split: str) -> VideoList:
        """The videos of a split.

        Raises:
            InputError: As `read_list`; or the list that is divided leaves it none.
        """
        if self.own and self.shares(split, source):
            path, rows = self.own.source, self.own.part(split)
        else:
            path = self.root / source
            rows = self._of_split(self._read_rows(path), split)
        videos = read_list(path, self.root, self.class_names, self.suffixes, rows, self._by_number)
        if self.own and path == self.own.source:
            videos.groups = np.array([self.own.groups[row] for row in self.own.places(split)])
        self._say(rows.notes)
        return videos

    def _of_split(self, rows: Rows, split: str) -> Rows:
        """Of a list that names several splits, the rows of one; all rows of another list."""
        found = splits_in(rows)
        if found is None or len(set(found)) == 1:
            return rows
        kept = [row for row, name in enumerate(found) if name == split]
        if not kept:
            raise InputError(f"{rows.source}: its column split has no row with {split}")
        part = rows.take(kept, f"{rows.called}, {split}")
        part.notes = [*rows.notes, f"{rows.called}: {len(kept)} of its {len(rows)} videos are taken, those of {split}"]
        return part

    def compare(self, lists: dict[str, VideoList], split: str) -> None:
        """Says which videos of a split the network is trained on."""
        if split != "train" and {split, "train"} <= lists.keys() and first_process():
            shared = in_both(lists[split], lists["train"])
            if shared:
                self._say(
                    [
                        f"{len(shared)} of {len(lists[split])} {split} videos are training videos too, e.g. "
                        f"{shared[0]}: figures on them are too good"
                    ]
                )

    def _say(self, notes: list[str]) -> None:
        for note in notes:
            if note not in self._said and first_process():
                log.warning("%s", note)
            self._said.add(note)
