"""The Triton kernels, here under Triton's interpreter on a CPU, against float64 arithmetic.

The interpreter cuts float32 to bfloat16 where a GPU rounds: twice the error, hence the tolerances. Tests marked `gpu`
are what only a GPU can show.
"""

import json
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import REPO, few
from torch import nn
from torch.nn.functional import cross_entropy, max_pool3d
from torch.nn.parallel import DistributedDataParallel
from torch.torch_version import TorchVersion
from torch.utils.checkpoint import checkpoint

pytest.importorskip("triton")
import triton
from samples import resnet3d

from video_gn.errors import InputError
from video_gn.kernels import dispatch, launch, ops
from video_gn.kernels.layers import GroupNorm, norm_act
from video_gn.models.blocks import select_kernels
from video_gn.models.norm import make_norm
from video_gn.models.recompute import set_recompute

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OLD = TorchVersion(triton.__version__) < "3.9" and np.lib.NumpyVersion(np.__version__) >= "2.4.0" and DEVICE == "cpu"
pytestmark = pytest.mark.skipif(OLD, reason=f"Triton {triton.__version__}'s interpreter needs numpy < 2.4")
EPS = 1e-5
LAST = torch.channels_last_3d
SHAPES = [
    # In chunks:
    *((2, 64, 3, 24, 24), (2, 128, 2, 21, 23), (1, 256, 2, 28, 29), (1, 512, 2, 19, 19), (1, 1024, 2, 14, 15)),
    # At once:
    *((2, 2048, 1, 7, 7), (2, 64, 1, 5, 7)),
]
AFTER = {"norm": (False, False), "relu": (True, False), "residual": (False, True), "both": (True, True)}
# Errors relative to the norm of the reference; a GPU rounds, the interpreter cuts.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-3 if DEVICE == "cuda" else 4e-3, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def features(*shape, dtype=torch.float32, mean=0.0):
    """Random features with that ratio of mean to deviation, in channels_last_3d."""
    return (torch.randn(shape, device=DEVICE) + mean).to(dtype).contiguous(memory_format=LAST)


def reference(x, weight, bias, residual, sets, groups, relu, eps=EPS):
    """In float64; and the values before the ReLU."""
    n, c = x.shape[:2]
    parts = x.double().reshape(sets, n // sets, groups, c // groups, -1)
    var, mean = torch.var_mean(parts, (1, 3, 4), correction=0, keepdim=True)
    y = ((parts - mean) / (var + eps).sqrt()).reshape(x.shape)
    y = y * weight.double().view(1, -1, 1, 1, 1) + bias.double().view(1, -1, 1, 1, 1)
    if residual is not None:
        y = y + residual.double()
    return y.relu() if relu else y, y


def distance(value, expected):
    """Relative to the norm of what is expected."""
    assert value.isfinite().all()
    return ((value.double() - expected).norm() / expected.norm().clamp_min(1e-12)).item()


def compare(x, sets, groups, after, tolerance, eps=EPS):
    """Forward and every gradient against the reference, except where the ReLU's input is within rounding of 0."""
    relu, has_residual = AFTER[after]
    weight, bias = torch.randn(2, x.shape[1], device=DEVICE)
    residual = torch.randn_like(x, memory_format=LAST) if has_residual else None
    inputs = [one for one in (x, weight, bias, residual) if one is not None]
    doubles = [one.double().requires_grad_() for one in inputs]
    expected, before = reference(*doubles[:3], doubles[3] if has_residual else None, sets, groups, relu, eps)
    dy = torch.randn_like(x)
    if relu:
        dy[before.abs() < 1e-2 if x.dtype != torch.float32 else before.abs() < 1e-4] = 0
    for one in inputs:
        one.requires_grad_()
    y = ops.norm(*inputs[:3], residual, sets, groups, eps, relu)
    assert y.dtype == x.dtype and y.is_contiguous(memory_format=LAST)
    assert distance(y.detach(), expected.detach()) < tolerance
    gradients = torch.autograd.grad(y, inputs, dy)
    for name, one, right in zip(
        ("x", "weight", "bias", "residual"),
        gradients,
        torch.autograd.grad(expected, doubles, dy.double()),
        strict=False,
    ):
        # Sums of rounded products: rounding of the single terms, not of the result, is what float32 has here.
        assert distance(one, right) < max(tolerance, 5e-6), name
    return y


# Correctness


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", few(
    [(shape, after) for shape in SHAPES for after in ("norm", "relu", "both")],
    [(SHAPES[0], "both"), *((SHAPES[-1], after) for after in ("norm", "relu", "both"))],
    [(shape, "both") for shape in SHAPES],
))  # fmt: skip
def test_group_norm_of_every_width(case, dtype):
    shape, after = case
    x = features(*shape, dtype=dtype, mean=0.5)
    compare(x, len(x), 32, after, TOLERANCE[dtype])


@pytest.mark.parametrize("after", few(["residual", "both"], ("both",), ()))
@pytest.mark.parametrize(
    ("shape", "sets", "groups"),
    [
        ((2, 96, 2, 13, 17), 2, 32),  # 3 channels a group
        pytest.param((2, 96, 2, 5, 5), 2, 32, marks=pytest.mark.slow),
        ((2, 24, 3, 20, 21), 2, 6),  # 6 groups
        pytest.param((1, 20, 2, 40, 41), 1, 5, marks=pytest.mark.slow),
        ((2, 512, 2, 7, 7), 2, 1),  # LN
        pytest.param((1, 384, 2, 12, 12), 1, 1, marks=pytest.mark.slow),
        ((2, 64, 2, 7, 9), 2, 64),  # IN
        pytest.param((2, 48, 2, 40, 23), 2, 48, marks=pytest.mark.slow),
        ((4, 64, 2, 16, 16), 1, 64),  # BN
        ((4, 64, 2, 16, 16), 2, 64),  # BN by twos
        pytest.param((3, 40, 1, 4, 5), 1, 40, marks=pytest.mark.slow),
        ((1, 8, 1, 1, 1), 1, 2),
    ],
)
def test_other_groups_and_sets(shape, sets, groups, after):
    compare(features(*shape, mean=-1.0), sets, groups, after, TOLERANCE[torch.float32])


def test_half_precision():
    compare(features(2, 64, 2, 9, 9, dtype=torch.float16), 2, 32, "both", TOLERANCE[torch.float16])


@pytest.mark.parametrize("shape", [(1, 64, 3, 24, 24), (2, 512, 1, 6, 6)])
@pytest.mark.parametrize("ratio", few([0, 10, 100, 1000], (1000,), (0,)))
def test_means_far_from_zero(ratio, shape):
    """What is left is the rounding of the input, and of the mean in float32."""
    compare(features(*shape, mean=float(ratio)), shape[0], 32, "norm", 5e-6 + 2e-7 * ratio)


@pytest.mark.parametrize("shape", [(2, 64, 2, 24, 24), (2, 64, 1, 5, 5)])
@pytest.mark.parametrize("value", few([0.0, 3.0, -1000.0], (3.0,)))
def test_constant_groups(value, shape):
    """A dead group gives beta, and no NaN."""
    x = torch.full(shape, value, device=DEVICE).contiguous(memory_format=LAST).requires_grad_()
    weight, bias = torch.randn(2, shape[1], device=DEVICE)
    y = ops.norm(x, weight, bias, None, 2, 32, EPS, False)
    torch.testing.assert_close(y, bias.view(1, -1, 1, 1, 1).expand(shape), rtol=1e-6, atol=1e-6)
    dx = torch.autograd.grad(y, x, torch.ones_like(y))[0]
    assert dx.isfinite().all() and dx.abs().max() < 2e3 * 2 / EPS**0.5  # gamma / sqrt(eps) at most


def test_nan_is_not_hidden():
    x = features(1, 64, 2, 6, 6)
    x[0, 5, 1, 2, 3] = float("nan")
    y = ops.norm(x, torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE), None, 1, 32, EPS, True)
    assert y[:, 4:6].isnan().all() and y[:, :4].isfinite().all() and y[:, 6:].isfinite().all()


@pytest.mark.parametrize("shape", [(2, 64, 2, 24, 24), (2, 64, 1, 6, 6)])
@pytest.mark.parametrize("has_residual", few([False, True], (True,)))
def test_backward_masks_what_forward_passed(shape, has_residual):
    """At the boundary, too: the gradient of beta counts exactly the positive outputs."""
    x = (features(*shape) * 4).round() / 4  # many values meet 0
    weight, bias = torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE, requires_grad=True)
    residual = (features(*shape) * 4).round() / 4 if has_residual else None
    y = ops.norm(x, weight, bias, residual, 2, 32, EPS, True)
    y.backward(torch.ones_like(y))
    assert torch.equal(bias.grad, (y > 0).sum((0, 2, 3, 4)).float())


def test_directional_derivative():
    """The gradient against the function itself, and not another's formula."""
    x, weight, bias, residual = features(1, 64, 2, 8, 8), *torch.randn(2, 64, device=DEVICE), features(1, 64, 2, 8, 8)
    values = [x.double(), weight.double(), bias.double(), residual.double()]
    directions = [torch.randn_like(one) for one in values]
    probe = torch.randn_like(x).double()

    def at(step):
        moved = [one + step * direction for one, direction in zip(values, directions, strict=True)]
        return (reference(*moved, 1, 32, False)[0] * probe).sum()

    slope = ((at(1e-4) - at(-1e-4)) / 2e-4).item()
    inputs = [one.requires_grad_() for one in (x, weight, bias, residual)]
    gradients = torch.autograd.grad(ops.norm(*inputs, 1, 32, EPS, False), inputs, probe.float())
    found = sum((g.double() * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
    assert found == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("shape", few([(3, 64, 2, 24, 24), (3, 64, 1, 6, 6)], ((3, 64, 1, 6, 6),)))
def test_a_clip_has_the_same_bits_alone_and_twice(shape):
    """What GN is for: nothing of a clip's result depends on the others."""
    weight, bias = torch.randn(2, 64, device=DEVICE)
    x, residual, dy = (features(*shape, dtype=torch.bfloat16) for _ in range(3))

    def run(part):
        inputs = [one[part].clone(memory_format=LAST).requires_grad_() for one in (x, residual)]
        y = ops.norm(inputs[0], weight, bias, inputs[1], len(inputs[0]), 32, EPS, True)
        return [y.detach(), *torch.autograd.grad(y, inputs, dy[part])]

    together, again = run(slice(None)), run(slice(None))
    alone = run(slice(1, 2))
    for one, same, single in zip(together, again, alone, strict=True):
        assert torch.equal(one, same) and torch.equal(one[1:2], single)


@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
def test_any_memory_order(order):
    x, residual, dy = (features(2, 64, 2, 8, 8) for _ in range(3))
    weight, bias = torch.randn(2, 64, device=DEVICE)
    results = []
    for layout in (LAST, order):
        inputs = [one.clone(memory_format=layout).requires_grad_() for one in (x, residual)]
        y = ops.norm(inputs[0], weight, bias, inputs[1], 2, 32, EPS, True)
        results.append([y, *torch.autograd.grad(y, inputs, dy.clone(memory_format=layout))])
        assert y.is_contiguous(memory_format=LAST)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_features_that_begin_anywhere():
    """Not at 16 bytes, as PyTorch allocates and kernels are compiled for."""
    x = features(2, 64, 2, 8, 8)
    shifted = torch.empty(x.numel() + 1, device=DEVICE)[1:].view(2, 2, 8, 8, 64).permute(0, 4, 1, 2, 3).copy_(x)
    assert shifted.data_ptr() % 16 and shifted.is_contiguous(memory_format=LAST)
    weight, bias = torch.randn(2, 64, device=DEVICE)
    results = []
    for one in (x, x, shifted):
        one = one.detach().requires_grad_()
        y = ops.norm(one, weight, bias, None, 2, 32, EPS, True)
        results.append([y.detach(), *torch.autograd.grad(y, one, x)])
    for one in results[1:]:
        assert all(map(torch.equal, one, results[0]))


def test_a_kernel_is_launched_as_it_was_compiled(monkeypatch):
    """From the second time on by what Triton returned, with all constants in their order."""
    calls = []

    class Compiled:
        def __getitem__(self, grid):
            return lambda *arguments: calls.append((grid, arguments))

    class Kernel(Compiled):
        arg_names = ("x", "n", "RELU", "R")

        def __getitem__(self, grid):
            return lambda *arguments, **constants: calls.append((grid, arguments, constants)) or Compiled()

    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(launch, "_kernel", {"k": Kernel()}.get)
    constants = {"R": 8, "RELU": True, "num_warps": 4}
    for key in ("a", "a", "b", None, None):
        launch._run("k", (1, 2, 3), key, "x", 5, **constants)
    slow, fast = ((1, 2, 3), ("x", 5), constants), ((1, 2, 3), ("x", 5, True, 8))
    assert calls == [slow, fast, slow, slow, slow]


def test_a_gradient_that_is_expanded():
    """As a mean over positions gives it: with strides of 0."""
    x = features(2, 64, 2, 6, 6).requires_grad_()
    weight, bias = torch.randn(2, 64, device=DEVICE)
    probe = torch.randn(2, 64, 1, 1, 1, device=DEVICE)
    found = torch.autograd.grad(
        (ops.norm(x, weight, bias, None, 2, 32, EPS, True).mean((2, 3, 4), True) * probe).sum(), x
    )
    doubled = x.detach().double().requires_grad_()
    y = reference(doubled, weight, bias, None, 2, 32, True)[0]
    expected = torch.autograd.grad((y.mean((2, 3, 4), True) * probe.double()).sum(), doubled)
    assert distance(found[0], expected[0]) < 5e-6


# Layers


def layers(name, kernels, **options):
    layer = make_norm(name, **options)(16).to(DEVICE)
    layer.kernels = kernels
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 16))
        layer.bias.copy_(torch.linspace(-1, 1, 16))
        for buffer, low, high in (("running_mean", -1, 1), ("running_var", 0.5, 2)):
            if hasattr(layer, buffer):
                getattr(layer, buffer).copy_(torch.linspace(low, high, 16))
    return layer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gn", {"num_groups": 4}), ("gn", {"channels_per_group": 8}), ("ln", {}), ("in", {}), ("bn", {}),
        ("bn", {"ghost_batch": 2}), ("bn", {"ghost_batch": 3}), ("brn", {}), ("brn", {"ghost_batch": 2}),
        ("frozen_bn", {}), ("frozen_bn", {"freeze_affine": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_residual", [False, True])
def test_every_norm_is_the_same_by_kernels_and_by_pytorch(name, options, training, has_residual):
    x, residual, dy = (features(4, 16, 2, 5, 6, mean=0.3) for _ in range(3))
    found = []
    for kernels in ("torch", "triton"):
        layer = layers(name, kernels, **options).train(training)
        inputs = [one.clone().requires_grad_() for one in (x, residual)[: 1 + has_residual]]
        y = norm_act(layer, inputs[0], inputs[1] if has_residual else None)
        trained = [*inputs, *(one for one in layer.parameters() if one.requires_grad)]
        buffers = [buffer.double() for buffer in layer.buffers()]
        found.append([y, *torch.autograd.grad(y, trained, dy), *buffers])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_frozen_stages_pass_gradients_to_their_input():
    """Of a frozen norm only x has a gradient."""
    layer = layers("frozen_bn", "triton", freeze_affine=True)
    x = features(1, 16, 2, 5, 6).requires_grad_()
    y = layer(x, None, True)
    y.sum().backward()
    scale = layer.weight * (layer.running_var + EPS).rsqrt()
    torch.testing.assert_close(x.grad, (y > 0) * scale.view(1, -1, 1, 1, 1))


def small(norm="gn", kernels="triton", recompute="none", geometry="i3d", width=8, **options):
    torch.manual_seed(0)
    layer = make_norm(norm, num_groups=8, **options)
    net = resnet3d(4, layer, 11, width, geometry, 32, dropout=0, zero_init_gamma=False).to(DEVICE)
    select_kernels(net, kernels)
    set_recompute(net, recompute)
    return net


def step(net, clips, dtype=torch.float32):
    """Loss and gradients."""
    net.zero_grad()
    with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
        loss = cross_entropy(net(clips).flatten(1), torch.arange(len(clips), device=DEVICE))
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in net.parameters()]


@pytest.fixture
def clips():
    return features(2, 3, 8, 32, 32)


@pytest.mark.parametrize("norm", few(["gn", "bn"], ("gn",)))
def test_the_network_runs_every_norm_with_what_follows_it(norm, clips, monkeypatch):
    """No norm of it is left to PyTorch, nor a ReLU or a sum; and its gradients are PyTorch's."""
    calls, run = [], ops.norm

    def record(x, weight, bias, residual, sets, groups, eps, relu, *rest):
        calls.append((residual is not None, relu))
        return run(x, weight, bias, residual, sets, groups, eps, relu, *rest)

    monkeypatch.setattr(ops, "norm", record)
    net = small(norm)
    loss, gradients = step(net, clips)
    one_block = [(False, False), (False, True), (False, True), (True, True)]  # shortcut, a, b, c
    assert calls == [(False, True), *3 * one_block]
    expected, right = step(small(norm, "torch"), clips)
    assert len(calls) == 13
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, right, strict=True):
        assert distance(one, other.double()) < 1e-3


def test_state_dicts_do_not_know_the_kernels():
    assert list(small().state_dict()) == list(small(kernels="torch").state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("norm", few(["gn", "bn"], (), ("gn",)))
def test_recomputing_changes_no_bit(norm, clips):
    """What is computed again is what was computed."""
    clips = clips[:, :, :4, :8, :8].contiguous(memory_format=LAST)
    (loss, gradients), *others = (
        step(small(norm, recompute=way, geometry="i3d_small"), clips) for way in ("none", "norms", "blocks")
    )
    for same, once_more in others:
        if DEVICE == "cpu":  # cuDNN's convolutions may add up in any order
            assert torch.equal(loss, same) and all(map(torch.equal, gradients, once_more))
        torch.testing.assert_close(loss, same)


@pytest.mark.long
@pytest.mark.slow
def test_recomputing_keeps_less(clips):
    def kept(net):
        """Bytes that are alive for backward."""
        alive = {}

        def pack(tensor):
            alive[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(clips)
        return sum(alive.values())

    least, less, more = (kept(small(recompute=way, width=16)) for way in ("blocks", "norms", "none"))
    assert less < 0.8 * more and least < 0.8 * less


@pytest.mark.slow
def test_under_autocast_features_keep_their_type(clips):
    net = small()
    types = set()
    for layer in net.modules():
        if isinstance(layer, GroupNorm):
            layer.register_forward_hook(lambda _, inputs, y: types.add((inputs[0].dtype, y.dtype)))
    step(net, clips, torch.bfloat16)
    select_kernels(net, "torch")  # PyTorch's GN would be float32 under a GPU's autocast
    step(net, clips, torch.bfloat16)
    assert types == {(torch.bfloat16, torch.bfloat16)}


@pytest.mark.slow
@pytest.mark.parametrize("recompute", few(["none", "norms"], (), ()))
def test_activation_checkpointing(recompute, clips):
    net = small(recompute=recompute)
    _, expected = step(net, clips)
    net.zero_grad()
    x = clips
    for block in net.blocks:
        x = checkpoint(block, x, use_reentrant=False)
    cross_entropy(x.flatten(1), torch.arange(2, device=DEVICE)).backward()
    for parameter, right in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, right, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # one thread of a CPU lays some gradients out otherwise
def test_distributed_data_parallel(clips, tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        net = small(recompute="norms").to(
            memory_format=LAST
        )  # as VideoClassifier does, so that gradients lie as DDP's buckets
        _, expected = step(net, clips)
        _, found = step(DistributedDataParallel(net), clips)
    finally:
        dist.destroy_process_group()
    for one, right in zip(found, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-5, atol=1e-6)


def losses_of(kernels, dtype, seed=0, steps=6):
    """Of a short training of the stem and the first residual block."""
    torch.manual_seed(0)
    clips, labels = [features(4, 3, 4, 16, 16) for _ in range(2)], torch.randint(4, (2, 4), device=DEVICE)
    blocks = small(kernels=kernels, geometry="i3d_small", width=16).blocks[:2]
    torch.manual_seed(seed)
    net = nn.Sequential(*blocks, nn.AvgPool3d((1, 4, 4)), nn.Flatten(1), nn.Linear(1024, 4)).to(DEVICE)
    for layer in net.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight)
    optimizer = torch.optim.SGD(net.parameters(), 0.005, momentum=0.9, nesterov=True)
    losses = []
    for i in range(steps):
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            loss = cross_entropy(net(clips[i % 2]), labels[i % 2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


@pytest.mark.long
@pytest.mark.slow
def test_training_follows_pytorchs_group_norm():
    """In float32 to what rounding grows to; in bfloat16 well within what another seed makes of it."""
    expected = losses_of("torch", torch.float32)
    assert expected[-2:].mean() < 0.85 * expected[:2].mean()
    assert losses_of("triton", torch.float32) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    seeds = np.abs(losses_of("torch", torch.float32, seed=1) - expected).mean()
    assert np.abs(losses_of("triton", torch.bfloat16) - expected).mean() < seeds / 5


# torch.compile


OPCHECKS_OWN = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@OPCHECKS_OWN
@pytest.mark.parametrize("order", few([torch.contiguous_format, LAST], (LAST,)))
@pytest.mark.parametrize(("has_residual", "relu"), [(False, True), (True, True), (True, False)])
def test_registered_norm(order, has_residual, relu):
    x, residual = (features(2, 16, 2, 4, 4).clone(memory_format=order).requires_grad_() for _ in range(2))
    weight, bias = (torch.randn(16, device=DEVICE, requires_grad=True) for _ in range(2))
    torch.library.opcheck(ops._norm, (x, weight, bias, residual if has_residual else None, 2, 4, EPS, relu))


@OPCHECKS_OWN
@pytest.mark.parametrize("order", few([torch.contiguous_format, LAST], (), (LAST,)))
def test_registered_pool(order):
    x = features(2, 16, 3, 6, 6).clone(memory_format=order).requires_grad_()
    torch.library.opcheck(ops._max_pool, (x, [3, 3, 3], [2, 2, 2], [1, 1, 1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # which conftest.py turns off
@pytest.mark.parametrize("norm", few(["gn", "bn"], (), ()))
def test_compiled_without_a_break(norm, clips, monkeypatch):
    net = small(norm)
    expected, right = step(net, clips)
    evaluated = net.eval()(clips)
    net.train()
    torch.compiler.reset()
    monkeypatch.setattr(ops._Norm, "apply", None)  # the registered operator alone
    net.compile(backend="inductor" if DEVICE == "cuda" else "aot_eager", fullgraph=True)
    loss, gradients = step(net, clips)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, right, strict=True):
        assert distance(one, other.double()) < 1e-3
    if norm == "gn":  # BN's running statistics have moved
        torch.testing.assert_close(net.eval()(clips), evaluated, rtol=1e-4, atol=1e-5)


# Max pooling


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((2, 24, 5, 9, 10), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
        ((1, 64, 4, 6, 6), (2, 1, 1), (2, 1, 1), (0, 0, 0)),
        ((1, 40, 3, 9, 9), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 16, 5, 8, 8), (2, 3, 3), (2, 2, 2), (0, 0, 0)),
        ((1, 16, 4, 6, 6), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ],
)
def test_pool_is_pytorchs(shape, kernel, stride, padding):
    """Equal values, NaN and gradients; small whole numbers, so that the first of equal maxima matters."""
    x = torch.randint(-3, 4, shape, device=DEVICE).float().contiguous(memory_format=LAST)
    x[0, 0, 0, 0, 0] = float("nan")
    inputs = [x.clone(memory_format=LAST).requires_grad_() for _ in range(2)]
    y, expected = ops.pool(inputs[0], kernel, stride, padding), max_pool3d(inputs[1], kernel, stride, padding)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert y.is_contiguous(memory_format=LAST)
    dy = torch.randint(-8, 8, y.shape, device=DEVICE).float()
    assert torch.equal(*(torch.autograd.grad(one, it, dy)[0] for one, it in ((y, inputs[0]), (expected, inputs[1]))))


# Which kernels run


class Layer(NamedTuple):
    kernels: str


def test_a_cpu_has_pytorchs_kernels():
    x = features(1, 64, 2, 4, 4).cpu()
    assert not dispatch.takes(Layer("auto"), x) and not dispatch.takes(Layer("torch"), x)
    assert dispatch.takes(Layer("triton"), x) == dispatch.interpreted()
    assert "PyTorch's kernels: there is no CUDA device" in dispatch.check("auto", torch.device("cpu"))


@pytest.mark.parametrize(
    "x",
    [torch.zeros(2, 64, 4), torch.zeros(1, 64, 2, 4, 4, dtype=torch.float64), torch.zeros(0, 64, 2, 4, 4)],
)
def test_what_the_kernels_cannot_take_goes_to_pytorch(x):
    layer = nn.Sequential(GroupNorm(32, 64).to(x.dtype))
    select_kernels(layer, "triton")
    assert not dispatch.takes(Layer("triton"), x) and layer(x).shape == x.shape
    assert not dispatch.takes(Layer("triton"), features(1, 64, 2, 4, 4), group_size=2049)


def test_without_triton_everything_else_works(monkeypatch, clips):
    find = dispatch.importlib.util.find_spec
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    dispatch.obstacle.cache_clear()
    try:
        assert "Triton is not installed" in dispatch.check("auto", torch.device("cpu"))
        with pytest.raises(InputError, match="kernels is triton, and Triton is not installed; take auto"):
            dispatch.check("triton", torch.device("cpu"))
        step(small(kernels="auto"), clips)
    finally:
        dispatch.obstacle.cache_clear()


def test_kernels_demanded_where_there_is_no_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch.obstacle.cache_clear()
    try:
        with pytest.raises(InputError, match="there is no CUDA device; take auto"):
            dispatch.check("triton", torch.device("cpu"))
    finally:
        dispatch.obstacle.cache_clear()


def test_an_unknown_setting():
    with pytest.raises(InputError, match="'fast'; it has to be one of: auto, triton, torch"):
        select_kernels(small(kernels="torch"), "fast")


@pytest.mark.parametrize(
    ("version", "bad"), [(90701, False), (90800, True), (91002, True), (91500, False), (None, False)]
)
def test_versions_of_cudnn(version, bad):
    if not bad:
        return dispatch.check_cudnn(version)
    with pytest.raises(InputError, match=rf"cuDNN {version // 10000}\.{version // 100 % 100}\..* install cuDNN 9\.15"):
        dispatch.check_cudnn(version)


# What they compile to


@pytest.mark.parametrize("sites", few([1, 3], (), (1,)))
def test_they_compile_for_gpus_without_spills(sites):
    """By Triton's compiler, which refuses what its interpreter accepts; needs no GPU."""
    code = (
        "import sys, json; sys.path[:0] = ['benchmarks']; import compiled;"
        f"rows = compiled.main(['--capability', '90', '--sites', '{sites}']); print(json.dumps(rows))"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert {row["kernel"] for row in rows} >= {"moments", "apply", "reduce", "input_gradient", "pool_forward"}
    for row in rows:
        assert row["spills"] == row["stack_bytes"] == 0, row
        if row["kernel"] in ("moments", "apply", "reduce", "input_gradient"):
            assert row["wide_accesses"] >= 2 and row["single_accesses"] <= 1, row


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")
def test_more_than_two_billion_elements():
    """Offsets beyond 32 bits, in a clip and over clips: the last clip of many has the bits that it has alone."""
    x = torch.randn(1, 64, 32, 512, 512, device=DEVICE, dtype=torch.bfloat16).contiguous(memory_format=LAST)
    weight, bias = torch.randn(2, 64, device=DEVICE)
    many = x.expand(5, -1, -1, -1, -1).contiguous(memory_format=LAST)
    assert many.numel() > 2**31
    inputs = [one.requires_grad_() for one in (x, many)]
    found = []
    for one in inputs:
        y = ops.norm(one, weight, bias, None, len(one), 32, EPS, True)
        found.append((y[-1:].detach(), torch.autograd.grad(y, one, one.detach())[0][-1:]))
        del y
    assert all(map(torch.equal, *found))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("recompute", ["none", "norms", "blocks"])
def test_cuda_graphs(recompute, clips):
    net = small(recompute=recompute)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected, right = step(net, clips)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    net.zero_grad()
    with torch.cuda.graph(graph):
        loss, gradients = step(net, clips)
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(loss, expected)
    for one, other in zip(gradients, right, strict=True):
        assert distance(one, other.double()) < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")
def test_auto_takes_the_kernels_on_a_gpu(monkeypatch, clips):
    calls = []
    run = ops.norm
    monkeypatch.setattr(ops, "norm", lambda *args: calls.append(1) or run(*args))
    step(small(kernels="auto").to(memory_format=LAST), clips, torch.bfloat16)
    assert len(calls) == 13
