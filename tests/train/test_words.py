"""Words and switches of Lightning's that people type: they work, or are one line."""

import importlib.util
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from command_lines import STEPS, tiny
from pytorch_lightning.callbacks.progress import rich_progress

from video_gn.ablate import local
from video_gn.console import progress
from video_gn.train import cli


def error(capsys, args):
    """The line of a slip."""
    assert cli.main([str(arg) for arg in args]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.slow
def test_best_and_last_are_files_of_the_run_in_every_command(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    assert cli.main(tiny(pictures, folder, **{"trainer.max_epochs": 1})) == 0
    given = ["--run_dir", str(folder), "--trainer.accelerator", "cpu"]
    for word in ("best", "last"):
        assert cli.main(["test", f"--ckpt_path={word}", *given]) == 0
    assert cli.main(["validate", "--ckpt_path", "best", *given]) == 0
    videos = ["--videos", str(pictures / "val"), "--json", "found.jsonl"]
    assert cli.main(["predict", "--ckpt_path", "best", *given, *videos]) == 0
    assert len(Path("found.jsonl").read_text().splitlines()) == 8
    tests = json.loads((folder / "results.json").read_text())["tests"]
    assert [Path(test["checkpoint"]).name for test in tests] == ["best.ckpt", "last.ckpt"]
    assert cli.main(tiny(pictures, folder, **{"trainer.max_epochs": 2, "ckpt_path": "best"})) == 0
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2 * STEPS
    capsys.readouterr()
    none = error(capsys, ["test", "--ckpt_path", "best"])
    assert "there is no runs/i3d_r50_gn_32x2_b8/checkpoints/best.ckpt; name the run by --run_dir FOLDER" in none
    none = error(capsys, tiny(pictures, tmp_path / "new", ckpt_path="best"))
    assert f"there is no checkpoint {tmp_path}/new/checkpoints/best.ckpt" in none


def test_switches_that_work(pictures, tmp_path, capsys):
    switches = {"trainer.enable_checkpointing": "false", "seed_everything": "true", "ckpt_path": "null",
                "trainer.max_epochs": -1, "trainer.limit_val_batches": 0}  # fmt: skip
    timer = ("--trainer.callbacks+=Timer", "--trainer.callbacks.duration", "00:00:00:01")
    assert cli.main([*tiny(pictures, tmp_path, **switches), *timer]) == 0
    assert "training has no end that is known" in capsys.readouterr().err
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["fit"]["steps"] > 0 and not list(tmp_path.rglob("*.ckpt"))
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["seed_everything"] == results["run"]["data"]["seed"] == results["run"]["model"]["seed"] == 0
    assert config["trainer"]["callbacks"][0]["init_args"]["interval"] == "step"


@pytest.mark.parametrize(
    ("settings", "words", "line"),
    [
        ({"trainer.precision": "bf16-true"}, (), "trainer.precision is 'bf16-true'; it has to be 16-mixed, bf16-mixed"),
        ({"trainer.precision": "16-true"}, (), "trainer.precision is '16-true'; it has to be 16-mixed"),
        ({"trainer.barebones": "true"}, (), "trainer.barebones is True; it has to be false: a run has logs"),
        ({}, ("--trainer.callbacks+=ModelCheckpoint",), "a callback twice; a ModelCheckpoint with the settings of"),
        ({"trainer.logger": "WandbLogger"}, (), "WandbLogger: Requirement 'wandb"),
        ({"trainer.accumulate_grad_batches": STEPS + 1}, (), f"is {STEPS + 1}, and an epoch has {STEPS} batches"),
    ],
)
def test_switches_that_are_one_line(settings, words, line, pictures, tmp_path, capsys):
    if "WandbLogger" in settings.values() and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    assert line in error(capsys, [*tiny(pictures, tmp_path, ckpt_path="null", **settings), *words])


def test_a_bar_whose_package_is_not_installed_is_one_line(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rich_progress, "_RICH_AVAILABLE", False)
    settings = {"ckpt_path": "null", "trainer.enable_progress_bar": "null"}
    line = error(capsys, [*tiny(pictures, tmp_path, **settings), "--trainer.callbacks+=RichProgressBar"])
    assert "RichProgressBar: `RichProgressBar` requires `rich`" in line


def test_a_final_test_keeps_to_the_batches_that_it_is_limited_to(pictures, tmp_path):
    limited = {"trainer.max_epochs": 1, "trainer.limit_test_batches": 1, "test_after_fit": "true"}
    assert cli.main(tiny(pictures, tmp_path, **limited)) == 0
    assert json.loads((tmp_path / "results.json").read_text())["tests"][0]["videos"] == 2


class Terminal(io.StringIO):
    """A file that says it is one."""

    def isatty(self):
        return True


def test_bars_in_a_file_are_drawn_twice_a_minute():
    file, terminal = io.StringIO(), Terminal()
    runs = [SimpleNamespace(results=lambda: None, progress=lambda: 0.5, name="run", note=dict, cost=1)]
    for stream in (file, terminal):
        bar = progress(total=2, unit="run", bar_format=local.BAR, miniters=0, file=stream)
        for _ in range(40):
            bar.last_print_t -= 0.2  # so much later
            local._show(bar, runs, runs, local.Clock(runs, 1))
    assert file.getvalue().count("\r") == 1 and terminal.getvalue().count("\r") == 41
