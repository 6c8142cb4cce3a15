"""Work on many files in child processes that can be killed: decoders hang and crash."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

PR_SET_PDEATHSIG = 1
POLL = 0.5  # seconds
KILLED = "its process was killed, as Linux does where memory runs out: start fewer at a time, by --workers"


def end_with_parent(number: int, parent: int | None = None) -> None:
    """Has this process receive a signal when its parent is killed (on Linux).

    Args:
        number: The signal.
        parent: The parent's id, so that the signal comes too where the parent has ended before this call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), number)


class Ended(NamedTuple):
    """What became of a file on which a child process was killed or died; `reason` says it in one line."""

    reason: str
    hung: bool


class _Worker:
    """A child process and the item that it has in hand."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.item: Any = None
        self.seconds = 0.0

    def give(self, item: Any) -> None:
        self.item, self.seconds = item, 0.0
        self.pipe.send(item)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_jobs(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, timeout: float
) -> Iterator[tuple[Any, Any]]:
    """Item and result of each, as they come; the result is `Ended` where a process hung or crashed.

    Args:
        function: Of one item; what it raises is raised here.
        items: Everything to do; taken as needed.
        workers: Child processes. They inherit what is loaded, and stop with this one.
        timeout: Seconds for an item, after which its process is killed. Those in which this process did not run
            either, on a machine that was asleep, are not counted.
    """
    waiting, before = iter(items), time.monotonic()
    busy: list[_Worker] = []
    try:
        while True:
            while len(busy) < workers and (item := next(waiting, None)) is not None:
                busy.append(_Worker(function))
                busy[-1].give(item)
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], timeout=POLL)
            now = time.monotonic()
            passed, before = min(now - before, 2 * POLL), now
            for worker in list(busy):
                worker.seconds += passed
                if worker.pipe in ready:
                    result = _receive(worker)
                elif worker.seconds > timeout:
                    result = Ended(f"hung for {timeout:g} s", True)
                else:
                    continue
                done = worker.item
                following = None if isinstance(result, Ended) else next(waiting, None)
                if following is None:
                    busy.remove(worker)
                    worker.end()
                else:
                    worker.give(following)
                if isinstance(result, Exception):
                    raise result
                yield done, result
    finally:
        for worker in busy:
            worker.end()


def _receive(worker: _Worker) -> Any:
    try:
        return worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        if worker.process.exitcode == -signal.SIGKILL:
            return Ended(KILLED, False)
        return Ended(f"crashed its decoder (exit code {worker.process.exitcode})", False)


def _serve(function: Callable[[Any], Any], pipe: Connection, parent: int) -> None:
    end_with_parent(signal.SIGKILL, parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    torch.set_num_threads(1)
    while True:
        item = pipe.recv()
        try:
            pipe.send(function(item))
        except Exception as error:
            pipe.send(error)
