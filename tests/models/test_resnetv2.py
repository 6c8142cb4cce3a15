"""The network with pre-activation: what its blocks begin as, and what else asks for a network's parts."""

import pytest
import torch
from pytorchvideo.models.resnet import ResBlock
from samples import randomize
from torch import nn

from video_gn.models.architectures import ARCHS
from video_gn.models.blocks import PreActResidual, select_kernels
from video_gn.models.conv_weights import Formed
from video_gn.models.norm import NORMS
from video_gn.models.recompute import set_recompute
from video_gn.models.resnet3d import ResNet3d

SMALL = {"arch": "resnetv2", "depth": 14, "width": 8, "num_groups": 4, "dropout": 0.0}


def blocks(net):
    return [module for module in net.modules() if isinstance(module, ResBlock)]


@pytest.mark.parametrize("norm", NORMS)
def test_every_block_is_its_shortcut_at_first_and_learns(norm):
    """The last kernel of a branch is 0: behind its last norm is a ReLU, which would pass a gamma of 0 no gradient."""
    torch.manual_seed(0)
    net = ResNet3d(3, **SMALL | {"depth": 50, "width": 4}, norm=norm).train()
    x, clips = torch.rand(2, 16, 2, 5, 5), torch.rand(2, 3, 16, 64, 64)
    assert torch.equal(blocks(net)[1](x), x)
    assert all((block.branch2.norm_c.weight == 1).all() for block in blocks(net))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    nn.init.normal_(net.head.proj.weight)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(clips).flatten(1), torch.tensor([0, 2])).backward()
        assert all(block.branch2.conv_c.weight.grad.any() for block in blocks(net))
        optimizer.step()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert all(block.branch2.conv_a.weight.grad.any() for block in blocks(net))


def test_standardised_kernels_do_not_start_at_0():
    """Their scale is no part of what they do: one of 0 would be of full size after the smallest step."""
    for settings, starts in (({}, False), ({"weight_standardization": True}, True), ({"zero_init_gamma": False}, True)):
        net = ResNet3d(3, **SMALL, **settings)
        assert all(block.branch2.conv_c.weight.any() == starts for block in blocks(net))
    kernel = torch.zeros(4, 8, 1, 1, 1, requires_grad=True)
    conv = ResNet3d(3, **SMALL, weight_standardization=True).blocks[1].res_blocks[0].branch2.conv_c
    assert isinstance(conv, Formed)
    step = torch.randn(4, 8, 1, 1, 1)
    for size in (1e-3, 1.0):  # a thousandth of a step is a whole one
        moved = conv._formed(kernel.detach() - size * step).std(dim=1, correction=0)
        torch.testing.assert_close(moved, torch.ones_like(moved), rtol=1e-2, atol=0)


def test_nothing_is_written_into_the_shortcut():
    """Not by the ReLU behind a norm that gives its input as it is, either."""
    block = blocks(ResNet3d(3, **SMALL, norm=lambda channels: nn.Identity()))[0]
    assert isinstance(block, PreActResidual)
    x = torch.randn(1, 8, 2, 4, 4)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("arch", [name for name in ARCHS if ARCHS[name].preactivated])
def test_parts_by_which_others_know_a_network(arch):
    """Stages to freeze end with the last norm; the features before the head give the logits, as activation maps ask."""
    net = randomize(ResNet3d(3, **SMALL | {"arch": arch}))
    assert len(net.stages) == 5 and net.stages[-1].norm.weight.numel() == 256
    frozen = {id(parameter) for stage in net.stages for parameter in stage.parameters()}
    rest = {id(parameter) for parameter in net.head.parameters()}
    assert frozen | rest == {id(parameter) for parameter in net.parameters()} and not frozen & rest
    clips, kept = torch.randn(1, 3, 8, 64, 64), []
    *_, features, head = net.blocks
    features.register_forward_hook(lambda *args: kept.append(args[2]))
    with torch.no_grad():
        logits = net(clips).flatten(1)
    assert (kept[0] >= 0).all()
    maps = torch.einsum("kc,ncthw->nkthw", head.proj.weight, kept[0])
    torch.testing.assert_close(maps.mean((2, 3, 4)) + head.proj.bias, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", ["none", "norms"])
def test_by_the_kernels_of_a_gpu(recompute):
    """A block by Triton's interpreter, with less kept for backward too, gives what PyTorch's operators give."""
    found = []
    for kernels in ("torch", "triton"):
        block = randomize(blocks(ResNet3d(3, **SMALL, zero_init_gamma=False))[0]).train()
        torch.manual_seed(2)
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.3)
        select_kernels(block, kernels)
        set_recompute(block, recompute if kernels == "triton" else "none")
        x = torch.randn(2, 8, 2, 4, 4, generator=torch.manual_seed(3)).requires_grad_()
        y = block(x.contiguous(memory_format=torch.channels_last_3d))
        y.square().sum().backward()
        found.append([y.detach(), x.grad, *(parameter.grad for parameter in block.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
