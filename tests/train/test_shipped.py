"""Configs by name: those of the package, unless a path exists."""

import pytest
from conftest import REPO

from video_gn.errors import InputError
from video_gn.train import cli, shipped
from video_gn.train.shipped import find_config, with_configs


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "grid", "path"),
    [
        ("demo", False, "demo"), ("configs/demo.yaml", False, "demo"), ("./configs/demo", False, "demo"),
        ("imagenet/base", False, "imagenet/base"), ("motion", True, "ablations/motion"),
        ("ablations/motion", True, "ablations/motion"), ("configs/ablations/motion.yaml", True, "ablations/motion"),
        ("imagenet/norms", True, "imagenet/norms"),
    ],
)  # fmt: skip
def test_what_comes_with_the_package(name, grid, path):
    assert find_config(name, grid) == str(REPO / "configs" / f"{path}.yaml")


def test_a_path_that_exists_comes_first(tmp_path):
    (tmp_path / "demo").mkdir()  # a folder is no config
    assert find_config("demo") == str(REPO / "configs" / "demo.yaml")
    (tmp_path / "demo").rmdir()
    for name in ("demo", "configs/demo.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("model: {norm: bn}")
        assert find_config(name) == name


@pytest.mark.parametrize(
    "name", ["no", "motion", "../pyproject.toml", "configs/../demo", "imagenet/norms", "/demo", ""]
)
def test_a_name_that_is_neither(name):
    with pytest.raises(
        InputError, match=r"there is no config .*; name a YAML file, or one of: 64x1, b4, base, bn, demo"
    ):
        find_config(name)


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "video_gn"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "mine.yaml").write_text("a: 1")
    monkeypatch.setattr(shipped, "PACKAGE", package)
    assert find_config("mine") == str(package / "configs" / "mine.yaml")


def test_a_command_line_names_them(tmp_path):
    demo, bn = (str(REPO / "configs" / f"{name}.yaml") for name in ("demo", "bn"))
    words = ["fit", "-c", "demo", "--config=bn", "--run_dir", "demo"]
    assert with_configs(words) == ["fit", "-c", demo, f"--config={bn}", "--run_dir", "demo"]
    assert with_configs(["fit", "-c"]) == ["fit", "-c"]
    assert cli.resolve(["fit", "-c", "demo", "-c", "bn"]) == cli.resolve(["fit", "-c", demo, "-c", bn])
