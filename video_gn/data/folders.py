"""Folders of videos: what in them is a video, and what was passed over."""

import os
import re
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from video_gn.errors import InputError
from video_gn.files.names import as_text

# Of files in the containers of `video_gn.data.decoding.containers`, in upper or lower case.
SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mj2", ".mkv", ".mk3d", ".webm", ".avi", ".divx", ".flv",
    ".wmv", ".asf", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mpv", ".vob", ".mod", ".ts", ".mts", ".m2ts", ".m2t",
    ".tod", ".trp", ".mxf", ".ogv", ".ogm", ".gif",
}  # fmt: skip
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
FEWEST_FRAMES = 2  # numbered images by which a folder is a video among others
# What systems leave in folders, beside names that begin with a dot.
SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}
_FRAME = re.compile(r"(.*?)(\d+)(\.\w+)")


class Scan:
    """What is below a folder.

    Args:
        suffixes: Of the files that are meant, in lower case.
        progress: Is given the number of files of each folder.

    Attributes:
        passed: By suffix, files that are not meant.
        broken: Links that lead nowhere.
    """

    def __init__(self, suffixes: Set[str] = SUFFIXES, progress: Callable[[int], object] = int) -> None:
        self.suffixes, self.progress = suffixes, progress
        self.passed: dict[str, list[str]] = {}
        self.broken: list[str] = []

    def below(self, folder: str | Path) -> list[str]:
        """Paths of the videos below a folder, from there, in order; hidden files and folders are left out.

        Links to folders are followed, but not in circles.

        Raises:
            InputError: A folder cannot be read.
        """
        found: list[str] = []
        self._look(str(folder), "", (), found)
        return sorted(found, key=lambda path: path.split("/"))

    def _look(self, folder: str, inside: str, above: tuple[tuple[int, int], ...], found: list[str]) -> None:
        folders, files = self.entries(folder)
        if self._is_video(folders, files) and inside:
            found.append(inside.removesuffix("/"))
            files = [name for name in files if not _FRAME.fullmatch(name)]
        else:
            found += (inside + name for name in files if is_of(name, self.suffixes))
        self.pass_over(folder, (name for name in files if not is_of(name, self.suffixes)))
        if folders:
            here = os.stat(folder)
            above = (*above, (here.st_dev, here.st_ino))
        for name in folders:
            below = os.path.join(folder, name)
            if os.path.islink(below) and (there := os.stat(below)) and (there.st_dev, there.st_ino) in above:
                continue
            self._look(below, f"{inside}{name}/", above, found)

    def is_video(self, folder: str) -> bool:
        """Whether a folder itself is a video: of numbered images, where these are not what is meant."""
        return os.path.isdir(folder) and self._is_video(*self.entries(folder))

    def _is_video(self, folders: list[str], files: list[str]) -> bool:
        if folders or any(is_of(name, self.suffixes) for name in files):
            return False
        return len(frames_of(files)) >= FEWEST_FRAMES

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files in a folder, in order; what is hidden is left out.

        The system is asked for the folder alone and for links, not for each file.
        """
        folders, files = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    try:
                        is_folder, is_file = entry.is_dir(), entry.is_file()
                    except OSError:  # a link to itself, or into a folder that may not be read
                        is_folder = is_file = False
                    if is_folder:
                        folders.append(entry.name)
                    elif is_file:
                        files.append(entry.name)
                    elif entry.is_symlink():
                        self.broken.append(entry.path)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be read ({error.strerror})") from None
        self.progress(len(files))
        return sorted(folders), sorted(files)

    def pass_over(self, folder: str, names: Iterable[str]) -> None:
        """Counts files that are not meant."""
        for name in names:
            self.passed.setdefault(os.path.splitext(name)[1].lower(), []).append(os.path.join(folder, name))

    def notes(self, source: str | Path) -> list[str]:
        """What is to be said of what was left out, in a line each."""
        said = []
        if self.passed:
            most = sorted(self.passed.items(), key=lambda item: -len(item[1]))
            kinds = ", ".join(f"{len(paths)} {suffix or 'without a suffix'}" for suffix, paths in most[:5])
            count, example = sum(map(len, self.passed.values())), min(most[0][1])
            more = f" and {len(most) - 5} other kinds" if len(most) > 5 else ""
            said.append(f"{source}: {count} files are passed over ({kinds}{more}), e.g. {example}")
        if self.broken:
            said.append(f"{source}: {len(self.broken)} links lead nowhere and are left out, e.g. {min(self.broken)}")
        return said


class ClassFolders(NamedTuple):
    """What is in a folder of class folders.

    Attributes:
        videos: (class folder, path below it) of each, in order.
        outside: Videos in no class folder.
        notes: What is to be said of it, in a line each.
    """

    videos: list[tuple[str, str]]
    outside: list[str]
    notes: list[str]


def read_class_folders(source: Path, suffixes: Set[str] = SUFFIXES) -> ClassFolders:
    """The videos of a folder of class folders, in folders of any depth.

    Raises:
        InputError: A folder cannot be read.
    """
    scan = Scan(suffixes)
    classes, loose = scan.entries(str(source))
    videos, empty = [], []
    for name in classes:
        found = scan.below(source / name)
        videos += [(name, path) for path in found]
        if not found:
            empty.append(as_text(name))
    outside = [name for name in loose if is_of(name, suffixes)]
    scan.pass_over(str(source), (name for name in loose if name not in outside))
    notes = scan.notes(source)
    if outside:
        notes.append(f"{source}: {len(outside)} videos are in no class folder and are left out, e.g. {outside[0]}")
    if empty:
        example = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        notes.append(
            f"{source}: {len(empty)} of {len(classes)} class folders hold no video, so these are no classes of it: "
            f"{example}"
        )
    return ClassFolders(videos, outside, notes)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is none of the user's: `._x.mp4`, `.ipynb_checkpoints`, `__MACOSX`."""
    return name.startswith(".") or name in SYSTEM


def is_of(name: str, suffixes: Set[str]) -> bool:
    """Whether a file's name ends with one of the suffixes, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in suffixes


def frames_of(names: Sequence[str]) -> list[str]:
    """Of the files in a folder, those that are a video's frames, by their number; none if they are not of one kind.

    Frames are `img_00001.jpg`, `frame1.png`, `00001.jpg`: the same name but for the number.
    """
    images = [name for name in names if is_of(name, IMAGE_SUFFIXES)]
    kinds: set[tuple[str, str]] = set()
    numbered: dict[int, str] = {}
    for name in images:
        found = _FRAME.fullmatch(name)
        if found is None:
            return []
        kinds.add((found[1], found[3].lower()))
        numbered[int(found[2])] = name
        if len(kinds) > 1:
            return []
    return [numbered[number] for number in sorted(numbered)] if len(numbered) == len(images) else []
