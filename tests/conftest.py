"""What all tests share: fixtures, marks, and how a test process is set up.

With several test processes the first one runs no test, so that it imports none of what takes seconds.
"""

import gc
import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two test processes share the cores, and so do their runs
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # the lines after fit are the same however the tests are started
REPO = Path(__file__).parents[1]
LONG = (pytest.mark.slow, pytest.mark.long)  # of a case among faster ones
# Real clips, sound and damaged, with their MANIFEST.tsv; the tests on them are skipped where there are none.
VIDEOS = Path(os.environ.get("VIDEO_GN_TEST_VIDEOS", REPO.parent / "shared" / "videos"))


pytest.register_assert_rewrite("shared_fixtures", "command_lines", "children", "samples", "states")


def pytest_configure(config):
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        _set_up(config)


def _set_up(config):
    import torch
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels run on the CPU
        _patch_once()
    else:  # exact sums in one order, so that a difference is our kernels'
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    # PyTorch looks every 5 seconds whether the loader's workers live.
    _MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.3,)
    config.pluginmanager.import_plugin("shared_fixtures")


def _patch_once():
    """Has Triton's interpreter exchange its language once for a kernel, and not again for each function in it.

    That is 2 of 5 seconds of a network's step.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patch_once(fn):
        languages = [one for one in (tl, tl.core) if any(value is one for value in fn.__globals__.values())]
        exchanged = not any(tl.core.is_builtin(one.load) for one in languages)
        return interpreter._LangPatchScope() if exchanged else patch(fn)

    interpreter._patch_lang = patch_once


def pytest_collection_finish():
    gc.freeze()  # what is imported and collected need not be looked through again and again


def pytest_sessionfinish():
    gc.unfreeze()


def pytest_collection_modifyitems(items):
    """The longest tests come first, so that no process waits for another one at the end."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("long", "slow")])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What a test printed and logged travels from process to process as UTF-8, names of files may be none."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _heard():
    """What is logged reaches caplog, whatever ran before: commands end that for their process."""
    logging.getLogger("video_gn").propagate = True


def script(path: str):
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPO / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that others of its folder find it
    spec.loader.exec_module(module)
    return module


def few(values, fast, slow=None):
    """Cases for every value: those beyond the fast ones marked as slow, and those beyond the slow ones as long too."""
    cases = []
    for value in values:
        marks = [] if value in fast else [pytest.mark.slow]
        if slow is not None and value not in (*fast, *slow):
            marks.append(pytest.mark.long)
        cases.append(pytest.param(value, marks=marks))
    return cases
