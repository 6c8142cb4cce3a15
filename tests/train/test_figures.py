"""Figures are true: divergence, ties, scores that are not finite, epochs without validation, averaged weights."""

import csv
import json

import pytest
import torch
from command_lines import stopped, tiny
from conftest import few

from video_gn.files.tables import write_table
from video_gn.train import cli
from video_gn.train.callbacks.history import COLUMNS, MEANS, read_history
from video_gn.train.classifier import VideoClassifier
from video_gn.train.epoch_table import add_epoch
from video_gn.train.metrics import Accuracy, ranks, top

NAN, INF = float("nan"), float("inf")


def read(path):
    return json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN and Infinity are no JSON


# Ranks


@pytest.mark.parametrize(
    ("scores", "label", "rank"),
    [
        ([0.1, 0.7, 0.2], 1, 1),
        ([0.1, 0.7, 0.2], 2, 2),
        ([0.25] * 4, 0, 4),  # all alike: the last place for every class
        ([0.25] * 4, 3, 4),
        ([0.5, 0.5, 0.0], 0, 2),
        ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 3, 7),  # saturated: no top-5
        ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0, 1),
        ([0.1, NAN, 0.2], 0, 0),
        ([NAN] * 3, 0, 0),
        ([0.1, INF, 0.2], 1, 0),
        ([0.1, -INF, 0.2], 2, 0),
    ],
)
def test_rank_of_the_true_class(scores, label, rank):
    assert ranks(torch.tensor(scores), torch.tensor(label)).item() == rank
    assert top(torch.tensor(rank), 1).item() == (rank == 1) and top(torch.tensor(rank), 5).item() == (1 <= rank <= 5)


def test_accuracy_counts_scores_that_are_not_finite_as_wrong():
    accuracy = Accuracy(2)
    good, bad = torch.tensor([[0.6, 0.4]]), torch.tensor([[NAN, 0.4]])
    accuracy.update(torch.stack([good, bad, good]), torch.tensor([0, 0, 1]), [1])
    found = {name: value.item() for name, value in accuracy.compute().items()}
    assert found["videos"] == 4 and found["unreadable"] == 1 and found["not_finite"] == 1
    assert found["top1"] == found["clip_top1"] == 0.25 and found["top5"] == 0.5
    assert found["loss"] == pytest.approx(-(torch.tensor(0.6).log() + torch.tensor(0.4).log()).item() / 2)


# Divergence


def test_training_stops_where_the_loss_is_not_finite(pictures, tmp_path, monkeypatch, capsys):
    stopped(pictures, tmp_path, monkeypatch, 3)
    capsys.readouterr()
    wild = {"model.optimizer.base_lr": 1e9, "model.schedule": "Step", "trainer.max_epochs": 30}
    assert cli.main(tiny(pictures, tmp_path, **wild)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "training diverged: the loss is not finite at step" in errors[0] or "a weight is not finite" in errors[0]
    assert "try a lower model.optimizer.base_lr (1e+09 now)" in errors[0]
    results = read(tmp_path / "results.json")
    assert results["diverged"]["step"] > 3 and "fit" not in results
    assert f"at step {results['diverged']['step']} (epoch {results['diverged']['epoch']})" in errors[0]
    kept = list(tmp_path.glob("checkpoints/*.ckpt"))
    assert kept and f"the last finite checkpoint is {tmp_path}/checkpoints/last.ckpt" in errors[0]
    for path in kept:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())
    assert cli.main(tiny(pictures, tmp_path)) == 0  # from there, at a rate that works
    results = read(tmp_path / "results.json")
    assert "diverged" not in results and results["fit"]["train"]["loss"] is not None


@pytest.mark.parametrize(("batch", "accumulated", "step"), [(1, 1, 1), (1, 2, 1), (2, 2, 1), (3, 2, 2)])
def test_the_step_that_diverged_is_named(batch, accumulated, step, pictures, tmp_path, monkeypatch, capsys):
    """Counted from 1, also by the first batch of several whose gradients make one step."""
    real, calls = VideoClassifier.training_step, []

    def turns(self, *args):
        calls.append(1)
        return real(self, *args) * (NAN if len(calls) == batch else 1)

    monkeypatch.setattr(VideoClassifier, "training_step", turns)
    assert cli.main(tiny(pictures, tmp_path, **{"trainer.accumulate_grad_batches": accumulated})) == 2
    assert f"the loss is not finite at step {step} (epoch 0)" in capsys.readouterr().err
    assert read(tmp_path / "results.json")["diverged"]["step"] == step


@pytest.mark.parametrize("at", ["loss", "weights"])
def test_weights_that_are_not_finite_are_never_saved(at, pictures, tmp_path, monkeypatch):
    """The loss turns in a step, or the weights in the update after a finite loss."""
    assert cli.main(tiny(pictures, tmp_path, **{"trainer.max_epochs": 1})) == 0
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    real = VideoClassifier.training_step

    def step(self, batch, batch_idx):
        loss = real(self, batch, batch_idx)
        if at == "loss":
            return loss * NAN
        self.net.blocks[-1].proj.weight.register_hook(lambda gradient: gradient * INF)
        return loss

    monkeypatch.setattr(VideoClassifier, "training_step", step)
    assert cli.main(tiny(pictures, tmp_path)) == 2
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before


def test_a_test_of_scores_that_are_not_finite(pictures, tmp_path, monkeypatch, capsys):
    assert cli.main(tiny(pictures, tmp_path, **{"trainer.max_epochs": 1})) == 0
    real = VideoClassifier.scores
    monkeypatch.setattr(VideoClassifier, "scores", lambda self, clips: real(self, clips) * NAN)
    test = ["test", "--ckpt_path", str(tmp_path / "checkpoints" / "last.ckpt"), "--trainer.enable_progress_bar=false"]
    assert cli.main(test) == 0
    result = read(tmp_path / "results.json")["tests"][-1]
    assert result["top1"] == result["top5"] == 0 and result["not_finite"] == result["videos"] == 8
    assert result["loss"] is None
    with open(tmp_path / result["videos_file"], newline="") as file:
        assert {(row["predicted"], row["rank"]) for row in csv.DictReader(file)} == {("", "")}
    assert "the scores of 8 videos are not finite; they count as wrong" in capsys.readouterr().out


# What was measured when


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_epochs_without_validation_repeat_no_figures(pictures, tmp_path):
    settings = {"trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 3, "trainer.num_sanity_val_steps": 2}
    assert cli.main(tiny(pictures, tmp_path, **settings)) == 0
    assert [bool(row["val/top1"]) for row in history(tmp_path)] == [False, True, False]
    assert all(row["train/epoch_loss"] for row in history(tmp_path))
    assert read(tmp_path / "results.json")["fit"]["val"]["epoch"] == 1
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3 * len(list((pictures / "train").rglob("*.png"))) // 2


def test_the_history_has_figures_over_classes_and_that_of_before_is_read(pictures, tmp_path):
    settings = {"trainer.max_epochs": 2, "test_after_fit": "true"}
    assert cli.main(tiny(pictures, tmp_path, **settings)) == 0
    rows, (test,) = history(tmp_path), read(tmp_path / "results.json")["tests"]
    for name in ("mean_class_accuracy", "macro_f1"):  # by the same pictures, seen in the same way
        assert rows[-1][f"val/{name}"] == f"{test[name]:.6g}"
    old = [{name: row[name] for name in COLUMNS} for row in rows]
    write_table(tmp_path / "old.csv", COLUMNS, [row.values() for row in old])
    assert read_history(tmp_path / "old.csv") == old
    add_epoch(tmp_path / "old.csv", list(rows[0]), old, [1, *list(rows[1].values())[1:]])
    assert read_history(tmp_path / "old.csv") == [rows[0] | dict.fromkeys(MEANS, ""), rows[1]]


@pytest.mark.parametrize("settings", [{"trainer.check_val_every_n_epoch": 5}, {"trainer.limit_val_batches": 0}])
def test_a_run_without_validation_has_a_checkpoint_and_no_figures_of_one(settings, pictures, tmp_path):
    assert cli.main(tiny(pictures, tmp_path, **{"trainer.num_sanity_val_steps": 2, **settings})) == 0
    assert read(tmp_path / "results.json")["fit"]["val"] is None
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_intervals_of_checkpoints_that_never_come(pictures, tmp_path):
    settings = {"checkpoint.every_n_epochs": 5, "checkpoint.save_on_train_epoch_end": "false"}
    assert cli.main(tiny(pictures, tmp_path, **settings)) == 0
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["callbacks"]["Position"]["epoch"] == 3


AVERAGES = {"StochasticWeightAveraging": {"swa_lrs": 0.01, "device": "cpu"}, "EMAWeightAveraging": {}}


def averaged_run(name, pictures, run_dir):
    """Trains with averages of weights, and tests."""
    given = {"class_path": f"pytorch_lightning.callbacks.{name}", "init_args": AVERAGES[name]}
    assert cli.main(tiny(pictures, run_dir, test_after_fit="true", **{"trainer.callbacks": json.dumps([given])})) == 0
    return run_dir / "checkpoints" / "averaged.ckpt"


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")  # Lightning's; it runs
@pytest.mark.parametrize("name", few(AVERAGES, (), ("EMAWeightAveraging",)))
def test_averaged_weights_are_those_that_are_tested_and_kept(name, pictures, tmp_path, capsys):
    averaged = averaged_run(name, pictures, tmp_path)
    first = read(tmp_path / "results.json")["tests"][0]
    assert first["checkpoint"] == str(averaged) and str(averaged) in capsys.readouterr().err
    assert cli.main(["test", "--ckpt_path", str(averaged), "--trainer.enable_progress_bar=false"]) == 0
    second = read(tmp_path / "results.json")["tests"][1]
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-6)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    kept = torch.load(averaged, weights_only=True)["state_dict"]
    assert name == "EMAWeightAveraging" or any(not torch.equal(last[key], kept[key]) for key in kept)


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
@pytest.mark.parametrize("kept", few([True, False], (True,), ()))
@pytest.mark.parametrize("name", few(AVERAGES, ()))
def test_a_finished_run_resumed_tests_the_averaged_weights(name, kept, pictures, tmp_path):
    """Also where it was killed before they were kept."""
    averaged = averaged_run(name, pictures, tmp_path)
    before = torch.load(averaged, weights_only=True)["state_dict"]
    if not kept:
        averaged.unlink()
    averaged_run(name, pictures, tmp_path)
    after = torch.load(averaged, weights_only=True)["state_dict"]
    assert all(torch.equal(before[key], after[key]) for key in before)
    first, second = read(tmp_path / "results.json")["tests"]
    assert first["loss"] == second["loss"] and second["checkpoint"] == str(averaged)
