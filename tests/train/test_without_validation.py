"""Training without a validation set: data.val null."""

import csv
import json

import pytest
import pytorch_lightning as pl
import torch
from command_lines import STEPS, stopped, tiny
from samples import SMALL, classifier

from video_gn.data.image_data import ImageData
from video_gn.data.settings import Loading
from video_gn.train import cli


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(tiny(pictures, folder, **{"data.val": "null", "data.test": "val", "test_after_fit": "true"})) == 0
    return folder


def test_it_trains_and_tests(run):
    found = results(run)
    assert found["fit"]["epochs"] == 3 and found["fit"]["val"] is None and found["fit"]["val_median"] is None
    assert "validations" not in found and found["tests"][0]["videos"] == 8
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and all(row["train/epoch_loss"] and not row["val/top1"] for row in rows)


def test_without_a_test_set_there_is_no_test(pictures, run, tmp_path, capsys):
    settings = {"data.val": "null", "test_after_fit": "true", "compare_statistics": "true"}
    assert cli.main(tiny(pictures, tmp_path, **settings)) == 0
    said = capsys.readouterr()
    assert said.err.count("no test after fit: data.test and data.val are null") == 1
    assert said.err.count("compare_statistics compares nothing") == 1 and "checkpoints/last.ckpt" in said.out
    assert "tests" not in results(tmp_path)
    assert "limit_val_batches: null" in (tmp_path / "config.yaml").read_text()  # which a run with data.val may take
    states = [torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (run, tmp_path)]
    assert all(torch.equal(states[0]["state_dict"][name], value) for name, value in states[1]["state_dict"].items())


def test_it_resumes(pictures, run, tmp_path, monkeypatch):
    stopped(pictures, tmp_path, monkeypatch, STEPS + 2, **{"data.val": "null"})
    assert cli.main(tiny(pictures, tmp_path, **{"data.val": "null"})) == 0
    states = [torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (run, tmp_path)]
    assert all(torch.equal(states[0]["state_dict"][name], value) for name, value in states[1]["state_dict"].items())


def test_what_needs_a_validation_set_says_so(pictures, run, tmp_path, capsys):
    last = str(run / "checkpoints/last.ckpt")
    stop = {"trainer.callbacks": "EarlyStopping", "trainer.callbacks.monitor": "val/top1"}
    keep = {"trainer.callbacks": "ModelCheckpoint", "trainer.callbacks.monitor": "val/top1"}
    for words, line in (
        (["validate", "--ckpt_path", last], "there are no val videos: data.val is null; name a list with --data.val"),
        (
            ["test", "--ckpt_path", last, "--data.test", "null"],
            "there are no test videos: data.test and data.val are null",
        ),
        (
            tiny(pictures, tmp_path / "a", **{"data.val": "null"} | stop),
            "EarlyStopping monitors val/top1, and data.val",
        ),
        (
            tiny(pictures, tmp_path / "b", **{"data.val": "null", "checkpoint.monitor": "val/loss"}),
            "checkpoint.monitor is val/loss, and data.val is null",
        ),
        (
            tiny(pictures, tmp_path / "c", **{"data.val": "null"} | keep),
            "ModelCheckpoint monitors val",
        ),
    ):
        capsys.readouterr()
        assert cli.main(words) == 2, line
        said = capsys.readouterr().err
        assert line in said and "Traceback" not in said, said


def test_a_trainer_made_in_python(pictures, tmp_path):
    """In Python, without the command line."""
    data = ImageData(str(pictures), val=None, crop_size=16, short_side=16, loading=Loading(num_workers=0), batch_size=2)
    model = classifier(data.class_names, **SMALL | {"arch": "flat_small", "crop_size": 16}, batch_size=2)
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(model, data)
    assert trainer.global_step == 2 and "val/top1" not in trainer.callback_metrics
