"""Which videos each process loads, in which order; and a loader that outlives its workers."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from video_gn.batch import NONE, Batch
from video_gn.compat import end_workers
from video_gn.console import printable
from video_gn.data.dataset import VideoDataset, collate
from video_gn.data.order import Rows, Shuffled, with_turns
from video_gn.errors import InputError
from video_gn.processes import end_with_parent

log = logging.getLogger(__name__)
Key = tuple[int, int | None] | tuple[int, int, int]
MOST_WORKERS = 12
DYING = 5.0  # seconds for which a worker is waited for whose connection broke


def workers_of(processes: int) -> int:
    """Loader processes of each of so many processes on this machine, by its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    return max(1, min(MOST_WORKERS, cores // processes))


class RowSampler(Sampler[Key]):
    """This rank's rows of an epoch, as `(epoch, row)`.

    In training rows drawn from (seed, epoch), by default a permutation, are dealt to the ranks; the rest that does not
    divide among them is left out, another one each epoch. A row that comes again in an epoch has its turn beside it,
    `(epoch, row, turn)`. Otherwise each row is dealt exactly once, and a rank
    that has one less gets a None at its end: ranks take equally many steps, and no video counts twice.

    Args:
        total: Rows of the list.
        seed: Of the permutation.
        shuffle: Training, or not.
        mix: Whether the rows are in a random order elsewhere too, always the same one: a batch that is normalized by
            its own statistics should not be of one class.
        rank: Of this process.
        world_size: Number of processes.
        rows: How training draws them; by default each once.

    Attributes:
        epoch: Which epoch to give next.
        first: How many rows to pass over, of all ranks together, because they were given before.
    """

    def __init__(
        self,
        total: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        mix: bool = False,
        rows: Rows | None = None,
    ) -> None:
        self.rows = rows or Shuffled(total)
        self.total = self.rows.total if shuffle else total
        self.seed, self.shuffle, self.mix = seed, shuffle, mix
        self.rank, self.world_size = rank, world_size
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return self.total // self.world_size if self.shuffle else -(-self.total // self.world_size)

    def __iter__(self) -> Iterator[Key]:
        epoch = self.epoch
        rows = list(range(self.total))
        if self.shuffle or self.mix:
            rows = self.rows.epoch(np.random.default_rng((self.seed, epoch)))
        keys: list[Key] = [(epoch, row, turn) if turn else (epoch, row) for row, turn in with_turns(rows)]
        if not self.shuffle:
            keys += [(epoch, None)] * (-self.total % self.world_size)
        keys = keys[self.first :]
        each = len(keys) // self.world_size
        yield from keys[self.rank :: self.world_size][:each]


class VideoLoader:
    """Batches of videos, beginning where the run is, even in the middle of an epoch.

    A worker whose decoder hangs is killed after the time-out, and one whose decoder crashes ends by itself. Then the
    video that it had in hand is set aside, all workers are started again and continue with the batch that comes next:
    batches follow from (seed, epoch, row), so none is lost and none comes twice. Without workers there is nothing
    that could be killed, and a hanging decoder hangs the run.

    A worker that is killed from outside, as Linux does where memory runs out, is no fault of its video: its batch is
    tried once more, and after that the run ends.

    Args:
        videos: The samples.
        sampler: The order.
        batch_size: Videos of a batch.
        num_workers: Processes that decode.
        drop_last: Whether an incomplete batch at the end is left out.
        keep_workers: Whether the workers stay for the next epoch.
        position: Says which epoch it is, and how many of its videos all processes have done.
        set_aside: Told the row and the reason of a video on which a decoder hung or crashed.
    """

    def __init__(
        self,
        videos: VideoDataset,
        sampler: RowSampler,
        batch_size: int = 1,
        num_workers: int = 0,
        drop_last: bool = False,
        keep_workers: bool = False,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        set_aside: Callable[[int, str], None] = lambda row, reason: None,
    ) -> None:
        self.videos, self._order, self.batch_size = videos, sampler, batch_size
        self.dataset = videos  # as DataLoader calls it
        self.position, self.set_aside = position, set_aside
        self._children: list[Any] = []
        self._killed: set[int] = set()  # rows in hand
        self._hung: set[int] = set()  # likewise, once
        videos.in_hand = torch.full((max(num_workers, 1), 2), NONE)
        try:
            videos.in_hand.share_memory_()
        except RuntimeError as error:
            raise _without_memory(str(error)) from None
        # Held, not inherited from: Lightning makes other DataLoaders of its own and would need to know ours.
        self._loader: DataLoader = DataLoader(
            videos,
            batch_size,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=keep_workers and num_workers > 0,
            worker_init_fn=_start_worker,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: `position` knows. Lightning warns of loaders that do not have this."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def __iter__(self) -> Iterator[Batch]:
        # The body runs when the first batch is asked for. By then Lightning has read a checkpoint and counted what was
        # done; when it makes the iterator it has not (Lightning issue 21938).
        epoch, done = self.position()
        batches = None
        while True:
            try:
                batches = batches or self._start(epoch, done)
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # the last two: of a dead worker's shared memory
                if "No space left" in str(error) or "shared memory" in str(error):
                    raise _without_memory(str(error)) from None
                if str(error).startswith("Caught ") or not self._blame():  # raised in a worker that lives
                    raise
                batches = None
                continue
            done += self.batch_size * self._order.world_size
            yield batch

    def _start(self, epoch: int, done: int) -> Iterator[Batch]:
        self._order.epoch, self._order.first = epoch, done
        main = threading.current_thread() is threading.main_thread()
        self.videos.parent = os.getpid() if main else 0  # of another thread, Linux takes the end for the parent's
        if self._loader.num_workers == 0 or not main:
            return iter(self._loader)
        # PyTorch would have the death of a worker raise in the main process wherever it is at that moment, in the
        # middle of a step. It is noticed in time when the next batch does not come.
        handler, others = signal.getsignal(signal.SIGCHLD), multiprocessing.active_children()
        batches = iter(self._loader)
        signal.signal(signal.SIGCHLD, handler)
        self._children += [child for child in multiprocessing.active_children() if child not in others]
        return batches

    def close(self) -> None:
        """Ends the workers that stay; more batches start new ones.

        Left to the garbage collector, each of them may be waited for 5 seconds: what tells it to end can be gone first.
        """
        end_workers(self._loader)

    def _blame(self) -> bool:
        """Sets aside the videos that ended workers had in hand; False if there are none, and so another reason."""
        # It may be just ending: Linux closes a process's files, and with them its connections, before it is ended.
        ending = wait([child.sentinel for child in self._children], DYING)
        for child in self._children:
            if child.sentinel in ending:
                child.join(DYING)
        rows = dict(self.videos.in_hand.tolist())
        ended = {child: rows.get(child.pid, NONE) for child in self._children if child.exitcode is not None}
        culprits = {row: child.exitcode for child, row in ended.items() if row != NONE}
        if -signal.SIGBUS in culprits.values():  # it touched memory that there is not
            raise _without_memory("bus error")
        self._consider_killed([row for row, code in culprits.items() if code == -signal.SIGKILL])
        for row, code in culprits.items():
            if code == -signal.SIGKILL:
                continue
            reason = "its decoder crashed"
            if code == -signal.SIGALRM:
                reason = f"its decoder hung for {self.videos.timeout:g} s, twice"
                if row not in self._hung:  # the machine may have been asleep, or its disk away
                    self._hung.add(row)
                    path, seconds = printable(self.videos.videos.path(row)), self.videos.timeout
                    log.warning("reading %s took over %g s; it is read once more", path, seconds)
                    continue
            self.videos.videos.set_aside[row] = reason
            self.set_aside(row, reason)
        for child in self._children:  # one that ended may have left them waiting for each other
            child.kill()
        self.close()
        self.videos.in_hand.fill_(NONE)
        self._children = []
        return bool(culprits)

    def _consider_killed(self, rows: list[int]) -> None:
        """Raises where a worker was killed with a video in hand on which another one was killed before."""
        for row in rows:
            words = f"a loader worker was killed while it read {self.videos.videos.path(row)}"
            if row in self._killed:
                remedy = (
                    "lower data.loading.num_workers or data.clips_per_video, or make the videos smaller with "
                    "video-gn data prepare"
                )
                raise InputError(f"{words}, twice, as Linux does where memory runs out: {remedy}")
            self._killed.add(row)
            log.warning("%s, as Linux does where memory runs out; its batch is read again", words)


def _without_memory(reason: str) -> InputError:
    """Of the memory in which workers hand over batches."""
    last = reason.strip().splitlines()[-1]
    return InputError(
        f"/dev/shm is too small for the loader's workers ({last}); enlarge it (docker run --shm-size 8g), or set "
        "data.loading.num_workers 0"
    )


def _start_worker(number: int) -> None:
    worker = get_worker_info()
    assert worker is not None and isinstance(worker.dataset, VideoDataset)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # A terminal and a cluster send these to all processes of a run, whose own one ends its step first and its workers
    # after that. Where it has not taken SIGTERM, it ends at once, and they by it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if callable(signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if worker.dataset.parent:
        direct = multiprocessing.get_start_method() != "forkserver"
        end_with_parent(signal.SIGKILL, worker.dataset.parent if direct else None)
    worker.dataset.in_hand[number, 0] = os.getpid()
