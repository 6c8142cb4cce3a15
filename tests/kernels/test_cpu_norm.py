"""GroupNorm on a CPU in channels_last_3d, against float64 arithmetic."""

import pytest
import torch
from torch import nn

from video_gn.compat import shapes_alone
from video_gn.errors import InputError
from video_gn.kernels import GroupNorm, cpu_norm, norm_act

LAST = torch.channels_last_3d
EPS = 1e-5
# By PyTorch's kernel as it is, or less a mean; by rows in backward; by rows, whose clips have few positions.
SHAPES = {"whole": (2, 64, 2, 14, 14), "half": (2, 16, 8, 16, 16), "rows": (9, 64, 2, 12, 12)}
GROUPS = {"whole": 4, "half": 8, "rows": 32}


def made(shape, groups, ratio, seed=0):
    """A layer and features whose means are so many deviations, of another size in each group."""
    torch.manual_seed(seed)
    layer = GroupNorm(groups, shape[1])
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, shape[1]))
        layer.bias.copy_(torch.linspace(-1, 1, shape[1]))
    means = ratio * torch.linspace(-1, 1, groups).repeat_interleave(shape[1] // groups).view(1, -1, 1, 1, 1)
    x, residual, dy = (torch.randn(shape) for _ in range(3))
    return layer, *((value.contiguous(memory_format=LAST)) for value in (x + means, residual, dy))


def reference(layer, x, residual, relu):
    """In float64."""
    n, c = x.shape[:2]
    groups = x.reshape(n, layer.num_groups, -1)
    y = (groups - groups.mean(2, True)) / (groups.var(2, correction=0, keepdim=True) + EPS).sqrt()
    y = y.view(x.shape) * layer.weight.view(1, c, 1, 1, 1) + layer.bias.view(1, c, 1, 1, 1) + residual
    return y.relu() if relu else y


def distance(value, expected):
    return ((value.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("ratio", [0, 10, 100])
@pytest.mark.parametrize("name", SHAPES)
def test_exact_whatever_the_mean(name, ratio):
    """As PyTorch's kernel for the contiguous order; and far more so than its one for this order."""
    layer, x, residual, dy = made(SHAPES[name], GROUPS[name], ratio)
    assert cpu_norm.takes(layer, x)
    inputs = [x.requires_grad_(), residual.requires_grad_(), *layer.parameters()]
    y = norm_act(layer, x, residual, relu=False)
    assert y.is_contiguous(memory_format=LAST)
    doubles = [value.detach().double().requires_grad_() for value in inputs]
    twin = GroupNorm(layer.num_groups, layer.num_channels).double()
    twin.weight, twin.bias = (nn.Parameter(value.detach()) for value in doubles[2:])
    expected = reference(twin, *doubles[:2], False)
    assert distance(y.detach(), expected.detach()) < 1e-5
    found = torch.autograd.grad(y, inputs, dy)
    right = torch.autograd.grad(expected, [*doubles[:2], *twin.parameters()], dy.double())
    for value, other, most in zip(found, right, (1e-5, 1e-6, 3e-4, 1e-5), strict=True):
        assert distance(value, other) < most
    if ratio == 100:
        assert distance(nn.functional.group_norm(x, layer.num_groups).detach(), reference(
            GroupNorm(layer.num_groups, layer.num_channels).double(), doubles[0], torch.zeros(()), False
        ).detach()) > 1e-4  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_as_in_the_contiguous_order(name):
    """With and without what follows, and with frozen parameters."""
    layer, x, residual, dy = made(SHAPES[name], GROUPS[name], 1)
    for given, relu in ((None, False), (None, True), (residual, True)):
        results = []
        for order in (torch.contiguous_format, LAST):
            inputs = [x.detach().contiguous(memory_format=order).requires_grad_(), *layer.parameters()]
            y = layer(inputs[0], given, relu)
            results.append([y.detach(), *torch.autograd.grad(y, inputs, dy)])
        for value, other in zip(*results, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
    layer.requires_grad_(False)
    (dx,) = torch.autograd.grad(layer(x.requires_grad_()), x, dy)
    assert distance(dx, results[0][1].double()) > 0 and dx.isfinite().all()


@pytest.mark.parametrize("name", SHAPES)
def test_a_clip_has_the_same_bits_whatever_the_others_are(name):
    """Also where one of the others has a mean that is subtracted."""
    layer, x, residual, _ = made(SHAPES[name], GROUPS[name], 1)
    others = x.clone()
    others[1:] += 1000
    with torch.no_grad():
        first, second = (layer(value, residual, True)[0] for value in (x, others))
    assert torch.equal(first, second)


def test_what_it_is_not_for():
    layer, x, *_ = made((2, 16, 2, 4, 4), 4, 0)
    assert cpu_norm.takes(layer, x)
    refused = [x.contiguous(), x.double(), x.bfloat16(), x[:0], x[:, :, 0]]
    assert not any(cpu_norm.takes(layer, value) for value in refused)
    with shapes_alone():
        assert not cpu_norm.takes(layer, torch.empty(2, 16, 2, 4, 4).contiguous(memory_format=LAST))
    layer.kernels = "torch"  # as somebody chooses who wants a second derivative
    assert not cpu_norm.takes(layer, x)


def test_nan_reaches_its_clip():
    layer, x, *_ = made(SHAPES["half"], GROUPS["half"], 0)
    x[0, 0, 0, 0, 0] = torch.nan
    y = layer(x)
    assert y[0, :2].isnan().all() and y[0, 2:].isfinite().all() and y[1].isfinite().all()


def test_under_autocast_it_is_as_exact():
    layer, x, residual, dy = made(SHAPES["rows"], GROUPS["rows"], 10)
    results = []
    for enabled in (False, True):
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(x, residual, True)
            results.append([y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], dy)])
    assert all(map(torch.equal, *results))


def test_transforms_and_second_derivatives():
    """Transforms get PyTorch's operators; a second derivative an error that names the setting."""
    layer, x, *_ = made(SHAPES["half"], GROUPS["half"], 1)
    found = torch.func.vmap(layer)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(found[0], layer(x), rtol=1e-4, atol=1e-5)
    y = layer(x.requires_grad_(), relu=True)
    with pytest.raises(InputError, match="kernels=torch"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


def test_whatever_the_default_type_is():
    layer, x, *_ = made(SHAPES["rows"], GROUPS["rows"], 1)
    expected = layer(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(layer(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_residuals_of_other_shapes_are_pytorchs():
    layer, x, residual, _ = made(SHAPES["rows"], GROUPS["rows"], 1)
    assert layer(x[:1], residual).shape == residual.shape and not cpu_norm.takes(layer, x[:1], residual)
    with pytest.raises(RuntimeError, match="channels"):
        layer(torch.zeros(1, 60, 2, 4, 4).contiguous(memory_format=LAST))
