"""Locks between processes, and between machines that share a folder."""

import errno
import fcntl
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from video_gn.errors import InputError
from video_gn.files.writing import make_folder, not_a_link, unwritable

log = logging.getLogger(__name__)
QUIET = 1.0  # seconds of waiting for a lock without a word


def take_lock(file: IO[str], patience: float = math.inf) -> None:
    """Locks an open file for this process, and for its children that inherit it, until all of them have closed it.

    The file then names the process. Whoever waits says for whom.

    Args:
        file: Open for writing; opened with "a", it keeps the name of the process that has it.
        patience: Seconds for which another process's lock is waited for.

    Raises:
        BlockingIOError: Another process holds it.
    """
    began, said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited > patience:
                raise
            if waited > QUIET and not said:
                said = True
                log.warning(
                    "waiting for %s, which holds %s; if it should not run, end it", holder(file.name), file.name
                )
            time.sleep(0.2)
    file.truncate(0)
    file.write(f"{os.getpid()} {socket.gethostname()}\n")
    file.flush()


def holder(path: str | Path) -> str:
    """The process that has a lock's file, in words."""
    with open(path, encoding="utf-8", errors="replace") as file:
        words = file.read(200).split()
    return f"process {words[0]} on {words[1]}" if len(words) == 2 and words[0].isdecimal() else "another process"


@contextmanager
def locked(path: Path, patience: float = math.inf) -> Iterator[None]:
    """Holds a lock file for this process alone: its children do not inherit it, so its death ends the lock.

    Args:
        path: The file; it stays.
        patience: As `take_lock`.

    Raises:
        BlockingIOError: Another process holds it.
        InputError: It is a link.
    """
    with open(path, "a", encoding="utf-8", opener=not_a_link) as file:
        take_lock(file, patience)
        _own.add(file.fileno())
        try:
            yield
        finally:
            _own.discard(file.fileno())
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that just begins still has it open


_own: set[int] = set()  # what is open for `locked`


def _let_go() -> None:
    for number in _own:
        nothing = os.open(os.devnull, os.O_RDONLY)  # in the file's place, which somebody may close later
        os.dup2(nothing, number, inheritable=False)
        os.close(nothing)
    _own.clear()


os.register_at_fork(after_in_child=_let_go)


class FolderLock:
    """Keeps a folder for this process alone until it ends, in whatever way; child processes do not share the lock.

    The lock is a file in it, which says whose it is.

    Args:
        folder: Made where it is missing.
        patience: Seconds for which another process is waited for, which may just be ending.
        name: Of the file.

    Raises:
        InputError: Another process has the folder, or it cannot be written; the lock is a link.
    """

    _file = -1

    def __init__(self, folder: Path, patience: float = 0.0, name: str = "run.lock") -> None:
        path = folder / name
        make_folder(folder)
        try:
            self._file = not_a_link(path, os.O_RDWR | os.O_CREAT)
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
