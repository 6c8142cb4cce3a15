"""Stops at every step, two in a row and of every kind: the run ends as if nothing had happened."""

import json
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from command_lines import EPOCHS, STEPS, stop_at, stopped, tiny
from conftest import REPO, few
from states import Killed, Record, die_at, difference, ends, stopped_and_resumed, what_counts

from video_gn.train import cli
from video_gn.train.callbacks import interrupt, results
from video_gn.train.classifier import VideoClassifier


@pytest.mark.slow
def test_resumed_at_any_step_every_later_state_is_the_same(pictures, tmp_path, monkeypatch):
    """So a second stop, at any later step, leaves what it would have left without the first; and so on for a third."""
    with monkeypatch.context() as patched:
        whole = Record(patched, tmp_path / "whole")
        assert cli.main(tiny(pictures, tmp_path / "whole")) == 0
    expected = ends(tmp_path / "whole")
    assert sorted(whole.states) == list(range(1, EPOCHS * STEPS + 1))
    assert expected["history"].count("\n") == EPOCHS + 1
    for step in whole.states:
        run_dir = tmp_path / f"from{step}"
        whole.put(step, run_dir)
        with monkeypatch.context() as patched:
            again = Record(patched, run_dir)
            assert cli.main(tiny(pictures, run_dir)) == 0
        assert sorted(again.states) == list(range(step + 1, EPOCHS * STEPS + 1))
        for later, state in again.states.items():
            assert not (d := difference(what_counts(state), what_counts(whole.states[later]))), (step, later, d)
        assert not (d := difference(ends(run_dir), expected)), (step, d)


@pytest.mark.long
@pytest.mark.slow
def test_stops_of_every_kind_in_a_row(pictures, tmp_path, monkeypatch):
    """Two or three of them, in steps, last steps and validations; also where checkpoints are saved within epochs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests themselves may run in the background
    every = {"checkpoint.every_n_train_steps": 1}
    assert cli.main(tiny(pictures, tmp_path / "whole", **every)) == 0
    expected = ends(tmp_path / "whole")
    draw = random.Random(0)
    for attempt in range(3):
        run_dir = tmp_path / f"stopped{attempt}"
        for _ in range(draw.choice([2, 3])):
            hook, most = draw.choice([("training_step", STEPS), ("validation_step", 2), ("training_step", STEPS + 1)])
            when = hook, draw.randint(1, most) if most <= STEPS else STEPS
            kind = draw.choice([signal.SIGTERM, signal.SIGINT, None])
            with monkeypatch.context() as patched:
                if kind:
                    stop_at(patched, kind, when)
                    assert cli.main(tiny(pictures, run_dir, **every)) == 128 + kind
                    continue
                die_at(patched, when)
                with pytest.raises(Killed):
                    cli.main(tiny(pictures, run_dir, **every))
        assert cli.main(tiny(pictures, run_dir, **every)) == 0
        assert not (d := difference(ends(run_dir), expected)), (attempt, d)


# Other settings after a stop


@pytest.fixture
def seen(monkeypatch):
    """Epoch, row and rate of every video that is trained on."""
    found = []
    real = VideoClassifier.training_step

    def step(self, batch, batch_idx):
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        found.extend((self.trainer.current_epoch, row, rate) for row in batch.rows.tolist())
        return real(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", step)
    return found


@pytest.mark.parametrize(
    "change",
    few(
        [{"data.batch_size": 4}, {"data.batch_size": 1}, {"trainer.accumulate_grad_batches": 2}],
        ({"data.batch_size": 1},),
        ({"trainer.accumulate_grad_batches": 2},),
    ),
)
def test_a_run_resumed_with_another_batch_takes_up_its_epoch_at_the_same_video(
    change, pictures, tmp_path, monkeypatch, seen
):
    """Each video once an epoch, and the rate follows the share of the training that is done."""
    stopped(pictures, tmp_path, monkeypatch, STEPS + 2)
    before = len(seen)
    assert before == 2 * (STEPS + 2)
    assert cli.main(tiny(pictures, tmp_path, **change)) == 0
    for epoch in range(EPOCHS):
        assert sorted(row for e, row, _ in seen if e == epoch) == list(range(2 * STEPS))
    batch, accumulated = change.get("data.batch_size", 2), change.get("trainer.accumulate_grad_batches", 1)
    peak = 0.3 * batch * accumulated / 64
    for i, (_, _, rate) in enumerate(seen[before:], before):
        begun = i // (batch * accumulated) * batch * accumulated / (2 * STEPS * EPOCHS)
        at_most = peak * 0.5 * (1 + np.cos(np.pi * max(0.0, begun - 4 / (2 * STEPS * EPOCHS))))
        at_least = peak * 0.5 * (1 + np.cos(np.pi * min(1.0, begun + 4 / (2 * STEPS * EPOCHS))))
        assert at_least - 1e-9 <= rate <= at_most + 1e-9
    run = json.loads((tmp_path / "results.json").read_text())["run"]
    assert run["lr"] == pytest.approx(peak) and run["clips_per_step"] == batch * accumulated


def test_a_changed_rate_is_used_and_said(pictures, tmp_path, monkeypatch, seen, capsys):
    stopped(pictures, tmp_path, monkeypatch, 5)
    assert (
        cli.main(tiny(pictures, tmp_path, **{"model.optimizer.base_lr": 0.1, "model.optimizer.weight_decay": 0.01}))
        == 0
    )
    done = 5 / (STEPS * EPOCHS)
    assert seen[10][2] == pytest.approx(0.1 * 2 / 64 * 0.5 * (1 + np.cos(np.pi * done)))
    assert (
        "other settings than before: model.optimizer.base_lr 0.3 -> 0.1, model.optimizer.weight_decay 0.0001 -> 0.01"
        in capsys.readouterr().err
    )
    assert json.loads((tmp_path / "results.json").read_text())["run"]["lr"] == pytest.approx(0.1 * 2 / 64)
    groups = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert groups[0]["weight_decay"] == 0.01


def test_a_change_that_would_repeat_videos_is_refused(pictures, tmp_path, monkeypatch, capsys):
    stopped(pictures, tmp_path, monkeypatch, 5)
    assert cli.main(tiny(pictures, tmp_path, seed_everything=1)) == 2
    assert "seed_everything is 1, and was 0 when this checkpoint was saved within an epoch" in capsys.readouterr().err
    extra = pictures / "train" / "dark" / "extra.png"
    shutil.copy(extra.with_name("0.png"), extra)
    try:
        assert cli.main(tiny(pictures, tmp_path)) == 2
    finally:
        extra.unlink()
    assert f"data.train has {2 * STEPS + 1} videos, and was {2 * STEPS}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_max_steps_ended_within_an_epoch_trains_the_rest_of_it(pictures, tmp_path, seen):
    assert cli.main(tiny(pictures, tmp_path / "whole")) == 0
    expected, rows = ends(tmp_path / "whole"), seen[:]
    seen.clear()
    fixed = {"model.schedule": "Step", "model.schedule.decay_points": "[]"}
    assert cli.main(tiny(pictures, tmp_path / "a", **fixed)) == 0
    assert cli.main(tiny(pictures, tmp_path / "b", **fixed, **{"trainer.max_steps": STEPS + 3})) == 0
    seen.clear()
    assert cli.main(tiny(pictures, tmp_path / "b", **fixed)) == 0
    assert [one[:2] for one in seen] == [one[:2] for one in rows[2 * (STEPS + 3) :]]
    assert not difference(ends(tmp_path / "a"), ends(tmp_path / "b"))
    assert expected["history"] != ""


# The folder


@pytest.mark.slow
def test_a_moved_run_keeps_its_best(pictures, tmp_path, monkeypatch):
    """Its checkpoints name files by absolute paths."""
    assert cli.main(tiny(pictures, tmp_path / "whole")) == 0
    stopped(pictures, tmp_path / "old", monkeypatch, 2 * STEPS + 1)
    (tmp_path / "else").mkdir()
    shutil.move(tmp_path / "old", tmp_path / "else" / "new")
    moved = tmp_path / "else" / "new"
    best = moved / "checkpoints" / "best.ckpt"
    state = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)
    key = next(name for name in state["callbacks"] if "val/top1" in name)
    path, score = next(iter(state["callbacks"][key]["best_k_models"].items()))
    state["callbacks"][key]["best_k_models"][path] = torch.tensor(2.0)  # better than anything to come
    state["callbacks"][key]["kth_value"] = torch.tensor(2.0)
    torch.save(state, moved / "checkpoints" / "last.ckpt")
    before = best.read_bytes()
    assert score <= 1 and cli.main(tiny(pictures, moved)) == 0
    assert best.read_bytes() == before
    assert not (tmp_path / "old").exists()
    assert not difference(ends(moved)["state_dict"], ends(tmp_path / "whole")["state_dict"])


def test_a_checkpoint_of_the_first_format_is_resumed(pictures, tmp_path, seen):
    """Saved by version 0.1.0 when SIGTERM came in the last step of the first of 3 epochs of 4 steps."""
    if STEPS != 4:
        pytest.skip("it is of epochs of 4 steps")
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(REPO / "tests" / "files" / "format1.ckpt", tmp_path / "checkpoints" / "last.ckpt")
    assert cli.main(tiny(pictures, tmp_path)) == 0
    assert [epoch for epoch, *_ in seen] == [1] * 8 + [2] * 8
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 12
    history = (tmp_path / "history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in history] == ["0", "1", "2"]  # the first epoch's validation was not lost
    assert all(row.split(",")[4] for row in history)


@pytest.mark.slow
def test_a_kill_after_an_epochs_last_checkpoint_keeps_the_best(pictures, tmp_path, monkeypatch):
    """That checkpoint knows the epoch's best: a tie later does not replace it."""
    every = {"checkpoint.every_n_train_steps": 1000}
    assert cli.main(tiny(pictures, tmp_path / "whole", **every)) == 0
    with monkeypatch.context() as patched:
        die_at(patched, ("training_step", STEPS + 1))
        with pytest.raises(Killed):
            cli.main(tiny(pictures, tmp_path / "run", **every))
    assert cli.main(tiny(pictures, tmp_path / "run", **every)) == 0
    assert not difference(ends(tmp_path / "run"), ends(tmp_path / "whole"))


@pytest.mark.parametrize("at", ["no checkpoint", "best alone"])
def test_a_run_killed_before_its_last_checkpoint_starts_by_the_same_command(at, pictures, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        die_at(patched, ("training_step", 1 if at == "no checkpoint" else STEPS + 1))
        with pytest.raises(Killed):
            cli.main(tiny(pictures, tmp_path))
    if at == "best alone":
        for name in ("last.ckpt", "previous.ckpt"):
            (tmp_path / "checkpoints" / name).unlink(missing_ok=True)
    (tmp_path / "history.csv").touch()
    assert cli.main(tiny(pictures, tmp_path)) == 0


@pytest.mark.parametrize("batches", few([(3,), (3, 1), (1, 2, 1)], ((3,),), ()))
def test_batches_that_do_not_divide_what_is_left(batches, pictures, tmp_path, monkeypatch, seen):
    """No video of the epoch comes twice, and only what does not fill a last batch is left out."""
    stopped(pictures, tmp_path, monkeypatch, STEPS + 2)  # 4 of 8 videos of the second epoch
    for batch in batches[:-1]:
        stopped(pictures, tmp_path, monkeypatch, 1, **{"data.batch_size": batch})
    assert cli.main(tiny(pictures, tmp_path, **{"data.batch_size": batches[-1]})) == 0
    rows = [row for epoch, row, _ in seen if epoch == 1]
    assert len(set(rows)) == len(rows) and 2 * STEPS - len(rows) < batches[-1]


# What counts batches or steps of its own


def killed_when_trained(pictures, tmp_path, monkeypatch, **given):
    """Before its results are written, and resumed; beside a run that was not."""
    assert cli.main(tiny(pictures, tmp_path / "whole", **given)) == 0
    with monkeypatch.context() as patched:
        patched.setattr(results.RunReport, "on_fit_end", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            cli.main(tiny(pictures, tmp_path / "run", **given))
    assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 0


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "when",
    [("training_step", STEPS + 2), ("validation_step", 6), ("validation_step", 8)],
)
def test_weights_averaged_after_each_step_miss_none(when, pictures, tmp_path, monkeypatch):
    """A signal stops the run when the other callbacks have had the step; validation is of the averaged weights."""
    average = {"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
    given = {"trainer.callbacks": json.dumps([average])}
    stopped_and_resumed(when, pictures, tmp_path, monkeypatch, **given)
    for name in ("last.ckpt", "averaged.ckpt"):
        kept, expected = (
            torch.load(tmp_path / folder / "checkpoints" / name, weights_only=True) for folder in ("run", "whole")
        )
        for part in ("state_dict", "current_model_state", "averaging_state"):
            assert not difference(kept[part], expected[part])


@pytest.mark.parametrize(
    "when",
    few(
        [("validation_step", 3), ("training_step", 4), ("validation_step", 20)],
        (),
        [("training_step", 4)],
    ),
)
@pytest.mark.parametrize("norm", few(["gn", "bn"], ("bn",), ()))
def test_batches_whose_gradients_wait_are_counted_once(norm, when, pictures, tmp_path, monkeypatch):
    """They are not saved, so a run does not stop there."""
    given = {"trainer.accumulate_grad_batches": 3, "trainer.val_check_interval": 3, "data.batch_size": 1}
    stopped_and_resumed(when, pictures, tmp_path, monkeypatch, **given, **{"model.net.norm": norm})


@pytest.mark.parametrize("batch", few([4, 5, 8], (), (5,)))
def test_saved_while_gradients_wait(batch, pictures, tmp_path, monkeypatch):
    """By an interval of time, say: it is the state after the last whole step, BN's averages too."""
    given = {"trainer.accumulate_grad_batches": 3, "data.batch_size": 1, "model.net.norm": "bn"}
    assert cli.main(tiny(pictures, tmp_path / "whole", **given)) == 0
    real = interrupt.StopAfterStep.on_train_batch_end

    def saves(callback, trainer, module, outputs, _, batch_idx):
        real(callback, trainer, module, outputs, _, batch_idx)
        if batch_idx + 1 == batch:
            trainer.save_checkpoint(callback.checkpoint)
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(interrupt.StopAfterStep, "on_train_batch_end", saves)
        with pytest.raises(Killed):
            cli.main(tiny(pictures, tmp_path / "run", **given))
    assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 0
    assert not difference(ends(tmp_path / "run"), ends(tmp_path / "whole"))


@pytest.mark.parametrize(
    "given",
    [
        {"trainer.val_check_interval": 2},
        {"trainer.val_check_interval": 0.25},
        {"trainer.val_check_interval": 5, "trainer.check_val_every_n_epoch": "null"},
    ],
)
def test_validation_within_a_step_is_refused(given, pictures, tmp_path, capsys):
    given = given | {"trainer.accumulate_grad_batches": 5, "data.batch_size": 1}
    assert cli.main(tiny(pictures, tmp_path, **given)) == 2
    assert "batches (trainer.val_check_interval), and a step has 5" in capsys.readouterr().err


EARLY = {
    "class_path": "pytorch_lightning.callbacks.EarlyStopping",
    "init_args": {"monitor": "val/top1", "mode": "max", "patience": 1, "min_delta": 2},
}


@pytest.mark.parametrize(
    "when",
    few([("training_step", STEPS + 1), ("validation_step", 6), ("validation_step", 8), None],
        (), [None]),
)  # fmt: skip
def test_a_run_that_ended_early_has_ended(when, pictures, tmp_path, monkeypatch):
    given = {"trainer.callbacks": json.dumps([EARLY]), "trainer.max_epochs": 6, "model.schedule": "Step"}
    if when:
        stopped_and_resumed(when, pictures, tmp_path, monkeypatch, **given)
    else:  # killed when all is trained
        killed_when_trained(pictures, tmp_path, monkeypatch, **given)
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2 * STEPS
    assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before
    assert without_measured(tmp_path / "run") == without_measured(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
@pytest.mark.parametrize("step", few([2, STEPS + 1, STEPS + 3, 2 * STEPS, 3 * STEPS - 1], (), (STEPS + 3,)))
def test_averages_of_epochs_continue(step, pictures, tmp_path, monkeypatch):
    average = {"class_path": "pytorch_lightning.callbacks.StochasticWeightAveraging",
               "init_args": {"swa_lrs": 0.01, "swa_epoch_start": 1, "device": "cpu"}}  # fmt: skip
    given = {"trainer.callbacks": json.dumps([average])}
    stopped_and_resumed(("training_step", step), pictures, tmp_path, monkeypatch, **given)


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_averaged_batch_norm_has_the_mean_of_all_batches(pictures, tmp_path):
    """Lightning sets its momentum to None for that."""
    average = {"class_path": "pytorch_lightning.callbacks.StochasticWeightAveraging",
               "init_args": {"swa_lrs": 0.01, "swa_epoch_start": 1, "device": "cpu"}}  # fmt: skip
    assert (
        cli.main(tiny(pictures, tmp_path, **{"trainer.callbacks": json.dumps([average]), "model.net.norm": "bn"})) == 0
    )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("when", [("training_step", STEPS), ("validation_step", 3)])
@pytest.mark.parametrize("early", [True, False])
def test_figures_of_the_last_step_are_there_for_who_asks(early, when, pictures, tmp_path, monkeypatch):
    """Resumed at an epoch's end, before any other batch."""
    stop = {"class_path": "pytorch_lightning.callbacks.EarlyStopping",
            "init_args": {"monitor": "train/loss", "patience": 1, "check_on_train_epoch_end": True}}  # fmt: skip
    keep = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "train/loss", "filename": "low"}}
    given = {"trainer.callbacks": json.dumps([stop if early else keep])}
    stopped_and_resumed(when, pictures, tmp_path, monkeypatch, **given)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")  # of an epoch without validation
@pytest.mark.parametrize("every", [1, 2])
def test_what_another_monitor_has_kept_is_known_to_the_last_checkpoint(every, pictures, tmp_path, monkeypatch):
    keep = {"monitor": "val/loss", "mode": "max", "filename": "low"}
    given = {"trainer.callbacks": json.dumps([{"class_path": "ModelCheckpoint", "init_args": keep}])}
    given["trainer.check_val_every_n_epoch"] = every
    assert cli.main(tiny(pictures, tmp_path / "whole", **given)) == 0
    with monkeypatch.context() as patched:
        die_at(patched, ("training_step", every * STEPS + 1))
        with pytest.raises(Killed):
            cli.main(tiny(pictures, tmp_path / "run", **given))
    assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 0
    assert not difference(ends(tmp_path / "run"), ends(tmp_path / "whole"))
    epochs = [torch.load(tmp_path / name / "checkpoints" / "low.ckpt", weights_only=True)["epoch"]
              for name in ("run", "whole")]  # fmt: skip
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("step", few([STEPS + 2, 2 * STEPS], (), (2 * STEPS,)))
def test_a_signal_in_the_last_of_max_steps_loses_no_row(step, pictures, tmp_path, monkeypatch):
    given = {"trainer.max_steps": step}
    stopped_and_resumed(("training_step", step), pictures, tmp_path, monkeypatch, **given)


@pytest.mark.parametrize("name", ["BatchSizeFinder", "LearningRateFinder"])
def test_callbacks_that_change_a_setting_are_refused(name, pictures, tmp_path, capsys):
    given = {"trainer.callbacks": f"pytorch_lightning.callbacks.{name}"}
    assert cli.main(tiny(pictures, tmp_path, **given)) == 2
    assert f"{name} changes" in capsys.readouterr().err.splitlines()[-1]


def test_a_monitor_that_nobody_logs_is_one_line(pictures, tmp_path, capsys):
    stop = {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "foo"}}
    assert cli.main(tiny(pictures, tmp_path, **{"trainer.callbacks": json.dumps([stop])})) == 2
    assert "conditioned on metric `foo`" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trainer.accumulate_grad_batches": STEPS + 1}, f"an epoch has {STEPS} batches"),
        ({"trainer.val_check_interval": "00:00:00:10"}, "trainer.val_check_interval is '00:00:00:10'"),
    ],
)
def test_steps_that_cannot_come_are_refused(given, words, pictures, tmp_path, capsys):
    assert cli.main(tiny(pictures, tmp_path, **given)) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_training_without_end(pictures, tmp_path):
    given = {"trainer.max_epochs": -1, "trainer.max_time": "00:00:00:01"}
    assert cli.main(tiny(pictures, tmp_path, **given)) == 0


@pytest.mark.parametrize("gone", ["all", "a folder in its place"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(gone, pictures, tmp_path, capsys):
    assert cli.main(tiny(pictures, tmp_path)) == 0
    before = (tmp_path / "history.csv").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints")
    if gone != "all":
        (tmp_path / "results.json").unlink()
        (tmp_path / "checkpoints" / "last.ckpt").mkdir(parents=True)
    assert cli.main(tiny(pictures, tmp_path)) == 2
    assert "holds a run whose checkpoints are gone" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "history.csv").read_bytes() == before


def test_accumulation_that_changes_is_refused(pictures, tmp_path, capsys):
    given = {"class_path": "pytorch_lightning.callbacks.GradientAccumulationScheduler",
             "init_args": {"scheduling": {1: 2}}}  # fmt: skip
    assert cli.main(tiny(pictures, tmp_path, **{"trainer.callbacks": json.dumps([given])})) == 2
    assert "GradientAccumulationScheduler" in capsys.readouterr().err


# When training is over


def without_measured(run_dir):
    fit = json.loads((run_dir / "results.json").read_text())["fit"]
    return {name: value for name, value in fit.items() if name not in ("clips_per_s", "peak_memory_gib")}


@pytest.mark.parametrize(
    "given", few([{}, {"trainer.max_steps": STEPS + 2}, {"trainer.limit_val_batches": 0}], ({},), ())
)
def test_killed_when_all_is_trained_it_reports_the_same(given, pictures, tmp_path, monkeypatch):
    killed_when_trained(pictures, tmp_path, monkeypatch, **given)
    found = without_measured(tmp_path / "run")
    assert found == without_measured(tmp_path / "whole")
    assert found["epochs"] == (2 if "trainer.max_steps" in given else EPOCHS) and found["train"]["loss"] > 0


@pytest.mark.slow
def test_a_signal_in_the_last_validation_ends_the_run(pictures, tmp_path, monkeypatch):
    """Also where several processes would not have asked each other again."""
    monkeypatch.setattr(interrupt.StopAfterStep, "on_validation_batch_end", lambda *_: None)
    with monkeypatch.context() as patched:
        stop_at(patched, signal.SIGTERM, ("validation_step", 4 * EPOCHS))
        assert cli.main(tiny(pictures, tmp_path)) == 143
    assert not (tmp_path / "results.json").exists()
    assert cli.main(tiny(pictures, tmp_path)) == 0
    monkeypatch.undo()
    assert cli.main(tiny(pictures, tmp_path / "whole")) == 0
    assert not difference(ends(tmp_path), ends(tmp_path / "whole"))


@pytest.mark.parametrize("at", few(["test_step", "on_test_epoch_end", "on_load_checkpoint"], (), ("test_step",)))
def test_ctrl_c_when_training_is_over_or_has_not_begun(at, pictures, tmp_path, monkeypatch, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stopped(pictures, tmp_path, monkeypatch, 2)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        stop_at(patched, signal.SIGINT, (at, 1))
        assert cli.main(tiny(pictures, tmp_path, test_after_fit="true")) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped by SIGINT at once; what it saved before is kept: resume with --ckpt_path last"
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from then on
    assert cli.main(tiny(pictures, tmp_path, test_after_fit="true")) == 0
    assert len(json.loads((tmp_path / "results.json").read_text())["tests"]) == 1


@pytest.mark.slow
def test_fewer_epochs_than_are_trained(pictures, tmp_path, capsys):
    assert cli.main(tiny(pictures, tmp_path)) == 0
    before = (tmp_path / "results.json").read_bytes()
    assert cli.main(tiny(pictures, tmp_path, **{"trainer.max_epochs": EPOCHS - 1})) == 2
    assert f"last.ckpt has trained {EPOCHS} epochs, and trainer.max_epochs is {EPOCHS - 1}" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"tests": 1}', b'{"fit": 3}', b'{"tests": [3]}', b"\xff", b"[" * 100000]
)
def test_damaged_results_are_said_before_training(content, pictures, tmp_path, capsys):
    (tmp_path / "results.json").write_bytes(content)
    assert cli.main(tiny(pictures, tmp_path)) == 2
    assert f"{tmp_path / 'results.json'} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_a_config_of_other_bytes_is_kept(pictures, tmp_path):
    assert cli.main(tiny(pictures, tmp_path)) == 0
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    assert cli.main(tiny(pictures, tmp_path)) == 0
    assert (tmp_path / "config.yaml").read_bytes() == b"\xff" and (tmp_path / "config-1.yaml").is_file()


@pytest.mark.parametrize("content", ["epoch,train/epoch_loss\n0,1\n", "a\n", '"', "\x00"])
def test_a_damaged_history_is_said_before_training(content, pictures, tmp_path, capsys):
    (tmp_path / "history.csv").write_text(content)
    assert cli.main(tiny(pictures, tmp_path)) == 2
    assert str(tmp_path / "history.csv") in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_each_epochs_end_is_kept_whatever_the_files_are_called(pictures, tmp_path, monkeypatch):
    given = {"checkpoint.filename": "{epoch}", "checkpoint.save_top_k": -1}
    assert cli.main(tiny(pictures, tmp_path / "whole", **given)) == 0
    with monkeypatch.context() as patched:
        die_at(patched, ("training_step", 2 * STEPS + 2))
        with pytest.raises(Killed):
            cli.main(tiny(pictures, tmp_path / "run", **given))
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2 * STEPS
    assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 0
    assert not difference(ends(tmp_path / "run"), ends(tmp_path / "whole"))
    assert (tmp_path / "run" / "checkpoints" / f"epoch={EPOCHS - 1}.ckpt").is_file()


@pytest.mark.slow
def test_checkpoints_may_lie_on_another_disk(pictures, tmp_path, monkeypatch):
    """By a link in the run's folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    stopped_and_resumed(("training_step", 3), pictures, tmp_path, monkeypatch)
    assert (tmp_path / "elsewhere" / "last.ckpt").is_file()
