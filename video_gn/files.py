"""Files that are whole or not there, whatever happens while they are written, and locks between processes."""

import csv
import errno
import fcntl
import io
import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from video_gn.errors import InputError

log = logging.getLogger(__name__)
ESCAPED = "surrogateescape"  # how names of files that are not UTF-8 are read and written: as they are
LARGEST_TEXT = 1 << 30  # bytes
QUIET = 1.0  # seconds of waiting for a lock without a word
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


def write_text(path: Path, text: str, flush: bool = True) -> None:
    """Writes a file in one go, over one that is there; `flush` as in `replacing`."""
    with replacing(path, flush) as part, open(part, "x", newline="", encoding="utf-8", errors=ESCAPED) as file:
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

    Control characters are written as `\\x1b`: people look at tables in terminals, too.

    Only for tables that people open, and of which the program reads no names back that it looks up.
    """
    cell = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: found[0].encode("unicode_escape").decode("ascii"), cell)
    # Also behind a semicolon, which separates cells in many countries, and in full width.
    return re.sub(r"(^|;)(?=[=+@\uff1d\uff0b\uff0d\uff20-]|\\[tr])", r"\1'", cell)


def read_table(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none if there is no such file.

    Args:
        path: The file.
        columns: That it has to have.

    Raises:
        InputError: As `numbered_rows`.
    """
    return [row for _, row in numbered_rows(path, columns)] if path.is_file() else []


def numbered_rows(path: Path, columns: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The first line and the cells of each row of a CSV file with a header.

    Args:
        path: The file, UTF-8; other bytes become lone surrogates, as in file names.
        columns: That it has to have.

    Raises:
        InputError: It lacks a column, or a row cannot be taken apart; names the line.
    """
    reader = csv.reader(io.StringIO(read_text(path, ESCAPED), newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            hint = "; is a quote left open?" if "end of data" in str(error) or "expected after" in str(error) else ""
            raise InputError(f"{path}, line {line}: this row cannot be read as CSV ({error}){hint}") from None
        if cells is None:
            break
        if header is None:
            header = cells
            if twice := [name for name in dict.fromkeys(header) if name and header.count(name) > 1]:
                raise InputError(f"{path} has the column {' and '.join(twice)} more than once")
            if missing := [name for name in columns if name not in header]:
                raise InputError(
                    f"{path} needs a header that names the columns {' and '.join(columns)}; {' and '.join(missing)} "
                    f"{'is' if len(missing) == 1 else 'are'} missing"
                )
        elif any(cell.strip() for cell in cells):
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise InputError(
                    f"{path}, line {line}: {len(cells)} cells, and the header names {len(header)} columns; a cell with "
                    "a comma needs quotes around it"
                )
            yield line, dict(zip(header, cells, strict=False))
        line = reader.line_num + 1
    if header is None and (missing := list(columns)):
        raise InputError(f"{path} is empty; it needs a header that names the columns {' and '.join(missing)}")


def read_text(path: Path, errors: str = "strict") -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        errors: What becomes of bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        InputError: It is not UTF-8, or holds NUL bytes; names the line.
    """
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise InputError(f"{path} is larger than {LARGEST_TEXT >> 30} GiB, which no text file of ours is")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    at = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        at = min(error.start, at) if at >= 0 else error.start
    if at >= 0:
        what = "a NUL byte" if data[at] == 0 else f"byte {data[at]:#04x}, which is not UTF-8"
        line = 1 + data.count(b"\n", 0, at)
        raise InputError(f"{path}, line {line}: {what}; save the file as UTF-8 text")
    return text


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
    """A path of the operating system's as it stands in text files: UTF-8, whatever the system's own encoding is."""
    return os.fsencode(path).decode("utf-8", ESCAPED)


def as_label(folder: str) -> str:
    """The class that a folder's name gives: text, with the bytes escaped that are not UTF-8."""
    return os.fsencode(folder).decode("utf-8", "backslashreplace")


def as_path(text: str) -> str:
    """A path that stands in a text file, as the operating system takes it."""
    return os.fsdecode(text.encode("utf-8", ESCAPED))


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


def journal_of(table: Path) -> Path:
    """Where the rows of a table are while it is being made."""
    return table.with_name(f"{table.name}.journal")


class Journal:
    """Rows of a table that is being made, kept beside it from the first on, so that who is stopped can go on.

    Args:
        table: The file that the table will be.
        columns: Of the table. A journal with others is begun anew.

    Attributes:
        rows: Those that an earlier start left.
    """

    def __init__(self, table: Path, columns: Sequence[str]) -> None:
        self.path = journal_of(table)
        self._columns, header = columns, ",".join(columns) + "\r\n"
        left = self.path.read_bytes() if self.path.is_file() else b""
        whole = left[: left.rfind(b"\n") + 1].decode(errors=ESCAPED)  # the last line may have been cut
        write_text(self.path, whole if whole.startswith(header) else header)
        self.rows = read_table(self.path)

    def __enter__(self) -> "Journal":
        self._file = open(self.path, "a", newline="", encoding="utf-8", errors=ESCAPED, opener=not_a_link)
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
