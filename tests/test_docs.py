"""What the documentation names is there."""

import re

import pytest
from conftest import REPO

PAGES = [*sorted(REPO.glob("*.md")), REPO / "data" / "README.md", *sorted((REPO / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    folders = "tests|video_gn|configs|docs|benchmarks|data"
    named = set(re.findall(rf"(?<![\w/.-])(?:{folders})/[\w/]+\.(?:py|yaml|md)\b", page.read_text()))
    assert named, "none is found any more"
    assert not [name for name in named if not (REPO / name).exists()]
