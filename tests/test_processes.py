import ctypes
import multiprocessing
import os
import signal
import time

import pytest
from children import assert_children_end

from video_gn.processes import KILLED, Ended, end_with_parent, run_jobs


def job(item):
    if item == "hang":
        ctypes.PyDLL(None).sleep(1000)
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "memory":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "fail":
        raise ValueError("something is wrong")
    return item * 2


def wait(seconds):
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "done"


def test_every_item_ends_whatever_its_process_does():
    items = [1, "hang", 2, "crash", 3, 4, "memory", 5, 6]
    results = dict(run_jobs(job, items, 2, 1.0))
    assert {item: results[item] for item in (1, 2, 3, 4, 5, 6)} == {1: 2, 2: 4, 3: 6, 4: 8, 5: 10, 6: 12}
    assert results["hang"] == Ended("hung for 1 s", True)
    assert results["crash"] == Ended("crashed its decoder (exit code -11)", False)
    assert results["memory"] == Ended(KILLED, False)
    assert len(results) == len(items)


def test_time_in_which_nothing_ran_is_not_counted(monkeypatch):
    """On a machine that was asleep, the clock jumps."""
    began, real = time.monotonic(), time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 1000 * (real() > began + 0.7))
    assert list(run_jobs(wait, [2.0], 1, 10.0)) == [(2.0, "done")]


def test_an_error_of_our_own_is_raised():
    with pytest.raises(ValueError, match="something is wrong"):
        list(run_jobs(job, [1, "fail", 2], 2, 10))


def test_items_are_taken_as_needed():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = run_jobs(job, items(), 2, 10)
    next(results)
    assert len(taken) <= 6
    results.close()


def test_children_of_a_killed_process_end_with_it():
    def work():
        list(run_jobs(job, ["hang", "hang"], 2, 1000.0))

    assert_children_end(work, 2)


def test_a_child_that_is_late_ends_at_once():
    child = multiprocessing.get_context("fork").Process(target=end_with_parent, args=(signal.SIGKILL, 1))
    child.start()
    child.join(10)
    assert child.exitcode == -signal.SIGKILL
