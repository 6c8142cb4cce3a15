"""Names of files, which may be any bytes."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from video_gn.files.text import ESCAPED


def is_utf8(text: str) -> bool:
    """Whether a text is more than bytes that could not be decoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def utf8_name(folder: Path) -> str:
    """A name in UTF-8 for a folder that may have none, for libraries that need one (TensorBoard).

    Where its own name is not UTF-8, or the system's encoding is another, the folder is made, and kept open by this
    process (on Linux): its name is that number.
    """
    if is_utf8(str(folder)):
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"


@contextmanager
def utf8_named(path: str) -> Iterator[str]:
    """A name in UTF-8 for a file to read, as `utf8_name`, for as long as the context lasts."""
    if is_utf8(path):
        yield path
    else:
        with open(path, "rb") as file:
            yield f"/proc/self/fd/{file.fileno()}"


def as_text(path: str) -> str:
    """A path of the operating system's as it appears in text files: UTF-8, whatever the system's own encoding is."""
    return os.fsencode(path).decode("utf-8", ESCAPED)


def as_label(folder: str) -> str:
    """The class that a folder's name gives: text, with the bytes escaped that are not UTF-8."""
    return os.fsencode(folder).decode("utf-8", "backslashreplace")


def as_path(text: str) -> str:
    """A path out of a text file, as the operating system takes it."""
    return os.fsdecode(text.encode("utf-8", ESCAPED))


def from_home(path: str) -> str:
    """A path with the home folder in the place of `~/` at its beginning, as shells have it."""
    return os.path.expanduser(path) if path.startswith("~/") else path


def free_name(path: Path) -> Path:
    """A path at which there is nothing: this one, or with -1, -2 and so on before its suffix."""
    others = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in itertools.count(1))
    return next(name for name in itertools.chain([path], others) if not name.exists())
