"""Processes of a test, and what becomes of their children."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch


def fork(work, *args):
    """A process that does some work with what this one has loaded: it costs no imports."""
    if torch.cuda.is_initialized():
        pytest.skip("this process has used a GPU, which one that is forked from it cannot")
    process = multiprocessing.get_context("fork").Process(target=work, args=args)
    process.start()
    return process


def assert_children_end(work, least, timeout=10.0):
    """Does some work in a process, kills it when it has children, and looks at what becomes of them."""
    process = fork(work)
    children = wait_for(lambda: len(found := children_of(process.pid)) >= least and found, 30)
    process.kill()
    process.join()
    wait_for(lambda: not any(map(alive, children)), timeout)


def wait_for(question, seconds):
    until = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return answer


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
