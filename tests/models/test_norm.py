import copy

import pytest
import timm
import torch
import torchvision
from conftest import few
from fvcore.nn.precise_bn import update_bn_stats
from pytorchvideo.models.resnet import create_resnet
from samples import resnet3d
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from video_gn.errors import InputError
from video_gn.kernels.layers import norm_act
from video_gn.models.norm import NORMS, make_norm, norm_label, norm_parameters, own_statistics
from video_gn.models.norm_layers import FrozenBatchNorm3d

SHAPE = (3, 8, 2, 4, 5)


def layer_and_input(name, **options):
    torch.manual_seed(0)
    layer = make_norm(name, **options)(SHAPE[1])
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer, torch.randn(SHAPE) * 3 + 2


def by_hand(x, mean, var, layer):
    """The definition, in float64; mean and var broadcast against [N, C, T, H, W]."""
    channel = (1, -1, 1, 1, 1)
    normed = (x.double() - mean) / (var + 1e-5).sqrt()
    return layer.weight.double().view(channel) * normed + layer.bias.double().view(channel)


def grouped_statistics(x, groups):
    """Mean and biased variance over (C / groups, T, H, W) of each clip, written out."""
    mean, var = torch.empty(2, *x.shape[:2], 1, 1, 1, dtype=torch.float64)
    size = x.shape[1] // groups
    for n in range(x.shape[0]):
        for g in range(groups):
            channels = slice(g * size, (g + 1) * size)
            values = x[n, channels].double().flatten()
            mu = values.sum() / len(values)
            mean[n, channels] = mu
            var[n, channels] = ((values - mu) ** 2).sum() / len(values)
    return mean, var


@pytest.mark.parametrize(
    ("name", "options", "groups"),
    [
        ("gn", {"num_groups": 4}, 4),
        ("gn", {"channels_per_group": 4}, 2),
        ("gn", {"num_groups": 8, "channels_per_group": 1}, 8),
        ("ln", {}, 1),
        ("in", {}, SHAPE[1]),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_group_norms_are_their_arithmetic(name, options, groups, training):
    layer, x = layer_and_input(name, **options)
    expected = by_hand(x, *grouped_statistics(x, groups), layer)
    torch.testing.assert_close(layer.train(training)(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_is_its_arithmetic_and_keeps_running_statistics():
    layer, x = layer_and_input("bn")
    dims, values = (0, 2, 3, 4), x.double()
    mean, var = values.mean(dims, keepdim=True), values.var(dims, correction=0, keepdim=True)
    torch.testing.assert_close(layer(x).double(), by_hand(x, mean, var, layer), rtol=1e-5, atol=1e-5)
    # Momentum 0.1 from mean 0 and variance 1; the running variance is the unbiased one.
    torch.testing.assert_close(layer.running_mean.double(), 0.1 * mean.flatten(), rtol=1e-5, atol=1e-6)
    unbiased = values.var(dims, correction=1)
    torch.testing.assert_close(layer.running_var.double(), 0.9 + 0.1 * unbiased, rtol=1e-5, atol=1e-6)
    shape = (1, -1, 1, 1, 1)
    running = by_hand(x, layer.running_mean.double().view(shape), layer.running_var.double().view(shape), layer)
    torch.testing.assert_close(layer.eval()(x).double(), running, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("freeze_affine", [False, True])
def test_frozen_bn_uses_its_statistics_and_keeps_them(freeze_affine):
    layer, x = layer_and_input("frozen_bn", freeze_affine=freeze_affine)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    shape = (1, -1, 1, 1, 1)
    expected = by_hand(
        x, before["running_mean"].double().view(shape), before["running_var"].double().view(shape), layer
    )
    torch.testing.assert_close(layer.train()(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.weight.requires_grad is not freeze_affine
    assert before.keys() == make_norm("bn")(8).state_dict().keys()
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(layer), FrozenBatchNorm3d)
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(make_norm("bn")(8)), nn.SyncBatchNorm)


@pytest.mark.parametrize("name", NORMS)
def test_only_batch_norm_depends_on_batch_mates(name):
    layer, x = layer_and_input(name, num_groups=4)
    other = torch.cat([x[:1], torch.randn(2, *SHAPE[1:]) * 10])
    same = torch.equal(layer(x)[0], layer(other)[0])
    assert same is (name not in ("bn", "brn", "mabn"))


@pytest.mark.parametrize("name", NORMS)
def test_norm_parameters_are_every_gamma_and_beta(name):
    net = resnet3d(5, make_norm(name, num_groups=4), depth=14, width=8, arch="i3d_small")
    found = {id(parameter) for parameter in norm_parameters(net)}
    vectors = {id(p) for key, p in net.named_parameters() if p.ndim == 1 and not key.endswith("proj.bias")}
    assert found == vectors
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert {id(parameter) for parameter in norm_parameters(sync)} == vectors


@pytest.mark.parametrize(("options", "words"), [({"num_groups": 5}, "num_groups=5"), ({"channels_per_group": 3}, "=3")])
def test_groups_that_do_not_divide_name_layer_channels_and_groups(options, words):
    with pytest.raises(InputError, match=r"layer stem: 64 channels .*") as caught:
        resnet3d(5, make_norm("gn", **options))
    assert words in str(caught.value)


def test_layer_is_named_where_only_it_does_not_divide():
    def norm(channels):
        return make_norm("gn", num_groups=4 if channels != 64 else 3)(channels)

    with pytest.raises(InputError, match=r"layer res3\.0\.branch1_norm|layer res2\.0\.norm_c"):
        resnet3d(5, norm, depth=14, width=16)


def test_unknown_norm_lists_the_norms():
    with pytest.raises(InputError, match=r"'gnn'.*bn, gn, ln, in, brn, frozen_bn"):
        make_norm("gnn")


def test_labels():
    assert [norm_label("bn"), norm_label("gn"), norm_label("gn", 8), norm_label("gn", 32, 16)] == [
        "bn", "gn", "gn8", "gn16c",
    ]  # fmt: skip


# Statistics over groups of clips


def test_ghost_batch_normalizes_consecutive_groups_and_keeps_the_first_ones_statistics():
    layer, _ = layer_and_input("bn", ghost_batch=2)
    x = torch.randn(5, *SHAPE[1:]) * torch.arange(1, 6).view(-1, 1, 1, 1, 1)
    dims, out = (0, 2, 3, 4), layer(x)
    for clips in (slice(0, 2), slice(2, 4), slice(4, 5)):
        group = x[clips].double()
        expected = by_hand(group, group.mean(dims, keepdim=True), group.var(dims, correction=0, keepdim=True), layer)
        torch.testing.assert_close(out[clips].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.running_mean, 0.1 * x[:2].mean(dims), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * x[:2].var(dims), rtol=1e-5, atol=1e-6)
    assert layer.num_batches_tracked == 1
    stock = nn.BatchNorm3d(8)
    stock.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), stock.eval()(x))


def test_batch_norm_without_groups_is_pytorchs_own():
    layer, x = layer_and_input("bn")
    stock = nn.BatchNorm3d(8)
    stock.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), stock(x))
    assert all(torch.equal(a, b) for a, b in zip(layer.state_dict().values(), stock.state_dict().values(), strict=True))
    assert layer.state_dict().keys() == stock.state_dict().keys()


def work(rank, path):
    """One of four DDP processes, which trains on its 2 clips of each step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=4)
    given = torch.load(path)
    net = resnet3d(3, make_norm("bn"), depth=11, width=8, arch="i3d_small", dropout=0.0).double()
    net.load_state_dict(given["state"])
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    outputs = []
    for clips, labels in given["steps"]:
        optimizer.zero_grad()
        out = model(clips[2 * rank : 2 * rank + 2]).flatten(1)
        nn.functional.cross_entropy(out, labels[2 * rank : 2 * rank + 2]).backward()
        gradients = [p.grad.clone() for p in net.parameters()]
        optimizer.step()
        outputs.append(out.detach())
    torch.save((outputs, gradients, net.state_dict()), f"{path}.{rank}")


@pytest.fixture(scope="module")
def four_processes(tmp_path_factory):
    """Two steps of four DDP processes (gloo, float64) with 2 clips each, and what went in."""
    path = tmp_path_factory.mktemp("ddp") / "given"
    torch.manual_seed(0)
    net = resnet3d(3, make_norm("bn"), depth=11, width=8, arch="i3d_small", dropout=0.0).double()
    nn.init.normal_(net.blocks[-1].proj.weight)
    steps = [(torch.randn(8, 3, 4, 16, 16).double(), torch.randint(0, 3, (8,))) for _ in range(2)]
    torch.save({"state": net.state_dict(), "steps": steps}, path)
    start = "spawn" if torch.cuda.is_initialized() else "fork"  # which costs no imports
    torch.multiprocessing.start_processes(work, (str(path),), nprocs=4, start_method=start)
    return net.state_dict(), steps, [torch.load(f"{path}.{rank}") for rank in range(4)]


def one_process(state, steps, ghost_batch, parts):
    """The same steps in this process, each in so many parts whose gradients add up."""
    net = resnet3d(3, make_norm("bn", ghost_batch=ghost_batch), depth=11, width=8, arch="i3d_small", dropout=0.0)
    net = net.double()
    net.load_state_dict(state)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    outputs = []
    for clips, labels in steps:
        optimizer.zero_grad()
        of_step = []
        for some, theirs in zip(clips.chunk(parts), labels.chunk(parts), strict=True):
            out = net(some).flatten(1)
            (nn.functional.cross_entropy(out, theirs) / parts).backward()
            of_step.append(out.detach())
        gradients = [p.grad.clone() for p in net.parameters()]
        optimizer.step()
        outputs.append(torch.cat(of_step))
    return outputs, gradients, net.state_dict()


@pytest.mark.parametrize(("ghost_batch", "parts"), [(2, 1), (2, 2), (None, 4)], ids=["virtual", "both", "accumulated"])
def test_one_process_trains_as_four(four_processes, ghost_batch, parts):
    """Outputs, gradients and weights of 4 processes x 2 clips, by ghost_batch=2, by accumulation, and by both."""
    state, steps, ranks = four_processes
    outputs, gradients, end = one_process(state, steps, ghost_batch, parts)
    for step, out in enumerate(outputs):
        theirs = torch.cat([rank[0][step] for rank in ranks])
        torch.testing.assert_close(out, theirs, rtol=1e-9, atol=1e-11)
    for own, theirs in zip(gradients, ranks[0][1], strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-8, atol=1e-11)
    statistics = {name for name in end if "running" in name or "tracked" in name}
    for name in end.keys() - statistics:
        torch.testing.assert_close(end[name], ranks[0][2][name], rtol=1e-9, atol=1e-11)
    same = [torch.allclose(end[name], ranks[0][2][name], rtol=1e-9) for name in statistics]
    assert all(same) if parts == 1 else not any(same)  # the first process's; accumulation moves them more often


def test_four_processes_differ_from_one_without_ghost_batch(four_processes):
    state, steps, ranks = four_processes
    outputs, *_ = one_process(state, steps, None, 1)
    assert not torch.allclose(outputs[0], torch.cat([rank[0][0] for rank in ranks]), rtol=1e-2)


def test_batch_renorm_is_its_arithmetic():
    """Ioffe 2017, Algorithm 1, with both corrections cut and not; r and d pass no gradient."""
    layer, x = layer_and_input("brn", r_max=1.5, d_max=0.5)
    layer.running_mean.copy_(torch.linspace(-3, 6, 8))
    layer.running_var.copy_(torch.linspace(2, 40, 8))
    mean, var = layer.running_mean.double().clone(), layer.running_var.double().clone()
    x = x.double().requires_grad_()
    own = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
    r = ((own[1] + 1e-5).sqrt() / (var + 1e-5).sqrt()).clamp(1 / 1.5, 1.5).detach()
    d = ((own[0] - mean) / (var + 1e-5).sqrt()).clamp(-0.5, 0.5).detach()
    assert 0 < ((r > 1 / 1.5) & (r < 1.5)).sum() < 8 and 0 < (d.abs() < 0.5).sum() < 8
    shape = (1, -1, 1, 1, 1)
    normed = (x - own[0].view(shape)) / (own[1] + 1e-5).sqrt().view(shape) * r.view(shape) + d.view(shape)
    expected = layer.weight.double().view(shape) * normed + layer.bias.double().view(shape)
    weights = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    own_x = x.detach().float().requires_grad_()
    out = layer(own_x)
    torch.testing.assert_close(out.double(), expected.detach(), rtol=1e-4, atol=1e-5)
    (own_gradient,) = torch.autograd.grad((out * weights.float()).sum(), own_x)
    torch.testing.assert_close(own_gradient.double(), gradient, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layer.running_mean.double(), 0.9 * mean + 0.1 * own[0].detach(), rtol=1e-5, atol=1e-5)
    evaluated = by_hand(
        x.detach(), layer.running_mean.double().view(shape), layer.running_var.double().view(shape), layer
    )
    torch.testing.assert_close(layer.eval()(x.detach().float()).double(), evaluated, rtol=1e-5, atol=1e-5)


def test_batch_renorm_without_bounds_is_inference_and_with_none_is_batch_norm():
    layer, x = layer_and_input("brn", r_max=1e6, d_max=1e6)
    layer.running_mean.normal_()
    frozen = make_norm("frozen_bn")(8)
    frozen.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), frozen(x), rtol=1e-4, atol=1e-4)
    layer, x = layer_and_input("brn", r_max=1.0, d_max=0.0)
    batch_norm, _ = layer_and_input("bn")
    torch.testing.assert_close(layer(x), batch_norm(x))


def test_own_statistics_are_used_and_not_kept():
    net = nn.Sequential(make_norm("bn", ghost_batch=1)(8), make_norm("gn", num_groups=2)(8)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(SHAPE) * 5
    with own_statistics(net):
        own = net[0](x)
        assert net[0].training and not net[1].training
    torch.testing.assert_close(own.mean((2, 3, 4)), torch.zeros(3, 8), rtol=0, atol=1e-5)
    assert not net[0].training and not torch.equal(net[0](x), own)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "bn", "ghost_batch": 0}, "norm.ghost_batch is 0; it has to be "),
        ({"name": "brn", "r_max": 0.5}, "norm.r_max is 0.5; it has to be a number from 1"),
        ({"name": "gn", "groups": 8}, "a norm has no setting groups; settings are: average_batches"),
        ({"name": "gn", "num_groups": "8"}, "norm.num_groups is '8'; it has to be a whole number"),
        ({"name": "mabn", "average_batches": 0}, "norm.average_batches is 0; it has to be a whole number from 1"),
    ],
)
def test_bad_norm_settings(options, words):
    with pytest.raises(InputError, match=words):
        make_norm(**options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_trains_in_every_type(norm, dtype):
    layer = make_norm(norm, num_groups=4)(8).to(dtype)
    x = torch.randn(4, 8, 3, 5, 5, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.float().square().sum().backward()
    assert y.dtype == x.grad.dtype == dtype and x.grad.isfinite().all()
    wide = make_norm(norm, num_groups=4)(8).double()
    expected = wide(x.detach().double())
    torch.testing.assert_close(y.double(), expected, atol={torch.float64: 1e-12}.get(dtype, 0.05), rtol=0.02)


# Other people's hands on the layers


def test_a_hook_before_a_norm_leaves_residual_and_relu():
    """Such hooks give back what they were given, as fvcore's do."""
    layer, x = layer_and_input("bn")
    residual = torch.randn_like(x)
    expected = norm_act(copy.deepcopy(layer), x, residual)
    seen = []
    layer.register_forward_pre_hook(lambda module, args: (seen.append(args), args)[1])
    assert torch.equal(norm_act(layer, x, residual), expected)
    assert len(seen) == 1 and len(seen[0]) == 1 and seen[0][0] is x


def test_fvcores_precise_statistics_are_those_of_the_layers_inputs():
    """Over two batches, mean and unbiased variance of each, averaged; as with PyTorch's own layers."""
    torch.manual_seed(0)
    net = resnet3d(3, make_norm("bn"), depth=11, width=8, arch="i3d_small")
    clips = [torch.randn(2, 3, 4, 16, 16) for _ in range(2)]
    stock = copy.deepcopy(net)
    for name, module in [*stock.named_modules()]:
        if isinstance(module, nn.BatchNorm3d):
            parent, _, last = name.rpartition(".")
            own = nn.BatchNorm3d(module.num_features)
            own.load_state_dict(module.state_dict())
            setattr(stock.get_submodule(parent), last, own)
    for network in (net, stock):
        update_bn_stats(network.train(), clips, 2)
    moved = [name for name in net.state_dict() if "running" in name]
    assert moved and all(torch.equal(net.state_dict()[name], stock.state_dict()[name]) for name in moved)


@pytest.mark.parametrize("name", ["bn", "brn", "frozen_bn"])
def test_a_changed_eps_counts_in_evaluation_too(name):
    layer, x = layer_and_input(name)
    layer.eps = 0.5
    layer.eval().running_var.uniform_(0.5, 2)
    expected = nn.functional.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=0.5)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(("name", "options"), [("bn", {}), ("bn", {"ghost_batch": 2}), ("brn", {})])
def test_averages_of_weights_are_given_the_mean_statistics(name, options):
    """`update_bn` sets momentum to None, the mean over all batches."""
    net = nn.Sequential(make_norm(name, **options)(8))
    batches = [torch.randn(4, *SHAPE[1:]) * scale for scale in (1, 2, 5)]
    averaged = AveragedModel(net)
    torch.optim.swa_utils.update_bn(batches, averaged)
    first = [batch[: options.get("ghost_batch")] for batch in batches]
    layer = averaged.module[0]
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean((0, 2, 3, 4)) for x in first]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([x.var((0, 2, 3, 4)) for x in first]).mean(0))
    assert layer.momentum == 0.1 and layer.num_batches_tracked == 3


def test_frozen_bn_loads_files_without_a_count_of_batches():
    layer = FrozenBatchNorm3d(8)
    state = {name: torch.rand(8) for name in ("weight", "bias", "running_mean", "running_var")}
    layer.load_state_dict(state)
    assert torch.equal(layer.running_var, state["running_var"]) and layer.num_batches_tracked == 0
    with pytest.raises(RuntimeError, match="running_mean"):
        layer.load_state_dict({name: state[name] for name in ("weight", "bias", "running_var")})


@pytest.mark.parametrize("name", few(NORMS, ("gn", "bn")))
def test_other_libraries_make_their_networks_with_it(name):
    """As `norm_layer` of torchvision and timm and `norm` of pytorchvideo, in 2 and 3 dimensions."""
    norm = make_norm(name, num_groups=8)
    x = torch.randn(2, 3, 32, 32)
    resnet = torchvision.models.resnet18(norm_layer=norm, num_classes=3)
    assert resnet(x).shape == (2, 3) and type(resnet.bn1) is type(norm(8))
    assert timm.create_model("resnet10t", norm_layer=norm, num_classes=3)(x).shape == (2, 3)
    slow = create_resnet(norm=norm, model_depth=50, stem_dim_out=8, model_num_class=3, head_pool_kernel_size=(2, 1, 1))
    assert slow(torch.randn(2, 3, 2, 32, 32)).shape == (2, 3) and type(slow.blocks[0].norm) is type(norm(8))
    layer = norm(num_features=8, eps=0.25, momentum=0.5)
    assert layer.eps == 0.25 and getattr(layer, "momentum", 0.5) == 0.5
    assert norm(8, dtype=torch.float64).weight.dtype == torch.float64


def test_a_2d_norm_is_the_3d_one_of_a_single_frame():
    for name in NORMS:
        layer, x = layer_and_input(name, num_groups=4)
        flat = copy.deepcopy(layer)
        torch.testing.assert_close(flat(x[:, :, 0]), layer(x[:, :, :1])[:, :, 0])
        torch.testing.assert_close([*flat.buffers()], [*layer.buffers()])


@pytest.mark.parametrize("network", ["efficientnet_b0", "resnetv2_50"])
def test_networks_of_norm_and_activation_in_one_refuse_it(network):
    """The layer has no activation; in silence they would be without."""
    with pytest.raises(AssertionError, match="No equivalent norm_act layer for normofvideogn"):
        timm.create_model(network, norm_layer=make_norm("gn", num_groups=8))
    with pytest.raises(TypeError, match="inplace"):
        make_norm("gn")(64, inplace=True)
