import copy

import pytest
import timm
import torch
import torchvision
from conftest import few
from safetensors.torch import save_file
from samples import randomize, resnet3d

from video_gn.errors import InputError
from video_gn.models.norm import make_norm
from video_gn.weights.inflate import check_norm, start_from
from video_gn.weights.reader import read_weights


def load(net, path, norm, file_norm=None):
    weights = read_weights(path)
    check_norm(weights, norm, file_norm)
    classes = [str(i) for i in range(len(net.blocks[-1].proj.weight))]
    return start_from(net, weights, classes, (0.225,) * 3)


@pytest.fixture(scope="module")
def nets_2d():
    """The original networks, under the original names."""
    return {
        "bn": randomize(torchvision.models.resnet50(num_classes=10)),
        "gn": randomize(timm.create_model("resnet50_gn", num_classes=10)),
    }


@pytest.fixture(scope="module")
def files(nets_2d, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, net in nets_2d.items():
        torch.save(net.state_dict(), folder / f"{name}.pth")
        save_file(net.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize("name", few(["bn", "gn"], ("gn",), ()))
def test_repeated_image_gives_the_2d_features(name, nets_2d, files):
    """At the middle of a clip so long that temporal padding cannot reach there."""
    net = resnet3d(10, make_norm(name), crop_size=64).eval()
    said = load(net, str(files / f"{name}.pth"), name)
    assert "classifier carried over" in said
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)  # rounding of random layers is not what this is about
    x = image[:, :, None].expand(-1, -1, 200, -1, -1)
    net, net_2d = net.double(), copy.deepcopy(nets_2d[name]).double()
    with torch.no_grad():
        y = net_2d.maxpool(net_2d.bn1(net_2d.conv1(image)).relu())
        stages_2d = [y := layer(y) for layer in (net_2d.layer1, net_2d.layer2, net_2d.layer3, net_2d.layer4)]
        blocks = list(net.blocks)[:-1]
        stages_3d = [x := block(x) for block in blocks]
    del stages_3d[0], stages_3d[1]  # the stem and the pool
    for expected, features in zip(stages_2d, stages_3d, strict=True):
        middle = features[:, :, features.shape[2] // 2]
        if name == "bn":
            torch.testing.assert_close(middle, expected, rtol=1e-3, atol=1e-3)
        else:  # the clip's ends enter GN's statistics; the test below takes them away
            assert torch.nn.functional.cosine_similarity(middle.flatten(1), expected.flatten(1)) > 0.98


@pytest.mark.parametrize("name", ["bn", "gn"])
def test_every_tensor_is_carried_over(name, nets_2d, files):
    net = resnet3d(10, make_norm(name))
    load(net, str(files / f"{name}.safetensors"), name)
    weights, weights_2d = net.state_dict(), nets_2d[name].state_dict()
    assert len(weights) == len(weights_2d)
    inflated = weights["blocks.1.res_blocks.0.branch2.conv_a.weight"]
    original = weights_2d["layer1.0.conv1.weight"]
    for t in range(3):
        torch.testing.assert_close(inflated[:, :, t], original / 3)
    torch.testing.assert_close(weights["blocks.0.conv.weight"].sum(2), weights_2d["conv1.weight"])
    for ours, theirs in {
        "blocks.0.norm.bias": "bn1.bias",
        "blocks.3.res_blocks.0.branch1_norm.weight": "layer2.0.downsample.1.weight",
        "blocks.5.res_blocks.2.branch2.norm_c.weight": "layer4.2.bn3.weight",  # over the zero-init
        "blocks.6.proj.weight": "fc.weight",
    }.items():
        assert torch.equal(weights[ours], weights_2d[theirs])


def test_classifier_is_left_out_where_classes_differ(files):
    net = resnet3d(12, make_norm("bn"))
    before = net.blocks[-1].proj.weight.clone()
    said = load(net, str(files / "bn.pth"), "bn")
    assert "classifier starts at random (10 classes there, 12 here)" in said
    assert torch.equal(net.blocks[-1].proj.weight, before)


def test_frozen_bn_starts_from_bn(files):
    net = resnet3d(10, make_norm("frozen_bn"))
    load(net, str(files / "bn.pth"), "frozen_bn")
    assert net.blocks[0].norm.running_mean.any()


@pytest.mark.parametrize(("file", "norm"), [("bn", "gn"), ("gn", "bn"), ("gn", "ln"), ("gn", "gn8")])
def test_another_norm_is_refused_with_the_remedy(file, norm, files):
    net = resnet3d(10, make_norm("gn" if norm == "gn8" else norm, num_groups=8 if norm == "gn8" else 32))
    with pytest.raises(InputError, match=f"trained with norm {file}, the model has {norm}.*take a checkpoint"):
        load(net, str(files / f"{file}.pth"), norm)


def test_norm_of_a_file_can_be_stated(files):
    load(resnet3d(10, make_norm("ln")), str(files / "gn.pth"), "ln", "ln")
    with pytest.raises(InputError, match="no running statistics"):
        load(resnet3d(10, make_norm("bn")), str(files / "gn.pth"), "bn", "bn")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("layer3.4.conv2.weight"), "without layer3.4.conv2.weight"),
        (lambda w: w.update({"layer9.x": torch.zeros(1)}), "unknown layer9.x"),
        (lambda w: w.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), r"blocks.0.conv.weight is \[64, 3, 5, 3, 3\]"),
    ],
)
def test_missing_unknown_and_misshapen_weights_are_named(change, words, nets_2d, tmp_path):
    weights = dict(nets_2d["bn"].state_dict())
    change(weights)
    torch.save(weights, tmp_path / "changed.pth")
    with pytest.raises(InputError, match=words):
        load(resnet3d(10, make_norm("bn")), str(tmp_path / "changed.pth"), "bn")
