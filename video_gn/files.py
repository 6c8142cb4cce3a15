"""Files that are whole or not there, whatever happens while they are written, and locks between processes."""

import csv
import errno
import fcntl
import io
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from video_gn.errors import InputError

# How an operating system says that something cannot be written.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG}


@contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[Path]:
    """A path beside a file to write to, which takes the file's place when all is on disk.

    Args:
        path: The file; its folder is made where it is missing.
        flush: Whether to wait for the disk, so that the file survives a power cut too.

    Raises:
        InputError: The disk is full, or the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    remedy = "free space there" if full else "make it writable"
    return f"cannot write {path}: {error.strerror or error}; {remedy}, or take another folder"


def write_text(path: Path, text: str, flush: bool = True) -> None:
    """Writes a file in one go, over one that is there; `flush` as in `replacing`."""
    with replacing(path, flush) as part, open(part, "w", newline="", encoding="utf-8") as file:
        file.write(text)


def write_json(path: Path, content: Any, indent: int | None = 1, flush: bool = True) -> None:
    """Writes strict JSON, as `write_text`; numbers that are not finite become null."""
    write_text(path, to_json(content, indent) + "\n", flush)


def to_json(content: Any, indent: int | None = None) -> str:
    """Strict JSON, which has no token for numbers that are not finite: they become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file, as `write_text`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(path, text.getvalue())


def spreadsheet(cell: str) -> str:
    """A cell that a spreadsheet takes for text: before one that begins as a formula does there is an apostrophe.

    Only for tables that people open, and of which the program reads no names back that it looks up.
    """
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none if there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def take_lock(file: IO[str], patience: float = math.inf) -> None:
    """Locks an open file for this process, and for its children that inherit it, until all of them have closed it.

    Args:
        file: Open for writing.
        patience: Seconds for which another process's lock is waited for.

    Raises:
        BlockingIOError: Another process holds it.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


class FolderLock:
    """Keeps a folder for this process alone until it ends, in whatever way; child processes do not share the lock.

    The lock is a file in it, which says whose it is.

    Args:
        folder: Made where it is missing.
        patience: Seconds for which another process is waited for, which may just be ending.
        name: Of the file.

    Raises:
        InputError: Another process has the folder, or it cannot be written.
    """

    _file = -1

    def __init__(self, folder: Path, patience: float = 0.0, name: str = "run.lock") -> None:
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise InputError(unwritable(path, error)) from None
        until = time.monotonic() + patience
        while not self._taken():
            if time.monotonic() > until:
                whose = os.read(self._file, 200).decode(errors="replace").strip()
                raise InputError(
                    f"{folder} is in use by another run ({whose or 'unknown'}); wait until it ends, or take another "
                    "folder with --run_dir"
                )
            time.sleep(0.2)
        with suppress(OSError):  # a full disk
            os.ftruncate(self._file, 0)
            os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _taken(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EAGAIN)  # a file system that has no locks
        return True

    def close(self) -> None:
        """Lets others have the folder."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Journal:
    """Rows of a table that is being made, kept beside it from the first on, so that who is stopped can go on.

    Args:
        table: The file that the table will be.
        columns: Of the table. A journal with others is begun anew.

    Attributes:
        rows: Those that an earlier start left.
    """

    def __init__(self, table: Path, columns: Sequence[str]) -> None:
        self.path = table.with_name(f"{table.name}.journal")
        self._columns, header = columns, ",".join(columns) + "\r\n"
        left = self.path.read_bytes() if self.path.is_file() else b""
        whole = left[: left.rfind(b"\n") + 1].decode()  # the last line may have been cut
        write_text(self.path, whole if whole.startswith(header) else header)
        self.rows = read_table(self.path)

    def __enter__(self) -> "Journal":
        self._file = open(self.path, "a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns)
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row."""
        self._writer.writerow(row)
        self._file.flush()

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def remove(self) -> None:
        """The table is written."""
        self.path.unlink()
