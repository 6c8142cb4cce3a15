import os
from pathlib import Path

import numpy as np
import pytest

from video_gn.motion import Motion, prepare

REPO = Path(__file__).parents[1]
# Real clips, sound and damaged, with their MANIFEST.tsv; the tests on them are skipped where there are none.
VIDEOS = Path(os.environ.get("VIDEO_GN_TEST_VIDEOS", REPO.parent / "shared" / "videos"))


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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
