import gc
import importlib.util
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two test processes share the cores, and so do their runs
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels run on the CPU
else:  # exact sums in one order, so that a difference is our kernels'
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True

from video_gn.data.motion12 import Motion, prepare
from video_gn.export.__main__ import main as export
from video_gn.train import cli
from video_gn.train.classifier import VideoClassifier

# PyTorch looks every 5 seconds whether the loader's workers live.
_MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.3,)
REPO = Path(__file__).parents[1]
gc.freeze()  # what is imported so far need not be looked through again and again
# Real clips, sound and damaged, with their MANIFEST.tsv; the tests on them are skipped where there are none.
VIDEOS = Path(os.environ.get("VIDEO_GN_TEST_VIDEOS", REPO.parent / "shared" / "videos"))


def script(path: str):
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPO / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that others of its folder find it
    spec.loader.exec_module(module)
    return module


DEMO = str(REPO / "configs" / "demo.yaml")


def few(values, fast):
    """Cases for every value, those beyond the fast ones marked as slow."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


def fit(run_dir, root, *args):
    return ["fit", "-c", DEMO, "--run_dir", str(run_dir), "--data.root", str(root), *map(str, args)]


def short(*args):
    """Two quick epochs of a narrower network on the small set, without a test."""
    settings = {
        "data.motion": "{train_per_class: 2, val_per_class: 2}", "data.loading.num_workers": 0,
        "data.clip.num_frames": 8,
        "data.clip.frame_interval": 8, "model.net.width": 8, "model.net.dropout": 0.5, "trainer.max_epochs": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false", "test_after_fit": "false",
    }  # fmt: skip
    return (*(word for key, value in settings.items() for word in (f"--{key}", value)), *args)


def pytest_sessionfinish():
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What a test printed and logged travels from process to process as UTF-8, names of files may be none."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def motion() -> Motion:
    """A small embedded set: 24 training and 24 validation videos."""
    return Motion(train_per_class=2, val_per_class=2)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory, motion) -> Path:
    """The folder in which that set lies."""
    root = tmp_path_factory.mktemp("data")
    prepare(root, motion)
    return root


@pytest.fixture(scope="session")
def motion_folder(data_root, motion) -> Path:
    return data_root / motion.folder


@pytest.fixture(scope="session")
def run(data_root, tmp_path_factory):
    """A finished short run."""
    run_dir = tmp_path_factory.mktemp("runs") / "short"
    keep = ("--checkpoint.save_top_k", -1, "--checkpoint.filename", "{epoch}", "--trainer.max_epochs", 3)
    assert cli.main(fit(run_dir, data_root, *short(*keep))) == 0
    return run_dir


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The last checkpoint of that run, and all formats that a small network has, by their endings."""
    out = tmp_path_factory.mktemp("export")
    last = run / "checkpoints" / "epoch=2.ckpt"
    assert export([str(last), "--out", str(out)]) == 0
    return last, {path.suffix: path for path in out.iterdir()}


@pytest.fixture
def flipped(motion_folder, tmp_path) -> Path:
    """A video with flipped bits, which the decoder conceals."""
    good = motion_folder / "val" / "slow_up" / "0000.mp4"
    with av.open(str(good)) as container:  # some of one frame's payload, past its header
        packet = [packet for packet in container.demux(video=0) if packet.size > 150][5]
    data = bytearray(good.read_bytes())
    for byte in range(packet.pos + 60, packet.pos + packet.size - 20, 7):
        data[byte] ^= 0x10
    path = tmp_path / "flipped.mp4"
    path.write_bytes(data)
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def randomize(net):
    """Every weight, gamma, beta and running statistic away from its start."""
    torch.manual_seed(1)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1 and value.is_floating_point():
            value.normal_(1 if name.endswith("weight") else 0, 0.2)
    return net.eval()


# A run that takes a second: images, which are videos of one frame, and a network of one narrow layer a stage

STEPS = int(os.environ.get("VIDEO_GN_STEPS", 4))  # of an epoch: 12 gives 36 in all
EPOCHS = 3


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Tiny images to train on and 8 to validate, of 2 classes: videos of one frame, which are quick to read."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", STEPS), ("val", 4)):
        for label in ("dark", "light"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (20, 20, 3)) + 100 * (label == "light")
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / label / f"{i}.png")
    return root


def tiny(root, run_dir, **settings):
    """3 epochs of a network of one narrow layer a stage, with dropout."""
    given = {
        "data.root": root, "data.train": "train", "data.val": "val", "images": "true",
        "data.crop_size": 16, "data.short_side": 16, "data.batch_size": 2, "data.loading.num_workers": 0,
        "model.net.arch": "flat_small", "model.net.depth": 11, "model.net.width": 4, "model.net.num_groups": 2,
        "model.schedule": "Cosine", "model.optimizer.base_lr": 0.3,
        "trainer.max_epochs": EPOCHS, "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false", "trainer.logger": "false", "trainer.num_sanity_val_steps": 0,
        "ckpt_path": "last", "run_dir": run_dir,
    } | settings  # fmt: skip
    return ["fit", *(str(word) for key, value in given.items() for word in (f"--{key}", value))]


def stop_at(patched, number, when):
    """Has a signal come in the middle of the n-th call of a step, training's or validation's."""
    hook, count = when
    real, calls = getattr(VideoClassifier, hook), []

    def sends(self, *args):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return real(self, *args)

    patched.setattr(VideoClassifier, hook, sends)


def stopped(pictures, run_dir, monkeypatch, step, **settings):
    with monkeypatch.context() as patched:
        stop_at(patched, signal.SIGTERM, ("training_step", step))
        assert cli.main(tiny(pictures, run_dir, **settings)) == 143


# Processes and their children


def assert_children_end(work, least, timeout=10.0):
    """Does some work in a process, kills it when it has children, and looks at what becomes of them."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
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
