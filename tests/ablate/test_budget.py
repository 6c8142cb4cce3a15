"""Equal epochs, equal steps, or both."""

import json

import pytest
import yaml
from ablate_runs import write_run
from conftest import REPO

from video_gn.ablate import tune
from video_gn.ablate.__main__ import main
from video_gn.ablate.budget import with_budget
from video_gn.ablate.grid_file import read_grid
from video_gn.ablate.plan import length_of, make_plan
from video_gn.errors import InputError


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(REPO)


def make_grid(tmp_path, extra=(), **entries):
    content = {
        "base": ["configs/demo.yaml"], "axes": {"norm": ["bn", "gn"], "batch": [8, 2]},
        "settings": {"trainer.max_epochs": 8, "trainer.check_val_every_n_epoch": 4}, "seeds": [0, 1],
    }  # fmt: skip
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content | entries, sort_keys=False))
    return read_grid(tmp_path / "g.yaml", list(extra))


def budgeted(grid, out):
    return with_budget(grid, length_of(grid, out))


def test_equal_steps_are_fewer_epochs_of_smaller_batches(tmp_path):
    grid = budgeted(make_grid(tmp_path, ["--data.loading.num_workers", "0"], budget="steps"), tmp_path)
    runs = make_plan(grid, tmp_path)
    steps = {run.cell.values["batch"]: (run.epochs, run.epochs * 600 // run.clips_per_step) for run in runs}
    assert steps == {"8": (8, 600), "2": (2, 600)}
    checked = {run.cell.values["batch"]: run.config["trainer.check_val_every_n_epoch"] for run in runs}
    assert checked == {"8": 4, "2": 1}  # each ends with a validation
    assert all(run.config["data.loading.num_workers"] == 0 for run in runs)
    assert budgeted(same := make_grid(tmp_path), tmp_path) is same


@pytest.mark.long
@pytest.mark.slow
def test_with_both_a_run_that_is_equal_has_two_places_and_is_trained_once(tmp_path, capsys):
    rates = {"model.optimizer.base_lr": [0.2, 0.4], "seeds": [0]}
    grid = budgeted(make_grid(tmp_path, budget="both", tune=rates), tmp_path)
    assert grid.axes["budget"] == ("epochs", "steps") and len(grid.cells) == 8
    trials = tune.make_trials(grid, tmp_path / "out")
    assert len(trials) == 12 and not any(trial.cell.original for trial in trials)
    for trial in trials:
        trial.folder.mkdir(parents=True)
        top1 = 0.5 + 0.1 * (trial.value == ("0.4" if trial.cell.values["batch"] == "8" else "0.2"))
        (trial.folder / "results.json").write_text(json.dumps({"fit": {"val": {"top1": top1, "loss": 1.0}}}))
    runs = make_plan(tune.tuned(grid, trials), tmp_path / "out")
    assert len(runs) == 16 and len({run.folder for run in runs}) == 12
    assert {run.config["model.optimizer.base_lr"] for run in runs if run.cell.values["batch"] == "8"} == {0.4}
    assert main([str(tmp_path / "g.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("python -m video_gn fit") == 12 + 12
    for run in {run.folder: run for run in runs}.values():
        right = 5 if run.cell.values == {"norm": "bn", "batch": "2", "budget": "steps"} else 16
        write_run(run.folder, range(20), [1] * right + [2] * (20 - right))
    assert main([str(tmp_path / "g.yaml"), "--out", str(tmp_path / "out"), "--report"]) == 0
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    found = {(row["difference"], row["at"]): row["top1_mean_low_high"][0] for row in data["differences"]}
    assert found["2 clips − 8 clips", "BN, equal steps"] == pytest.approx(-55)
    assert found["2 clips − 8 clips", "BN, equal epochs"] == 0
    assert ("equal steps − equal epochs", "BN, 8 clips") not in found  # they are one run
    assert found["equal steps − equal epochs", "BN, 2 clips"] == pytest.approx(-55)
    report = (tmp_path / "out" / "results.md").read_text()
    assert "Cells train in equal epochs, and in equal steps of the optimiser" in report
    assert "12 of 12 runs finished" in report and report.count("gn_b8_epochs_s1") == 1


@pytest.mark.parametrize(
    ("entries", "extra", "words"),
    [
        ({"budget": "time"}, (), "budget is 'time'; it has to be one of: epochs, steps, both"),
        ({"budget": "steps", "axes": {"batch": [8, 1]}, "settings": {"trainer.max_epochs": 12}}, (),
         r"gives b1 1.5 of 12 epochs \(1 of 8 clips per step\), and epochs are whole; set trainer.max"),
        ({"budget": "both", "tune": {"model.optimizer.base_lr": [0.1, 0.2], "at": {"batch": [8]}}}, (),
         "tune.at would have it at two values of model.optimizer.base_lr"),
        ({"budget": "steps"}, ("--trainer.max_epochs", "2"), "which decides trainer.max_epochs of each cell"),
        ({"budget": "both", "axes": {"budget": {"a": {}, "b": {"data.batch_size": 2}}}}, (), "an axis is called b"),
    ],
)  # fmt: skip
def test_slips(entries, extra, words, tmp_path):
    with pytest.raises(InputError, match=words):
        budgeted(make_grid(tmp_path, extra, **entries), tmp_path)
