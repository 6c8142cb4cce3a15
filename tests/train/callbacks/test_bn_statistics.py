import pytest
import torch
from samples import classifier
from torch import nn

from video_gn.models.norm import batch_norms
from video_gn.train.callbacks.bn_statistics import measure

SMALL = {"depth": 11, "width": 8, "arch": "i3d_small", "crop_size": 32, "dropout": 0.0, "num_groups": 4}


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(0)
    return [torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8) // (i + 1) for i in range(3)]


def model(**options):
    torch.manual_seed(1)
    made = classifier(["a", "b", "c"], batch_size=4, **(SMALL | options))
    for layer in batch_norms(made.net).values():
        nn.init.normal_(layer.running_mean)
    return made.eval()


@pytest.mark.parametrize("ghost_batch", [None, 1, 2])
def test_true_statistics_are_those_of_every_value_that_training_normalizes(batches, ghost_batch):
    """Each layer's own input, kept over all batches, against mean and variance written out in float64."""
    own = model(norm="bn", ghost_batch=ghost_batch)
    before = {name: value.clone() for name, value in own.net.state_dict().items()}
    inputs = {name: [] for name in batch_norms(own.net)}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, kept=inputs[name]: kept.append(given[0].clone()))
        for name, layer in batch_norms(own.net).items()
    ]
    found = measure(own, batches)
    for hook in hooks:
        hook.remove()
    assert found.keys() == inputs.keys() and len(found) == 13
    for name, one in found.items():
        values = torch.cat(inputs[name]).double().movedim(1, 0).flatten(1)
        mean, var = one.true
        torch.testing.assert_close(mean, values.mean(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var, values.var(1, correction=0), rtol=1e-4, atol=1e-7)
        shift = (before[f"{name}.running_mean"] - mean) / (var + 1e-5).sqrt()
        ratio = ((before[f"{name}.running_var"] + 1e-5) / (var + 1e-5)).log2()
        running = one.of_running()
        assert running.mean == pytest.approx(shift.square().mean().sqrt().item(), rel=1e-5)
        assert running.variance == pytest.approx(ratio.square().mean().sqrt().item(), rel=1e-5)
        groups = torch.cat(inputs[name]).double().split(ghost_batch or 4)
        means = torch.stack([group.movedim(1, 0).flatten(1).mean(1) for group in groups])
        logs = torch.stack([group.movedim(1, 0).flatten(1).var(1, correction=0) for group in groups]).add(1e-5).log2()
        spread = ((means - mean) ** 2 / (var + 1e-5)).mean().sqrt().item()
        assert one.of_groups().mean == pytest.approx(spread, rel=1e-3)
        assert one.of_groups().variance == pytest.approx(
            (logs - (var + 1e-5).log2()).square().mean().sqrt().item(), rel=1e-3, abs=1e-4
        )
    # Nothing was kept, and evaluation is as before.
    assert all(torch.equal(value, before[name]) for name, value in own.net.state_dict().items())
    assert not any(layer.training for layer in own.modules())


def test_a_norm_without_batch_statistics_has_none_to_measure(batches):
    assert measure(model(norm="gn"), batches) == {}
