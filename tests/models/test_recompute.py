"""Activation checkpointing of residual blocks: the same bits, and less that is kept."""

import copy
import pickle

import pytest
import torch
from conftest import few
from torch import nn

from video_gn.errors import InputError
from video_gn.models.known import NAMES
from video_gn.models.recompute import Recomputed, residual_blocks, set_recompute
from video_gn.models.resnet3d import ResNet3d

CLIPS = torch.randn(4, 3, 8, 16, 16, generator=torch.manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
CASES = [
    *({"norm": norm} for norm in ("gn", "bn", "brn", "mabn", "frozen_bn", "evonorm_s0")),
    {"norm": "bn", "ghost_batch": 2},
    {"norm": "gn", "drop_path": 0.5, "weight_standardization": True},
    {"norm": "gn", "arch": "resnetv2", "weight_standardization": True},
]


def made(way, depth=14, **settings):
    torch.manual_seed(0)
    net = ResNet3d(3, settings.pop("arch", "i3d_small"), depth, 4, num_groups=2, dropout=0.5, **settings)
    for block in residual_blocks(net):  # else gamma begins at 0, and the branch has no part
        for parameter in block.parameters():
            nn.init.uniform_(parameter, -0.2, 0.4)
    set_recompute(net, way)
    return net


def trained(net, steps=3):
    """Losses and gradients of each step, and all that is left."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    found = []
    for i in range(steps):
        torch.manual_seed(i)
        loss = nn.functional.cross_entropy(net(CLIPS.roll(i, 0)).flatten(1), LABELS)
        optimizer.zero_grad()
        loss.backward()
        found += [loss.detach(), *(weight.grad.clone() for weight in net.parameters() if weight.grad is not None)]
        optimizer.step()
    return [*found, torch.rand(1), *net.state_dict().values()]


@pytest.mark.parametrize(
    "settings", few(CASES, CASES[:3], CASES[3:]), ids=lambda case: " ".join(map(str, case.values()))
)
def test_blocks_that_are_recomputed_change_no_bit(settings):
    """Over several steps: running statistics, histories and random numbers too."""
    expected, found = (trained(made(way, **settings)) for way in ("none", "blocks"))
    assert len(found) == len(expected) > 30 and expected[-2].isfinite().all()
    assert all(map(torch.equal, found, expected))


@pytest.mark.slow
@pytest.mark.parametrize("name", few(["r3d_18", "x3d_xs", "slowfast_r50"], (), ("x3d_xs",)))
def test_networks_of_other_libraries(name):
    kept = []
    for way in ("none", "blocks"):
        kind, settings, _ = NAMES[name]
        torch.manual_seed(0)
        net = kind(3, **settings)
        set_recompute(net, way)
        torch.manual_seed(0)
        loss = net(torch.randn(2, 3, 32 if "slowfast" in name else 8, 64, 64)).square().sum()
        loss.backward()
        kept.append([loss.detach(), *(w.grad for w in net.parameters()), *net.buffers()])
    assert all(map(torch.equal, *kept))


def test_a_second_backward_is_the_same():
    net = made("blocks", norm="bn")
    torch.manual_seed(0)
    loss = net(CLIPS).square().sum()
    first, second = (torch.autograd.grad(loss, list(net.parameters()), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_it_can_be_undone_and_copied():
    net = made("blocks", norm="gn")
    before = [type(block).__mro__[2] for block in residual_blocks(net)]
    torch.manual_seed(0)
    pickled = pickle.loads(pickle.dumps(net))
    assert all(isinstance(block, Recomputed) for block in residual_blocks(pickled))
    assert list(pickled.state_dict()) == list(net.state_dict())
    twin = copy.deepcopy(net)
    assert all(isinstance(block, Recomputed) for block in residual_blocks(twin))
    set_recompute(twin, "blocks")
    set_recompute(twin, "none")
    assert [type(block) for block in residual_blocks(twin)] == before
    assert all(map(torch.equal, trained(twin, 1), trained(net, 1)))
    assert list(net.state_dict()) == list(made("none", norm="gn").state_dict())


def test_outside_training_nothing_is_recomputed(monkeypatch):
    monkeypatch.setattr("video_gn.models.recompute.checkpoint", None)
    net = made("blocks", norm="gn")
    with torch.no_grad():
        net(CLIPS)
    net.eval()(CLIPS)


@pytest.mark.parametrize(
    ("way", "words"),
    [("all", "'all'; it has to be one of: none, norms, blocks"), ("norms", "Linear has no bottlenecks"),
     ("blocks", "Linear has no residual blocks; take none")],
)  # fmt: skip
def test_what_cannot_be(way, words):
    with pytest.raises(InputError, match=words):
        set_recompute(nn.Linear(2, 2), way)
