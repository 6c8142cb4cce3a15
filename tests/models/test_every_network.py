"""Every network of `list_models()` with every norm of the family. Two hours beside other work: pytest -m long FILE"""

import copy

import pytest
import torch
from torch import nn

from video_gn.models.known import NAMES
from video_gn.models.norm import NORMS
from video_gn.models.resnet3d import ResNet3d
from video_gn.weights.zoo import create_model, list_models

pytestmark = [pytest.mark.slow, pytest.mark.long]
FAMILY = {**{norm: {"norm": norm} for norm in NORMS}, "gn_ws": {"norm": "gn", "weight_standardization": True}}


def made(name, settings):
    torch.manual_seed(0)
    ours = issubclass(NAMES[name].kind, ResNet3d)
    net = create_model(name, 3, **({"width": 8, "num_groups": 4} if ours else {}), **settings)
    net.set_crop_size(32 if ours else 64)
    return net.train()


def step(net, optimizer, batch, seed):
    ours = isinstance(net, ResNet3d)
    frames, side = (16, 32) if ours else (max(net.min_frames, 4 if "x3d" in type(net).__name__ else 8), 64)
    x = torch.randn(batch, 3, frames, side, side, generator=torch.manual_seed(seed))
    loss = nn.functional.cross_entropy(net(x).flatten(2).mean(2), torch.arange(batch))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("norm", FAMILY)
@pytest.mark.parametrize("name", list_models())
def test_it_trains_two_steps_at_batch_1_and_2_and_resumes(name, norm):
    """Every parameter has a gradient, all stays finite; from the state after one step the second is the same."""
    for batch in (1, 2):
        net = made(name, FAMILY[norm])
        optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
        step(net, optimizer, batch, 1)
        trained = {key: p for key, p in net.named_parameters() if p.requires_grad}
        assert [key for key, p in trained.items() if p.grad is None] == []
        state = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        torch.manual_seed(5)
        loss = step(net, optimizer, batch, 2)
        assert all(value.isfinite().all() for value in net.state_dict().values())
        again = made(name, FAMILY[norm])
        rest = torch.optim.SGD(again.parameters(), 1e-3, momentum=0.9)
        again.load_state_dict(state[0])
        rest.load_state_dict(state[1])
        torch.manual_seed(5)
        assert step(again, rest, batch, 2) == loss
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in again.state_dict().items())
