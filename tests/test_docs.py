"""What the documentation names is there."""

import re

import pytest
from conftest import REPO
from pytorch_lightning import Trainer

from video_gn.data.video_data import VideoData
from video_gn.train.callbacks.bn_statistics import EvaluationStatistics
from video_gn.train.classifier import VideoClassifier
from video_gn.train.help import known_keys

PAGES = [*sorted(REPO.glob("*.md")), REPO / "data" / "README.md", *sorted((REPO / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    folders = "tests|video_gn|configs|docs|benchmarks|data"
    named = set(re.findall(rf"(?<![\w/.-])(?:{folders})/[\w/]+\.(?:py|yaml|md)\b", page.read_text()))
    assert named, "none is found any more"
    assert not [name for name in named if not (REPO / name).exists()]


def test_options_that_are_named_exist():
    owners = {"model": VideoClassifier, "data": VideoData, "trainer": Trainer, "bn_statistics": EvaluationStatistics}
    keys = {*known_keys(owners), "data.crop_size", "data.short_side", "data.flip", "model.net.hidden", "model.format"}
    said = re.compile(r"(?:--|(?<![\w.]))((?:model|data|trainer|bn_statistics)\.\w+(?:\.\w+)*)\b")
    for page in [*(page for page in PAGES if page.name != "python.md"), *sorted((REPO / "configs").rglob("*.yaml"))]:
        text = page.read_text().partition("## Names of before")[0]
        options = {name for name in said.findall(text) if not re.search(r"\.(py|csv|yaml|md|json|onnx)$", name)}
        assert not options - keys - {key.rpartition(".")[0] for key in keys}, page.name
