"""The lists of a run, each read once, and what is to be said of them."""

import logging
from collections.abc import Sequence, Set
from pathlib import Path

from video_gn.data.duplicates import in_both
from video_gn.data.folders import SUFFIXES
from video_gn.data.labels import check_class_names, names_of, read_class_names
from video_gn.data.lists import read_list, read_rows
from video_gn.data.rows import Rows
from video_gn.data.video_list import VideoList
from video_gn.distributed import first_process

log = logging.getLogger(__name__)


class Splits:
    """Reads the lists of a run's splits, and its class names.

    Args:
        root: Where the lists are, and relative paths in them begin.
        suffixes: Of the files to take from folders.

    Attributes:
        class_names: The classes in the order of their labels; `name_classes` sets them.
    """

    def __init__(self, root: Path, suffixes: Set[str] = SUFFIXES) -> None:
        self.root, self.suffixes = root, suffixes
        self.class_names: list[str] = []
        self._by_number = True
        self._rows: dict[Path, Rows] = {}  # read for the names of classes, until they become a list
        self._said: set[str] = set()

    def name_classes(self, given: Sequence[str] | str | None, train: str) -> None:
        """Takes the names of classes that are given, or those of the training list.

        Raises:
            InputError: There are none, or they cannot be used.
        """
        self._by_number = bool(given)
        if given:
            self.class_names = read_class_names(given)
        else:
            source = self.root / train
            rows = self._rows[source] = read_rows(source, self.suffixes, self.root)
            self.class_names = names_of(rows)
        check_class_names(self.class_names)

    def read(self, source: str) -> VideoList:
        """The videos of a split.

        Raises:
            InputError: As `read_list`.
        """
        path = self.root / source
        rows = self._rows.pop(path, None) or read_rows(path, self.suffixes, self.root)
        videos = read_list(path, self.root, self.class_names, self.suffixes, rows, self._by_number)
        self._say(rows.notes)
        return videos

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
