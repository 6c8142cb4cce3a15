"""Networks of other libraries against the libraries: logits, sizes, costs; what any norm makes of them."""

from pathlib import Path

import pytest
import torch
from conftest import few
from fvcore.nn import FlopCountAnalysis
from libraries import FRAMES, SIDE, library
from samples import randomize
from torch import nn
from torchvision.models import get_model_weights

from video_gn.compat import BatchNorm
from video_gn.errors import InputError
from video_gn.models.count import multiply_adds, parameters
from video_gn.models.evonorm import EvoNormS0
from video_gn.models.network import RULES
from video_gn.models.networks import NETWORKS, slow_frames
from video_gn.models.norm import NORMS
from video_gn.models.resnet3d import ResNet3d

BLOCKS = {
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), 8), "s3d": 0, "r2plus1d_r50": 16, "csn_r101": 33,
    **dict.fromkeys(("x3d_xs", "x3d_s", "x3d_m"), 26), "x3d_l": 55, "slowfast_r50": 32, "slowfast_r101": 66,
}  # fmt: skip


# Of the same code as another one.
TWINS = ("r3d_18", "r2plus1d_18", "x3d_xs", "x3d_m", "x3d_l", "slowfast_r101")


def cases(*fast):
    """Every network; those beyond the fast ones are slow, and twins take too long for that."""
    marks = {name: [pytest.mark.slow, *([pytest.mark.long] if name in TWINS else [])] for name in NETWORKS}
    return [name if name in fast else pytest.param(name, marks=marks[name]) for name in NETWORKS]


def images(*size, n=1):
    return torch.randn(n, 3, *size, generator=torch.manual_seed(5))


def small(name, num_classes=3, **settings):
    net = NETWORKS[name](num_classes, **settings)
    net.set_crop_size(SIDE)
    return net


def as_the_library_takes(name, clips):
    if not name.startswith("slowfast"):
        return clips
    slow = torch.linspace(0, clips.shape[2] - 1, clips.shape[2] // 4).long()
    return [clips.index_select(2, slow), clips.clone()]


@pytest.mark.parametrize("name", cases("s3d"))
def test_logits_with_the_library_s_norm(name):
    """At the training crop, and on larger frames: their mean over the positions, which is the library's own."""
    theirs = randomize(library(name, 5))
    ours = small(name, 5, norm="bn").eval()
    ours.body.load_state_dict(theirs.state_dict())
    frames, wider = (16, SIDE + 64) if name == "s3d" else (FRAMES, SIDE + 32)
    for width in (SIDE, wider):
        clips = images(frames, SIDE, width)
        with torch.no_grad():
            found, expected = ours(clips), theirs(as_the_library_takes(name, clips))
        assert found.shape[:3] == (1, 5, 1)
        assert (found.mean((2, 3, 4)) - expected).abs().max() <= 1e-6 * expected.abs().max().clamp_min(1)


@pytest.mark.slow
def test_positions_of_the_head_on_larger_frames():
    """One for every window of the training crop's size; torchvision's ResNets average over all of the frame."""
    with torch.device("meta"):
        for name, expected in (("x3d_s", (1, 3)), ("s3d", (1, 3)), ("r3d_18", (1, 1))):
            net = small(name).eval()
            assert net(torch.empty(1, 3, FRAMES, SIDE, SIDE + 64)).shape == (1, 3, 1, *expected)
            assert net(torch.empty(1, 3, FRAMES, SIDE // 2, SIDE)).shape == (1, 3, 1, 1, 1)  # cut to what is there


def test_the_slow_pathway_sees_what_pyslowfast_takes():
    for frames in range(4, 129, 4):
        assert slow_frames(frames) == torch.linspace(0, frames - 1, frames // 4).long().tolist()
    assert (slow_frames(1), slow_frames(3), slow_frames(10)) == ([0], [0], [0, 4, 9])


@pytest.mark.parametrize("name", cases("x3d_s", "slowfast_r50"))
def test_shortest_clip(name):
    with torch.device("meta"):
        net = small(name).eval()
        for frames in (net.min_frames, net.min_frames + 1, net.min_frames + 2):
            assert net(torch.empty(1, 3, frames, SIDE, SIDE)).shape == (1, 3, 1, 1, 1)
        if net.min_frames > 1:
            with pytest.raises(RuntimeError):
                net(torch.empty(1, 3, net.min_frames - 1, SIDE, SIDE))


@pytest.mark.parametrize("name", cases("mc3_18", "x3d_s"))
@pytest.mark.parametrize("norm", few(["gn", "evonorm_s0"], ("gn",), ()))
def test_gamma_of_each_residual_branch_s_last_norm_starts_at_zero(norm, name):
    """And gammas of the others at 1; with zero_init_gamma false all of them do, BatchNorm's in pytorchvideo too."""
    for net, zeros in ((small(name, norm=norm), BLOCKS[name]), (small(name, norm="bn", zero_init_gamma=False), 0)):
        layers = [layer for layer in net.modules() if isinstance(layer, nn.GroupNorm | EvoNormS0 | BatchNorm)]
        starts = [layer.weight.unique().tolist() for layer in layers]
        assert starts.count([0.0]) == zeros and starts.count([1.0]) == len(layers) - zeros > BLOCKS[name]
    if BLOCKS[name]:  # so that a network begins as its shortcuts
        block, x = (
            small(name, norm=norm).residual_blocks()[-1],
            torch.rand(1, 512 if name == "mc3_18" else 192, 2, 2, 2),
        )
        if name in ("mc3_18", "x3d_s"):
            assert torch.equal(block(x.clone()), x)


def test_groups_of_odd_numbers_of_channels():
    """The largest divisor that is 32 at most and leaves 4 channels a group at least."""
    found = {}
    for name in ("x3d_s", "r2plus1d_18"):
        layers = [layer for layer in small(name).modules() if isinstance(layer, nn.GroupNorm)]
        found |= {layer.num_channels: layer.num_groups for layer in layers}
    assert {channels: found[channels] for channels in (24, 54, 108, 230, 921, 64)} == {
        24: 6, 54: 9, 108: 27, 230: 23, 921: 3, 64: 32,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"layer .*: 24 channels cannot be split into groups of channels_per_group=16"):
        small("x3d_s", channels_per_group=16)


@pytest.mark.parametrize("name", few(("mc3_18", "x3d_s", "slowfast_r50", "csn_r101"), (), ("mc3_18",)))
def test_every_norm_trains(name):
    """Two steps, of a clip and of two; a third of the words for each, by turns. `test_every_network` has all."""
    at, side = list(NETWORKS).index(name), SIDE if name == "s3d" else 2 * NETWORKS[name].stride
    for norm in [*NORMS, "gn"][at % 3 :: 3]:
        net = small(name, norm=norm, weight_standardization=norm in ("gn", "bn"), dropout=0.0)
        optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=1e-2)
        first, last = net.state_dict()[f"{net.prefix}{net.first[0]}"].clone(), net.classifier.weight.clone()
        for n in (1, 2):
            clips = images(FRAMES if name == "s3d" else 4, side, side, n=n)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net.train()(clips).flatten(1), torch.zeros(n, dtype=torch.long)).backward()
            assert all(weight.grad is not None for weight in net.parameters() if weight.requires_grad)
            optimizer.step()
        assert all(weight.isfinite().all() for weight in net.parameters())
        assert not torch.equal(first, net.state_dict()[f"{net.prefix}{net.first[0]}"])
        assert not torch.equal(last, net.classifier.weight)


def test_settings():
    for settings, words in (
        ({"norm": "xn"}, "model.net.norm is 'xn'"), ({"dropout": 1.0}, "model.net.dropout is 1.0"),
        ({"num_groups": 0}, "model.net.num_groups is 0"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            NETWORKS["r3d_18"](3, **settings)
    with pytest.raises(InputError, match="num_classes is 0"):
        NETWORKS["r3d_18"](0)
    with pytest.raises(InputError, match="s3d has no residual blocks; set drop_path to 0"):
        NETWORKS["s3d"](3, drop_path=0.1)
    assert RULES.keys() < ResNet3d.rules.keys()
    with torch.device("meta"):
        assert NETWORKS["s3d"](3).settings["dropout"] == 0.2 and NETWORKS["csn_r101"](3).settings["dropout"] == 0.0
        net = NETWORKS["r3d_18"](3, num_groups=8)
    assert net.label(net.settings) == "r3d_18_gn8" and net.norm == "gn8"


def test_drop_path_passes_a_clip_by_the_shortcut_alone():
    torch.manual_seed(0)
    for name, block in (
        ("mc3_18", lambda net: net.body.layer4[1]),
        ("x3d_s", lambda net: net.body.blocks[4].res_blocks[6]),
    ):
        last = block(small(name, drop_path=1 - 1e-9, zero_init_gamma=False))
        x = torch.rand(2, 512 if name == "mc3_18" else 192, 2, 2, 2)
        assert torch.equal(last.train()(x.clone()), x) and not torch.equal(last.eval()(x.clone()), x)


# Parameters, and multiply-adds at 400 classes, as they are published

PUBLISHED = {  # M parameters and GFLOPs of pytorchvideo's model zoo, at the test's size
    "r2plus1d_r50": (28.11, 76.45), "slowfast_r50": (34.57, 65.71), "slowfast_r101": (62.83, 127.20),
    "csn_r101": (22.21, 75.62), "x3d_xs": (3.79, 0.91), "x3d_s": (3.79, 2.96), "x3d_m": (3.79, 6.72),
}  # fmt: skip


def of_400(name):
    with torch.device("meta"):
        return NETWORKS[name](400, norm="bn").eval()


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d"])
def test_costs_are_torchvision_s(name):
    """S3D's are of 16 frames."""
    meta = get_model_weights(name)["KINETICS400_V1"].meta
    net = of_400(name)
    assert parameters(net) == meta["num_params"]
    assert round(multiply_adds(net, 16, net.published.crop_size) / 1e9, 3) == meta["_ops"]


@pytest.mark.slow
@pytest.mark.long
def test_costs_in_the_docs():
    table = Path("docs/networks.md").read_text().splitlines()
    rows = {row[1].strip(" `"): row for line in table if (row := line.split("|"))[1:2]}
    found = {name: (rows[name][3].strip(), rows[name][4].strip()) for name in NETWORKS}
    expected = {}
    for name in NETWORKS:
        net = of_400(name)
        cost = multiply_adds(net, net.published.num_frames, net.published.crop_size)
        expected[name] = f"{parameters(net) / 1e6:.2f}", f"{cost / 1e9:.2f}"
    assert found == expected


@pytest.mark.parametrize("name", few(PUBLISHED, ("x3d_xs", "slowfast_r50")))
def test_costs_are_those_of_pytorchvideo_s_model_zoo(name):
    """Its FLOPs are fvcore's, with 5 for each number that BatchNorm normalizes; those of SlowFast R50 have none."""
    net, normalized = of_400(name), []
    for layer in net.modules():
        if isinstance(layer, BatchNorm):
            layer.register_forward_hook(lambda layer, given, out: normalized.append(out.numel()))
    cost = multiply_adds(net, net.published.num_frames, net.published.test_short_side)
    cost += 0 if name == "slowfast_r50" else 5 * sum(normalized)
    size, flops = PUBLISHED[name]
    assert round(parameters(net) / 1e6, 2) == size
    assert cost / 1e9 == pytest.approx(flops, abs=0.006)


@pytest.mark.parametrize(
    ("name", "flops"),
    [("x3d_s", 1.96), *(pytest.param(*of, marks=pytest.mark.slow) for of in (("x3d_m", 4.73), ("x3d_l", 18.37)))],
)
def test_costs_of_x3d_are_the_paper_s(name, flops):
    """Feichtenhofer 2020, at the training crop."""
    net = of_400(name)
    cost = multiply_adds(net, net.published.num_frames, net.published.crop_size)
    assert cost / 1e9 == pytest.approx(flops, abs=0.006)


def test_costs_are_fvcore_s():
    net = NETWORKS["x3d_xs"](400, norm="bn").eval()
    counted = FlopCountAnalysis(net, torch.zeros(1, 3, 4, 64, 64)).unsupported_ops_warnings(False)
    counted.uncalled_modules_warnings(False)
    by_operator = counted.by_operator()
    assert multiply_adds(net, 4, 64) == by_operator["conv"] + by_operator["linear"]
