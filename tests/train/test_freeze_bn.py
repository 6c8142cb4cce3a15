"""BatchNorm that keeps its running statistics in the last part of training, and normalizes by them."""

import json

import pytest
import torch
from command_lines import EPOCHS, STEPS, tiny
from conftest import few
from states import stopped_and_resumed

from video_gn.models.norm import batch_norms
from video_gn.train import cli
from video_gn.train.classifier import VideoClassifier

BN = {"model.net.norm": "bn", "model.freeze_bn_after": 0.5, "trainer.max_epochs": 3}


@pytest.fixture
def seen(monkeypatch):
    """By batch: the sum of all running means before it, and whether the norms trained in it."""
    found = []
    real = VideoClassifier.training_step

    def step(self, batch, batch_idx):
        layers = batch_norms(self.net).values()
        found.append((sum(layer.running_mean.sum().item() for layer in layers), {layer.training for layer in layers}))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", step)
    return found


@pytest.mark.parametrize("end", few([{}, {"trainer.max_epochs": 100, "trainer.max_steps": EPOCHS * STEPS}], ({},)))
def test_statistics_stay_after_the_fraction(end, pictures, tmp_path, seen):
    assert cli.main(tiny(pictures, tmp_path, **BN | end)) == 0
    half = EPOCHS * STEPS // 2
    assert [train for _, train in seen] == [{True}] * half + [{False}] * half
    sums = [total for total, _ in seen]
    assert len(set(sums[: half + 1])) == half + 1 and len(set(sums[half:])) == 1
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["freeze_bn_after"] == 0.5
    means = [value.sum().item() for name, value in saved["state_dict"].items() if name.endswith("running_mean")]
    assert sum(means) == pytest.approx(sums[-1], rel=1e-6)


@pytest.mark.slow
def test_all_batches_of_a_step_are_alike(pictures, tmp_path, seen):
    given = {"data.batch_size": 1, "trainer.accumulate_grad_batches": 4, "model.freeze_bn_after": 0.55}
    assert cli.main(tiny(pictures, tmp_path, **BN | given)) == 0
    trains = [train == {True} for _, train in seen]
    steps = [trains[i : i + 4] for i in range(0, len(trains), 4)]
    assert all(len(set(step)) == 1 for step in steps)
    assert sum(trains) / len(trains) == pytest.approx(0.55, abs=4 / len(trains))


@pytest.mark.slow
@pytest.mark.parametrize("step", few([STEPS + 1, 2 * STEPS + 1], (), [2 * STEPS + 1]))
def test_it_resumes_exactly(step, pictures, tmp_path, monkeypatch):
    stopped_and_resumed(("training_step", step), pictures, tmp_path, monkeypatch, **BN)


def test_a_frozen_norm_is_that_of_evaluation_and_is_recorded_again(pictures):
    """Its gamma and beta learn; CUDA graphs take the change for another state."""
    from samples import SMALL, classifier

    model = classifier(["a", "b"], **SMALL | {"norm": "bn"}, batch_size=2).train()
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    modules, parameters = list(model.net.modules()), list(model.net.parameters())
    before = model.call._state(clips, modules, parameters)
    for layer in batch_norms(model.net).values():
        layer.eval()
    assert model.call._state(clips, modules, parameters) != before
    model.net.blocks[-1].dropout.eval()
    frozen = model(clips)
    frozen.sum().backward()
    assert all(layer.weight.grad is not None for layer in batch_norms(model.net).values())
    torch.testing.assert_close(frozen, model.eval()(clips))


SWA = {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.1, "device": "cpu"}}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"trainer.max_epochs": -1, "trainer.max_time": "00:00:00:01", "model.schedule": "Step"},
            "model.freeze_bn_after is 0.5 of a training without end",
        ),
        ({"trainer.callbacks": json.dumps([SWA])}, "StochasticWeightAveraging takes new statistics of BatchNorm when"),
        (
            {"model.freeze_bn_after": "null", "model.net.norm": "mabn", "trainer.callbacks": json.dumps([SWA])},
            "StochasticWeightAveraging takes new statistics of BatchNorm alone",
        ),
        ({"model.freeze_bn_after": 1}, "model.freeze_bn_after is 1.0; it has to be a fraction of training"),
    ],
)
@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_what_cannot_be_is_one_line(given, line, pictures, tmp_path, capsys):
    assert cli.main(tiny(pictures, tmp_path, **BN | given)) == 2
    assert line in capsys.readouterr().err


def test_norms_without_running_statistics_are_named_at_the_start(pictures, tmp_path, capsys):
    assert cli.main(tiny(pictures, tmp_path, **{"model.freeze_bn_after": 0.5, "trainer.max_epochs": 1})) == 0
    assert "model.freeze_bn_after is 0.5, and no norm of the network has running statistics" in capsys.readouterr().err
