"""What tests are given: small data sets, a finished run and what is exported of it."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from command_lines import STEPS, fit, short
from filelock import FileLock
from PIL import Image

from video_gn.data.motion12 import Motion, prepare
from video_gn.export.__main__ import main as export
from video_gn.train import cli


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
    last = run / "checkpoints" / "epoch=2.ckpt"
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "export"
    with FileLock(f"{out}.lock"):  # once for all test processes: the weights are the same in each
        if not out.exists():
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
