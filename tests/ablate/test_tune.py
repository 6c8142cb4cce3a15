"""The best value of a setting for each cell, by validation on a share of its training list."""

import json

import pytest
import yaml
from ablate_runs import write_run
from conftest import REPO

from video_gn.ablate import tune
from video_gn.ablate.__main__ import main
from video_gn.ablate.grid_file import read_grid
from video_gn.ablate.plan import make_plan
from video_gn.errors import InputError

RATES = ["0.2", "0.6", "1.8"]


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(REPO)


def write(path, base="configs/demo.yaml", **entries):
    content = {"base": [base], "axes": {"norm": ["bn", "gn"]}, "seeds": [3]}
    content["tune"] = {"model.optimizer.base_lr": [0.2, 0.6, 1.8], "share": 0.25, "seeds": [0, 1]}
    path.write_text(yaml.safe_dump(content | entries, sort_keys=False))
    return path


def finish(trial, top1, loss=1.0):
    trial.folder.mkdir(parents=True)
    (trial.folder / "results.json").write_text(json.dumps({"fit": {"val": {"top1": top1, "loss": loss}}}))


def fail(trial, error):
    trial.folder.mkdir(parents=True)
    (trial.folder / "ablation.json").write_text(json.dumps({"status": "failed", "error": error, "seconds": 1.0}))


def test_trials_validate_on_a_share_of_the_training_list_and_test_nothing(tmp_path):
    grid = read_grid(write(tmp_path / "g.yaml"), ["--trainer.max_epochs", "2"])
    trials = tune.make_trials(grid, tmp_path / "out")
    assert [(t.cell.values["norm"], t.value, t.seed) for t in trials] == [
        (norm, rate, seed) for norm in ("bn", "gn") for rate in RATES for seed in (0, 1)
    ]
    config = trials[3].config
    assert (config["data.val"], config["data.test"], config["data.shares"]) == ("auto", None, [0.75, 0.25, 0.0])
    assert config["model.optimizer.base_lr"] == 0.6 and config["trainer.max_epochs"] == 2
    assert config["test_after_fit"] is False and config["model.net.norm"] == "bn"
    own = ["--test_after_fit", "false", "--compare_statistics", "false"]
    assert trials[3].words[-4:] == own and trials[3].words.index("--seed_everything") > 0
    assert trials[3].folder == tmp_path / "out" / "tuning" / "bn_base_lr0.6_s1"
    compared = make_plan(grid, tmp_path / "out")
    assert all(run.config["data.val"] == "val.csv" and run.config["test_after_fit"] for run in compared)


def test_a_list_that_is_divided_already_keeps_its_shares(tmp_path):
    grid = read_grid(write(tmp_path / "g.yaml", "configs/own.yaml", axes={"norm": ["gn"]}))
    config = tune.make_trials(grid, tmp_path)[0].config
    assert config["data.val"] == "auto" and config["data.shares"] == [0.7, 0.15, 0.15]


def test_a_loss_that_is_no_number_is_the_greatest(tmp_path):
    grid = read_grid(write(tmp_path / "g.yaml", axes={"norm": ["gn"]}))
    trials = tune.make_trials(grid, tmp_path / "out")
    for trial in trials:
        finish(trial, 0.5, float("nan") if trial.value == "0.2" else 3.0)
    found = tune.as_data(grid, trials)["cells"][0]
    assert found["taken"] == "0.6" and found["tried"]["0.2"] == {"top1": 0.5, "loss": None}


@pytest.mark.slow
def test_each_cell_gets_its_best_value_by_top1_then_by_loss(tmp_path):
    grid = read_grid(write(tmp_path / "g.yaml"), ["--data.loading.num_workers", "1"])
    trials = tune.make_trials(grid, tmp_path / "out")
    scores = {
        ("bn", "0.2"): (0.5, 0.9),
        ("bn", "0.6"): (0.9, 0.3),
        ("gn", "0.2"): (0.6, 0.4),
        ("gn", "0.6"): (0.8, 0.2),
    }
    for trial in trials[:-1]:
        norm, rate = trial.cell.values["norm"], trial.value
        if rate == "1.8" and norm == "bn" and trial.seed:
            fail(trial, "the loss is not finite: training diverged")
        else:
            finish(trial, *((scores[norm, rate][trial.seed], 2.0) if rate != "1.8" else (0.99, 1.0)))
    assert tune.untuned(grid, trials) == {"gn"}
    assert tune.tuned(grid, trials).cells[1] == grid.cells[1]
    finish(trials[-1], 0.01)  # of gn at 1.8, whose mean is 0.5 too: the loss decides
    assert tune.untuned(grid, trials) == set()
    bn, gn = (run.config["model.optimizer.base_lr"] for run in make_plan(tune.tuned(grid, trials), tmp_path / "out"))
    assert bn == 0.2 and gn == 1.8  # a value with which one seed diverges is never the best
    table = tune.tuning_table(grid, trials)
    assert table.rows == [
        ["BN", "70.0", "60.0", "diverged", "0.2", "at the end of the range"],
        ["GN", "50.0", "50.0", "50.0", "1.8", "at the end of the range"],
    ]
    said = tune.as_data(grid, trials)
    assert [cell["taken"] for cell in said["cells"]] == ["0.2", "1.8"]
    assert said["cells"][0]["tried"]["1.8"] is None
    assert said["cells"][0]["tried"]["0.2"] == pytest.approx({"top1": 0.7, "loss": 2.0})


@pytest.mark.slow
def test_a_trial_that_failed_otherwise_says_nothing(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "g.yaml")
    grid = read_grid(path)
    trials = tune.make_trials(grid, tmp_path)
    for trial in trials:
        fail(trial, "killed by SIGKILL; it may have run out of memory")
    assert tune.untuned(grid, trials) == {"bn", "gn"} and not tune.tuning_table(grid, trials).rows
    monkeypatch.setattr("video_gn.ablate.__main__.run_all", lambda *_: None)
    assert main([str(path), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "2 runs cannot begin" in said and "0 of 0 runs" not in said


@pytest.mark.slow
def test_the_report_has_what_was_tried(tmp_path, capsys):
    path, out = write(tmp_path / "g.yaml"), tmp_path / "out"
    grid = read_grid(path)
    assert main([str(path), "--out", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 more runs, whose settings their trials decide" in said and said.count("video_gn fit") == 12
    for trial in tune.make_trials(grid, out):
        finish(trial, 0.9 if trial.value == "0.6" else 0.5)
    for run in make_plan(grid, out):
        write_run(run.folder, range(20), [1, 2] * 10)
    assert main([str(path), "--out", str(out), "--report"]) == 0
    report = (out / "results.md").read_text()
    assert "## Sensitivity to base_lr" in report and "a training list less a share (25%" in report
    assert "| GN | 50.0 | 90.0 | 50.0 | 0.6 |" in report and (out / "figures" / "tuned.svg").is_file()
    assert json.loads((out / "results.json").read_text())["tuned"]["cells"][0]["taken"] == "0.6"
    assert main([str(path), "--out", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "12 of 12 trials are done" in said and said.count("--model.optimizer.base_lr 0.6 --seed_everything 3") == 2


def test_some_cells_are_tried_for_all_along_an_axis(tmp_path):
    axes = {"norm": ["bn", "gn"], "batch": [8, 4, 1]}
    wanted = {"model.optimizer.base_lr": [0.2, 0.6], "at": {"batch": [8, 1]}}
    grid = read_grid(write(tmp_path / "g.yaml", axes=axes, tune=wanted))
    trials = tune.make_trials(grid, tmp_path / "out")
    assert [trial.cell.values["batch"] for trial in trials] == ["8", "8", "1", "1"] * 2
    scores = {("bn", "8"): (0.5, 0.8), ("bn", "1"): (0.6, 0.2), ("gn", "8"): (0.1, 0.2), ("gn", "1"): (0.2, 0.3)}
    for trial in trials[:-1]:
        finish(trial, scores[trial.cell.values["norm"], trial.cell.values["batch"]][trial.value == "0.6"])
    assert tune.untuned(grid, trials) == {"gn_b8", "gn_b4", "gn_b1"}
    finish(trials[-1], 0.3)
    runs = make_plan(tune.tuned(grid, trials), tmp_path / "out")
    rates = {run.cell.name: run.config["model.optimizer.base_lr"] for run in runs}
    assert rates == {f"{norm}_b{batch}": rate for norm, rate in (("bn", 0.2), ("gn", 0.6)) for batch in (8, 4, 1)}
    assert [row[:4] for row in tune.tuning_table(grid, trials).rows] == [
        ["BN", "55.0", "50.0", "0.2"], ["GN", "15.0", "25.0", "0.6"],
    ]  # fmt: skip
    assert tune.as_data(grid, trials)["cells"][1]["norm"] == "gn"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"tune": {"model.optimizer.base_lr": [1, 2], "at": {"batch": 8}}}, "tune.at has batch: 8; axes: norm"),
        ({"tune": {"model.optimizer.base_lr": [1, 2], "at": {"norm": ["ln"]}}}, "tune.at has norm: ln; the values of"),
        (
            {
                "tune": {"model.optimizer.base_lr": [1, 2], "at": {"batch": 1}},
                "axes": {"norm": ["bn", "gn"], "batch": [8, 1]},
                "leave_out": [{"norm": "gn", "batch": 1}],
            },
            "tune.at leaves no cell in which model.optimizer.base_lr of gn_b8 could be tried",
        ),
        ({"tune": {"base_lr": [1, 2]}}, "tune has base_lr; it takes one key of the config, share, seeds, at"),
        ({"tune": {"share": 0.2}}, "tune has no key; it takes one key"),
        ({"tune": {"model.optimizer.base_lr": [1, 2], "model.net.width": [8, 16]}}, "it takes one key of the config"),
        ({"tune": {"model.optimizer.base_lr": [1]}}, r"is \[1\]; it has to be a list of different values"),
        ({"tune": {"model.optimizer.base_lr": [1, 2], "share": 1}}, "tune.share is 1; it has to be a fraction"),
        ({"tune": {"model.optimizer.base_lr": [1, 2], "seeds": []}}, r"tune.seeds is \[\]; it has to be"),
        ({"settings": {"model.optimizer.base_lr": 1}}, "tune sets model.optimizer.base_lr, and so does the grid"),
        ({"tune": {"model.optimizer.base_l": [1, 2]}}, "did you mean model.optimizer.base_lr"),
    ],
)
def test_slips(entries, words, tmp_path):
    with pytest.raises(InputError, match=words):
        tune.make_trials(read_grid(write(tmp_path / "g.yaml", **entries)), tmp_path)
