import pytest
import torch
from torch import nn

from video_gn.errors import InputError
from video_gn.norm import NORMS, FrozenBatchNorm3d, make_norm, norm_label, norm_parameters
from video_gn.resnet3d import resnet3d

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
    assert same is (name != "bn")


@pytest.mark.parametrize("name", NORMS)
def test_norm_parameters_are_every_gamma_and_beta(name):
    net = resnet3d(5, make_norm(name, num_groups=4), depth=14, width=8, geometry="i3d_small")
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
    with pytest.raises(InputError, match=r"'gnn'.*bn, gn, ln, in, frozen_bn"):
        make_norm("gnn")


def test_labels():
    assert [norm_label("bn"), norm_label("gn"), norm_label("gn", 8), norm_label("gn", 32, 16)] == [
        "bn", "gn", "gn8", "gn16c",
    ]  # fmt: skip
