"""Runs on this machine: one after the other, or several at once on stated devices; each in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tqdm import tqdm

from video_gn.ablate.run import Run
from video_gn.console import progress
from video_gn.errors import InputError
from video_gn.files.locks import take_lock
from video_gn.files.text import write_json
from video_gn.files.writing import make_folder, not_a_link
from video_gn.processes import end_with_parent

POLL = 0.5  # seconds
PATIENCE = 30.0  # seconds for which a process that is just ending is waited for
GRACE = 120.0  # seconds in which a run that is asked to stop saves its state
TRAINING = 0.9  # share of a run that is training; the rest is the test


@dataclass
class Slot:
    """Devices that run one cell at a time.

    Attributes:
        name: As given: "0", "0,1" or "cpu".
        env: What its runs' environment has in addition.
    """

    name: str = "default"
    env: dict[str, str] = field(default_factory=dict)


def make_slots(devices: Sequence[str], runs: Sequence[Run]) -> list[Slot]:
    """A slot for each of the given devices; one for everything if none is given.

    Raises:
        InputError: What is no device, or a number of GPUs that the cells do not ask for.
    """
    slots = []
    for name in devices:
        if name == "cpu":
            threads = max(1, (os.cpu_count() or 1) // len(devices))
            slots.append(Slot(name, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}))
            continue
        if not re.fullmatch(r"\d+(,\d+)*", name):
            raise InputError(f"--devices has {name}; a device is cpu, the number of a GPU, or several as 0,1")
        count = len(set(name.split(",")))
        if count <= name.count(","):
            raise InputError(f"--devices {name} names a GPU twice")
        for run in runs:
            if run.devices != count:
                raise InputError(
                    f"--devices {name} gives a run {count} GPU{'s' * (count > 1)}, and {run.cell.name} has "
                    f"trainer.devices={run.devices}; add --trainer.devices {count} (the learning rate follows, or keep "
                    "the clips per step by --trainer.accumulate_grad_batches)"
                )
        slots.append(Slot(name, {"CUDA_VISIBLE_DEVICES": name}))
    return slots or [Slot()]


class Busy(Exception):
    """Another process works on the same run."""


class Process:
    """A run's own process, with its output in `log.txt`; `ablation.json` notes how it ended.

    The process is asked to stop (and saves its state) when this one dies. It holds a lock on the run's folder, so that
    no other process works on the same run.

    Args:
        run: What to train and test.
        env: In addition to this process's environment.
        task: Its number among the run's processes, where a cluster starts them all.

    Raises:
        Busy: Another process works on it.
    """

    def __init__(self, run: Run, env: dict[str, str] | None = None, task: int = 0) -> None:
        self.run, self.began, self._told = run, time.monotonic(), False
        make_folder(run.folder)
        number = f"-{task}" if task else ""
        lock_path, log_path = run.folder / f"lock{number}", run.folder / f"log{number}.txt"
        with open(lock_path, "a", opener=not_a_link) as lock, open(log_path, "ab", opener=not_a_link) as log:
            try:
                take_lock(lock, PATIENCE)
            except BlockingIOError:
                raise Busy from None
            self._log_from = log.tell()
            command = [sys.executable, *run.command, "--trainer.enable_progress_bar", "false"]
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | (env or {}),
                pass_fds=[lock.fileno()], start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()),
            )  # fmt: skip

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._child.poll()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Tells it to save its state and end."""
        self._told = True
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, number) if number == signal.SIGKILL else self._child.send_signal(number)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code."""
        return self._child.wait(timeout)

    def note(self) -> dict[str, Any]:
        """Writes down how it ended, and gives it."""
        code = self.wait()
        status = "stopped" if self._told or code in (130, 143) else "failed"
        status = "finished" if code == 0 and self.run.results() else status
        seconds = self.run.note().get("seconds", 0.0) + time.monotonic() - self.began
        note = {"status": status, "exit_code": code, "seconds": round(seconds, 1)}
        if status == "failed":
            note["error"] = self._error(code)
        write_json(self.run.folder / "ablation.json", note)
        return note

    def _error(self, code: int) -> str:
        with open(self.run.folder / "log.txt", "rb") as log:
            log.seek(self._log_from)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        if code < 0:
            hint = "; it may have run out of memory" if code == -signal.SIGKILL else ""
            return f"killed by {signal.Signals(-code).name}{hint}"
        said = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception|Interrupt)\b", line)]
        return said[-1].removeprefix("error: ") if said else f"ended with exit code {code}; see log.txt"


def run_all(runs: Sequence[Run], slots: Sequence[Slot], done: Callable[[Run, dict[str, Any]], None]) -> None:
    """Trains and tests what is not finished, several at once if there are several slots.

    Ctrl-C and SIGTERM tell the runs to save their state and stop; a second one kills them.

    Args:
        runs: In the order in which to begin them.
        slots: Where.
        done: Told each run that ended, and how.
    """
    waiting = [run for run in runs if not run.results()]
    clock = Clock(runs, len(slots))
    busy: dict[int, Process] = {}
    before = signal.signal(signal.SIGTERM, _interrupt)
    with progress(total=len(runs), unit="run", bar_format=BAR, miniters=0) as bar:
        try:
            while waiting or busy:
                for i, slot in enumerate(slots):
                    if i not in busy and waiting:
                        run = waiting.pop(0)
                        try:
                            busy[i] = Process(run, slot.env)
                        except Busy:
                            done(run, {"status": "failed", "error": "another process works on it"})
                for i, process in list(busy.items()):
                    if process.poll() is not None:
                        del busy[i]
                        note = process.note()
                        done(process.run, note)
                        clock.learn()
                _show(bar, runs, [process.run for process in busy.values()], clock)
                time.sleep(POLL)
        except KeyboardInterrupt:
            _stop(list(busy.values()))
            raise
        finally:
            for process in busy.values():
                if process.poll() is None:
                    process.stop(signal.SIGKILL)
            signal.signal(signal.SIGTERM, before)


BAR = "{n:.1f} of {total} runs |{bar:20}| {elapsed}{postfix}"


class Clock:
    """How long what is left will take, by what was measured: seconds for each frame that passed, cells alike first."""

    def __init__(self, runs: Sequence[Run], slots: int) -> None:
        self.runs, self.slots = runs, slots
        self.rates: dict[str, float] = {}
        self.learn()

    def learn(self) -> None:
        seconds: dict[str, list[float]] = {}
        for run in self.runs:
            note = run.note()
            if note.get("status") == "finished":
                seconds.setdefault(run.cell.name, []).append(note["seconds"] / run.cost)
        self.rates = {name: sum(rates) / len(rates) for name, rates in seconds.items()}

    def left(self) -> float | None:
        """Seconds; None before the first run is finished."""
        if not self.rates:
            return None
        mean = sum(self.rates.values()) / len(self.rates)
        open_runs = [run for run in self.runs if not run.results()]
        seconds = [run.cost * self.rates.get(run.cell.name, mean) * (1 - _share(run)) for run in open_runs]
        return max(sum(seconds) / self.slots, max(seconds, default=0.0))


def in_words(seconds: float) -> str:
    """A duration: 50 s, 12 min, 3.5 h, 2.1 days."""
    for unit, size, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _share(run: Run) -> float:
    return 1.0 if run.results() else TRAINING * run.progress()


def _show(bar: Any, runs: Sequence[Run], busy: Sequence[Run], clock: Clock) -> None:
    left = clock.left()
    parts = [f"{run.name} {100 * _share(run):.0f} %" for run in busy]
    bar.set_postfix_str("; ".join([*parts, *([f"about {in_words(left)} left"] if left else [])]), refresh=False)
    bar.update(sum(_share(run) for run in runs) - bar.n)


def _interrupt(*_: Any) -> None:
    raise Terminated


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""

    number = signal.SIGTERM


def _stop(processes: Sequence[Process]) -> None:
    """Has runs save their state and end."""
    if not processes:
        return
    tqdm.write(f"stopping {len(processes)} run(s), which save their state; again to kill them", file=sys.stderr)
    until = time.monotonic() + GRACE
    for process in processes:
        process.stop()
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.stop(signal.SIGKILL)
        process.note()
