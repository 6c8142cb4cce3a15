"""All words for little and uneven data in one run: killed, resumed, and on several processes; and those of others."""

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch
from children import fork
from command_lines import fit, short, tiny
from conftest import few
from PIL import Image
from states import difference, ends
from test_cli import forked
from torch import nn

from video_gn.errors import InputError
from video_gn.export.__main__ import main as export
from video_gn.train import cli
from video_gn.train.classifier import VideoClassifier
from video_gn.train.optim import SGD, AdamW, groups

EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.8}}
STOP = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 50}}
ADAMW = {"class_path": "AdamW", "init_args": {"base_lr": 0.3, "layer_decay": 0.7}}
WORDS = {
    "model.loss.class_weights": "effective", "model.loss.beta": 0.9, "model.loss.label_smoothing": 0.1,
    "data.sampling": "balanced", "data.augment.mixup": 0.4, "data.augment.cutmix": 1.0,
    "data.augment.color_jitter": 0.4, "data.augment.hue": 0.1, "data.augment.rand_augment": 2,
    "data.augment.random_erasing": 0.5, "model.optimizer": json.dumps(ADAMW),
    "model.freeze_bn_after": 0.6, "checkpoint.monitor": "val/macro_f1",
    "trainer.callbacks": json.dumps([EMA, STOP]),
}  # fmt: skip
BAD = "train/light/2.png"


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """9 dark and 3 light images to train on, one of which cannot be read, and 7 to validate."""
    root, rng = tmp_path_factory.mktemp("uneven"), np.random.default_rng(1)
    for split, counts in (("train", (9, 3)), ("val", (4, 3))):
        for label, count in zip(("dark", "light"), counts, strict=True):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 156, (20, 20, 3)) + 60 * (label == "light")
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / label / f"{i}.png")
    (root / BAD).write_text("no image")
    return root


def command(root, run_dir, **given):
    """Settings that name a class come before its own."""
    every = {"checkpoint.every_n_train_steps": 2, "model.net.norm": "bn"}
    return tiny(root, run_dir, **every | WORDS | {"trainer.max_epochs": 2} | given)


def killed(words, step):
    """Runs a command line in a process that gets kill -9 in the middle of its n-th step."""

    def work():
        real, calls = VideoClassifier.training_step, []

        def dies(self, *args):
            calls.append(1)
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *args)

        VideoClassifier.training_step = dies
        cli.main(words)

    process = fork(work)
    process.join(100)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="session")
def whole(uneven, tmp_path_factory):
    """A run with every word that is never stopped."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main(command(uneven, run_dir, test_after_fit="true")) == 0
    return run_dir


@pytest.mark.parametrize("step", few([3, 9, 11], (), (9,)))  # of 12; BN keeps its statistics from the 9th on
def test_every_word_is_resumed_exactly_after_kill_9(step, uneven, whole, tmp_path, capsys):
    words = command(uneven, tmp_path / "run", test_after_fit="true")
    killed(words, step)
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == (step - 1) // 2 * 2
    if step == 11:  # within an epoch
        assert cli.main([*words, "--data.sampling", "shuffled"]) == 2
        line = "data.sampling is shuffled, and was 'balanced' when this checkpoint was saved within an epoch"
        assert line in capsys.readouterr().err
    assert cli.main(words) == 0
    assert not difference(ends(tmp_path / "run"), ends(whole))
    tests = [json.loads((path / "results.json").read_text())["tests"] for path in (tmp_path / "run", whole)]
    assert tests[0][0]["loss"] == tests[1][0]["loss"] and len(tests[0]) == 1
    for name in ("test-0.csv", "bad_videos.csv"):
        assert (tmp_path / "run" / name).read_text() == (whole / name).read_text()


def test_unreadable_videos_are_named_and_an_average_is_what_is_kept(uneven, whole, tmp_path, capsys):
    assert f"{uneven / BAD},train,bad" in (whole / "bad_videos.csv").read_text()
    last, averaged, best = (
        torch.load(whole / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "averaged", "best")
    )
    assert not difference(last["state_dict"], averaged["state_dict"])
    assert difference(last["state_dict"], last["current_model_state"])
    with open(whole / "history.csv") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file)]
    # What is validated, kept as the best, tested and exported are averaged weights.
    assert cli.main(["validate", "--ckpt_path", str(whole / "checkpoints" / "best.ckpt")]) == 0
    results = json.loads((whole / "results.json").read_text())
    assert results["validations"][-1]["loss"] == pytest.approx(losses[best["epoch"]], rel=1e-5)
    assert results["tests"][0]["loss"] == pytest.approx(losses[-1], rel=1e-5)
    out = tmp_path / "out"
    assert export([str(whole / "checkpoints" / "last.ckpt"), "--out", str(out), "--to", "safetensors"]) == 0
    from safetensors.torch import load_file

    card = next(out.glob("*.md")).read_text()
    assert "mixup 0.4" in card and "balanced" in card and "class_weights effective" in card.replace("\\", "")
    exported = load_file(next(out.glob("*.safetensors")))
    assert all(torch.equal(exported[name], last["state_dict"][f"net.{name}"]) for name in exported)


def test_an_average_is_that_of_hand_arithmetic(uneven, tmp_path, monkeypatch):
    """The first step's weights, then 0.8 of the average and 0.2 of each step's."""
    steps = []
    real = VideoClassifier.on_train_batch_start

    def start(self, *args):
        if self.trainer.global_step:
            steps.append(self.net.head.proj.weight.detach().clone())
        real(self, *args)

    monkeypatch.setattr(VideoClassifier, "on_train_batch_start", start)
    assert cli.main(command(uneven, tmp_path, **{"trainer.max_epochs": 1})) == 0
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    (name,) = [name for name in last["state_dict"] if name.endswith("proj.weight")]
    steps.append(last["current_model_state"][name])
    expected = steps[0]
    for step in steps[1:]:
        expected = 0.8 * expected + 0.2 * step
    torch.testing.assert_close(last["state_dict"][name], expected)


@pytest.mark.long
@pytest.mark.slow
def test_videos_and_several_clips_of_each_are_resumed_exactly_too(data_root, tmp_path):
    """Two clips of a video, two batches a step, loader workers, the middle clip in validation; killed within a step."""
    given = {"data.clips_per_video": 2, "data.batch_size": 4, "trainer.accumulate_grad_batches": 2,
             "data.loading.num_workers": 2, "data.evaluation.validation": "center", "model.net.norm": "bn",
             "checkpoint.every_n_train_steps": 1, "test_after_fit": "true"}  # fmt: skip
    words = [word for key, value in (given | WORDS).items() for word in (f"--{key}", value)]
    commands = [fit(tmp_path / name, data_root, *short(*words), "--ckpt_path", "last") for name in ("whole", "run")]
    assert cli.main(commands[0]) == 0
    killed(commands[1], 18)  # of 12 batches an epoch
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 8
    assert cli.main(commands[1]) == 0
    assert not difference(ends(tmp_path / "run"), ends(tmp_path / "whole"))
    assert cli.main(["validate", "--ckpt_path", str(tmp_path / "run" / "checkpoints" / "last.ckpt")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["validations"][0]["protocol"] == "center-1crop"
    for name in ("top1", "macro_f1", "mean_class_accuracy"):
        assert results["validations"][0][name] == results["fit"]["val"][name]


@pytest.mark.slow
def test_statistics_are_those_of_the_average(uneven, tmp_path):
    """Weights and running statistics are exchanged no more when training has ended."""
    given = {"compare_statistics": "true", "bn_statistics.batches": 3}
    assert cli.main(command(uneven, tmp_path, **given)) == 0
    averaged = ["validate", "--ckpt_path", str(tmp_path / "checkpoints" / "averaged.ckpt"), "--bn_statistics.use"]
    for choice in ("running", "precise"):
        assert cli.main([*averaged, choice]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["validations"]
    losses = [(validation["bn_statistics"], validation["loss"]) for validation in found]
    for before, after in zip(losses[:2], losses[3:], strict=True):
        assert before == (after[0], pytest.approx(after[1], rel=1e-5))
    assert losses[0][1] != pytest.approx(losses[1][1], rel=1e-5)


@pytest.mark.slow
def test_figures_are_the_same_on_1_2_and_3_processes(uneven, tmp_path):
    """The same global batch of 6, dealt to processes; each has its own sum of class weights."""
    given = {"model.net.norm": "gn", "model.net.dropout": 0, "trainer.max_epochs": 1, "model.freeze_bn_after": "null"}
    found = []
    for count in (1, 2, 3):
        settings = given | {"data.batch_size": 6 // count, "trainer.devices": count, "trainer.strategy": "ddp"}
        run_dir = tmp_path / str(count)
        run_dir.mkdir()
        if count == 1:
            assert cli.main(command(uneven, run_dir, **settings | {"trainer.strategy": "auto"})) == 0
        else:
            forked(count, command(uneven, run_dir, **settings), run_dir)
        last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
        found.append((last["state_dict"], last["validation"], last["training_sums"]))
    for weights, validation, sums in found[1:]:
        for name, value in weights.items():
            torch.testing.assert_close(value, found[0][0][name], rtol=1e-4, atol=1e-6)
        assert {name: validation[name] for name in ("macro_f1", "mean_class_accuracy", "top1")} == {
            name: found[0][1][name] for name in ("macro_f1", "mean_class_accuracy", "top1")
        }
        assert validation["loss"] == pytest.approx(found[0][1]["loss"], rel=1e-5)
        assert sums == pytest.approx(found[0][2], rel=1e-5)  # loss, right, clips, unreadable, fallbacks


@pytest.mark.slow
def test_early_stopping_ends_a_run_with_its_test(uneven, tmp_path):
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/macro_f1", "mode": "max", "patience": 1,
                                                         "min_delta": 2}}  # fmt: skip
    given = {"trainer.callbacks": json.dumps([stop]), "trainer.max_epochs": 9, "test_after_fit": "true"}
    assert cli.main(command(uneven, tmp_path, **given)) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["fit"]["epochs"] == 2 and len(results["tests"]) == 1
    assert (tmp_path / "history.csv").read_text().count("\n") == 3


# Rates by layers


class Staged(nn.Module):
    """A stem, one stage with a norm, and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.res2, self.head = (
            nn.Linear(2, 3),
            nn.Sequential(nn.Linear(3, 3), nn.GroupNorm(1, 3)),
            nn.Linear(3, 2),
        )
        self.stages = [self.stem, self.res2]


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_rates_fall_by_layers(kind):
    """BEiT's: decay^(L + 1 - l) for layer l of L + 2, with the head's 1."""
    net = Staged()
    optimizer = kind(layer_decay=0.5, head_lr=10, weight_decay=0.1)
    made = optimizer.make(groups(optimizer, net, 0.8), 0.8)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in net.named_parameters()}
    assert {name: rate for name, (rate, _) in found.items()} == pytest.approx(
        {"stem.weight": 0.2, "stem.bias": 0.2, "res2.0.weight": 0.4, "res2.0.bias": 0.4, "res2.1.weight": 0.4,
         "res2.1.bias": 0.4, "head.weight": 8.0, "head.bias": 8.0}
    )  # fmt: skip
    assert {name for name, (_, decay) in found.items() if not decay} == {"res2.1.weight", "res2.1.bias"}
    with pytest.raises(InputError, match=r"layer_decay needs a network that has `stages`, and Linear has none"):
        groups(kind(layer_decay=0.5), nn.Linear(2, 2), 0.8)
    plain = kind(weight_decay=0.1)
    assert [group.get("lr") for group in groups(plain, net, 0.8)] == [None, None]


def test_rates_by_layers_move_with_the_schedule(whole):
    state = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    peaks = sorted({group["initial_lr"] for group in state["optimizer_states"][0]["param_groups"]})
    assert np.array(peaks) / peaks[-1] == pytest.approx([0.7**4, 0.7**3, 0.7**2, 0.7, 1])
