"""Every layout of weights, in files built as the originals are, against the networks that they are of."""

import os
import pickle
import re
import urllib.error
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import few
from numpy._core import multiarray
from pytorchvideo.layers.nonlocal_net import create_nonlocal
from pytorchvideo.models.hub.resnet import c2d_r50, i3d_r50, slow_r50
from pytorchvideo.models.resnet import ResStage, create_resnet
from safetensors.torch import save_file
from samples import classifier, randomize
from torch import nn

from video_gn.errors import InputError
from video_gn.models.resnet3d import ResNet3d
from video_gn.weights.hub import fitting, load_weights
from video_gn.weights.inflate import start_net
from video_gn.weights.pickles import read_arrays
from video_gn.weights.reader import read_weights

NAMES = [f"class {i}" for i in range(7)]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ZOO = {"i3d_8x8": i3d_r50, "c2d_8x8": c2d_r50, "slow_8x8": slow_r50}
ZOO_HEAD = {"i3d_8x8": (4, 2, 2), "c2d_8x8": (4, 2, 2), "slow_8x8": (8, 2, 2)}  # what is left of 8 x 64 x 64


def model(**options):
    return classifier(NAMES, crop_size=64, **options).eval()


def images(num_frames=1, n=2):
    return torch.randint(0, 256, (n, 3, num_frames, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(3))


def normalized(clips, mean, std):
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (mean, std))
    return (clips.float() / 255 - mean) / std


def same_logits(ours, clips, expected):
    with torch.no_grad():
        torch.testing.assert_close(
            ours(clips).mean(2), expected(), rtol=1e-4, atol=1e-4 * expected().abs().max().item()
        )


# 2D


@pytest.mark.parametrize(
    ("norm", "depth", "make", "suffix"),
    [
        ("bn", 50, torchvision.models.resnet50, "pth"),
        pytest.param("bn", 101, torchvision.models.resnet101, "pth", marks=pytest.mark.slow),
        pytest.param("gn", 50, partial(timm.create_model, "resnet50_gn"), "pth", marks=pytest.mark.slow),
        ("gn", 50, partial(timm.create_model, "resnet50_gn"), "safetensors"),
    ],
)
def test_torchvision_and_timm(norm, depth, make, suffix, tmp_path):
    net = randomize(make(num_classes=7))
    path = str(tmp_path / f"net.{suffix}")
    (save_file if suffix == "safetensors" else torch.save)(net.state_dict(), path)
    ours = model(norm=norm, depth=depth, arch="flat", init=path, **IMAGENET)
    same_logits(ours, images(), lambda: net(normalized(images(), **IMAGENET)[:, :, 0]))


def detectron_blobs(net):
    """A timm ResNet with GN under the names of Detectron's ResNet.py and detector.py (ConvGN), before its colours."""
    blobs = {"conv1_w": net.conv1.weight, "conv1_gn_s": net.bn1.weight, "conv1_gn_b": net.bn1.bias}
    for stage in range(1, 5):
        for number, block in enumerate(getattr(net, f"layer{stage}")):
            layers = {"2a": (block.conv1, block.bn1), "2b": (block.conv2, block.bn2), "2c": (block.conv3, block.bn3)}
            if block.downsample is not None:
                layers["1"] = tuple(block.downsample)
            for branch, (conv, gn) in layers.items():
                name = f"res{stage + 1}_{number}_branch{branch}"
                blobs |= {f"{name}_w": conv.weight, f"{name}_gn_s": gn.weight, f"{name}_gn_b": gn.bias}
    blobs |= {"pred_w": net.fc.weight, "pred_b": net.fc.bias}
    return {name: blob.detach().numpy() for name, blob in blobs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("depth", few([50, 101], (), ()))
def test_detectron(depth, tmp_path):
    """The original sees BGR from 0 to 255 less a mean; ours RGB, normalized."""
    blocks = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
    make = partial(timm.models.resnet.ResNet, timm.models.resnet.Bottleneck, blocks, num_classes=7)
    net = randomize(make(norm_layer=timm.layers.GroupNorm))
    net.conv1.weight.data /= 255 * 0.225  # as one that was trained on that scale
    path = tmp_path / "R-50-GN.pkl"
    with open(path, "wb") as file:
        pickle.dump({"blobs": detectron_blobs(net), "cfg": "MODEL: {}"}, file, 2)
    bgr = images()[:, [2, 1, 0], 0].float() - torch.tensor([102.9801, 115.9465, 122.7717]).view(3, 1, 1)
    for std in [None, [0.225] * 3] if depth == 50 else [None]:
        ours = model(norm="gn", depth=depth, arch="flat", init=str(path), std=std)
        assert np.allclose(ours.mean, [122.7717 / 255, 115.9465 / 255, 102.9801 / 255])
        same_logits(ours, images(), lambda: net(bgr))
    with pytest.raises(InputError, match=r"less the mean \[0.4815, 0.4547, 0.4038\].*set model.start.mean to null"):
        model(norm="gn", depth=depth, arch="flat", init=str(path), mean=(0.45,) * 3)
    with pytest.raises(InputError, match="trained with norm gn, the model has ln"):
        model(norm="ln", depth=depth, arch="flat", init=str(path))


# 3D


@pytest.mark.parametrize("arch", few(ZOO, ("i3d_8x8",)))
def test_pytorchvideo(arch, tmp_path):
    net = randomize(ZOO[arch](model_num_class=7, head_pool_kernel_size=ZOO_HEAD[arch]) if arch != "slow_8x8"
                    else create_resnet(model_num_class=7, stem_conv_kernel_size=(1, 7, 7),
                                       head_pool_kernel_size=ZOO_HEAD[arch]))  # fmt: skip
    torch.save({"model_state": net.state_dict()}, tmp_path / "net.pyth")
    ours = model(norm="bn", arch=arch, init=str(tmp_path / "net.pyth"))
    assert ours.mean == [0.45] * 3 and ours.std == [0.225] * 3
    assert list(ours.net.state_dict()) == list(net.state_dict())
    same_logits(ours, images(8), lambda: net(normalized(images(8), [0.45] * 3, [0.225] * 3)))


NONLOCAL = ("conv_theta", "conv_phi", "conv_g", "conv_out")


def block_behind(res):
    return getattr(res, "nonlocal_block", None)


def pyslowfast_state(net):
    """A pytorchvideo network under the names of PySlowFast's stem_helper, resnet_helper and head_helper."""
    stem, *blocks, head = net.blocks
    layers = {"s1.pathway0_stem.conv": stem.conv, "s1.pathway0_stem.bn": stem.norm, "head.projection": head.proj}
    for stage, block in enumerate((b for b in blocks if isinstance(b, ResStage)), 2):
        for number, res in enumerate(block.res_blocks):
            name = f"s{stage}.pathway0_res{number}"
            if res.branch1_conv is not None:
                layers |= {f"{name}.branch1": res.branch1_conv, f"{name}.branch1_bn": res.branch1_norm}
            for letter in "abc":
                layers[f"{name}.branch2.{letter}"] = getattr(res.branch2, f"conv_{letter}")
                layers[f"{name}.branch2.{letter}_bn"] = getattr(res.branch2, f"norm_{letter}")
            if block_behind(res):
                name = f"s{stage}.pathway0_nonlocal{number}"
                layers |= {f"{name}.{conv}": getattr(block_behind(res), conv) for conv in NONLOCAL}
                layers[f"{name}.bn"] = block_behind(res).norm
    return {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}


@pytest.mark.parametrize("arch", few(ZOO, ("i3d_8x8",)))
def test_pyslowfast(arch, tmp_path):
    """Its own code does not run beside today's pytorchvideo without changes; with them it gave the same logits."""
    net = randomize(model(norm="bn", arch=arch).net)
    content = {"epoch": 195, "model_state": pyslowfast_state(net), "optimizer_state": {}, "cfg": "MODEL: {}\n"}
    assert len(content["model_state"]) == len(net.state_dict())
    torch.save(content, tmp_path / "net.pyth")
    ours = model(norm="bn", arch=arch, init=str(tmp_path / "net.pyth"))
    same_logits(ours, images(8), lambda: net(normalized(images(8), [0.45] * 3, [0.225] * 3)).flatten(1))


def nonlocal_blobs(net):
    """A pytorchvideo network under the names of video-nonlocal-net's resnet_video_org.py and resnet_helper.py."""
    stem, *blocks, head = net.blocks
    blobs = {"conv1_w": stem.conv.weight, "pred_w": head.proj.weight, "pred_b": head.proj.bias}
    norms = {"res_conv1_bn": stem.norm}
    for stage, block in enumerate((b for b in blocks if isinstance(b, ResStage)), 2):
        for number, res in enumerate(block.res_blocks):
            name = f"res{stage}_{number}_branch"
            if res.branch1_conv is not None:
                blobs[f"{name}1_w"], norms[f"{name}1_bn"] = res.branch1_conv.weight, res.branch1_norm
            for letter in "abc":
                blobs[f"{name}2{letter}_w"] = getattr(res.branch2, f"conv_{letter}").weight
                norms[f"{name}2{letter}_bn"] = getattr(res.branch2, f"norm_{letter}")
            if block_behind(res):  # nonlocal_helper.py
                name = f"nonlocal_conv{stage}_{number}"
                norms[f"{name}_bn"] = block_behind(res).norm
                for part in NONLOCAL:
                    conv = getattr(block_behind(res), part)
                    blobs |= {f"{name}_{part[5:]}_w": conv.weight, f"{name}_{part[5:]}_b": conv.bias}
    for name, bn in norms.items():
        blobs |= {f"{name}_s": bn.weight, f"{name}_b": bn.bias, f"{name}_rm": bn.running_mean}
        blobs[f"{name}_riv"] = bn.running_var  # not the inverse: lib/utils/bn_helper.py says so
    blobs = {name: blob.detach().numpy() for name, blob in blobs.items()}
    blobs |= {f"{name}_momentum": np.zeros_like(blob) for name, blob in blobs.items() if name.endswith(("_w", "_s"))}
    return blobs | {"lr": np.float32(1e-4), "model_iter": 400_000}


def unpadded_i3d(width=64):
    """The oracle is pytorchvideo's builder, whose pools it would pad."""
    return create_resnet(
        model_num_class=7,
        stem_dim_out=width,
        stem_conv_kernel_size=(5, 7, 7),
        stem_conv_stride=(2, 2, 2),
        stem_pool=lambda kernel_size, stride, padding: nn.MaxPool3d(kernel_size, stride),
        stem_pool_kernel_size=(2, 3, 3),
        stem_pool_stride=(2, 2, 2),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=(
            (3, 1, 1),
            [(3, 1, 1), (1, 1, 1)],
            [(3, 1, 1), (1, 1, 1)],
            [(1, 1, 1), (3, 1, 1)],
        ),
        head_pool_kernel_size=(2, 2, 2),
    )


def python2_pickle(content):
    """Protocol 2 as Python 2 and its numpy wrote it: names of old modules."""
    return pickle.dumps(content, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.long
@pytest.mark.slow
def test_video_nonlocal_net(tmp_path):
    net = randomize(unpadded_i3d())
    path = tmp_path / "i3d_baseline_32x2_IN_pretrain_400k.pkl"
    path.write_bytes(python2_pickle({"blobs": nonlocal_blobs(net)}))
    ours = model(norm="bn", arch="i3d_nonlocal", init=str(path))
    same_logits(ours, images(16), lambda: net(normalized(images(16), [0.45] * 3, [0.225] * 3)))


def with_nonlocal_blocks(net, places):
    """pytorchvideo's own blocks behind residual blocks of its network, by stage and number."""
    for stage, number in places:
        res = net.blocks[stage].res_blocks[number]
        width = res.branch2.conv_c.out_channels
        res.nonlocal_block = create_nonlocal(dim_in=width, dim_inner=width // 2, pool_size=(1, 2, 2))
        res.register_forward_hook(lambda res, _, y: res.nonlocal_block(y))
    randomize(net)
    for stage, number in places:  # away from sums so small that it is all the same what is attended to
        for conv in NONLOCAL[:2]:
            getattr(net.blocks[stage].res_blocks[number].nonlocal_block, conv).weight.data *= 8
    return net


FIVE = [(3, 1), (3, 3), (4, 1), (4, 3), (4, 5)]


@pytest.fixture(scope="module")
def five():
    """The network of i3d_nonlocal_32x2_IN_pretrain_400k.pkl, narrower: 5 blocks, every other one of res3 and res4."""
    return with_nonlocal_blocks(unpadded_i3d(8), FIVE)


def small_model(**options):
    return model(**{"norm": "bn", "arch": "i3d_nonlocal", "width": 8, "nonlocal_blocks": 5} | options)


@pytest.mark.parametrize("layout", ["Caffe2", "PySlowFast"])
def test_nonlocal_blocks(layout, five, tmp_path, caplog):
    path = tmp_path / ("net.pkl" if layout == "Caffe2" else "net.pyth")
    if layout == "Caffe2":
        path.write_bytes(python2_pickle({"blobs": nonlocal_blobs(five)}))
    else:
        torch.save({"model_state": pyslowfast_state(five)}, path)
    ours = small_model(init=str(path))
    same_logits(ours, images(16), lambda: five(normalized(images(16), [0.45] * 3, [0.225] * 3)))
    said = [message for message in caplog.messages if "taken for embedded Gaussians" in message]
    assert len(said) == (layout == "PySlowFast")
    blocks = [block_behind(five.blocks[stage].res_blocks[number]) for stage, number in FIVE]
    hooks = [block.conv_theta.register_forward_hook(lambda *args: torch.zeros_like(args[2])) for block in blocks]
    with pytest.raises(AssertionError):  # what is attended to counts
        same_logits(ours, images(16), lambda: five(normalized(images(16), [0.45] * 3, [0.225] * 3)))
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, r"unknown nonlocal_conv3_1_bn_b, .* has 5 non-local blocks, the model 0: take --model.net.nonlocal_blocks 5"),
     (10, r"without nonlocal_conv3_0_.*_w, .* 5 non-local blocks, the model 10: take --model.net.nonlocal_blocks 5")],
)  # fmt: skip
def test_another_number_of_nonlocal_blocks_is_told_with_the_setting(count, words, five, tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(python2_pickle({"blobs": nonlocal_blobs(five)}))
    with pytest.raises(InputError, match=words):
        small_model(init=str(path), nonlocal_blocks=count)


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda blobs: blobs.pop("nonlocal_conv4_3_phi_b"), "without nonlocal_conv4_3_phi_b"),
     (lambda blobs: blobs.update(nonlocal_conv4_2_phi_b=np.zeros(8)), "unknown nonlocal_conv4_2_phi_b"),
     (lambda blobs: blobs.update(nonlocal_conv4_3_phi_b=np.zeros(9)), r"phi.bias is \[9\], not \[64\]")],
)  # fmt: skip
def test_tensors_of_nonlocal_blocks_that_do_not_fit_are_named(change, words, five, tmp_path):
    blobs = nonlocal_blobs(five)
    change(blobs)
    path = tmp_path / "net.pkl"
    path.write_bytes(python2_pickle({"blobs": blobs}))
    with pytest.raises(InputError, match=words):
        small_model(init=str(path))


def test_nonlocal_blocks_join_weights_that_have_none(tmp_path, caplog):
    """As in the paper, from ImageNet's, and from a run of this project: at first the network is what it was."""
    plain = small_model(nonlocal_blocks=0)
    randomize(plain.net)
    names = {name.replace("net.", "", 1): value for name, value in plain.state_dict().items()}
    torch.save(names, tmp_path / "plain.pth")
    with caplog.at_level("INFO"):
        ours = small_model(init=str(tmp_path / "plain.pth"), mean=plain.mean, std=plain.std)
    assert any(
        re.search("the 5 non-local blocks, of which the file has none, start as the identity", message)
        for message in caplog.messages
    )
    with torch.no_grad():
        assert torch.equal(ours(images(8)), plain(images(8)))
    with pytest.raises(InputError, match="freeze_affine the new ones would keep gamma 0"):
        small_model(init=str(tmp_path / "plain.pth"), norm="frozen_bn", freeze_affine=True)


@pytest.mark.slow
def test_nonlocal_blocks_join_imagenets_weights(tmp_path):
    net = randomize(torchvision.models.resnet50(num_classes=7))
    torch.save(net.state_dict(), tmp_path / "resnet50.pth")
    flat = model(norm="bn", arch="flat", nonlocal_blocks=10, init=str(tmp_path / "resnet50.pth"), **IMAGENET)
    same_logits(flat, images(), lambda: net(normalized(images(), **IMAGENET)[:, :, 0]))


def test_video_nonlocal_net_in_its_own_sizes():
    """32 x 224 x 224 gives 55 x 55 in res2 and 7 x 7 at the end."""
    with torch.device("meta"):
        net = classifier(NAMES, norm="bn", arch="i3d_nonlocal").net
        x, sizes = torch.empty(1, 3, 32, 224, 224), []
        for block in net.blocks:
            x = block(x)
            sizes.append(tuple(x.shape[2:]))
    assert sizes == [(8, 55, 55), (8, 55, 55), (4, 55, 55), (4, 28, 28), (4, 14, 14), (4, 7, 7), (1, 1, 1)]


def test_strides_that_do_not_match_are_told(tmp_path, caplog):
    net = randomize(ZOO["i3d_8x8"](model_num_class=7))
    torch.save({"model_state": net.state_dict()}, tmp_path / "net.pyth")
    model(norm="bn", arch="i3d", init=str(tmp_path / "net.pyth"))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "of arch i3d_8x8 or c2d_8x8 or slow_8x8, the model's is i3d: equal kernels but other strides" in warning


# Ours


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A checkpoint as Lightning writes them."""
    trained = classifier(NAMES, norm="gn", num_groups=4, depth=11, width=8, arch="i3d_small", crop_size=32,
                              mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))  # fmt: skip
    randomize(trained.net)
    path = tmp_path_factory.mktemp("own") / "last.ckpt"
    content = {"state_dict": trained.state_dict(), "hyper_parameters": dict(trained.hparams)}
    torch.save(content | {"datamodule_hyper_parameters": {}}, path)
    return trained.eval(), str(path)


SMALL = {"norm": "gn", "num_groups": 4, "depth": 11, "width": 8, "arch": "i3d_small", "crop_size": 32}


def test_own_checkpoint(own):
    trained, path = own
    ours = classifier(NAMES, **SMALL, init=path).eval()
    clips = images(8)[..., :32, :32]
    with torch.no_grad():
        assert torch.equal(ours(clips), trained(clips))
        longer = images(16)[..., :32, :32]  # weights know nothing of the clip's length
        assert torch.equal(ours(longer), trained(longer))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (NAMES[:5], r"classifier starts at random \(7 classes there, 5 here\)"),
        (NAMES[::-1], "of other names or in another order"),
    ],
)
def test_own_checkpoint_for_other_classes(own, names, words, caplog):
    trained, path = own
    with caplog.at_level("INFO"):
        ours = classifier(names, **SMALL, init=path)
    assert any(re.search(words, message) for message in caplog.messages)
    assert torch.equal(ours.net.blocks[0].conv.weight, trained.net.blocks[0].conv.weight)
    assert not torch.equal(ours.net.blocks[-1].proj.weight, trained.net.blocks[-1].proj.weight[: len(names)])


def test_own_checkpoint_of_another_norm_or_network(own):
    _, path = own
    with pytest.raises(InputError, match="trained with norm gn4, the model has gn2"):
        classifier(NAMES, **SMALL | {"num_groups": 2}, init=path)
    with pytest.raises(InputError, match=r"another architecture: without blocks.\(res5\)"):
        classifier(NAMES, **SMALL | {"depth": 14}, init=path)
    with pytest.raises(InputError, match=r"is \[64, 3, 3, 5, 5\], not|is \[8, 3, 3, 5, 5\], not \[8, 3, 5, 7, 7\]"):
        classifier(NAMES, **SMALL | {"arch": "i3d"}, init=path)


def test_kernels_are_not_cut_in_time(tmp_path):
    net = randomize(ZOO["slow_8x8"](model_num_class=7))
    torch.save({"model_state": net.state_dict()}, tmp_path / "slow.pyth")
    with pytest.raises(InputError, match=r"\[256, 512, 3, 1, 1\], not .*the file's arch is i3d_8x8 or c2d_8x8"):
        model(norm="bn", arch="c2d_8x8", init=str(tmp_path / "slow.pyth"))


# Bad files


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch /tmp/code_in_a_pickle_ran",))


class ObjectArray:
    def __reduce__(self):
        return (multiarray.scalar, (np.dtype("O"), pickle.dumps(Bomb())))


@pytest.mark.parametrize("name", ["a.pkl", "a.pth", "a.pyth", "a.ckpt"])
@pytest.mark.parametrize("content", [Bomb(), {"blobs": {"conv1_w": Bomb()}}, {"conv1_w": ObjectArray()}])
def test_code_does_not_run(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(content, 2))
    if name != "a.pkl":
        torch.save(content, path)
    with pytest.raises(InputError, match=name) as caught:
        read_weights(path)
    assert not os.path.exists("/tmp/code_in_a_pickle_ran")
    assert "\n" not in str(caught.value)


def test_truncated_and_strange_files(own, tmp_path):
    whole = Path(own[1]).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    arrays = python2_pickle({"blobs": {"conv1_w": np.zeros((2, 3, 7, 7), np.float32)}})
    (tmp_path / "cut.pkl").write_bytes(arrays[:-100])
    (tmp_path / "text.pkl").write_text("not weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "two.pyth").write_bytes(b"")
    torch.save({"backbone.0.weight": torch.zeros(1)}, tmp_path / "strange.pth")
    pathways = {f"s1.pathway{i}_stem.conv.weight": torch.zeros(1) for i in (0, 1)}
    torch.save({"model_state": pathways}, tmp_path / "two.pyth")
    (tmp_path / "affine.pkl").write_bytes(
        pickle.dumps({"blobs": {"conv1_w": np.zeros(3), "res_conv1_bn_s": np.zeros(3)}})
    )
    for name, words in {
        "cut.ckpt": "damaged",
        "cut.pkl": "damaged",
        "text.pkl": "damaged",
        "empty.pth": "damaged",
        "strange.pth": r"none of the layouts .* backbone\.0\.weight",
        "two.pyth": "two pathways",
        "affine.pkl": "affine",
        "gone.pth": "no file",
    }.items():
        with pytest.raises(InputError, match=words):
            read_weights(tmp_path / name)


# Public names


@pytest.mark.parametrize(
    ("init", "file"),
    [
        ("torchvision:resnet50", "download.pytorch.org/models/resnet50-0676ba61.pth"),
        ("torchvision:resnet50.IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
        ("timm:resnet50_gn.a1h_in1k", "huggingface.co/timm/resnet50_gn.a1h_in1k/resolve/main/model.safetensors"),
        ("pytorchvideo:i3d_r50", "pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth"),
        ("detectron:R-101-GN", "47592356/R-101-GN.pkl"),
        ("nonlocal:i3d_baseline_32x2_IN_pretrain_400k", "video-nonlocal/i3d_baseline_32x2_IN_pretrain_400k.pkl"),
        ("nonlocal:i3d_nonlocal_32x2_IN_pretrain_400k", "video-nonlocal/i3d_nonlocal_32x2_IN_pretrain_400k.pkl"),
    ],
)
def test_without_a_network_the_file_is_named(init, file, monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=f"cannot download {init} .*fetch https://.*{file} by hand") as caught:
        load_weights(init)
    assert str(caught.value).endswith(f"--model.start.init {file.rpartition('/')[2]}")


def test_a_public_name_brings_its_input_scale(monkeypatch, tmp_path):
    net = randomize(torchvision.models.resnet50(num_classes=7))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    calls = []

    def download(url, path, digest):
        calls.append((url, digest))
        torch.save(net.state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        ours = model(norm="bn", arch="flat", init="torchvision:resnet50")
    assert calls == [("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61")]
    same_logits(ours, images(), lambda: net(normalized(images(), **IMAGENET)[:, :, 0]))


@pytest.mark.parametrize(
    "init",
    ["torchvision:resnet5", "timm:resnet50_xx", "pytorchvideo:x", "torchvision:resnet50.V9", "timm:resnet50_gn.zzz",
     "timm:resnet50_gn.", "timm:", "torchvision:", "timm:../../x"],
)  # fmt: skip
def test_unknown_public_names(init):
    with pytest.raises(InputError, match=r"there (are|is)|timm:resnet50_gn"):
        load_weights(init)


# Fine-tuning


def test_frozen_stages_stay(own):
    _, path = own
    torch.manual_seed(0)
    model = classifier(NAMES[:3], **SMALL, init=path, freeze_stages=2, head_lr=10.0)
    model.trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=1, precision_plugin=None)
    groups = model.configure_optimizers()["optimizer"].param_groups
    assert groups[-1]["lr"] == pytest.approx(10 * groups[0]["lr"])
    assert [tuple(p.shape) for p in groups[-1]["params"]] == [(3, 128), (3,)]
    frozen = {id(p) for i in (0, 1) for p in model.net.blocks[i].parameters()}
    optimised = {id(p) for group in groups for p in group["params"]}
    assert not frozen & optimised
    assert optimised | frozen == {id(p) for p in model.net.parameters()}
    with pytest.raises(InputError, match="from 0 to 4"):
        classifier(NAMES, **SMALL, init=path, freeze_stages=5)
    with pytest.raises(InputError, match="would keep random weights"):
        classifier(NAMES, **SMALL, freeze_stages=1).setup("fit")


def test_frozen_batch_norms_keep_their_statistics():
    model = classifier(NAMES, **SMALL | {"norm": "bn"}, freeze_stages=2)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    model.train()
    model(images(8)[..., :32, :32])
    moved = {name for name, value in model.net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith(("blocks.0", "blocks.1")) for name in moved)


class Reduced:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("flags", [0, 1, 0x19, 0x3F])
def test_a_pickle_of_objects_in_the_clothes_of_numbers(flags, tmp_path):
    """A struct with an object in it, whose 8 bytes numpy itself would take for a pointer."""
    state = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, flags)
    kind = Reduced(np.dtype, ("V8", False, True), state)
    rebuilt = (np.ndarray, (0,), b"b"), (1, (1,), kind, False, b"\x41" * 8)
    array = Reduced(multiarray._reconstruct, *rebuilt)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"conv1_w": array}, 2))
    with pytest.raises(InputError, match="is not a file of weights, or is damaged"):
        read_weights(tmp_path / "x.pkl")


@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_of_either_byte_order_and_layout(order, tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for layout in (array, np.asfortranarray(array)):
        (tmp_path / "x.pkl").write_bytes(python2_pickle({"a": layout.astype(order + "f4"), "b": np.float32(2.5)}))
        found = read_arrays(str(tmp_path / "x.pkl"))
        assert torch.equal(found["a"], torch.from_numpy(array)) and found["b"] == 2.5


def test_tensors_with_attributes_of_their_own(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(2), False)
    weight.numel = 5
    torch.save({"conv1.weight": weight, "layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(InputError):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(("settings", "name"), [
    ({"arch": "i3d_small", "depth": 11, "width": 16, "num_groups": 8}, "video_gn:motion12_gn"),
    ({"arch": "i3d_small", "depth": 11, "width": 16, "norm": "frozen_bn"}, "video_gn:motion12_bn"),
    ({"arch": "i3d_small", "depth": 11, "width": 16, "num_groups": 8, "weight_standardization": True},
     "video_gn:motion12_gn_ws"),
    ({"arch": "i3d_small", "depth": 11, "width": 16, "norm": "bn", "weight_standardization": True}, None),
    ({"arch": "i3d_small", "depth": 11, "width": 16, "norm": "ln"}, None),
    ({"arch": "i3d_small", "depth": 11, "width": 16, "num_groups": 4}, None),
    ({"arch": "i3d_small", "depth": 14, "width": 16, "num_groups": 8}, None),
    ({}, "timm:resnet50_gn.a1h_in1k"), ({"arch": "slow_8x8"}, "timm:resnet50_gn.a1h_in1k"),
    ({"norm": "bn"}, "torchvision:resnet50"), ({"norm": "brn", "depth": 101}, "torchvision:resnet101"),
    ({"norm": "frozen_bn", "arch": "i3d_8x8"}, "pytorchvideo:i3d_r50"),
    ({"norm": "bn", "arch": "slow_8x8"}, "pytorchvideo:slow_r50"), ({"depth": 101}, "detectron:R-101-GN"),
    ({"norm": "in"}, None), ({"channels_per_group": 16}, None), ({"width": 32}, None),
])  # fmt: skip
def test_weights_that_fit_by_themselves(settings, name):
    """For each, those are found that the network then starts from, or none."""
    with torch.device("meta"):
        net = ResNet3d(3, **settings)
    assert fitting(net.settings) == name
    if name and name.startswith("video_gn"):
        start_net(ResNet3d(3, **settings), load_weights(name), ["a", "b", "c"], None, None, None)
