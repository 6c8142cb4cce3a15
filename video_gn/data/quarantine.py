"""Videos on which a decoder hung or crashed: a list that every run beside the same data reads and adds to."""

import csv
import logging
import os
from pathlib import Path

from video_gn.data.video_list import VideoList
from video_gn.errors import InputError
from video_gn.files.names import as_path, as_text
from video_gn.files.tables import read_table
from video_gn.files.text import ESCAPED
from video_gn.files.writing import is_a_link, not_a_link

log = logging.getLogger(__name__)
COLUMNS = ("path", "reason")


class Quarantine:
    """The list, with paths relative to its folder.

    Args:
        path: The file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def apply(self, videos: VideoList) -> None:
        """Sets the videos aside that are in the list.

        Raises:
            InputError: The list is a link, or cannot be read.
        """
        if self.path.is_symlink():  # said now, not when it is to be written
            raise InputError(is_a_link(self.path))
        if table := read_table(self.path, COLUMNS):
            reasons = {os.path.abspath(self.path.parent / as_path(row["path"])): row["reason"] for row in table}
            paths = ((row, os.path.abspath(path)) for row, path in enumerate(videos.paths))
            videos.set_aside |= {row: f"in quarantine: {reasons[path]}" for row, path in paths if path in reasons}

    def add(self, path: str, reason: str) -> None:
        """Adds a video; where the list cannot be written, it says so and the run continues."""
        named = as_text(os.path.relpath(path, self.path.parent))
        try:
            new = not self.path.exists()
            with open(self.path, "a", newline="", encoding="utf-8", errors=ESCAPED, opener=not_a_link) as file:
                csv.writer(file).writerows([*([COLUMNS] if new else []), (named, reason)])
        except OSError as error:
            log.warning("cannot write %s (%s): another run will meet this video again", self.path, error.strerror)


def set_known_aside(split: str, videos: VideoList, quarantine: Quarantine) -> None:
    """Has videos that are known to be bad not opened, and says how many there are."""
    quarantine.apply(videos)
    left_out = videos.set_aside.keys() | (videos.damaged.keys() if split == "train" else set())
    if left_out:
        end = "others take their places" if split == "train" else "they count as wrong"
        first = min(left_out)
        log.warning(
            "%s: %d of %d videos are known to be bad, e.g. %s (%s); %s",
            split, len(left_out), len(videos), videos.path(first),
            videos.set_aside.get(first) or videos.damaged[first], end,
        )  # fmt: skip
