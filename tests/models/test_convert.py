"""Networks of others with another norm: what is kept, what is re-fitted, what is refused."""

import copy
import functools

import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import few
from samples import randomize, resnet3d
from torch import nn
from torch.nn.utils import spectral_norm

import video_gn
from video_gn.errors import InputError
from video_gn.kernels.layers import GroupNorm
from video_gn.models.convert import convert, convert_norm
from video_gn.models.norm import NORMS, batch_norms, make_norm
from video_gn.models.norm_layers import FrozenBatchNorm3d
from video_gn.models.replace import fitting_groups, norms_of, replace_norms
from video_gn.models.resnet3d import ResNet3d


class Speech(nn.Module):
    """A user's own: 1-D, a norm that is used twice, one without gamma, a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 8, 3), nn.Conv1d(8, 8, 3)
        self.norm, self.plain, self.last = nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = self.plain(self.norm(self.second(x))).relu()
        return self.fc(self.last(x.mean(2)))


def image_net():
    return torchvision.models.resnet18(num_classes=7)


NETS = {
    "1d": (Speech, (4, 20)),
    "2d": (image_net, (3, 48, 48)),
    "3d": (lambda: torchvision.models.video.r3d_18(num_classes=7), (3, 2, 24, 24)),
    "ours": (lambda: resnet3d(7, "bn", depth=11, width=8, arch="i3d_small"), (3, 8, 32, 32)),
}


LONG_3D = pytest.param("3d", marks=[pytest.mark.slow, pytest.mark.long])


def trained(name):
    """A network whose statistics and parameters are of some training, and clips of it."""
    net, x = _trained(name)
    return copy.deepcopy(net), x


@functools.cache
def _trained(name):
    make, size = NETS[name]
    torch.manual_seed(0)
    net = randomize(make())
    x = torch.randn(8, *size, generator=torch.manual_seed(2)) + 0.3
    for module in net.modules():
        module.momentum = 0.5
    with torch.no_grad():
        for _ in range(6):
            net.train()(x)
    return net.eval(), x


@pytest.mark.parametrize("name", [*few(("1d", "2d", "ours"), ("1d", "ours"), ()), LONG_3D])
def test_each_layer_is_the_least_squares_fit_to_what_bn_gave(name):
    """Against numpy's solver, in the order of the calls, on what the converted layers before give."""
    net, x = trained(name)
    net, x = net.double(), x.double()
    before = copy.deepcopy(net)
    converted = convert_norm(copy.deepcopy(net), "gn", x, num_groups=4)
    inputs, targets = {}, {}
    for module, kept in ((before, targets), (converted, inputs)):
        for key, layer in module.named_modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
                layer.register_forward_pre_hook(lambda _, x, key=key, kept=kept: kept.setdefault(key, []).append(x[0]))
        with torch.no_grad():
            module(x)
    assert inputs.keys() == targets.keys() and inputs
    for key, calls in inputs.items():
        if len(calls) > 1 or key == "plain":
            continue  # of a layer that is called twice the first call was made with an earlier fit, and so is the next
        old, new = before.get_submodule(key), converted.get_submodule(key)
        with torch.no_grad():
            z = nn.functional.group_norm(calls[0], 4, eps=new.eps).transpose(0, 1).flatten(1).numpy()
            t = nn.Module.__call__(old, targets[key][0]).transpose(0, 1).flatten(1).numpy()
        for channel in range(0, len(z), 5):
            design = np.stack([z[channel], np.ones_like(z[channel])], 1)
            gamma, beta = np.linalg.lstsq(design, t[channel], rcond=None)[0]
            assert new.weight[channel].item() == pytest.approx(gamma, rel=1e-6, abs=1e-8)
            assert new.bias[channel].item() == pytest.approx(beta, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", few(NETS, ("1d",), ("ours",)))
def test_the_fit_brings_the_network_nearer_and_says_how_near(name, capsys):
    net, x = trained(name)
    with torch.no_grad():
        expected = net(x)
        blind, said = convert(copy.deepcopy(net), "gn", num_groups=4)
        assert said.agreement is None and said.refitted is None
        fitted, said = convert(copy.deepcopy(net), "gn", x, num_groups=4)
        before, after = ((one(x) - expected).square().mean().item() for one in (blind, fitted))
        same = [
            (one(x).flatten(1).argmax(1) == expected.flatten(1).argmax(1)).double().mean().item()
            for one in (blind, fitted)
        ]
    assert after < 0.8 * before
    assert [said.agreement, said.refitted] == pytest.approx(same) and said.clips == len(x)
    convert_norm(copy.deepcopy(net), "gn", [x[:5], x[5:]], num_groups=4)
    assert f"re-fitted on {said.refitted:.1%}" in capsys.readouterr().out


@pytest.mark.parametrize("to", ["frozen_bn", "brn", "bn"])
@pytest.mark.parametrize("name", few(NETS, ("1d", "2d")))
def test_from_bn_to_its_kin_is_exact(name, to):
    net, x = trained(name)
    with torch.no_grad():
        expected = net(x)
        converted, said = convert(net, to, x)
        torch.testing.assert_close(converted.eval()(x), expected)
    assert said.agreement == 1 and said.refitted is None


def test_from_frozen_bn_back_is_exact():
    net, x = trained("2d")
    with torch.no_grad():
        expected = net(x)
        net = convert_norm(convert_norm(net, "frozen_bn"), "bn")
        torch.testing.assert_close(net.eval()(x), expected)
    assert isinstance(net.bn1, video_gn.BatchNorm3d)


@pytest.mark.parametrize("name", few(NETS, ("1d", "ours"), ()))
@pytest.mark.parametrize("to", NORMS)
def test_every_network_trains_with_every_norm(name, to):
    make, size = NETS[name]
    net = make()
    if to == "evonorm_s0" and name != "3d":
        with pytest.raises(InputError, match=r"no norm is followed by|make the network"):
            replace_norms(net, to, num_groups=4)
        return
    if to == "mabn" and name == "1d":
        net.first.bias = net.second.bias = None  # centred kernels have none
    net, _ = replace_norms(net, to, num_groups=4)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for batch in (2, 1):
        before = [parameter.clone() for parameter in net.parameters()]
        net.train()(torch.randn(batch, *size)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert any(not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
        assert all(value.isfinite().all() for value in net.state_dict().values())


def test_what_a_norm_has_is_kept():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3, momentum=0.05), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8, affine=True),
    ).to(torch.bfloat16).eval()  # fmt: skip
    net[1].weight.requires_grad_(False)
    net[5].weight = net[1].weight  # tied
    net[1].train()
    gamma, beta = net[1].weight, net[1].bias
    converted = convert_norm(net, "brn")
    assert converted[1].weight is gamma and converted[1].bias is beta and converted[5].weight is gamma
    assert (converted[1].eps, converted[1].momentum) == (1e-3, 0.05)
    assert not gamma.requires_grad and beta.requires_grad and not converted[4].weight.requires_grad
    assert [converted[i].training for i in (1, 4, 5)] == [True, False, False]
    assert all(p.dtype == torch.bfloat16 for p in converted.parameters())
    assert converted[1].running_mean.dtype == torch.bfloat16


def test_a_norm_used_at_two_places_stays_one():
    norm = nn.BatchNorm1d(4)
    net = nn.ModuleDict({"a": norm, "b": nn.Sequential(nn.Conv1d(4, 4, 1), norm)})
    net = convert_norm(net, "ln")
    assert net["a"] is net["b"][1] and isinstance(net["a"], GroupNorm) and net["a"].num_groups == 1


def test_a_norm_itself_is_given_back_as_another():
    layer, x = nn.BatchNorm2d(8), torch.randn(4, 8, 3, 3) * 2 + 1
    layer(x)
    layer.eval()
    with torch.no_grad():
        expected = layer(x)
        converted, said = convert(layer, "gn", x, num_groups=2)
        assert isinstance(converted, GroupNorm) and said.refitted is not None
        error = (converted(x) - expected).square().mean()
        assert error < expected.var()


def test_from_gn_to_bn_takes_the_clips_statistics():
    net = randomize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 5, 3)))
    x = torch.randn(6, 3, 9, 9)
    with torch.no_grad():
        features, expected = net[0](x), net(x)
        converted, said = convert(net, "bn", x)
        torch.testing.assert_close(converted[1].running_mean, features.mean((0, 2, 3)))
        torch.testing.assert_close(converted[1].running_var, features.var((0, 2, 3)))
        assert (converted(x) - expected).square().mean() < 0.2 * expected.var()
    assert said.replaced.unlearned == 1


def test_layernorms_stay_and_are_counted(capsys):
    net = convert_norm(Speech(), "gn", num_groups=4)
    assert isinstance(net.last, nn.LayerNorm)
    said = capsys.readouterr().out
    assert (
        "2 BatchNorm1d are gn now; groups: 4 in 2 layers; 1 norms over the last dimension stay" in said
        and "train it" in said
    )


def test_groups_where_their_number_does_not_divide_the_channels(capsys):
    assert [fitting_groups(c, 32) for c in (24, 54, 108, 230, 921, 3, 48)] == [6, 9, 27, 23, 3, 1, 12]
    convert_norm(torchvision.models.video.r2plus1d_18(), "gn")
    assert "groups: 32 in" in capsys.readouterr().out


def test_evonorm_takes_the_activations_that_follow():
    net, done = replace_norms(torchvision.models.video.r2plus1d_18(num_classes=5), "evonorm_s0")
    relus = sum(isinstance(module, nn.ReLU) for module in net.modules())
    assert done.activations == 26 and relus == 8  # those after the residual sums
    assert sum(key.endswith(".v") for key, _ in net.named_parameters()) == 26


class Wide(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


class Same(nn.Conv2d):
    """As timm's, which pads by the size of what it is given."""

    def forward(self, x):
        return nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1)), self.weight)


def convolved(conv):
    return nn.Sequential(conv, nn.BatchNorm2d(4))


def hooked():
    net = nn.Sequential(nn.BatchNorm2d(4))
    net[0].register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize(
    ("make", "to", "options", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3)), "gn", {}, "Sequential has no batch, group or instance norm"),
        (lambda: nn.Sequential(Wide(4)), "gn", {}, r"the norm 0 is Wide, with a forward of its own"),
        (lambda: timm.create_model("efficientnet_b0"), "gn", {}, r"bn1 is BatchNormAct2d, with a forward of its own"),
        (lambda: torchvision.models.vgg11_bn(), "mabn", {}, "VGG has no convolution without a bias, whose kernel"),
        (lambda: nn.Sequential(make_norm("evonorm_s0")(32)), "gn", {}, "0 is an EvoNorm-S0, whose activation would be"),
        (lambda: NETS["ours"][0](), "evonorm_s0", {"num_groups": 4}, "make the network with norm=evonorm_s0; ResNet3d"),
        (lambda: NETS["ours"][0](), "gn", {}, "layer blocks.0.norm: 8 channels cannot be split into num_groups=32"),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d()), "gn", {}, "does not know its channels yet; call the network"),
        (hooked, "gn", {}, "the norm 0 has hooks or parametrizations, which would be lost"),
        (lambda: nn.Sequential(nn.GroupNorm(2, 4)), "frozen_bn", {}, r"0 \(GroupNorm\) has none; take bn"),
        (lambda: nn.Sequential(nn.BatchNorm2d(6)), "gn", {"channels_per_group": 4}, "layer 0: 6 channels cannot be"),
        (lambda: nn.Sequential(nn.BatchNorm2d(6)), "group", {}, "no norm 'group'; the norms are: bn, gn"),
        (lambda: nn.Sequential(nn.BatchNorm2d(6)), "gn", {"groups": 4}, "no setting groups; settings are: average"),
        (lambda: convolved(Same(3, 4, 3, bias=False)), "mabn", {}, r"the convolution 0 \(Same\) makes its kernel or"),
        (lambda: convolved(spectral_norm(nn.Conv2d(3, 4, 3, bias=False))), "mabn", {}, "0 .Conv2d. makes its kernel"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused_and_nothing_changed(make, to, options, words):
    net = make()
    before = [(name, id(module)) for name, module in net.named_modules()]
    with pytest.raises(InputError, match=words):
        convert_norm(net, to, **options)
    assert [(name, id(module)) for name, module in net.named_modules()] == before


@pytest.mark.parametrize(
    ("clips", "to", "words"),
    [
        (torch.randn(2, 4, 5), "mabn", "clips re-fit gamma and beta of: gn"),
        ([], "gn", "at least one clip"),
        (torch.randn(2, 4), "in", "0 has a single number a clip and channel"),
    ],
)
def test_clips_that_cannot_be_fitted_to_are_refused(clips, to, words):
    net = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(InputError, match=words):
        convert_norm(net, to, clips)
    assert type(net[0]) is nn.BatchNorm1d


@pytest.mark.parametrize(
    ("to", "clips", "options", "words"),
    [
        ("GN", torch.randn(2, 4), {}, "there is no norm 'GN'; the norms are: bn, gn"),
        ("gn", None, {"num_groups": 0}, "norm.num_groups is 0; it has to be a whole number from 1"),
        ("gn", None, {"num_groups": 2.5}, "norm.num_groups is 2.5; it has to be a whole number"),
        ("gn", 32, {}, "clips have to be a tensor"),
        ("gn", torch.tensor(1.0), {}, "clips have to be a tensor"),
        ("gn", [torch.randn(2, 4), torch.randn(2, 4, 3)], {}, r"clips of several sizes: \[2, 4\], \[2, 4, 3\]"),
        ("gn", torch.full((2, 4), torch.nan), {}, "clips have numbers that are not finite"),
    ],
)
def test_slips(to, clips, options, words):
    net = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(InputError, match=words):
        convert_norm(net, to, clips, **options)
    assert type(net[0]) is nn.BatchNorm1d


@pytest.mark.parametrize("given", [torchvision.models.resnet18, None])
def test_what_is_no_network_is_refused(given):
    with pytest.raises(InputError, match=r"is no torch\.nn\.Module; what makes one has to be called"):
        convert_norm(given)


class Around(nn.Module):
    """A norm whose batches are other than the clips: a user's `way` of calling it."""

    def __init__(self, way):
        super().__init__()
        self.way, self.norm, self.fc = way, nn.BatchNorm1d(4), nn.Linear(4, 5)
        self.listed = [self.norm]

    def forward(self, x):
        return self.fc(self.way(self, x).relu().mean(2))


WAYS = {
    "by its parts": lambda net, x: (
        nn.functional.batch_norm(x, net.norm.running_mean, net.norm.running_var) + net.norm(x)
    ),
    "time first": lambda net, x: net.norm(x.permute(2, 0, 1).reshape(-1, 4, 1)).view(-1, len(x), 4).permute(1, 2, 0),
    "mirrored": lambda net, x: torch.stack(net.norm(torch.cat([x, x.flip(2) ** 2])).chunk(2)).sum(0),
    "one by one": lambda net, x: torch.cat([net.norm(clip[None]) for clip in x]),
    "in a list": lambda net, x: net.listed[0](x),
}


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("by its parts", r"Around reads what only its own norms have, beside calling them \(.*running_mean"),
        ("time first", "Around takes clips apart or puts them in another order on the way"),
        ("mirrored", "Around takes clips apart or puts them in another order"),
        ("one by one", "the norm norm is given batches of 1 for 12 clips and of 1 for 6"),
        ("in a list", "the norm norm is called in another way than by its name"),
    ],
)
def test_clips_that_cannot_pass_side_by_side_are_refused(way, words):
    net = Around(WAYS[way]).eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=words):
        convert_norm(net, "gn", torch.randn(6, 4, 8), num_groups=2)
    assert type(net.norm) is nn.BatchNorm1d
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_without_scores_of_classes_the_fit_is_said(capsys):
    net = Around(lambda net, x: net.norm(x)).eval()
    net.fc = nn.Identity()
    net.forward = lambda x: {"features": net.norm(x)}
    convert_norm(net, "gn", torch.randn(6, 4, 8), num_groups=2)
    assert "gamma and beta re-fitted on 6 clips; no scores of classes to compare" in capsys.readouterr().out


def test_convolutions_with_a_bias_are_said_to_stay(capsys):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    convert_norm(net, "gn", num_groups=2, weight_standardization=True)
    assert "the kernels of 1 convolutions are standardized, those of 1 with a bias stay" in capsys.readouterr().out


def test_a_norm_is_called_by_keyword():
    net = Around(lambda net, x: net.norm(input=x)).eval()
    x = torch.randn(6, 4, 8)
    expected = net(x)
    net = convert_norm(net, "gn", x, num_groups=4)
    assert isinstance(net.norm, GroupNorm) and not torch.equal(net(x), expected)


def test_kernels_that_become_standardised_are_compared_with_those_of_before():
    net, x = trained("2d")
    with torch.no_grad():
        expected = net(x)
        near, said = convert(copy.deepcopy(net), "gn", x, num_groups=4, weight_standardization=True)
        blind, _ = convert(copy.deepcopy(net), "gn", num_groups=4, weight_standardization=True)
        errors = [(made(x) - expected).square().mean().item() for made in (near, blind)]
    assert said.refitted == (near(x).argmax(1) == expected.argmax(1)).double().mean().item()
    assert errors[0] < 0.8 * errors[1] and near.conv1.form == "standardized"


def test_kernels_are_no_longer_standardised_where_that_is_asked_for():
    net = randomize(ResNet3d(5, **SMALL, norm="gn", weight_standardization=True))
    x = torch.randn(1, 3, 8, 32, 32)
    expected = net(x)
    net, _ = replace_norms(net, "gn", weight_standardization=False)
    torch.testing.assert_close(net(x), expected)
    again = ResNet3d(5, **net.settings)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(x), net(x)) and not net.settings["weight_standardization"]


def test_a_kernel_without_a_norm_behind_is_neither_standardised_nor_centred():
    net = video_gn.create_model("x3d_xs", 5, norm="bn")
    (last,) = net.without_norm()
    kernel = last.weight.clone()
    for to in ("mabn", "bn"):
        net, _ = replace_norms(net, to)
        assert not hasattr(last, "form") and torch.equal(last.weight, kernel)


def test_what_frozen_bn_fixes_learns_again_behind_it():
    net = ResNet3d(5, **SMALL, norm="bn", freeze_affine=True)
    for to, fixed in (("frozen_bn", True), ("gn", False), ("bn", False)):
        net, done = replace_norms(net, to)
        again = ResNet3d(5, **net.settings)
        for made in (net, again):
            assert all(norm.weight.requires_grad != fixed for norm in norms_of(made).values())
        assert (f"gamma and beta of {len(done.pairs)} are fixed" in str(done)) == fixed


def test_momentum_outlasts_norms_without_any():
    net = nn.Sequential(nn.BatchNorm2d(4, momentum=0.001))
    for to in ("frozen_bn", "gn", "bn"):
        net, _ = replace_norms(net, to)
    assert net[0].momentum == 0.001


def test_a_norm_without_gamma_is_no_part_of_a_frozen_stage():
    net, _ = replace_norms(nn.Sequential(nn.BatchNorm3d(8, affine=False)), "brn")
    assert list(batch_norms(net)) == ["0"] and not net[0].weight.requires_grad


def test_evonorm_where_modules_are_shared():
    relu, norm = nn.ReLU(), nn.BatchNorm2d(32)
    blocks = [nn.Sequential(nn.Conv2d(32, 32, 3), norm, nn.ReLU()) for _ in range(2)]
    net = nn.Sequential(relu, nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), relu, *blocks)
    net = convert_norm(net, "evonorm_s0")
    assert isinstance(net[0], nn.ReLU) and isinstance(net[3], nn.Identity)  # which is the same one
    assert net[2].v is not None and all(block[1].v is not None for block in blocks)
    assert all(isinstance(block[2], nn.Identity) for block in blocks)
    partly = nn.Sequential(nn.Sequential(norm, nn.ReLU()), nn.Sequential(norm, nn.Conv2d(32, 32, 3)))
    with pytest.raises(InputError, match="a norm is used in several places, and an activation follows in some"):
        convert_norm(partly, "evonorm_s0")


def test_groups_other_than_the_default_are_said(capsys):
    convert_norm(nn.Sequential(nn.BatchNorm1d(64), nn.BatchNorm1d(32)), "gn", num_groups=7)
    assert "2 BatchNorm1d are gn now; groups: 4 in 2 layers" in capsys.readouterr().out


def test_clips_that_the_network_does_not_take_change_nothing():
    net, x = trained("2d")
    with pytest.raises(RuntimeError):
        convert_norm(net, "gn", x[:, :2])
    assert type(net.bn1) is nn.BatchNorm2d and not net.bn1._forward_pre_hooks


def test_tied_gammas_are_not_fitted_one_by_one():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    net[1].weight = net[0].weight
    with pytest.raises(InputError, match="the norms 0 and 1 share parameters"):
        convert_norm(net, "ln", torch.randn(3, 4, 6))
    assert [type(module) for module in net] == [nn.BatchNorm1d] * 2


def test_torchvisions_frozen_norms_keep_their_gammas_constant():
    net = torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        converted = convert_norm(net, "frozen_bn")
        torch.testing.assert_close(converted(x), expected)
    assert isinstance(converted.bn1, FrozenBatchNorm3d) and not converted.bn1.weight.requires_grad


SMALL = {"arch": "i3d_small", "depth": 11, "width": 8, "num_groups": 4}


@pytest.mark.parametrize("to", ["ln", "gn", "bn", "mabn"])
@pytest.mark.parametrize("before", [{"norm": "bn"}, {"norm": "gn", "weight_standardization": True}, {"norm": "mabn"}])
def test_a_network_of_this_project_says_its_new_norm(before, to):
    """So that a file of it is read as what it is: a network made by its settings computes the same."""
    net = randomize(ResNet3d(5, **SMALL, **before))
    net, _ = replace_norms(net, to)
    assert net.norm.startswith(to) and net.label(net.settings).endswith(net.norm)
    again = ResNet3d(5, **net.settings)
    again.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(again.eval()(x), net.eval()(x))


def test_a_norm_without_tensors_takes_the_networks_type():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8)).double()
    assert convert_norm(net, "in")(torch.randn(2, 3, 6, 6).double()).dtype == torch.float64


def test_norms_that_are_not_called_are_counted(capsys):
    net = image_net()
    net.aside = nn.BatchNorm2d(32)
    convert_norm(net.eval(), "gn", trained("2d")[1])
    assert "1 norms are not called in evaluation, and not fitted" in capsys.readouterr().out


def test_statistics_of_a_norm_that_is_called_twice_are_of_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.GroupNorm(2, 4)

        def forward(self, x):
            return torch.cat([self.norm(x), self.norm(3 * x + 1)], 2)

    x = torch.randn(5, 4, 7)
    net = convert_norm(Twice(), "bn", x)
    seen = torch.cat([x, 3 * x + 1], 2)
    torch.testing.assert_close(net.norm.running_mean, seen.mean((0, 2)))
    torch.testing.assert_close(net.norm.running_var, seen.var((0, 2)))
    with pytest.raises(InputError, match="a single number a channel, which has no variance; give more clips"):
        convert_norm(nn.Sequential(nn.GroupNorm(2, 4)), "bn", torch.randn(1, 4))
