"""BiT's pre-activation networks, in files as timm saves them, against timm's own."""

import copy

import pytest
import timm
import torch
from samples import checkpoint, classifier, randomize
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2
from torch import nn

from video_gn.errors import InputError
from video_gn.models.resnet3d import ResNet3d
from video_gn.weights.hub import fitting, load_weights
from video_gn.weights.reader import read_weights

NAMES = [f"class {i}" for i in range(7)]
BIT = {"arch": "resnetv2_flat", "norm": "gn", "weight_standardization": True, "crop_size": 64}
NARROW = {"width": 32}


def bit(width_factor=0.5):
    """As `resnetv2_50x1_bit`, narrower: of its own function, `test_by_its_name` takes the whole one."""
    conv = next(part for name, part in TIMM.named_modules() if name == "stem.conv")
    assert isinstance(conv, StdConv2d) and conv.eps == 1e-8
    return shaken(
        ResNetV2((3, 4, 6, 3), num_classes=7, stem_type="fixed", width_factor=width_factor,
                 conv_layer=lambda *args, **options: StdConv2d(*args, eps=1e-8, **options)),
    )  # fmt: skip


def shaken(net):
    """Norms away from their start, and kernels with a mean and a scale of their own, which standardisation undoes."""
    randomize(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.weight.data.mul_(3).add_(0.1)
    nn.init.normal_(net.head.fc.weight, std=0.05)
    return net


with torch.device("meta"):
    TIMM = timm.create_model("resnetv2_50x1_bit", pretrained=False, num_classes=7)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    net = bit()
    path = tmp_path_factory.mktemp("bit") / "bit.pth"
    torch.save(net.state_dict(), path)
    return net, str(path)


def images(*size):
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.manual_seed(3))


def scaled(clips):
    return (clips.float() / 255 - 0.5) / 0.5


def same(ours, clips, theirs, images=None):
    """The same logits: in float64 the same arithmetic, and near that as the classifier computes them."""
    x = scaled(clips if images is None else images)[:, :, 0]
    with torch.no_grad():
        close, near = ours(clips).flatten(1), theirs(x)
        exact = copy.deepcopy(theirs).double()(x.double())
        assert max((logits - exact).abs().max() for logits in (close, near)) <= 1e-4 * exact.abs().max()
        found = copy.deepcopy(ours.net).double()(scaled(clips).double()).flatten(1)
    assert (found - exact).abs().max() <= 1e-9 * exact.abs().max()


@pytest.mark.parametrize("size", [(64, 64), (65, 70)])
def test_the_flat_network_gives_timms_logits(size, narrow):
    net, path = narrow
    ours = classifier(NAMES, **BIT | NARROW | {"crop_size": 80}, init=path).eval()
    assert ours.mean == ours.std == [0.5] * 3
    clips = images(2, 3, 1, *size)
    same(ours, clips, net)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, pytest.param(101, marks=pytest.mark.long)])
def test_by_its_name(depth, tmp_path):
    net = shaken(timm.create_model(f"resnetv2_{depth}x1_bit", pretrained=False, num_classes=7))
    torch.save(net.state_dict(), tmp_path / "bit.pth")
    ours = classifier(NAMES, **BIT, depth=depth, init=str(tmp_path / "bit.pth")).eval()
    clips = images(2, 3, 1, 64, 64)
    same(ours, clips, net)


def without_ends(net):
    """A network as within a clip that has no ends: what it pads in time is what is there, not zeros."""

    def repeat(conv, inputs):
        frames = conv.kernel_size[0] // 2
        return nn.functional.pad(inputs[0], (0, 0, 0, 0, frames, frames), mode="replicate")

    for module in net.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.padding = (0, *module.padding[1:])
            module.register_forward_pre_hook(repeat)
    return net


def test_a_still_clip_gives_timms_logits(narrow):
    """The inflated network: 5x7x7 and 3x1x1 kernels, and pools over time, GN's statistics over all frames."""
    net, path = narrow
    ours = without_ends(classifier(NAMES, **BIT | NARROW | {"arch": "resnetv2"}, init=path).eval())
    still = images(2, 3, 1, 64, 64)
    same(ours, still.expand(-1, -1, 16, -1, -1), net, still)


def test_zeros_of_the_stems_pool_count():
    """All its features may be below 0: a pool that pads with what no maximum is gives others."""
    pool = ResNet3d(2, "resnetv2_flat", width=32).blocks[0].pool
    x = -torch.rand(1, 2, 1, 6, 6) - 1
    expected = nn.functional.max_pool2d(nn.functional.pad(x[:, :, 0], (1, 1, 1, 1)), 3, 2)
    assert (
        torch.equal(pool(x)[:, :, 0], expected) and not expected[..., 0, :].any() and (expected[..., 1:, 1:] < 0).all()
    )


def test_other_classes_and_a_plain_state(narrow, tmp_path, caplog):
    """The head of 21843 classes is not kept for others; every other tensor goes where it belongs."""
    net, path = narrow
    with caplog.at_level("INFO"):
        ours = classifier(NAMES[:3], **BIT | NARROW, init=path)
    assert "the classifier starts at random (7 classes there, 3 here)" in caplog.text
    assert torch.equal(ours.net.blocks[4].norm.weight, net.norm.weight)
    assert torch.equal(
        ours.net.blocks[1].res_blocks[0].branch1_conv.weight[:, :, 0], net.stages[0].blocks[0].downsample.conv.weight
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"arch": "flat"}, "with pre-activation, and the model is not: model.net.arch has to be resnetv2 or resnetv2_f"),
     ({"weight_standardization": False}, "norm gn_ws, the model has gn,.*gn with --model.net.weight_standardization t"),
     ({"norm": "ln"}, "norm gn_ws, the model has ln_ws"),
     ({"std": [0.225] * 3}, "divided by .0.5, 0.5, 0.5., model.start.std is .0.225.*set model.start.std to null"),
     ({"depth": 101}, "without stages.2.blocks.6.conv1.weight")],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_the_remedy(settings, words, narrow):
    with pytest.raises(InputError, match=words):
        classifier(NAMES, **BIT | NARROW | settings, init=narrow[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda state: state.pop("norm.bias"), "without norm.bias"),
     (lambda state: state.update({"stem.norm.bias": torch.zeros(2)}), "unknown stem.norm.bias"),
     (lambda state: state.update({"norm.running_mean": torch.zeros(2)}), "ResNetV2 with BN; of timm's, BiT's with GN")],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(change, words, narrow, tmp_path):
    state = dict(narrow[0].state_dict())
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(InputError, match=words):
        classifier(NAMES, **BIT | NARROW, init=str(tmp_path / "changed.pth"))


def test_weights_of_other_networks_do_not_go_into_it(tmp_path):
    model = checkpoint(tmp_path / "last.ckpt", depth=50, width=8, arch="i3d", num_groups=4)
    assert not read_weights(tmp_path / "last.ckpt").preactivated and model
    with pytest.raises(InputError, match=r"without pre-activation, and the model is not: model.net.arch .* as i3d"):
        classifier(NAMES, arch="resnetv2", width=8, num_groups=4, init=str(tmp_path / "last.ckpt"))


def test_own_checkpoints_start_it_too(tmp_path):
    """From the flat network to the inflated one, by this project's names."""
    path = tmp_path / "last.ckpt"
    flat = checkpoint(path, **BIT | NARROW | {"num_groups": 4}, depth=14, data={"images": True})
    ours = classifier(
        [f"class {i}" for i in range(5)], **BIT | NARROW | {"num_groups": 4, "arch": "resnetv2"}, depth=14,
        init=str(path),
    ).eval()  # fmt: skip
    still = images(1, 3, 1, 64, 64)
    with torch.no_grad():
        found, expected = without_ends(ours)(still.expand(-1, -1, 12, -1, -1)), flat(still)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"arch": "resnetv2", "weight_standardization": True}, "timm:resnetv2_50x1_bit.goog_in21k"),
     ({"arch": "resnetv2_flat", "weight_standardization": True, "depth": 101}, "timm:resnetv2_101x1_bit.goog_in21k"),
     ({"arch": "resnetv2"}, None), ({"arch": "i3d", "weight_standardization": True}, None),
     ({"arch": "resnetv2", "weight_standardization": True, "num_groups": 16}, None),
     ({"arch": "resnetv2", "weight_standardization": True, "norm": "bn"}, None)],
)  # fmt: skip
def test_public_weights_that_fit_by_themselves(settings, name):
    with torch.device("meta"):
        assert fitting(ResNet3d(3, **settings).settings) == name
    assert fitting({}) is None  # a network of others


def test_its_public_name_is_known(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(InputError, match=r"cannot download timm:resnetv2_50x1_bit.goog_in21k .*model.safetensors"):
        load_weights("timm:resnetv2_50x1_bit.goog_in21k")
