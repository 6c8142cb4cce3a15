import ctypes
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from children import assert_children_end
from conftest import few

from video_gn.data import transforms
from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.open import open_video
from video_gn.data.lists import read_list
from video_gn.data.loader import RowSampler, VideoLoader, workers_of
from video_gn.data.motion12 import CLASSES
from video_gn.data.video_list import VideoList
from video_gn.data.views import RandomView
from video_gn.errors import InputError

VIEW = RandomView(4, 4, (40, 48), 32, flip=True)


@pytest.fixture(scope="session")
def videos(motion_folder):
    return read_list(motion_folder / "train.csv", motion_folder, list(CLASSES))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 2, 7, 12])
def test_evaluation_deals_every_row_once(total, world_size):
    ranks = [list(RowSampler(total, 0, False, rank, world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1  # equally many steps
    assert all(len(rank) == len(RowSampler(total, 0, False, 0, world_size)) for rank in ranks)
    rows = [row for rank in ranks for _, row in rank]
    assert sorted(row for row in rows if row is not None) == list(range(total))


def given(sampler, epoch):
    sampler.epoch = epoch
    return list(sampler)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_deals_a_permutation_up_to_the_even_split(world_size):
    def epoch_rows(epoch, seed=0):
        ranks = [given(RowSampler(20, seed, True, rank, world_size), epoch) for rank in range(world_size)]
        assert {len(rank) for rank in ranks} == {20 // world_size}
        assert {e for rank in ranks for e, _ in rank} == {epoch}
        return [row for rank in ranks for _, row in rank]

    first, second = epoch_rows(0), epoch_rows(1)
    assert len(set(first)) == len(first) == 20 // world_size * world_size
    assert first == epoch_rows(0) and first != second and first != epoch_rows(0, seed=1)
    if world_size == 3:  # the rest is another one each epoch
        assert len({frozenset(set(range(20)) - set(epoch_rows(e))) for e in range(5)}) > 1


def test_ranks_share_one_permutation():
    whole = [row for _, row in RowSampler(20, 0, True)]
    parts = [[row for _, row in RowSampler(20, 0, True, rank, 2)] for rank in range(2)]
    assert parts == [whole[0::2], whole[1::2]]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_rest_of_an_epoch_on_any_number_of_ranks(world_size):
    """From the 8th video on, whatever dealt the first 7."""
    whole = [row for _, row in RowSampler(20, 0, True)]
    samplers = [RowSampler(20, 0, True, rank, world_size) for rank in range(world_size)]
    for sampler in samplers:
        sampler.first = 7
    rest = [row for step in zip(*samplers, strict=True) for _, row in step]
    assert rest == whole[7 : 7 + 13 // world_size * world_size]


def batches(videos, views, workers=0, position=(0, 0), batch_size=5, set_aside=lambda *_: None, timeout=60.0):
    samples = VideoDataset(videos, views, 0, replace=True, timeout=timeout)
    sampler = RowSampler(len(videos), 0, True)
    loader = VideoLoader(samples, sampler, batch_size, workers, True, True, lambda: position, set_aside)
    try:
        return list(loader)
    finally:
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 3])
def test_begins_in_the_middle_of_an_epoch(workers, done, videos):
    whole, rest = batches(videos, VIEW, position=(3, 0)), batches(videos, VIEW, workers, (3, 5 * done))
    assert len(rest) == len(whole) - done
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(rest, whole[done:], strict=True))


def sleep_with_the_interpreter_locked():
    ctypes.PyDLL(None).sleep(1000)  # no Python code of the process runs any more


def spin():
    while True:
        np.sort(np.arange(1000))


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


@dataclass(frozen=True)
class Trap:
    """Random views, but for some videos, on which the decoder does something else."""

    views: RandomView
    traps: dict

    def __call__(self, video, rng):
        if video.path in self.traps:
            self.traps[video.path]()
        return self.views(video, rng)


def test_workers_by_the_cores(monkeypatch):
    """Those that this process may use, dealt to the processes of this machine, and not more than help."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    assert [workers_of(processes) for processes in (1, 2, 4, 32)] == [12, 8, 4, 1]
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert workers_of(2) == 3


@pytest.mark.parametrize("keep_workers", few([True, False], (True,), ()))
@pytest.mark.parametrize(
    ("trap", "words"),
    [
        (sleep_with_the_interpreter_locked, "its decoder hung for 0.5 s, twice"),
        pytest.param(spin, "its decoder hung for 0.5 s, twice", marks=pytest.mark.slow),
        (crash, "its decoder crashed"),
    ],
)
def test_goes_on_after_a_decoder_that_hangs_or_crashes(trap, words, keep_workers, videos):
    """Two such videos of 24, in the middle of an epoch: they are told of, replaced, and nothing else changes."""
    rows = [row for _, row in RowSampler(24, 0, True)]
    bad = {rows[7]: videos.path(rows[7]), rows[16]: videos.path(rows[16])}
    traps = Trap(VIEW, dict.fromkeys(bad.values(), trap))
    told = {}
    again = VideoList(videos.paths, videos.labels)
    samples = VideoDataset(again, traps, 0, replace=True, timeout=0.5)
    loader = VideoLoader(
        samples,
        RowSampler(24, 0, True),
        4,
        2,
        True,
        keep_workers,
        set_aside=lambda row, reason: told.update({row: reason}),
    )
    handler = signal.getsignal(signal.SIGCHLD)
    began = time.monotonic()
    found = list(loader)
    assert time.monotonic() - began < 40
    assert told == dict.fromkeys(bad, words) and again.set_aside == told
    assert signal.getsignal(signal.SIGCHLD) == handler
    expected = batches(videos, VIEW, batch_size=4)
    assert len(found) == len(expected) == 6
    for ours, theirs in zip(found, expected, strict=True):
        for i, row in enumerate(theirs.rows.tolist()):
            if row in bad:
                assert ours.rows[i] not in bad
            else:
                assert ours.rows[i] == row and torch.equal(ours.clips[i], theirs.clips[i])
    began = time.monotonic()
    assert len(list(loader)) == 6 and len(told) == 2  # the next epoch does not open them
    loader.close()
    assert time.monotonic() - began < 5


def close_everything_before_the_end():
    """As Linux does with a process that a signal ends, only slower."""
    os.closerange(3, 4096)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGALRM)


def test_who_hung_is_known_also_before_it_has_ended(videos):
    told = {}
    samples = VideoDataset(VideoList(videos.paths, videos.labels), VIEW, 0, timeout=0.5)
    loader = VideoLoader(samples, RowSampler(24, 0, True), num_workers=1, set_aside=told.__setitem__)
    worker = multiprocessing.get_context("fork").Process(target=close_everything_before_the_end)
    worker.start()
    loader._children = [worker]
    samples.in_hand[0] = torch.tensor([worker.pid, 7])
    loader._hung.add(7)
    assert loader._blame() and told == {7: "its decoder hung for 0.5 s, twice"}


def test_what_hung_once_is_read_again(videos, tmp_path, caplog):
    """A machine was asleep, or its disk away: no video is bad for that, and nothing changes."""

    def hang_once():
        if not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            sleep_with_the_interpreter_locked()

    marks, trap = [], Trap(VIEW, {videos.path(7): hang_once})
    found = batches(videos, trap, 2, set_aside=lambda *mark: marks.append(mark), timeout=0.5)
    assert not marks and f"reading {videos.path(7)} took over 0.5 s; it is read once more" in caplog.text
    for ours, theirs in zip(found, batches(videos, VIEW), strict=True):
        assert torch.equal(ours.rows, theirs.rows) and torch.equal(ours.clips, theirs.clips)


def test_workers_of_a_killed_process_end_with_it(videos):
    """Even in the middle of a decoder that hangs."""
    traps = Trap(VIEW, dict.fromkeys(videos.paths, sleep_with_the_interpreter_locked))
    assert_children_end(partial(batches, videos, traps, 2, timeout=1000.0), 2, timeout=2.0)


def test_what_is_no_videos_fault_is_raised(videos):
    def fail():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        batches(videos, Trap(VIEW, {videos.path(3): fail}), 2)


def test_training_ends_where_nothing_can_be_read(videos, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    bad = VideoList([str(tmp_path / "bad.mp4")] * 24, videos.labels)
    for workers in (0, 1):
        with pytest.raises(InputError, match="11 videos one after the other cannot be read"):
            batches(bad, VIEW, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_sampling(workers, videos):
    """Three clips of one opened video, each with its own start, scale, crop and flip, written out from the parts."""
    found = batches(videos, replace(VIEW, num_clips=3), workers, (2, 0))
    assert found[0].clips.shape == (5, 3, 3, 4, 32, 32)
    row = found[1].rows[2].item()
    rng = np.random.default_rng((0, 2, row))
    starts = [int(rng.integers(0, 64 - 13 + 1)) for _ in range(3)]
    for clip, start in zip(found[1].clips[2], starts, strict=True):
        box = transforms.random_box(rng, 64, 64, (40, 48), 32)
        with open_video(videos.path(row)) as video:
            frames = video.read(start + 4 * np.arange(4))
        expected = transforms.resize(transforms.crop(frames, box), 32, 32)
        if rng.random() < 0.5:
            expected = transforms.flip(expected)
        assert np.array_equal(clip.permute(1, 2, 3, 0).numpy(), expected)


def test_the_batch_size_changes_neither_the_order_nor_the_clips(videos):
    """So that cells of an ablation with the same seed see the same."""

    def whole_epoch(batch_size):
        batches = list(VideoLoader(VideoDataset(videos, VIEW, 3, True), RowSampler(24, 3, True), batch_size))
        return torch.cat([batch.rows for batch in batches]), torch.cat([batch.clips for batch in batches])

    (rows, clips), (same_rows, same_clips) = whole_epoch(8), whole_epoch(1)
    assert rows.tolist() != sorted(rows.tolist())
    assert torch.equal(rows, same_rows) and torch.equal(clips, same_clips)


def test_validation_mixes_its_rows_always_the_same_way():
    rows = [row for _, row in RowSampler(20, 0, False, mix=True)]
    assert sorted(rows) == list(range(20)) != rows
    assert rows == [row for _, row in RowSampler(20, 0, False, mix=True)]
    parts = [[row for _, row in RowSampler(20, 0, False, rank, 3, mix=True)] for rank in range(3)]
    assert sorted(row for part in parts for row in part if row is not None) == list(range(20))


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class OnceTrap(Trap):
    """As `Trap`, but once for all: what is in the way of a second time is a file."""

    done: str = ""

    def __call__(self, video, rng):
        if video.path in self.traps and not os.path.exists(self.done):
            open(self.done, "x").close()
            self.traps[video.path]()
        return self.views(video, rng)


def test_a_worker_killed_for_memory_is_not_its_videos_fault(videos, tmp_path, caplog):
    """The batch comes a second time, unchanged; no video is set aside."""
    rows = [row for _, row in RowSampler(24, 0, True)]
    path, aside = videos.path(rows[7]), []
    traps = OnceTrap(VIEW, {path: kill}, str(tmp_path / "done"))
    found = batches(videos, traps, 2, set_aside=lambda *it: aside.append(it))
    expected = batches(videos, VIEW)
    assert aside == [] and rows[7] not in videos.set_aside
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(found, expected, strict=True))
    assert f"a loader worker was killed while it read {path}, as Linux does where memory runs out" in caplog.text


def test_where_memory_runs_out_again_the_run_ends_and_says_so(videos):
    path, aside = videos.path([row for _, row in RowSampler(24, 0, True)][7]), []
    with pytest.raises(InputError, match=r"twice, as Linux does where memory runs out: lower data.loading.num_workers"):
        batches(videos, Trap(VIEW, {path: kill}), 2, set_aside=lambda *it: aside.append(it))
    assert aside == []
