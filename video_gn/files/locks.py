"""Locks between processes, and between machines that share a folder.

They are filelock's, which locks where `fcntl` is missing too, and keeps a lock from the children of its process. The
file of a lock says whose it is.
"""

import errno
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, SoftFileLock, Timeout

from video_gn.errors import InputError
from video_gn.files.writing import UNWRITABLE, is_a_link, make_folder, unwritable

log = logging.getLogger(__name__)
QUIET = 1.0  # seconds of waiting for a lock without a word
POLL = 0.2


@contextmanager
def locked(path: Path, patience: float = math.inf) -> Iterator[None]:
    """Holds a lock file for this process alone: its children do not inherit it, so its death ends the lock.

    Who waits says for whom.

    Args:
        path: The file; it stays.
        patience: Seconds for which another process's lock is waited for.

    Raises:
        TimeoutError: Another process holds it.
        InputError: It is a link.
    """
    lock = _lock(path)
    try:
        _acquire(lock, min(QUIET, patience))
    except Timeout:
        if patience <= QUIET:
            raise
        log.warning("waiting for %s, which holds %s; if it should not run, end it", holder(path), path)
        _acquire(lock, patience - QUIET)
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path, **options: Any) -> Any:
    if not issubclass(FileLock, SoftFileLock):  # which has its own way to sign
        options |= {"preserve_lock_file": True, "on_acquired": _sign}
    return FileLock(path, thread_local=False, poll_interval=POLL, **options)


def _acquire(lock: Any, patience: float) -> None:
    try:
        lock.acquire(patience)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(is_a_link(lock.lock_file)) from None
        raise


def _sign(file: int) -> None:
    """Has the file of a lock name this process."""
    with suppress(OSError):  # a full disk
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n{socket.gethostname()}\n".encode())


def holder(path: str | Path) -> str:
    """The process that has a lock's file, in words."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = file.read(200).split()
    except OSError:  # it has just ended, or the system keeps what is locked from being read
        words = []
    return f"process {words[0]} on {words[1]}" if len(words) > 1 and words[0].isdecimal() else "another process"


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

    _lock: Any = None

    def __init__(self, folder: Path, patience: float = 0.0, name: str = "run.lock") -> None:
        path = folder / name
        make_folder(folder)
        lock = _lock(path, is_singleton=True)  # a run that failed in this process may still have it
        try:
            _acquire(lock, patience)
            self._lock = lock
        except Timeout:
            raise InputError(
                f"{folder} is in use by another run ({holder(path)}); wait until it ends, or take another folder with "
                "--run_dir"
            ) from None
        except OSError as error:
            if error.errno in UNWRITABLE:
                raise InputError(unwritable(path, error)) from None  # else a file system that has no locks

    def close(self) -> None:
        """Lets others have the folder."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def take_lock(file: IO[str], patience: float) -> None:
    """Locks an open file for this process, and for its children that inherit it, until all of them have closed it.

    This is what filelock does not do: it takes its locks back from children. The file then names the process.

    Args:
        file: Open for writing; opened with "a", it keeps the name of the process that has it.
        patience: Seconds for which another process's lock is waited for.

    Raises:
        BlockingIOError: Another process holds it.
    """
    import fcntl  # here, because Windows has none, and no children that inherit locks

    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL)
    _sign(file.fileno())
