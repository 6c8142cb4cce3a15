"""Ablations: grids and their commands, the plan, runs that fail, stop and go on, and the report."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import LONG, REPO, few

from video_gn.ablate import cluster, local, plan, statistics
from video_gn.ablate.__main__ import main
from video_gn.ablate.grid_file import read_grid
from video_gn.ablate.words import label
from video_gn.errors import InputError
from video_gn.train import cli
from video_gn.train.configs import flat

ABLATIONS = REPO / "configs" / "ablations"


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(REPO)


def write(path, **entries):
    content = {"base": ["configs/demo.yaml"], "axes": {"norm": ["bn", "gn"]}} | entries
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


# Grids

TABLE8 = {
    "bn_32x2_b8": ("-c configs/bn.yaml", "bn", 32, 2, 8, 0.01),
    "bn_32x2_b4": ("-c configs/bn.yaml -c configs/b4.yaml", "bn", 32, 2, 4, 0.005),
    "bn_64x1_b4": ("-c configs/bn.yaml -c configs/64x1.yaml -c configs/b4.yaml", "bn", 64, 1, 4, 0.005),
    "gn_32x2_b8": ("", "gn", 32, 2, 8, 0.01),
    "gn_32x2_b4": ("-c configs/b4.yaml", "gn", 32, 2, 4, 0.005),
    "gn_64x1_b4": ("-c configs/64x1.yaml -c configs/b4.yaml", "gn", 64, 1, 4, 0.005),
}


@pytest.mark.slow
def test_table_8_prints_six_commands_that_are_the_papers_cells(capsys):
    assert main([str(ABLATIONS / "table8.yaml"), "--dry-run"]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python ")]
    assert len(commands) == 6
    for line, (name, (overlays, norm, frames, interval, batch, lr)) in zip(commands, TABLE8.items(), strict=True):
        folder = f"runs/ablations/table8/cells/{name}_s0"
        assert line == " ".join(
            f"python -m video_gn fit -c configs/base.yaml {overlays} --compare_statistics true --seed_everything 0 "
            f"--run_dir {folder} --test_after_fit true --ckpt_path last".split()
        )
        config = flat(cli.resolve(shlex.split(line)[3:]))
        keys = ("model.net.norm", "data.clip.num_frames", "data.clip.frame_interval", "data.batch_size")
        assert [config[key] for key in keys] == [norm, frames, interval, batch]
        assert config["model.start.init"].startswith({"gn": "timm:", "bn": "torchvision:"}[norm])
        assert config["trainer.devices"] == 8 and config["trainer.max_epochs"] == 109
        assert config["model.optimizer.base_lr"] * 8 * batch / 64 == pytest.approx(lr)


@pytest.mark.parametrize(
    ("name", "cells", "seeds", "reported"),
    [
        ("table8", 6, 1, 6), ("uneven", 5, 3, 0),
        pytest.param("norms", 36, 3, 0, marks=LONG),
        pytest.param("norms_start", 10, 3, 0, marks=pytest.mark.slow),
        pytest.param("norms_gpu", 6, 3, 0, marks=pytest.mark.slow),
        pytest.param("gn_regularized", 3, 3, 0, marks=pytest.mark.slow),
        pytest.param("motion", 12, 2, 6, marks=pytest.mark.slow),
        pytest.param("ucf101", 28, 3, 0, marks=LONG),
        pytest.param("ut_interaction", 205, 2, 0, marks=LONG),
        pytest.param("fights", 205, 2, 0, marks=LONG),
        pytest.param("start", 6, 3, 0, marks=pytest.mark.slow),
        pytest.param("groups", 14, 1, 9, marks=LONG),
        pytest.param("batch", 24, 1, 7, marks=pytest.mark.slow),
        pytest.param("imagenet/norms", 20, 1, 12, marks=LONG),
        pytest.param("imagenet/groups", 14, 1, 9, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_shipped_grids(name, cells, seeds, reported, tmp_path):
    """Every one is resolved as `fit` does, and its cells differ in their axes' settings alone."""
    grid = read_grid((REPO / "configs" if "/" in name else ABLATIONS) / f"{name}.yaml")
    assert (len(grid.cells), len(grid.seeds)) == (cells, seeds)
    assert len(grid.paper.figures if grid.paper else ()) == reported
    runs = plan.make_plan(grid, tmp_path)
    assert len({run.folder for run in runs}) == len(runs) == cells * seeds
    assert len({json.dumps(run.config, sort_keys=True, default=str) for run in runs}) == cells
    real_sets = {
        "model.net.norm",
        "model.net.weight_standardization",
        "model.freeze_bn_after",
        "model.start.init",
        "data.clip.frame_interval",
        "data.batch_size",
        "data.fold",
    }
    allowed = {
        "table8": {
            "model.net.norm",
            "model.start.init",
            "data.clip.num_frames",
            "data.clip.frame_interval",
            "data.batch_size",
        },
        "groups": {"model.net.num_groups", "model.net.channels_per_group"},
        "batch": {"model.net.norm", "data.batch_size", "trainer.sync_batchnorm"},
        "motion": {"model.net.norm", "data.clip.num_frames", "data.clip.frame_interval", "data.batch_size"},
        "start": {"model.start.init", "model.optimizer.base_lr"},
        "norms": {"model.net.norm", "model.net.weight_standardization", "model.freeze_bn_after", "data.batch_size"},
        "norms_start": {
            "model.net.norm",
            "model.freeze_bn_after",
            "model.start.init",
            "model.start.convert",
            "data.batch_size",
        },
        "norms_gpu": {"model.net.norm", "model.net.weight_standardization", "data.batch_size"},
        "gn_regularized": {"model.net.dropout", "model.net.drop_path"},
        "ucf101": {"model.net.norm", "model.freeze_bn_after", "model.start.init", "data.batch_size"},
        "ut_interaction": real_sets,
        "fights": real_sets,
        "uneven": {"model.loss.class_weights", "model.loss.beta", "data.sampling"},
        "imagenet/norms": {"model.net.norm", "data.batch_size"},
        "imagenet/groups": {"model.net.num_groups", "model.net.channels_per_group"},
    }
    assert set(plan.differing(runs)) == allowed[name]
    assert all(run.lr == pytest.approx(run.config["model.optimizer.base_lr"] * run.clips_per_step / 64) for run in runs)
    assert {path.stem for path in ABLATIONS.glob("*.yaml")} == {name for name in allowed if "/" not in name}


def test_the_papers_figures_are_the_papers():
    figures = {
        values: tuple(one.values()) for values, one in read_grid(ABLATIONS / "table8.yaml").paper.figures.items()
    }
    assert figures == {
        ("bn", "32x2", "8"): (73.3, 90.7), ("bn", "32x2", "4"): (72.1, 90.0), ("bn", "64x1", "4"): (73.3, 90.8),
        ("gn", "32x2", "8"): (73.0, 90.6), ("gn", "32x2", "4"): (72.8, 90.6), ("gn", "64x1", "4"): (74.5, 91.7),
    }  # fmt: skip


def test_axes_of_every_form(tmp_path):
    axes = {
        "norm": ["bn", "gn"],
        "clip": ["8x4", "16x2"],
        "model.optimizer.weight_decay": [0.0, 0.001],
        "start": {"scratch": None, "small": {"config": "configs/b4.yaml", "model.start.init": None}},
    }
    leave_out = [{"norm": "gn", "start": "small"}, {"clip": "8x4", "model.optimizer.weight_decay": 0.001}]
    path = write(
        tmp_path / "g.yaml", axes=axes, leave_out=leave_out, settings={"model.net.dropout": 0.5}, rows=["norm", "start"]
    )
    grid = read_grid(path, ["--trainer.max_epochs", "3"])
    assert grid.columns == ("clip", "model.optimizer.weight_decay") and len(grid.cells) == 3 * 3
    one = next(
        c
        for c in grid.cells
        if c.values == {"norm": "bn", "clip": "16x2", "model.optimizer.weight_decay": "0.001", "start": "small"}
    )
    assert one.args == (
        "-c", "configs/demo.yaml", "-c", "configs/b4.yaml", "--model.net.dropout", "0.5", "--model.net.norm", "bn",
        "--data.clip.num_frames", "16", "--data.clip.frame_interval", "2", "--model.optimizer.weight_decay",
        "0.001", "--model.start.init", "null", "--trainer.max_epochs", "3",
    )  # fmt: skip
    assert one.name == "bn_16x2_0.001_small"
    assert label(grid.axes, tuple(one.values.values())) == "BN, 16 frames, weight_decay 0.001, small"
    config = flat(cli.resolve(["fit", *one.args]))
    assert config["data.batch_size"] == 4 and config["model.start.init"] is None
    assert config["trainer.max_epochs"] == 3


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"axis": {}}, r"the grid has axis; its entries are: axes, base"),
        ({"axes": None}, "a grid needs base, a list of config files, and axes"),
        (
            {"base": ["configs/no.yaml"]},
            r"base: there is no config configs/no.yaml; name a YAML file, or one of: 64x1, b4",
        ),
        ({"axes": {"norms": ["bn"]}}, "there is no key norms; an axis that lists values is norm, clip, batch"),
        ({"axes": {"clip": ["32"]}}, r"a clip is frames x interval, as 32x2"),
        ({"axes": {"norm": "bn"}}, r"axes.norm is 'bn'; it has to be a list of values"),
        ({"axes": {"norm": ["bn", "bn"]}}, "has a value twice"),
        (
            {"axes": {"norm": {"bn": {"config": "configs/no.yaml"}}}},
            r"axes.norm.bn.config: there is no config configs/no.yaml",
        ),
        ({"leave_out": [{"norm": "ln"}]}, r"leave_out\[0\] has norm: ln; the values of norm are: bn, gn"),
        ({"leave_out": [{"norm": "bn"}, {"norm": "gn"}]}, "leaves no cell"),
        ({"rows": ["clip"]}, "rows names clip; the axes are: norm"),
        ({"seeds": [1, 1]}, "seeds have to differ"),
        ({"seeds": ["a"]}, "a list of whole numbers from 0"),
        ({"paper": {"cells": [{"norm": "in", "top1": 1}]}}, r"paper.cells\[0\] has norm: in"),
        ({"paper": {"cells": [{"norm": "bn"}]}}, "needs top1"),
        ({"axes": {"model.nrm": ["bn"]}}, r"model.nrm.*did you mean model.net.norm"),
        ({"axes": {"norm": ["bn", "bnn"]}}, r"model.net.norm is 'bnn'; it has to be one of: bn, gn"),
        ({"axes": {"batch": [8, 0]}}, r"data.batch_size is 0; it has to be a whole number from 1"),
        ({"settings": {"data.motion.size": 0}}, r"data.motion.size is 0; it has to be"),
        ({"settings": {"model.loss.label_smoothing": 2}}, r"model.loss.label_smoothing is 2.0; it has to be"),
        ({"settings": {"data.augment.random_erasing": 2}}, r"data.augment.random_erasing is 2.0; it has to be"),
        ({"axes": {"trainer.precision": ["32-true", "16-true"]}}, r"trainer.precision is '16-true'"),
        ({"axes": {"s": {"a": {"seed_everything": 1}, "b": {"seed_everything": 2}}}}, "a and b have the same settings"),
    ],
)
def test_slips_in_a_grid_are_one_line(entries, words, tmp_path, capsys):
    path = write(tmp_path / "grid.yaml", **entries)
    code = main([str(path), "--dry-run"])
    err = capsys.readouterr().err
    assert code == 2 and len(err.strip().splitlines()) == 1 and re.search(words, err), err


def test_weights_that_are_not_there_are_said_before_the_first_run(tmp_path, capsys):
    path = write(tmp_path / "grid.yaml", settings={"model.start.init": "runs/none/last.ckpt"})
    assert main([str(path), "--dry-run"]) == 0
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "bn starts from runs/none/last.ckpt (model.start.init), which is no file and no public name" in err
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_data_that_is_not_there_is_said_before_the_first_run(tmp_path, capsys):
    path = write(tmp_path / "grid.yaml", settings={"data.motion": None, "data.root": str(tmp_path / "none")})
    assert main([str(path), "--out", str(tmp_path / "out"), "--devices", "cpu"]) == 2
    err = capsys.readouterr().err
    assert f"bn: there is no list or folder {tmp_path}/none/train.csv; in a run" in err and "make-list" in err
    assert len(err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_ablation_anywhere(tmp_path, monkeypatch, capsys):
    """In a folder with nothing in it: grid and configs are those of the package."""
    monkeypatch.chdir(tmp_path)
    assert main(["motion", "--dry-run"]) == 0
    said = capsys.readouterr().out
    trials = [line for line in said.splitlines() if line.startswith("python ")]
    assert len(trials) == 24 and trials[0].startswith("python -m video_gn fit -c configs/demo.yaml --data.motion ")
    assert "24 more runs, whose settings their trials decide" in said
    assert not list(tmp_path.iterdir())


def test_a_missing_or_broken_grid(tmp_path, capsys):
    assert main(["configs/ablations/no.yaml"]) == 2
    assert (
        "there is no grid configs/ablations/no.yaml; name a YAML file, or one of: batch, fights, gn_regularized"
        in capsys.readouterr().err
    )
    (tmp_path / "bad.yaml").write_text("a: [1")
    assert main([str(tmp_path / "bad.yaml")]) == 2
    assert "cannot be read as YAML" in capsys.readouterr().err


# The plan


def test_cells_have_to_train_equally_long(tmp_path):
    grid = read_grid(write(tmp_path / "g.yaml", axes={"norm": {"bn": {"trainer.max_epochs": 3}, "gn": None}}))
    with pytest.raises(InputError, match=r"3 epochs \(bn\), 10 epochs \(gn\)"):
        plan.make_plan(grid, tmp_path)
    with pytest.raises(InputError, match=r"set trainer\.max_epochs alone"):
        plan.make_plan(read_grid(write(tmp_path / "g.yaml"), ["--trainer.max_steps", "5"]), tmp_path)
    assert plan.make_plan(read_grid(write(tmp_path / "g.yaml", axes={"trainer.max_epochs": [1, 2]})), tmp_path)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            ["--model.net.norm", "gn"],
            "sets model.net.norm to 'gn', and by the axis norm bn_.* has 'bn'; leave the option out",
        ),
        pytest.param(
            ["--data.batch_size", "2"],
            "sets data.batch_size to 2, and by the axis batch bn_b8_a has 8",
            marks=pytest.mark.slow,
        ),
        (["--data.batch_s", "2"], "unrecognized arguments: --data.batch_s 2"),  # no abbreviations
        (["-c", "configs/b4.yaml"], "sets data.batch_size to 4"),
        pytest.param(
            ["--model.start.init", "null"],
            "sets model.start.init to null, and by the axis start bn_b8_b has 'torchvision:resnet50'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--trainer.max_epochs", "1", "--trainer.callbacks+", "RichProgressBar"], "", marks=pytest.mark.slow
        ),
        (["--run_dir", "x"], "sets run_dir to 'x'; the ablation sets it"),
        pytest.param(["--seed_everything", "0"], "sets seed_everything to 0; the ablation", marks=LONG),
        pytest.param(["--ckpt_path", "x.ckpt"], "sets ckpt_path", marks=LONG),
        pytest.param(["--test_after_fit", "false"], "sets test_after_fit", marks=LONG),
    ],
)
def test_options_that_would_undo_an_axis_are_refused(extra, words, tmp_path):
    """Two cells of one norm would stand in the report as two norms."""
    axes = {"norm": ["bn", "gn"], "batch": [8, 4], "start": {"a": {}, "b": {"config": "configs/bn.yaml"}}}
    leave_out = [{"batch": 4, "start": "b"}, {"norm": "gn", "start": "b"}, {"norm": "gn", "batch": 4}]
    grid = read_grid(write(tmp_path / "g.yaml", axes=axes, leave_out=leave_out, seeds=[0, 1]), extra)
    if words == "":
        assert plan.make_plan(grid, tmp_path)
        return
    with pytest.raises(InputError, match=words):
        plan.make_plan(grid, tmp_path)


@pytest.mark.slow
def test_all_cells_may_start_from_the_same(tmp_path):
    """Table 8 from scratch: its file of BN names weights too."""
    runs = plan.make_plan(read_grid(Path("configs/ablations/table8.yaml"), ["--model.start.init", "null"]), tmp_path)
    assert {run.config["model.start.init"] for run in runs} == {None}
    assert {run.config["model.net.norm"] for run in runs} == {"bn", "gn"}
    with pytest.raises(InputError, match=r"sets model\.net\.norm to 'gn', and by the axis norm"):
        plan.make_plan(read_grid(Path("configs/ablations/table8.yaml"), ["--model.net.norm", "gn"]), tmp_path)


def test_clips_per_step_count_processes_and_accumulation(tmp_path):
    extra = ["--trainer.devices", "2", "--trainer.num_nodes", "3", "--trainer.accumulate_grad_batches", "4"]
    run = plan.make_plan(read_grid(write(tmp_path / "g.yaml"), [*extra, "--model.net.ghost_batch", "2"]), tmp_path)[0]
    assert run.clips_per_step == 2 * 3 * 4 * 8 and run.lr == pytest.approx(0.4 * 192 / 64) and run.norm_clips == 2


def test_a_folder_with_other_settings_is_refused(tmp_path, capsys):
    path = write(tmp_path / "g.yaml")
    folder = tmp_path / "out" / "cells" / "bn_s0"
    folder.mkdir(parents=True)
    config = cli.resolve(["fit", "-c", "configs/demo.yaml", "--model.net.norm", "bn", "--test_after_fit", "true"])
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"run_dir": "elsewhere", "ckpt_path": "x"}))
    assert main([str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert main([str(path), "--out", str(tmp_path / "out"), "--dry-run", "--model.optimizer.base_lr", "0.2"]) == 2
    err = capsys.readouterr().err
    assert (
        "holds a run with model.optimizer.base_lr=0.4, the grid now asks for 0.2; give the new ones another --out"
        in err
    )


def test_devices(tmp_path):
    runs = plan.make_plan(read_grid(write(tmp_path / "g.yaml"), ["--trainer.devices", "2"]), tmp_path)
    slots = local.make_slots(["0,1", "2,3"], runs)
    assert [slot.env for slot in slots] == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in local.make_slots(["cpu", "cpu"], runs)] == ["", ""]
    assert len(local.make_slots(["0,1", "0,1"], runs)) == 2  # which share them
    for devices, words in (
        (["0"], "add --trainer.devices 1"),
        (["0,1", "1,1"], "--devices 1,1 names a GPU twice"),
        (["gpu"], "is cpu,"),
    ):
        with pytest.raises(InputError, match=words):
            local.make_slots(devices, runs)


# Runs. What they run is a stand-in for `video_gn fit`, which takes a second and leaves the same files.

STAND_IN = """
import json, os, pathlib, signal, sys, time

def main():
    folder = pathlib.Path(sys.argv[sys.argv.index("--run_dir") + 1])
    kind = sys.argv[sys.argv.index("--model.start.init") + 1]
    signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
    if kind == "bnn":
        print("error: there is no norm 'bnn'", file=sys.stderr)
        sys.exit(2)
    if kind == "oom":
        os.kill(os.getpid(), 9)
    if kind == "bug":
        raise ZeroDivisionError("division by zero")
    state = folder / "state.json"
    step = json.loads(state.read_text()) if state.exists() else 0
    print(f"from step {step}", flush=True)
    for step in range(step, 20):
        time.sleep(0.05)
        state.with_suffix(".part").write_text(json.dumps(step + 1))
        state.with_suffix(".part").rename(state)
        (folder / "progress.json").write_text(json.dumps({"steps": step + 1, "of": 20}))
    (folder / "results.json").write_text(json.dumps({"fit": {}, "tests": [{"top1": 0.5, "top5": 1.0}]}))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def make_runs(tmp_path, monkeypatch):
    """Runs of the stand-in, one of each kind, and its folder as the current one.

    There `python -m video_gn` finds a package whose command is the stand-in, and whose modules are the real ones.
    """
    package = tmp_path / "video_gn"
    package.mkdir()
    (package / "__init__.py").write_text(f"__path__.append({str(REPO / 'video_gn')!r})")
    (package / "__main__.py").write_text(STAND_IN)

    def make(*kinds):
        grid = read_grid(write(tmp_path / "g.yaml", axes={"model.start.init": list(kinds)}))
        runs = plan.make_plan(grid, tmp_path / "out")
        monkeypatch.chdir(tmp_path)
        return runs

    return make


@pytest.mark.slow
def test_failed_runs_are_recorded_and_the_others_go_on(make_runs):
    runs, told = make_runs("bnn", "oom", "gn", "bug", "ln"), {}
    local.run_all(runs, [local.Slot(), local.Slot()], lambda run, note: told.update({run.name: note}))
    assert {name: note["status"] for name, note in told.items()} == {
        "bnn_s0": "failed", "oom_s0": "failed", "gn_s0": "finished", "bug_s0": "failed", "ln_s0": "finished",
    }  # fmt: skip
    assert told["bnn_s0"]["error"] == "there is no norm 'bnn'" and told["bnn_s0"]["exit_code"] == 2
    assert told["oom_s0"]["error"] == "killed by SIGKILL; it may have run out of memory"
    assert told["bug_s0"]["error"] == "ZeroDivisionError: division by zero"
    assert [run.state for run in runs] == ["failed before", "failed before", "finished", "failed before", "finished"]
    again = []
    local.run_all(runs, [local.Slot()], lambda run, note: again.append(run.name))
    assert again == ["bnn_s0", "oom_s0", "bug_s0"]  # finished ones are skipped, failed ones tried again


def test_a_folder_that_cannot_be_made_is_one_line(make_runs):
    (run,) = make_runs("gn")
    with pytest.raises(InputError, match="cannot write /proc/x/gn_s0: No such file"):
        local.Process(replace(run, folder=Path("/proc/x/gn_s0")))


def test_four_slots_run_four_at_once(make_runs, monkeypatch):
    runs = make_runs("gn", "ln", "in", "brn")
    monkeypatch.setattr(local, "POLL", 0.05)
    began = time.monotonic()
    local.run_all(runs, [local.Slot()] * 4, lambda run, note: None)
    at_once = time.monotonic() - began
    assert at_once < sum(run.note()["seconds"] for run in runs) * 0.75


@pytest.mark.parametrize(
    ("number", "error"),
    [
        pytest.param(signal.SIGINT, KeyboardInterrupt, marks=pytest.mark.slow),
        (signal.SIGTERM, local.Terminated),
    ],
)
def test_stopped_runs_save_and_go_on(make_runs, monkeypatch, number, error):
    runs, polls = make_runs("gn", "ln"), []
    real = local._show

    def show(*args):
        real(*args)
        polls.append(0)
        if len(polls) == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(local, "_show", show)
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    with pytest.raises(error):
        local.run_all(runs, [local.Slot()], lambda run, note: None)
    signal.signal(signal.SIGINT, ctrl_c)
    log = runs[0].folder / "log.txt"
    assert runs[0].note()["status"] == "stopped" and log.read_text().endswith("saved\n") and not runs[1].folder.exists()
    local.run_all(runs, [local.Slot()], lambda run, note: None)
    steps = [int(step) for step in re.findall(r"from step (\d+)", log.read_text())]
    assert steps[0] == 0 and steps[1] > 0 and all(run.results() for run in runs)


@pytest.mark.slow
def test_a_killed_ablation_leaves_no_orphan_and_goes_on(make_runs, tmp_path):
    """kill -9 of the ablation's process: its run saves and ends, and the next start waits for that."""
    runs = make_runs("gn")
    script = tmp_path / "ablation.py"
    script.write_text(
        "import os, sys; sys.path[0] = sys.argv[1]; os.chdir(sys.argv[1])\n"
        "from pathlib import Path; from video_gn.ablate import grid_file, local, plan\n"
        "folder = Path(sys.argv[2]); runs = plan.make_plan(grid_file.read_grid(folder / 'g.yaml'), folder / 'out')\n"
        "os.chdir(folder); local.run_all(runs, [local.Slot()], print)\n"
    )
    process = subprocess.Popen([sys.executable, str(script), str(REPO), str(tmp_path)])
    state = runs[0].folder / "state.json"
    until = time.monotonic() + 120
    while not state.exists() or json.loads(state.read_text()) < 3:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    local.run_all(runs, [local.Slot()], lambda run, note: None)
    log = (runs[0].folder / "log.txt").read_text()
    assert "saved" in log and runs[0].results()
    assert [int(step) > 0 for step in re.findall(r"from step (\d+)", log)] == [False, True]


def test_one_run_is_never_worked_on_twice(make_runs, monkeypatch):
    (run,) = make_runs("gn")
    monkeypatch.setattr(local, "PATIENCE", 0.3)
    process = local.Process(run)
    with pytest.raises(local.Busy):
        local.Process(run)
    told = {}
    local.run_all([run], [local.Slot()], lambda run, note: told.update(note))
    assert told["error"] == "another process works on it"
    assert process.wait(30) == 0 and process.note()["status"] == "finished"


def test_time_left_follows_from_what_was_measured(make_runs):
    runs = make_runs("gn", "ln", "in")
    assert local.Clock(runs, 1).left() is None
    for run, seconds in zip(runs, (100.0, 200.0), strict=False):
        (run.folder / "checkpoints").mkdir(parents=True)
        (run.folder / "results.json").write_text(json.dumps({"fit": {}, "tests": [{"top1": 0.5}]}))
        (run.folder / "ablation.json").write_text(json.dumps({"status": "finished", "seconds": seconds}))
    assert local.Clock(runs, 1).left() == pytest.approx(150)  # a cell like the mean of the others
    assert [local.in_words(seconds) for seconds in (50, 720, 12600, 2e5)] == ["50 s", "12 min", "3.5 h", "2.3 days"]


@pytest.mark.long
@pytest.mark.slow
def test_submitit_runs_the_same_runs(make_runs, tmp_path, monkeypatch):
    """Its local executor: a finished run is left out, one ends well, one fails with its message."""
    runs = make_runs("gn", "ln", "bnn")
    local.run_all(runs[:1], [local.Slot()], lambda run, note: None)
    before = (runs[0].folder / "log.txt").read_text()
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    jobs = cluster.submit(runs, tmp_path / "out", "local", {"timeout_min": 5})
    assert len(jobs) == 2
    assert jobs[0].result()["status"] == "finished" and runs[1].results()
    assert "there is no norm 'bnn'" in str(jobs[1].exception())
    assert runs[2].note()["status"] == "failed" and (runs[0].folder / "log.txt").read_text() == before


def test_a_pre_empted_job_saves_and_goes_back_into_the_queue(make_runs):
    (run,) = make_runs("gn")
    job = cluster.Job(run)
    job._process = local.Process(run)
    while not (run.folder / "state.json").exists():
        time.sleep(0.02)
    again = job.checkpoint()
    assert "saved" in (run.folder / "log.txt").read_text()
    assert again.function.run.name == run.name and again.result()["status"] == "finished"


def test_submitits_options(tmp_path):
    assert cluster.parse_options(["timeout_min=60", "slurm_partition=gpu"]) == {
        "timeout_min": 60,
        "slurm_partition": "gpu",
    }
    with pytest.raises(InputError, match="an option is name=value"):
        cluster.parse_options(["timeout_min"])
    runs = plan.make_plan(read_grid(ABLATIONS / "table8.yaml"), tmp_path)
    assert cluster._resources(runs[0], "slurm") == {
        "name": tmp_path.name, "nodes": 1, "tasks_per_node": 8, "cpus_per_task": 13, "gpus_per_node": 8,
    }  # fmt: skip
    mixed = plan.make_plan(read_grid(write(tmp_path / "g.yaml", axes={"trainer.devices": [1, 2]})), tmp_path)
    with pytest.raises(InputError, match="2 needs other resources than 1"):
        cluster.submit(mixed, tmp_path, "slurm", {})
    with pytest.raises(InputError, match="--cluster local"):
        cluster.submit(runs, tmp_path, "local", {"no_such_option": 1})


# All of it


@pytest.fixture(scope="module")
def ablation(data_root, tmp_path_factory):
    """Two norms on the small set; a third cell fails, because a batch of its size cannot be filled."""
    folder = tmp_path_factory.mktemp("ablation")
    settings = {
        "data.root": str(data_root), "data.motion": {"train_per_class": 2, "val_per_class": 2},
        "data.loading.num_workers": 0,
        "data.clip.num_frames": 8, "data.clip.frame_interval": 8, "trainer.max_epochs": 2, "compare_statistics": True,
        "model.net.width": 8,
        "bn_statistics.batches": 4, "data.evaluation.protocol": "center-1clip",
    }  # fmt: skip
    axes = {"norm": ["bn", "gn"], "batch": [8, 64]}
    leave_out = [{"norm": "bn", "batch": 64}]
    paper = {"source": "nobody", "cells": [{"norm": "bn", "batch": 8, "top1": 50.0, "top5": 60.0}]}
    path = write(
        folder / "small.yaml", axes=axes, settings=settings, leave_out=leave_out, paper=paper, title="Small & quick"
    )
    with contextlib.chdir(REPO), contextlib.redirect_stdout(io.StringIO()) as out:
        code = main([str(path), "--out", str(folder / "out"), "--devices", "cpu", "cpu"])
    return folder, code, out.getvalue()


@pytest.mark.slow
def test_an_ablation_from_end_to_end(ablation):
    folder, code, out = ablation
    assert code == 1, out  # one cell failed
    assert "bn    8      8 clips    8           0.05" in out and "the time is known after the first" in out
    assert "the rest will take about" in out
    for norm in ("bn", "gn"):
        cell = folder / "out" / "cells" / f"{norm}_b8_s0"
        results = json.loads((cell / "results.json").read_text())
        assert flat(results["run"]["model"])["net.norm"] == norm and (cell / "config.yaml").is_file()
        assert json.loads((cell / "ablation.json").read_text())["status"] == "finished"
        rows = (cell / "test-0.csv").read_text().splitlines()
        assert len(rows) == 25 and rows[0] == "path,label,predicted,rank,predicted_score,label_score"
        right = sum(row.split(",")[3] == "1" for row in rows)
        assert results["tests"][0]["top1"] == pytest.approx(right / 24)
        history = (cell / "history.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in history] == ["epoch", "0", "1"] and all(history[-1].split(","))
        kinds = [one["bn_statistics"] for one in results.get("validations", [])]
        assert kinds == (["running", "precise", "batch"] if norm == "bn" else [])
    assert len(results.get("validations", [])) == 0
    failed = json.loads((folder / "out" / "cells" / "gn_b64_s0" / "ablation.json").read_text())
    assert failed["status"] == "failed" and "do not fill one step of 64 clips" in failed["error"]


@pytest.mark.slow
def test_the_report_has_what_was_measured(ablation):
    folder, *_ = ablation
    out = folder / "out"
    text, data = (out / "results.md").read_text(), json.loads((out / "results.json").read_text())
    cells = {(cell["norm"], cell["batch"]): cell for cell in data["cells"]}
    bn, gn = cells["bn", "8"], cells["gn", "8"]
    assert f"| BN | {bn['top1']['mean']:.1f} / {bn['top5']['mean']:.1f} |" in text and "| 50.0 / 60.0 |" in text
    assert "With one seed nothing is shown" in text and " ± " not in text.partition("## Result")[2][:400]
    (difference,) = data["differences"]
    assert difference["top1_mean_low_high"][0] == pytest.approx(gn["top1"]["mean"] - bn["top1"]["mean"], abs=1e-4)
    assert "do not fill one step of 64 clips" in text and "gn_b64_s0" in data["unfinished"]
    layers = bn["runs"][0]["bn_statistics"]["precise"]["norm_layers"]
    assert len(layers) == 13 and set(layers[0]) == {"layer", "running", "batch"}
    assert bn["runs"][0]["fit"]["clips_per_s"] > 0 and bn["runs"][0]["history"][1]["epoch"] == 1
    page = (out / "results.html").read_text()
    figures = {path.stem for path in (out / "figures").glob("*.svg")}
    expected = {"accuracy_batch", "top5_batch", "curves", "curves_steps", "curves_seconds", "statistics", "distances"}
    assert figures == expected | {"differences", "classes", "confusions"}
    assert page.count("data:image/svg+xml") == len(figures) and len(page) < 500_000
    assert "Small &amp; quick" in page and not re.search(r"src=\"(?!data:)", page)
    links = re.findall(r"href=\"(?!#)([^\"]*)\"", page)
    assert links == ["cells/bn_b8_s0/report.html", "cells/gn_b8_s0/report.html"]
    assert all((out / link).is_file() for link in links)
    assert re.search(r"commit [0-9a-f]{12}", text) or not (REPO / ".git").exists()
    for path in (out / "figures").glob("*.svg"):
        drawn = path.read_text()
        assert drawn.count("<text") > 5 and "mathdefault" not in drawn  # markup is not drawn: a class may be named $x$


@pytest.mark.slow
def test_the_same_command_goes_on_and_other_settings_are_refused(ablation, capsys):
    folder, *_ = ablation
    words = [str(folder / "small.yaml"), "--out", str(folder / "out")]
    before = (folder / "out" / "cells" / "bn_b8_s0" / "results.json").read_bytes()
    assert main([*words, "--report"]) == 1
    assert main([*words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "finished" in out and "failed before" in out
    assert main([*words, "--model.optimizer.base_lr", "0.2"]) == 2
    assert (folder / "out" / "cells" / "bn_b8_s0" / "results.json").read_bytes() == before


DAMAGED_RUNS = {
    "results.json": (b"", b"{", b"\xff", b"[1]", b"[" * 10**5, {"tests": 1}, {"fit": 5}, {"tests": [{"top1": "x"}]},
                     {"tests": [{"top1": None}]}, {"validations": 5}, {"versions": None}),
    "ablation.json": (b"{", b"[]", {"seconds": "x"}),
    "config.yaml": (b"\xff", b"[1]", b"a: [", b""),
    "history.csv": (b"a\n1\n", b"epoch,train/epoch_loss\nx,1\n"),
    "test-0.csv": (b"path,label,predicted,rank\na,b,c,x\n", b"a\n1\n"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", few(DAMAGED_RUNS, (), ("results.json", "test-0.csv")))
def test_damaged_files_of_a_run_are_one_line(name, ablation, tmp_path, capsys):
    folder, *_ = ablation
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out" / "cells" / "gn_b8_s0" / name
    sound = path.read_bytes() if path.exists() else b"{}"
    for change in DAMAGED_RUNS[name]:
        changed = change if isinstance(change, bytes) else json.dumps(json.loads(sound) | change).encode()
        path.write_bytes(changed)
        code = main([str(folder / "small.yaml"), "--out", str(tmp_path / "out"), "--report"])
        err = capsys.readouterr().err
        assert code in (1, 2) and (code == 1 or err.count("error: ") == err.count("\n") == 1), (change, err)
        path.write_bytes(sound)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top1", "words"),
    [
        (5.0, "says that top1 is 5.0; it has to be a number from 0 to 1. The file is damaged; move it away"),
        (True, "top1 is True"),
        (-0.5, "top1 is -0.5"),
        (0.123, "by results.json 12.30 %"),
    ],
)
def test_figures_that_cannot_be_are_refused(top1, words, ablation, tmp_path, capsys):
    folder, *_ = ablation
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out" / "cells" / "gn_b8_s0" / "results.json"
    results = json.loads(path.read_text())
    results["tests"][-1]["top1"] = top1
    path.write_text(json.dumps(results))
    assert main([str(folder / "small.yaml"), "--out", str(tmp_path / "out"), "--report"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),  # a list may name a video twice: rows are compared, not paths
        ({"videos": 3}, None),  # a part of the list was tested
        ({"videos": 5}, "by results.json 50.00 % of 5"),
        ({"videos": float("nan")}, "not of one test"),
        ({"top1": 0.75}, "top1 is 2 of 4 videos, and by results.json 75.00 % of 4; they are not of one test"),
        ({"top5": 1.0}, "top5 is 3 of 4 videos, and by results.json 100.00 % of 4"),
        ({"clip_top1": 50}, "results.json says that clip_top1 is 50; it has to be a number from 0 to 1"),
    ],
)
def test_a_tests_table_has_to_give_its_figures(change, words, tmp_path):
    (tmp_path / "test-0.csv").write_text("path,label,predicted,rank\na,x,x,1\na,x,x,1\nb,x,,\nc,x,y,4\n")
    test = {"videos_file": "test-0.csv", "videos": 4, "top1": 0.5, "top5": 0.75, "clip_top1": 0.5} | change
    if change == {"videos": 3}:
        test |= {"top1": 2 / 3, "top5": 1.0}
    run = statistics.Measured(SimpleNamespace(folder=tmp_path), {"tests": [test]})
    if words:
        with pytest.raises(InputError, match=words):
            _ = run.videos
    elif change:
        assert run.videos.names == []
    else:
        assert run.videos.names == ["a x", "a x", "b x", "c x"] and run.videos.ranks.tolist() == [1, 1, 0, 4]
        assert run.videos.predicted == ["x", "x", "", "y"] and run.videos.groups == ["a", "a", "b", "c"]


def test_other_figures_that_are_no_fractions(tmp_path):
    (tmp_path / "history.csv").write_text(
        "epoch,train/epoch_loss,train/epoch_top1,val/loss,val/top1,val/top5\n0,1,0.5,,,\n1,1,0.5,1,7,0.5\n"
    )
    results = {"fit": {"train": {"top1": 1.5}, "val_median": {"top1": -1}},
               "validations": [{"bn_statistics": "batch", "top1": True}]}  # fmt: skip
    run = statistics.Measured(SimpleNamespace(folder=tmp_path), results)
    for figure, words in (
        (lambda: run.history, r"history.csv says that val/top1 is 7.0; it has to be"),
        (lambda: run.val_median("top1"), r"val_median.top1 is -1;"),
        (lambda: run.training_top1, r"fit.train.top1 is 1.5;"),
        (lambda: run.top1_by("batch"), r"top1 by batch statistics is True;"),
    ):
        with pytest.raises(InputError, match=words):
            figure()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", few(["progress.json", "results.json", "history.csv", "test-0.csv", "ablation.json"], (), ("results.json",))
)
def test_a_pipe_in_a_files_place_is_not_waited_for(name, ablation, tmp_path):
    folder, *_ = ablation
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out" / "cells" / "gn_b8_s0" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def ring(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    try:
        assert main([str(folder / "small.yaml"), "--out", str(tmp_path / "out"), "--report"]) == 1
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_a_report_reads_no_file_elsewhere(ablation, tmp_path, capsys):
    folder, *_ = ablation
    shutil.copytree(folder / "out", tmp_path / "out")
    path = tmp_path / "out" / "cells" / "gn_b8_s0" / "results.json"
    results = json.loads(path.read_text())
    results["tests"][-1]["videos_file"] = "/etc/passwd"
    path.write_text(json.dumps(results))
    assert main([str(folder / "small.yaml"), "--out", str(tmp_path / "out"), "--report"]) == 2
    assert "'/etc/passwd' as a file of its folder" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_precise_statistics_change_a_test_and_are_gone_after_it(ablation, tmp_path, capsys):
    """`train.py test` with each kind: precise ones are measured anew, and the checkpoint keeps the running ones."""
    folder, *_ = ablation
    checkpoint = folder / "out" / "cells" / "bn_b8_s0" / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()
    tested = {}
    for kind in ("running", "precise", "batch"):
        words = ["--ckpt_path", str(checkpoint), "--bn_statistics.use", kind, "--run_dir", str(tmp_path)]
        assert cli.main(["test", *words, "--trainer.enable_progress_bar", "false"]) == 0
        tested[kind] = json.loads((tmp_path / "results.json").read_text())["tests"][-1]
    assert [one["bn_statistics"] for one in tested.values()] == ["running", "precise", "batch"]
    assert len({one["loss"] for one in tested.values()}) == 3 and len(tested["precise"]["norm_layers"]) == 13
    assert checkpoint.read_bytes() == before
    assert "BN by its precise statistics" in capsys.readouterr().out
