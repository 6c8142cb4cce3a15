"""Weights of other libraries' networks into the same networks here, by the libraries' names."""

import pytest
import torch
from conftest import few
from libraries import FRAMES, SIDE, library
from samples import randomize
from torchvision.models import get_model_weights

import video_gn
from video_gn.errors import InputError
from video_gn.models.contract import make_net
from video_gn.models.networks import NETWORKS
from video_gn.models.published import TORCHVISION_VIDEO
from video_gn.weights import hub
from video_gn.weights.hub import HUBS, fitting, load_weights
from video_gn.weights.inflate import start_net
from video_gn.weights.public import NAMED, PUBLIC
from video_gn.weights.reader import read_weights

NAMES = [f"class {i}" for i in range(5)]


def started(name, path, names=NAMES, **settings):
    net = make_net(lambda count: NETWORKS[name](count, **{"norm": "bn"} | settings), len(names), SIDE).eval()
    return net, start_net(net, read_weights(path), names)


def saved(net, path, form):
    """As libraries publish them, and as training scripts save them."""
    state = net.state_dict()
    if form == "script":
        state = {"epoch": 3, "state_dict": {f"module.backbone.{name}": value for name, value in state.items()}}
    torch.save({"model_state": state} if form == "pytorchvideo" else state, path)
    return str(path)


@pytest.mark.parametrize(
    "name", few(("s3d", "x3d_s", "r2plus1d_18", "slowfast_r50", "csn_r101"), ("x3d_s",), ("s3d", "slowfast_r50"))
)
def test_a_library_s_file_gives_its_logits(name, tmp_path):
    theirs = randomize(library(name, 5))
    ours, scale = started(name, saved(theirs, tmp_path / "net.pth", "script" if name == "s3d" else "pytorchvideo"))
    kinetics = ((0.45,) * 3, (0.225,) * 3)
    assert scale == tuple(map(list, TORCHVISION_VIDEO if NAMED[name].startswith("torchvision") else kinetics))
    clips = torch.randn(1, 3, 16 if name == "s3d" else FRAMES, SIDE, SIDE)
    pathways = [clips[:, :, [0, FRAMES - 1]], clips.clone()] if name.startswith("slowfast") else clips
    with torch.no_grad():
        found, expected = ours(clips).flatten(1), theirs(pathways)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max().clamp_min(1)


@pytest.fixture(scope="module")
def x3d(tmp_path_factory):
    net = randomize(library("x3d_s", 5))
    return net, saved(net, tmp_path_factory.mktemp("x3d") / "net.pyth", "pytorchvideo")


@pytest.mark.slow
def test_other_classes_and_another_scale(x3d, caplog):
    """All but the classifier is carried over; another std is made up for in the kernels that see the colours."""
    theirs, path = x3d
    with caplog.at_level("INFO"):
        net, _ = started("x3d_s", path, NAMES[:3])
    assert "none inflated; the classifier starts at random (5 classes there, 3 here)" in caplog.text
    state, head = theirs.state_dict(), "blocks.5.proj."
    assert all(torch.equal(net.state_dict()[f"body.{key}"], state[key]) for key in state if not key.startswith(head))
    other = NETWORKS["x3d_s"](5, norm="bn").eval()
    start_net(other, read_weights(path), NAMES, std=(0.3, 0.4, 0.5))
    other.set_crop_size(SIDE)
    clips = torch.rand(1, 3, 4, SIDE, SIDE)
    same, _ = started("x3d_s", path)
    ratio = torch.tensor([0.225 / 0.3, 0.225 / 0.4, 0.225 / 0.5]).view(3, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(other(clips * ratio), same(clips), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_what_does_not_fit_is_one_line(x3d, tmp_path):
    theirs, path = x3d
    for settings, words in (
        ({"norm": "gn"}, "trained with norm bn, the model has gn"),
        ({"norm": "bn", "weight_standardization": True}, "trained with norm bn, the model has bn_ws"),
    ):
        with pytest.raises(InputError, match=words):
            started("x3d_s", path, **settings)
    with pytest.raises(InputError, match=r"without stem\.0\.weight, .*unknown blocks\.0.*not torchvision's mc3_18"):
        started("mc3_18", path)
    with pytest.raises(InputError, match=r"another architecture: without blocks\.1\.res_blocks\.3\.branch2"):
        started("x3d_l", path)
    net = video_gn.create_model("i3d_small_r11", 5, norm="bn", width=8)
    with pytest.raises(InputError, match="pytorchvideo's own network; name that one as the model"):
        start_net(net, read_weights(path), NAMES)
    state = theirs.state_dict()
    for change, words in (
        ({"blocks.9.extra": torch.zeros(1)}, "with unknown blocks.9.extra"),
        ({"blocks.0.norm.weight": torch.zeros(7)}, r"body.blocks.0.norm.weight is \[7\], not \[24\]"),
    ):
        torch.save(state | change, tmp_path / "changed.pth")
        with pytest.raises(InputError, match=words):
            started("x3d_s", tmp_path / "changed.pth")
    torch.save({"s1.pathway0_stem.conv_xy.weight": torch.zeros(1)}, tmp_path / "x3d.pyth")
    with pytest.raises(InputError, match="an X3D under PySlowFast's names, which are not read; pytorchvideo:x3d_m is"):
        started("x3d_s", tmp_path / "x3d.pyth")


def test_kernels_of_mc3_are_inflated_into_r3d(tmp_path):
    """They have the same names: a still clip gives the same features, away from its ends."""
    flat = randomize(library("mc3_18", 5))
    net, _ = started("r3d_18", saved(flat, tmp_path / "net.pth", "torchvision"))
    kernel = net.body.layer2[0].conv1[0].weight
    torch.testing.assert_close(kernel.sum(2), flat.layer2[0].conv1[0].weight[:, :, 0])


def test_public_names():
    """Every network has weights, of its library's own address, for batch norms alone."""
    assert NAMED.keys() == NETWORKS.keys() and set(NAMED.values()) <= PUBLIC.keys()
    for name, public in NAMED.items():
        assert fitting({"norm": "frozen_bn"}, name) == public and fitting({"norm": "gn"}, name) is None
        library_of, _, model = public.partition(":")
        found = HUBS[library_of](model)
        if library_of == "torchvision":
            assert found.url == get_model_weights(name)["KINETICS400_V1"].url and found.scale == TORCHVISION_VIDEO
        else:
            assert found.url.startswith("https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/")
    with pytest.raises(InputError, match=r"torchvision has no weights 'r3d_19'.*torchvision:r3d_18"):
        load_weights("torchvision:r3d_19")


def test_pretrained(x3d, monkeypatch):
    def offline(url):
        raise OSError("no network")

    with monkeypatch.context() as patched:
        patched.setattr(hub, "_download", offline)
        words = "cannot download pytorchvideo:x3d_s .*fetch https://.*X3D_S.pyth by hand and name the file"
        with pytest.raises(InputError, match=words):
            video_gn.create_model("x3d_s", 5, norm="bn", pretrained=True)
        patched.setattr(hub, "_download", lambda url: x3d[1])
        net = video_gn.create_model("x3d_s", 5, norm="bn", pretrained=True)
    assert torch.equal(net.body.blocks[-1].proj.weight, x3d[0].blocks[-1].proj.weight)
    with pytest.raises(InputError, match="no public weights of x3d_s with norm=gn"):
        video_gn.create_model("x3d_s", 5, pretrained=True)
