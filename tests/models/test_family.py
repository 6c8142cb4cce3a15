"""EvoNorm-S0, moving average batch normalization, standardised kernels and stochastic depth, by their definitions."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from samples import resnet3d
from timm.layers import EvoNorm2dS0, StdConv2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from video_gn.kernels.layers import norm_act
from video_gn.models.conv_weights import EPS, fold_weights, form_weights, standardized
from video_gn.models.evonorm import EvoNormS0, without_activation
from video_gn.models.mabn import LARGEST, MOMENTUM, WARM_UP, MovingAverageBatchNorm
from video_gn.models.norm import NORMS, make_norm
from video_gn.models.resnet3d import ResNet3d


def randomized(layer, seed=0):
    torch.manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 4, 5), (2, 6, 3, 4, 5)])
def test_evonorm_is_its_arithmetic(shape):
    layer = randomized(EvoNormS0(3, 6))
    x = torch.randn(shape, generator=torch.manual_seed(1)) * 2 + 1
    gamma, beta, v = (p.detach().double().numpy() for p in (layer.weight, layer.bias, layer.v))
    expected = np.empty(shape)
    for n in range(2):
        for c in range(6):
            one, group = x[n, c].double().numpy(), x[n, c // 2 * 2 : c // 2 * 2 + 2].double().numpy()
            gate = 1 / (1 + np.exp(-v[c] * one))
            expected[n, c] = gamma[c] * one * gate / np.sqrt(group.var() + 1e-5) + beta[c]
    torch.testing.assert_close(layer(x).detach().double().numpy(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_evonorm_is_timms():
    layer, theirs = randomized(EvoNormS0(4, 8)), EvoNorm2dS0(8, groups=4)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(layer(x), theirs(x))


def test_evonorms_gradients_are_those_of_its_formula():
    layer = randomized(EvoNormS0(2, 4)).double()
    x = torch.randn(2, 4, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_evonorm_keeps_one_tensor_for_backward():
    layer, kept = randomized(EvoNormS0(2, 4)), []
    x = torch.randn(2, 4, 4, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(x)
    assert [size for size in kept if size >= x.numel()] == [x.numel()]


def test_where_no_activation_follows_evonorm_is_affine_and_the_sum_has_its_relu():
    layer = without_activation(randomized(EvoNormS0(2, 4)))
    x, shortcut = torch.randn(2, 2, 4, 2, 3, 3)
    shape = (1, 4, 1, 1, 1)
    expected = x * layer.weight.view(shape) + layer.bias.view(shape) + shortcut
    torch.testing.assert_close(norm_act(layer, x, shortcut), expected.relu())
    assert "v" not in dict(layer.named_parameters())  # DDP waits for the gradient of every parameter
    net = resnet3d(5, make_norm("evonorm_s0", num_groups=4), depth=11, width=8, arch="i3d_small")
    names = {name.rpartition(".")[0].rpartition(".")[2] for name, _ in net.named_parameters() if name.endswith(".v")}
    assert names == {"norm", "norm_a", "norm_b"}
    net(torch.randn(1, 3, 8, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


class MabnByHand:
    """The recurrence of Yan et al. 2020 in float64, a batch after the other; arrays are [N, C, P]."""

    def __init__(self, weight, bias, batches):
        self.weight, self.bias, self.k = weight[:, None], bias[:, None], batches
        self.running, self.moments, self.projections, self.count = None, [], [], 0

    def step(self, x, dy):
        self.count += 1
        self.moments.append((x**2).mean((0, 2)))
        own = self.count <= max(self.k, WARM_UP)
        moment = self.moments[-1] if own else np.mean(self.moments[-self.k :], 0)
        ratio = np.ones_like(moment)
        if self.count > WARM_UP:
            ratio = np.clip(np.sqrt((moment + 1e-5) / (self.running + 1e-5)), 1 / LARGEST, LARGEST)
        before = moment if self.count == 1 else self.running
        self.running = (1 - MOMENTUM) * before + MOMENTUM * moment
        moment, ratio = (moment + 1e-5)[:, None], ratio[:, None]
        z = x / np.sqrt(moment)
        y = self.weight * ratio * z + self.bias
        g = self.weight * ratio * dy
        self.projections.append((g * z).mean((0, 2)))
        projection = self.projections[-1] if own else np.mean(self.projections[-self.k :], 0)
        dx = (g - z * projection[:, None]) / np.sqrt(moment)
        return y, dx, (dy * ratio * z).sum((0, 2)), dy.sum((0, 2))


def mabn_steps(layer, start, stop):
    """Batches start to stop of one sequence: what goes in, and what comes out."""
    for i in range(start, stop):
        torch.manual_seed(i)
        x = (torch.randn(2, 3, 2, 2, 2, dtype=torch.float64) * (1 + i / 50) + 0.3).requires_grad_()
        dy = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64)
        layer.zero_grad()
        y = layer(x)
        y.backward(dy)
        yield x.detach(), dy, [y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()]


def test_mabn_is_its_recurrence():
    layer = randomized(MovingAverageBatchNorm(3, average_batches=4)).double()
    by_hand = MabnByHand(layer.weight.detach().numpy(), layer.bias.detach().numpy(), 4)
    for x, dy, found in mabn_steps(layer, 0, 115):
        expected = by_hand.step(x.flatten(2).numpy(), dy.flatten(2).numpy())
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.flatten(2).numpy() if ours.ndim > 2 else ours.numpy(), theirs, rtol=1e-9)
    np.testing.assert_allclose(layer.moment.numpy(), by_hand.running, rtol=1e-9)
    inverse = 1 / (layer.moment + 1e-5).sqrt()
    shape = (1, 3, 1, 1, 1)
    expected = x * (layer.weight * inverse).view(shape) + layer.bias.view(shape)
    torch.testing.assert_close(layer.eval()(x), expected)


def test_in_its_first_batches_mabn_has_the_gradient_of_its_formula():
    layer = randomized(MovingAverageBatchNorm(3)).double()
    x = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)

    def of_first_batch(x, *_):
        layer.num_batches_tracked.zero_()
        return layer(x)

    assert torch.autograd.gradcheck(of_first_batch, (x, layer.weight, layer.bias))


def test_mabn_resumes_exactly():
    layer = randomized(MovingAverageBatchNorm(3, average_batches=4)).double()
    list(mabn_steps(layer, 0, 106))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    again = MovingAverageBatchNorm(3, average_batches=4).double()
    again.load_state_dict(torch.load(file, weights_only=True))
    for (_, _, one), (_, _, other) in zip(mabn_steps(layer, 106, 112), mabn_steps(again, 106, 112), strict=True):
        assert all(map(torch.equal, one, other))


def test_kernels_before_mabn_are_centred():
    net = ResNet3d(5, norm="mabn", depth=11, width=8, arch="i3d_small")
    convs = [module for module in net.modules() if isinstance(module, nn.Conv3d)]
    assert convs
    assert all(conv.formed_weight.mean((1, 2, 3, 4)).abs().max() < 1e-7 for conv in convs)


@pytest.mark.parametrize("conv", [nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2), nn.Conv3d(4, 6, (2, 3, 3))])
def test_standardised_kernels_are_their_arithmetic(conv):
    conv = copy.deepcopy(conv)
    conv.bias = None
    x = torch.randn(2, 4, *(5,) * (conv.weight.ndim - 2))
    kernel = conv.weight.detach().double().numpy()
    frames = 2 if kernel.ndim == 5 else 1
    expected = np.stack([(one - one.mean()) / np.sqrt(one.var() + EPS) / frames for one in kernel])
    assert form_weights(conv, "standardized") == 1
    np.testing.assert_allclose(conv.formed_weight.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    by_hand = type(conv).__bases__[1](4, 6, kernel.shape[2:], groups=conv.groups, bias=False)
    by_hand.weight.data = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(conv(x), by_hand(x))


def test_standardised_kernels_are_timms():
    ours, theirs = nn.Conv2d(4, 6, 3, padding=1, bias=False), StdConv2d(4, 6, 3, eps=EPS)
    form_weights(ours, "standardized")
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 7, 7)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_repeated_kernel_has_the_flat_ones_features():
    flat = torch.randn(6, 4, 1, 3, 3)
    torch.testing.assert_close(standardized(flat.repeat(1, 1, 3, 1, 1)).sum(2, keepdim=True), standardized(flat))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_network_with_formed_kernels_is_copied_folded_and_keeps_its_names(copied):
    torch.manual_seed(0)
    net = ResNet3d(5, norm="gn", num_groups=8, depth=11, width=8, arch="i3d_small", weight_standardization=True).eval()
    plain = ResNet3d(5, norm="gn", num_groups=8, depth=11, width=8, arch="i3d_small")
    assert net.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(1, 3, 8, 32, 32)
    expected = net(x)
    twin = copied(net)
    assert torch.equal(twin(x), expected)
    folded = fold_weights(twin)
    assert {type(module) for module in folded.modules()} == {type(module) for module in plain.modules()}
    torch.testing.assert_close(folded(x), expected)
    plain.load_state_dict(folded.state_dict())
    torch.testing.assert_close(plain.eval()(x), expected)
    assert torch.equal(net(x), expected)


def test_convolutions_with_a_bias_or_a_single_weight_keep_their_kernels():
    net = nn.Sequential(nn.Conv3d(4, 4, 1), nn.Conv3d(4, 4, 1, groups=4, bias=False), nn.Conv3d(4, 4, 1, bias=False))
    assert form_weights(net, "centered") == 1
    assert form_weights(net, "standardized") == 1  # another form in the place of the one
    assert net[2].form == "standardized"


def test_a_kernel_is_formed_in_float32_under_autocast():
    conv = nn.Conv3d(8, 8, 3, bias=False)
    form_weights(conv, "standardized")
    x, types = torch.randn(1, 8, 4, 6, 6), []
    conv.register_forward_hook(lambda *_: types.append(conv.formed_weight.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        conv(x).float().sum().backward()
    assert set(types) == {torch.float32}
    assert conv.weight.grad.dtype == torch.float32


def test_drop_path_rises_with_depth_and_is_for_training_alone():
    net = ResNet3d(5, norm="gn", num_groups=8, depth=14, width=8, arch="i3d_small", drop_path=0.4, dropout=0.0)
    rates = [module.drop_path for module in net.modules() if hasattr(module, "drop_path")]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    x = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize("name", NORMS)
def test_a_block_drops_whole_clips_and_keeps_the_mean(name):
    net = resnet3d(5, make_norm(name, num_groups=4), depth=14, width=8, arch="i3d_small", zero_init_gamma=False)
    block = net.blocks[1].res_blocks[0].branch2
    randomized(block.norm_c)
    block.drop_path = 0.25
    x, shortcut = torch.randn(1, 8, 2, 4, 4).expand(400, -1, -1, -1, -1), torch.zeros(400, 32, 2, 4, 4)
    torch.manual_seed(0)
    with torch.no_grad():
        block.eval()
        whole = block(x[:1], shortcut[:1])
        for layer in (block.norm_a, block.norm_b, block.norm_c):
            layer.eval()
        block.training = True
        y = block(x, shortcut)
    passed = (y - whole / 0.75).flatten(1).abs().amax(1) < 1e-4
    dropped = y.flatten(1).abs().amax(1) == 0
    assert (passed ^ dropped).all()
    assert 0.2 < dropped.float().mean() < 0.3  # 400 draws at 0.25: standard deviation 0.02


def two_steps(rank, path):
    """What one of two DDP processes does."""
    dist.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=2)
    torch.manual_seed(0)
    found = {}
    for norm in ("mabn", "evonorm_s0"):
        net = resnet3d(3, make_norm(norm, num_groups=4), depth=11, width=8, arch="i3d_small", dropout=0.0).double()
        form_weights(net, "centered")
        nn.init.normal_(net.blocks[-1].proj.weight)
        model, optimizer = DistributedDataParallel(net), torch.optim.SGD(net.parameters(), lr=0.1)
        inputs = []
        net.blocks[0].norm.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0].detach()))
        for step in range(2):
            optimizer.zero_grad()
            x = torch.randn(2, 3, 4, 16, 16, generator=torch.manual_seed(10 * step + rank)).double()
            model(x).square().sum().backward()
            optimizer.step()
        found[norm] = inputs, dict(net.named_parameters()), dict(net.named_buffers())
    torch.save(found, f"{path}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_on_two_processes_parameters_are_one_and_mabn_has_the_firsts_history(tmp_path):
    """Every parameter has a gradient, or DDP would end with an error at the second step."""
    path = str(tmp_path / "ddp")
    start = "spawn" if torch.cuda.is_initialized() else "fork"
    torch.multiprocessing.start_processes(two_steps, (path,), nprocs=2, start_method=start)
    first, second = (torch.load(f"{path}.{rank}") for rank in (0, 1))
    for norm in ("mabn", "evonorm_s0"):
        assert all(torch.equal(value, second[norm][1][name]) for name, value in first[norm][1].items())
    moments = [found["mabn"][2]["blocks.0.norm.moments"] for found in (first, second)]
    own = [[x.square().mean((0, 2, 3, 4)) for x in found["mabn"][0]] for found in (first, second)]
    for rank in (0, 1):
        torch.testing.assert_close(moments[rank][1], own[0][0])  # sent by the first process before the second step
        torch.testing.assert_close(moments[rank][2], own[rank][1])


@pytest.mark.parametrize("layer", [EvoNormS0(2, 4), MovingAverageBatchNorm(4)])
def test_squares_of_half_precision_do_not_overflow(layer):
    layer, x = copy.deepcopy(layer), torch.randn(2, 4, 2, 4, 4) * 300
    expected = copy.deepcopy(layer)(x)
    x = x.half().requires_grad_()
    y = layer.half()(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    y.sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.dtype == torch.float16 for p in layer.parameters())


@pytest.mark.parametrize("layer", [EvoNormS0(2, 4), MovingAverageBatchNorm(4)])
def test_an_empty_batch_has_gradients_of_zero(layer):
    layer(torch.empty(0, 4, 2, 4, 4)).sum().backward()
    assert all(not p.grad.any() for p in layer.parameters())
