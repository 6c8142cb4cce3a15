"""Files that are whole or not there, whatever happens while they are written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from video_gn.errors import InputError

# How an operating system says that something cannot be written.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG}
IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}  # a file in a folder's place, or the reverse
UNWRITABLE |= IN_THE_WAY
OF_ONE_FILE = {errno.ENAMETOOLONG, *IN_THE_WAY}  # beside which others can be written


@contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[Path]:
    """A path beside a file to write to, which takes the file's place when all is on disk.

    Args:
        path: The file; its folder is made where it is missing.
        flush: Whether to wait for the disk, so that the file survives a power cut too.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # in a folder from elsewhere it may be a link, which would lead to any file
        yield part
        if flush:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
        if flush:
            _flush_folder(path.parent)
    except OSError as error:
        raise InputError(unwritable(path, error)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Where a file is written that takes another's place when it is whole."""
    return path.with_name(path.name + ".part")


def _flush_folder(folder: Path) -> None:
    """Has the names of its files on disk too; not every file system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def unwritable(path: str | Path, error: OSError) -> str:
    """Why a file cannot be written and what to do, in one line."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space there, or " if full else "" if error.errno in IN_THE_WAY else "make it writable, or "
    return f"cannot write {path}: {error.strerror or error}; {remedy}take another folder"


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where it is missing.

    Raises:
        InputError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(unwritable(path, error)) from None


def not_a_link(path: str | Path, flags: int) -> int:
    """The `opener` of files to append to: in a folder from elsewhere, a link would lead to any file.

    Raises:
        InputError: It is a link; those of its folder and above are followed.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(is_a_link(path)) from None


def is_a_link(path: str | Path) -> str:
    """Why a file is not written into and what to do, in one line."""
    return f"{path} is a link, and what is written into has to be a file itself; remove the link"
