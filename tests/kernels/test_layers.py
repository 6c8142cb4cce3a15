"""GroupNorm and InstanceNorm as other people's networks use them: `from video_gn.kernels import ...`."""

import logging

import pytest
import torch
from conftest import few
from torch import nn

pytest.importorskip("triton")
from test_kernels import DEVICE, OLD, distance

from video_gn.compat import shapes_alone
from video_gn.kernels import GroupNorm, InstanceNorm, dispatch, launch, norm_act, ops

pytestmark = pytest.mark.skipif(OLD, reason="Triton's interpreter needs numpy < 2.4")
ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}
LAYERS = {"group": (lambda: GroupNorm(4, 16), lambda: nn.GroupNorm(4, 16)),
          "instance": (lambda: InstanceNorm(16), lambda: nn.GroupNorm(16, 16))}  # fmt: skip


def made(make, **settings):
    layer = make().to(DEVICE)
    for name, value in settings.items():
        setattr(layer, name, value)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 16))
        layer.bias.copy_(torch.linspace(-1, 1, 16))
    return layer


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(2, 16, 6, 7), (2, 16, 2, 6, 7)])
def test_features_of_2_and_3_dimensions(name, shape):
    """By the kernels as by PyTorch in float64, with a residual and a ReLU; the result is in their memory order."""
    torch.manual_seed(0)
    ours, theirs = (made(make) for make in LAYERS[name])
    ours.kernels = "triton"
    x, residual, dy = (torch.randn(shape, device=DEVICE).contiguous(memory_format=ORDERS[len(shape)]) for _ in range(3))
    inputs = [x.requires_grad_(), residual.requires_grad_()]
    y = norm_act(ours, *inputs)
    assert y.shape == shape and y.is_contiguous(memory_format=ORDERS[len(shape)]) and y.grad_fn is not None
    doubles = [value.detach().double().requires_grad_() for value in inputs]
    before = theirs.double()(doubles[0]) + doubles[1]
    dy[before.abs() < 1e-4] = 0
    assert distance(y.detach(), before.relu().detach()) < 5e-6
    found = torch.autograd.grad(y, [*inputs, *ours.parameters()], dy)
    expected = torch.autograd.grad(before.relu(), [*doubles, *theirs.parameters()], dy.double())
    for value, right in zip(found, expected, strict=True):
        assert distance(value, right) < 5e-6
    assert distance(ours.eval()(x).detach(), theirs(x.double()).detach()) < 5e-6


def test_they_take_the_state_of_pytorchs():
    for theirs in (nn.InstanceNorm2d(16, affine=True), nn.InstanceNorm3d(16, affine=True)):
        InstanceNorm(16).load_state_dict(theirs.state_dict())
    GroupNorm(4, 16).load_state_dict(nn.GroupNorm(4, 16).state_dict())


def test_features_of_other_dimensions_are_pytorchs():
    x = torch.randn(2, 16, 5, device=DEVICE)
    ours, theirs = (made(make) for make in LAYERS["group"])
    ours.kernels = "triton"
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("shape", [(2, 16, 4, 5), (2, 16, 2, 24, 24)])
@pytest.mark.parametrize("needed", [(True, False, False), (False, True, True), (True, True, False)])
def test_only_wanted_gradients_are_computed(shape, needed, monkeypatch):
    launched, run = [], launch._run
    monkeypatch.setattr(launch, "_run", lambda name, *args, **more: (launched.append(name), run(name, *args, **more)))
    x = torch.randn(shape, device=DEVICE).contiguous(memory_format=ORDERS[len(shape)])
    inputs = [x, torch.rand(16, device=DEVICE), torch.rand(16, device=DEVICE)]
    dy = torch.randn_like(x)

    def gradients(*needed):
        for value, need in zip(inputs, needed, strict=True):
            value.requires_grad_(need)
        y = ops.norm(*inputs, None, 2, 4, 1e-5, True)
        found = iter(torch.autograd.grad(y, [value for value in inputs if value.requires_grad], dy))
        return [next(found) if need else None for need in needed]

    every = gradients(True, True, True)
    launched.clear()
    for value, all_of_them, need in zip(gradients(*needed), every, needed, strict=True):
        assert value is None if not need else distance(value, all_of_them.double()) < 1e-6
    assert ("input_gradient" in launched) == (len(shape) == 5 and needed[0])


def test_what_auto_leaves_to_pytorch_is_said_once(caplog):
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.WARNING), shapes_alone(), torch.device("cuda"):
        layer = GroupNorm(4, 16)
        for x in (torch.empty(2, 16, 4, 5, 5), torch.empty(3, 16, 4, 5, 5), torch.empty(2, 16, 5, 5)):
            layer(x)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "GroupNorm of 16 channels runs on PyTorch's kernels: "
        f"features are not in {order}, in which the kernels need no copies"
        for order in ("channels_last_3d", "channels_last")
    ]


def test_tensors_without_memory_get_shapes_and_launch_nothing(monkeypatch):
    monkeypatch.setattr(launch, "_kernel", None)
    with shapes_alone(), torch.device("cuda"):
        x = torch.empty(2, 16, 4, 5, 5, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)
        y = GroupNorm(4, 16)(x, residual=x, relu=True)
        assert "Norm" in type(y.grad_fn).__name__ and y.dtype == x.dtype
        assert y.shape == x.shape and y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.slow
@pytest.mark.parametrize("shape", few([(2, 16, 6, 7), (2, 16, 2, 6, 7)], (), ((2, 16, 6, 7),)))
def test_compiled(shape):
    """Without a break, and with the same result."""
    layer = made(LAYERS["group"][0], kernels="triton")
    x = torch.randn(shape, device=DEVICE).contiguous(memory_format=ORDERS[len(shape)]).requires_grad_()
    torch.compiler.reset()
    found = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, relu=True)
    expected = layer(x, relu=True)
    assert torch.equal(found, expected)
    for value, right in zip(*(torch.autograd.grad(y.sum(), [x, layer.weight]) for y in (found, expected)), strict=True):
        torch.testing.assert_close(value, right)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_the_second_gpu():
    """On the device of the features, whichever is the current one."""
    x = torch.randn(2, 64, 4, 24, 24).contiguous(memory_format=torch.channels_last_3d)
    results = []
    for device in ("cuda:0", "cuda:1"):
        layer, there = GroupNorm(32, 64).to(device), x.to(device).requires_grad_()
        y = layer(there, relu=True)
        y.square().sum().backward()
        assert {y.device, there.grad.device, layer.weight.grad.device} == {torch.device(device)}
        results.append([value.cpu() for value in (y.detach(), there.grad, layer.weight.grad)])
    assert all(map(torch.equal, *results))
