"""Figures of each training step are where Lightning would put what is logged."""

import csv

import pytest
import torch
from command_lines import tiny

from video_gn.train import cli
from video_gn.train.callbacks.speed import Progress

NAMES = ("train/loss", "train/top1", "train/clips_per_s")


@pytest.mark.parametrize(("every", "batches"), [(1, 1), (3, 1), (2, 2), (0, 1)])
def test_loggers_get_the_rows_that_they_would_by_self_log(every, batches, pictures, tmp_path, monkeypatch):
    """A figure of its own that is logged by Lightning, which adds an epoch likewise, comes in the same steps."""
    real, seen = Progress.on_train_batch_end, []

    def logs_too(callback, trainer, model, *args):
        real(callback, trainer, model, *args)
        model.log("mine", torch.tensor(1.0))
        seen.append({name: trainer.callback_metrics[name].item() for name in NAMES[:2]})
        assert seen[-1].items() <= {name: float(value) for name, value in trainer.logged_metrics.items()}.items()

    monkeypatch.setattr(Progress, "on_train_batch_end", logs_too)
    log = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "log")}}
    settings = {"trainer.logger": log, "trainer.log_every_n_steps": every, "trainer.accumulate_grad_batches": batches}
    assert cli.main(tiny(pictures, tmp_path / "run", **settings)) == 0
    with next((tmp_path / "log").rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    wanted = [(row["step"], row["epoch"]) for row in rows if row.get("mine")]
    found = [row for row in rows if row.get("train/loss")]
    assert [(row["step"], row["epoch"]) for row in found] == wanted
    assert bool(wanted) == bool(every)
    for row in found:
        figures = seen[(int(row["step"]) + 1) * batches - 1]
        assert {name: float(row[name]) for name in figures} == pytest.approx(figures)
        assert row["step"] == "0" or float(row["train/clips_per_s"]) > 0
