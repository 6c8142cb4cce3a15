"""Which epoch best.ckpt is of."""

import csv
import json
import math
from types import SimpleNamespace

import pytest
import torch
from command_lines import tiny
from conftest import few

from video_gn.train import cli
from video_gn.train.callbacks.best import MONITORS, BestCheckpoint, LastCheckpoint


def chosen(epochs, monitor="val/top1", resumed=False):
    """The epoch that is kept of `(figure, loss)` each."""
    trainer = SimpleNamespace(callback_metrics={}, strategy=SimpleNamespace(reduce_boolean_decision=lambda x: x))
    best, kept = BestCheckpoint("folder", monitor), None
    for epoch, (figure, loss) in enumerate(epochs):
        trainer.callback_metrics["val/loss"] = torch.tensor(loss)
        current = torch.tensor(figure)
        if best.check_monitor_top_k(trainer, current):
            kept, best.best_k_models, best.kth_best_model_path = epoch, {"best": current}, "best"
        if resumed:
            state, best = best.state_dict(), BestCheckpoint("folder", monitor)
            best.load_state_dict(state)
    return kept


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(
    ("epochs", "kept"),
    [
        ([(0.5, 1.0), (0.7, 2.0), (0.6, 0.1)], 1),
        ([(0.5, 1.0), (0.5, 2.0)], 0),  # a tie: the lower loss
        ([(0.5, 2.0), (0.5, 1.0), (0.5, 1.5)], 1),
        ([(0.5, 1.0), (0.5, 1.0)], 1),  # another: the later one
        ([(0.5, math.nan), (0.5, 3.0)], 1),
        ([(0.5, 3.0), (0.5, math.nan)], 0),
    ],
)
def test_ties_have_the_lower_loss_then_the_later_epoch(epochs, kept, resumed):
    assert chosen(epochs, resumed=resumed) == kept


def test_of_the_loss_the_lowest():
    assert chosen([(1.0, 1.0), (0.5, 0.5), (0.7, 0.7)], "val/loss") == 1
    assert chosen([(0.5, 0.5), (0.5, 0.5)], "val/loss") == 1


def test_state_has_the_names_of_before():
    keys = [BestCheckpoint("folder", "val/top1").state_key, LastCheckpoint(dirpath="folder").state_key]
    assert all(key.startswith("ModelCheckpoint{'monitor': ") for key in keys) and keys[0] != keys[1]
    best = BestCheckpoint("folder", "val/top1")
    best.load_state_dict({name: value for name, value in best.state_dict().items() if name != "loss"})
    assert best.loss == math.inf


@pytest.mark.parametrize("monitor", few(["val/loss", "val/macro_f1"], ("val/loss",)))
def test_a_run_keeps_the_best_by_its_monitor(monitor, pictures, tmp_path):
    given = {"checkpoint.monitor": monitor, "model.optimizer.base_lr": 3, "trainer.logger": "CSVLogger",
             "trainer.logger.save_dir": tmp_path / "log", "trainer.log_every_n_steps": 1}  # fmt: skip
    assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 0
    with open(next((tmp_path / "log").rglob("metrics.csv"))) as file:
        rows = [row for row in csv.DictReader(file) if row[monitor]]
    order = {"val/loss": lambda row: (-float(row["val/loss"]), row["epoch"])}.get(
        monitor, lambda row: (float(row[monitor]), -float(row["val/loss"]), row["epoch"])
    )
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == int(max(rows, key=order)["epoch"])
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2
    found = json.loads((tmp_path / "run" / "results.json").read_text())["fit"]["val"]
    assert found["mean_class_accuracy"] == found["top1"]  # classes of 4 videos each


def test_another_figure_is_one_line_that_names_them(pictures, tmp_path, capsys):
    assert cli.main(tiny(pictures, tmp_path, **{"checkpoint.monitor": "val/acc"})) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "checkpoint.monitor is 'val/acc'; it has to be one of: " in line and all(name in line for name in MONITORS)
    assert cli.main([*tiny(pictures, tmp_path), "--checkpoint.mode", "max"]) == 2
    assert "there is no checkpoint.mode: it follows from checkpoint.monitor" in capsys.readouterr().err
