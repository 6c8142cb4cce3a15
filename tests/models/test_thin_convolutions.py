"""1x1x1 and 3x1x1 convolutions on one thread of a CPU, which PyTorch has a slow kernel for."""

import pytest
import torch
from torch import nn

from video_gn.models.blocks import Conv3d


@pytest.mark.parametrize("depth", [1, 3])
def test_they_are_pytorchs_by_a_faster_kernel_of_it(depth, monkeypatch):
    """What is traced has no dilation."""
    geometry = (16, 8, (depth, 1, 1), 1, (depth // 2, 0, 0))
    ours, theirs = Conv3d(*geometry), nn.Conv3d(*geometry)
    theirs.load_state_dict(ours.state_dict())
    x, dilations, run = torch.randn(2, 16, 4, 6, 6), [], nn.functional.conv3d
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with monkeypatch.context() as patched:
        patched.setattr(nn.functional, "conv3d", lambda *args: dilations.append(args[5]) or run(*args))
        found = ours(x)
        torch.jit.trace(ours, x, check_trace=False)
    assert dilations[0] == (1, 2, 2) and set(dilations[1:]) == {(1, 1, 1)} and ours.dilation == (1, 1, 1)
    expected = theirs(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(y.sum(), [*net.parameters()]) for y, net in ((found, ours), (expected, theirs))]
    for value, other in zip(*gradients, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-3)


def test_where_there_are_more_threads_they_are_as_they_were(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(nn.functional, "conv3d", lambda *args: args[5])
    assert Conv3d(4, 4, 1)(torch.zeros(1, 4, 1, 2, 2)) == (1, 1, 1)
