"""Non-local blocks: against the formula in float64, pytorchvideo's own, and the network without them."""

import pytest
import torch
from pytorchvideo.layers.nonlocal_net import create_nonlocal
from pytorchvideo.models.resnet import ResStage
from samples import randomize
from torch import nn

from video_gn.errors import InputError
from video_gn.models.architectures import DEPTHS
from video_gn.models.blocks import NonLocal, select_kernels
from video_gn.models.norm import NORMS
from video_gn.models.resnet3d import ResNet3d

SMALL = {"arch": "i3d_small", "depth": 50, "width": 4, "num_groups": 4}


def block(norm="gn", channels=16, seed=0):
    """One out of a network, with weights and norms away from their start."""
    net = ResNet3d(2, **SMALL | {"width": channels // 8, "num_groups": 2}, norm=norm, nonlocal_blocks=5)
    found = next(module for module in net.modules() if isinstance(module, NonLocal))
    torch.manual_seed(seed)
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.5)
    return randomize(found)


def features(*size, layout=torch.contiguous_format, dtype=torch.float32):
    return torch.randn(size, generator=torch.manual_seed(1), dtype=dtype).contiguous(memory_format=layout)


def by_hand(module, x):
    """z_i = W_z y_i + x_i, y_i = sum_j exp(theta_i . phi_j / sqrt(C / 2)) g_j / sum_j exp(...)."""
    p = {name: value.double() for name, value in module.state_dict().items()}
    n, c, t, h, w = x.shape
    pooled = x if min(h, w) == 1 else x[..., : h // 2 * 2, : w // 2 * 2].unflatten(4, (-1, 2)).unflatten(3, (-1, 2))
    pooled = pooled if pooled.ndim == 5 else pooled.amax((4, 6))

    def rows(name, at):
        weight, bias = p[f"conv_{name}.weight"].flatten(1), p[f"conv_{name}.bias"]
        return torch.stack([weight @ column + bias for column in at.movedim(1, -1).reshape(-1, at.shape[1])])

    z = []
    for clip in range(n):
        theta = rows("theta", x[clip : clip + 1])
        phi, g = (rows(name, pooled[clip : clip + 1]) for name in ("phi", "g"))
        affinity = torch.exp(theta @ phi.T / (c / 2) ** 0.5)
        y = affinity / affinity.sum(1, keepdim=True) @ g
        z.append((y @ p["conv_out.weight"].flatten(1).T + p["conv_out.bias"]).T.reshape(c, t, h, w))
    z = torch.stack(z)
    by_channel = (1, -1, 1, 1, 1)
    mean, var = (p[f"norm.running_{name}"].view(by_channel) for name in ("mean", "var"))
    z = (z - mean) / (var + 1e-5).sqrt() * p["norm.weight"].view(by_channel) + p["norm.bias"].view(by_channel)
    return x + z


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("size", [(4, 6, 4), (3, 5, 7), (1, 2, 2), (2, 1, 5), (1, 1, 1)])
def test_the_papers_formula(size, layout):
    module = block("bn").double()
    x = features(2, 16, *size, layout=layout, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), by_hand(module, x), rtol=1e-10, atol=1e-10)
        close = block("bn")(x.float())
    assert (close - by_hand(module, x)).abs().max() < 1e-5  # in float32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_pytorchvideos_own(layout):
    """Output and gradients; phi's bias moves every pair of a position alike, so that its gradient is rounding."""
    ours = block("bn").double().train()
    theirs = create_nonlocal(dim_in=16, dim_inner=8, pool_size=(1, 2, 2)).double().train()
    theirs.load_state_dict(ours.state_dict())
    found = []
    for module in (ours, theirs):
        x = features(2, 16, 4, 6, 8, dtype=torch.float64).requires_grad_()
        y = module(x.contiguous(memory_format=layout) if module is ours else x)
        y.square().sum().backward()
        found.append([y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_matrix_of_pairs_is_not_kept(layout):
    kept = []
    x = features(1, 16, 8, 16, 16, layout=layout).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda kept: kept):
        block()(x)
    pairs = (8 * 16 * 16) * (8 * 8 * 8)
    assert max(kept) == x.numel() < pairs / 30


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("zero_init_gamma", [True, False])
def test_at_first_the_network_is_the_one_without_them(norm, zero_init_gamma):
    settings = SMALL | {"norm": norm, "zero_init_gamma": zero_init_gamma}
    plain, net = ResNet3d(3, **settings), ResNet3d(3, **settings, nonlocal_blocks=5)
    net.load_state_dict(randomize(plain).state_dict(), strict=False)
    assert [name for name in net.state_dict() if ".nonlocal_block." not in name] == list(plain.state_dict())
    clips = features(2, 3, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(net.eval()(clips), plain(clips))


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_learns_from_the_identity_on(norm):
    """One step moves gamma, and a second one then all the weights."""
    net = ResNet3d(3, **SMALL, norm=norm, nonlocal_blocks=5, dropout=0.0).train()
    blocks = [module for module in net.modules() if isinstance(module, NonLocal)]
    optimizer, clips = torch.optim.SGD(net.parameters(), lr=0.1), features(2, 3, 4, 16, 16)
    nn.init.normal_(net.head.proj.weight)
    for moved in (("norm.weight",), ("conv_out.weight", "conv_g.weight", "conv_theta.weight", "conv_phi.weight")):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(clips).flatten(1), torch.tensor([0, 2])).backward()
        assert all(module.get_parameter(name).grad.any() for module in blocks for name in moved)
        optimizer.step()


@pytest.mark.parametrize(
    ("depth", "blocks", "places", "millions"),
    # 4 x 512 x 256 weights, biases, gamma and beta in res3; 4 x 1024 x 512 in res4
    [(50, 5, {2: [1, 3], 3: [1, 3, 5]}, 2 * 0.526592 + 3 * 2.10176),
     (50, 10, {2: [0, 1, 2, 3], 3: [0, 1, 2, 3, 4, 5]}, 4 * 0.526592 + 6 * 2.10176),
     (101, 5, {2: [1, 3], 3: [6, 13, 20]}, 2 * 0.526592 + 3 * 2.10176)],
)  # fmt: skip
def test_places_and_parameters(depth, blocks, places, millions):
    with torch.device("meta"):
        net, plain = (ResNet3d(400, depth=depth, nonlocal_blocks=count) for count in (blocks, 0))
    stages = [stage for stage in net.blocks if isinstance(stage, ResStage)]
    found = {
        number: [i for i, one in enumerate(stage.res_blocks) if one.nonlocal_block is not None]
        for number, stage in enumerate(stages, 1)
    }
    assert {number: behind for number, behind in found.items() if behind} == places
    count, before = (sum(p.numel() for p in one.parameters()) for one in (net, plain))
    assert count - before == round(millions * 1e6)
    assert (
        net.label(net.settings) == f"i3d_r{depth}_nl{blocks}_gn" and plain.label(plain.settings) == f"i3d_r{depth}_gn"
    )


def test_initial_weights():
    net = ResNet3d(2, depth=50, width=32, norm="bn", zero_init_gamma=False, nonlocal_blocks=5)
    for module in (module for module in net.modules() if isinstance(module, NonLocal)):
        for conv in (module.conv_theta, module.conv_phi, module.conv_g, module.conv_out):
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02) and not conv.bias.any()
        assert not module.norm.weight.any() and not module.norm.bias.any()
    assert (net.blocks[1].res_blocks[0].branch2.norm_c.weight == 1).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(({"depth": depth, "nonlocal_blocks": 5}, "5 at depth 50") for depth in DEPTHS if depth < 50),
        (
            {"depth": 101, "nonlocal_blocks": 10},
            "is 10, and model.net.depth 101; there are 5 at depth 50 and 10 at depth",
        ),
        ({"nonlocal_blocks": 3}, "one of: 0, 5, 10"),
        ({"norm": nn.Identity, "zero_init_gamma": False, "nonlocal_blocks": 5}, r"res3.1.nonlocal_block: .* no gamma"),
    ],
)
def test_what_cannot_be(settings, words):
    with pytest.raises(InputError, match=words):
        ResNet3d(2, **settings)


def test_in_bfloat16():
    """Near float32's, forward and backward."""
    module, found = block(channels=32).train(), []
    for enabled in (False, True):
        x = features(2, 32, 4, 8, 8, layout=torch.channels_last_3d).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled):
            y = module(x)
        y.float().square().sum().backward()
        found.append((y.detach().float(), x.grad))
    for right, close in zip(*found, strict=True):
        assert (right - close).norm() < 0.02 * right.norm()


def test_by_the_kernels_of_a_gpu():
    """The pool and norm by Triton's interpreter, in channels_last_3d, with the residual sum and its gradient."""
    found = []
    for kernels in ("torch", "triton"):
        module = block(channels=32).train()
        select_kernels(module, kernels)
        x = features(2, 32, 2, 4, 6, layout=torch.channels_last_3d).requires_grad_()
        y = module(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, module.norm.weight.grad, module.conv_g.weight.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
