"""Exports against the checkpoint that they are of, by what runs them elsewhere; files that are not what they say."""

import json
import re
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from conftest import few
from pytorchvideo.models.resnet import create_resnet
from safetensors import safe_open
from safetensors.torch import save_file
from samples import SMALL, checkpoint
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from video_gn.errors import InputError
from video_gn.export import formats
from video_gn.export.__main__ import main as export
from video_gn.models.blocks import NonLocal
from video_gn.models.norm import NORMS
from video_gn.models.resnet3d import ResNet3d
from video_gn.predict.__main__ import main as predict
from video_gn.predict.model_file import open_trained
from video_gn.predict.settings import Settings
from video_gn.train import cli
from video_gn.train.classifier import VideoClassifier
from video_gn.train.settings import Start


def clips(num_frames=8, height=64, width=64, n=2):
    size = (n, 3, num_frames, height, width)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.manual_seed(4))


# From training to predictions


@pytest.mark.slow
def test_round_trip(exported, motion_folder, tmp_path):
    """train -> export -> predict gives the Lightning module's scores, from every file alone."""
    last, files = exported
    videos = [str(motion_folder / "val" / name) for name in ("slow_up", "fast_down")]
    lines = tmp_path / "lightning.jsonl"
    assert cli.main(["predict", "--ckpt_path", str(last), "--videos", *videos, "--json", str(lines)]) == 0
    expected = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(expected) == 4
    for suffix in (".ckpt", ".safetensors", ".onnx", ".pt2"):
        alone = tmp_path / f"alone{suffix}"
        shutil.copy(files.get(suffix, last), alone)
        out = tmp_path / f"{suffix}.jsonl"
        trust = ["--trust"] if suffix == ".pt2" else []
        assert predict([str(alone), *videos, "--json", str(out), "--workers", "0", *trust]) == 0
        for ours, theirs in zip(map(json.loads, out.read_text().splitlines()), expected, strict=True):
            assert ours["video"] == theirs["video"]
            assert {top["class"]: top["score"] for top in ours["top"]} == pytest.approx(
                {top["class"]: top["score"] for top in theirs["top"]}, abs=1e-4
            )


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's, about itself
@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "ws"),
    [
        *((norm, False) for norm in NORMS),
        ("bn", True),
    ],
)
def test_every_norm_and_any_size(norm, ws, tmp_path):
    """Graphs take any batch, height and width, and give logits and scores."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    model = checkpoint(path, norm=norm, weight_standardization=ws, **SMALL)
    wanted = ["onnx", "torch"] if norm in ("gn", "bn") and not ws else ["torch"]  # the others are these two's operators
    card = formats.export(path, wanted, tmp_path / "out")
    program = torch.export.load(card.with_suffix(".pt2"))
    graphs = [program.module()]
    if "onnx" in wanted:
        session = onnxruntime.InferenceSession(card.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
        graphs.append(lambda clips: map(torch.from_numpy, session.run(None, {"clips": clips.numpy()})))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") or name.startswith("<built-in function") for name in operators), operators
    folded = norm in ("bn", "mabn")  # kernels are as they are used, averages over batches are BN's
    assert any("var_mean" in name or "aten.mean" in name for name in operators) or folded, operators
    for n, height, width in ((1, 32, 32), (3, 40, 72), (2, 33, 64), (2, 31, 20), (1, 9, 40)):
        x = clips(8, height, width, n)
        with torch.no_grad():
            logits, scores = model(x).mean(2), model.scores(x[None])[0]
            for graph in graphs:
                ours = list(graph(x))
                torch.testing.assert_close(ours[0], logits, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(ours[1], scores, rtol=1e-4, atol=1e-5)


NONLOCAL = {"depth": 50, "width": 8, "num_groups": 4, "nonlocal_blocks": 5}


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's, about itself
@pytest.mark.slow
@pytest.mark.parametrize("wanted", [("safetensors",), pytest.param(("onnx", "torch"), marks=pytest.mark.long)])
def test_nonlocal_blocks_in_every_graph(wanted, tmp_path):
    """Each file is compared with the checkpoint at two sizes before it is kept; here at others."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    model = checkpoint(path, **NONLOCAL, arch="i3d_small", crop_size=32)
    for module in (module for module in model.modules() if isinstance(module, NonLocal)):
        assert module.norm.weight.all()  # no identity
    card = formats.export(path, wanted, tmp_path / "out")
    assert "5 non-local blocks" in card.read_text()
    for kind in wanted:
        graph = open_trained(str(card.with_suffix(formats.FORMATS[kind][0])), trust=True)
        for n, height, width in ((1, 32, 32), (3, 40, 72), (2, 33, 64), (2, 31, 25)):
            x = clips(8, height, width, n)
            torch.testing.assert_close(graph.scores(x), model.scores(x[None])[0], rtol=1e-4, atol=1e-5)
    if "torch" in wanted:
        with pytest.raises(InputError, match=r"takes frames from 25 pixels a side"):  # 4 of res4, pooled 2
            graph.scores(clips(8, 40, 24))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's, about itself
@pytest.mark.slow
def test_pre_activation_in_every_graph(tmp_path):
    """With kernels standardised, which graphs have as they are used; files are compared before they are kept."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    settings = {"depth": 14, "width": 8, "num_groups": 4, "arch": "resnetv2", "weight_standardization": True}
    model = checkpoint(path, **settings, crop_size=32)  # tested on 72, and a graph takes 33 at least
    card = formats.export(path, ["safetensors", "torch"], tmp_path / "out")
    for suffix in (".safetensors", ".pt2"):
        graph = open_trained(str(card.with_suffix(suffix)), trust=True)
        for n, height, width in ((1, 64, 64), (3, 80, 72), (2, 33, 90)):
            x = clips(8, height, width, n)
            torch.testing.assert_close(graph.scores(x), model.scores(x[None])[0], rtol=1e-4, atol=1e-5)


def test_pre_activation_in_the_layouts_of_others_is_refused():
    settings = SimpleNamespace(net={"arch": "resnetv2", "depth": 50, "width": 64}, clip={"crop_size": 224})
    with pytest.raises(InputError, match="not arch=resnetv2, depth=50, width=64; take another format"):
        formats.pytorchvideo_arguments(settings)


def test_nonlocal_blocks_in_the_layouts_of_others_are_refused(tmp_path):
    settings = SimpleNamespace(net={"arch": "i3d", "depth": 50, "width": 64, "nonlocal_blocks": 10}, clip={})
    with pytest.raises(InputError, match="create_resnet has no non-local blocks, and this model has 10; take another"):
        formats.pytorchvideo_arguments(settings)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint(path, **NONLOCAL, arch="flat")
    with pytest.raises(InputError, match="torchvision's ResNet has no non-local blocks, and this model has 5; take"):
        formats.export(path, ["detector"], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_graph_below_the_training_crop_gives_the_checkpoints_scores(suffix, exported):
    """The window of the head is cut as the network's is."""
    last, files = exported
    graph, whole = open_trained(str(files[suffix]), trust=True), open_trained(str(last))
    for height, width in ((20, 24), (9, 31), (16, 70)):
        x = clips(8, height, width)
        torch.testing.assert_close(graph.scores(x), whole.scores(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        InputError, match=r"takes frames from 9 pixels a side, and these have 8 x 40; take the checkpoint"
    ):
        graph.scores(clips(8, 8, 40))


@pytest.mark.slow
def test_an_export_is_compared_at_the_tests_size_too(exported, monkeypatch, tmp_path):
    last, _ = exported

    def only_at_the_crop(model, settings, path):
        path.write_bytes(b"weights")
        return lambda clips: model(clips).mean(2) * (1 if clips.shape[3] == clips.shape[4] else 2)

    monkeypatch.setitem(formats.FORMATS, "safetensors", (".safetensors", only_at_the_crop))
    with pytest.raises(InputError, match=r"other logits than the checkpoint on frames of 40 x 54 pixels.*not kept"):
        formats.export(Path(last), ["safetensors"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "side", "words"),
    [("onnx", 8, r"takes frames from 9 pixels a side, and this model is tested at 8.*--to safetensors"),
     ("pytorchvideo", 48, r"training crop's 64 pixels a side.*tested at 48.*another format")],
)  # fmt: skip
def test_a_format_that_cannot_see_the_tests_frames_is_refused(wanted, side, words, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint(path, **(SMALL if wanted == "onnx" else {"depth": 50, "arch": "i3d_8x8"}))
    content = torch.load(path, weights_only=True)
    content["datamodule_hyper_parameters"]["evaluation"]["short_side"] = side
    torch.save(content, path)
    with pytest.raises(InputError, match=words):
        formats.export(path, [wanted], tmp_path / "out")


@pytest.mark.slow
def test_safetensors_say_what_they_are(exported):
    _, files = exported
    with safe_open(files[".safetensors"], "pt") as file:
        settings = json.loads(file.metadata()["video_gn"])
    assert settings["clip"]["num_frames"] == 8 and settings["clip"]["frame_interval"] == 8
    assert settings["clip"]["test_protocol"] == "gn-10clip" and settings["model"]["start"]["mean"] == [0.45] * 3
    assert len(settings["model"]["class_names"]) == 12


@pytest.mark.slow
def test_no_file_names_this_machine(exported):
    for suffix in (".onnx", ".pt2", ".safetensors"):
        content = Path(exported[1][suffix]).read_bytes()
        assert b"site-packages" not in content and b"video_gn/export" not in content


@pytest.mark.slow
def test_the_card(exported, run):
    text = exported[1][".md"].read_text()
    results = json.loads((run / "results.json").read_text())
    for words in (
        "ResNet-11 of width 8", "`gn8`", "8 frames at interval 8", "mean [0.45, 0.45, 0.45]",
        "short side 40, gn-10clip", "12, in the order of the scores: slow_right", "the embedded set motion12",
        "| length | 9 steps, to epoch 3 |",
        "momentum 0.9", "torch 2.", f"| clips per step | {results['run']['clips_per_step']} ", "short.onnx",
    ):  # fmt: skip
        assert words in text, words
    assert re.search(r"short\.onnx \| [\d.]+ MiB \| \d\.\de-\d\d of the largest", text)
    for one in results.get("tests", []):
        assert f"| {100 * one['top1']:.2f} % |" in text


@pytest.mark.slow
def test_nothing_is_overwritten_in_silence(exported, tmp_path, capsys):
    last, files = exported
    before = files[".onnx"].stat().st_mtime_ns
    assert export([str(last), "--out", str(files[".onnx"].parent)]) == 2
    assert "already exists; pass --overwrite to replace it, or --out FOLDER" in capsys.readouterr().err
    assert files[".onnx"].stat().st_mtime_ns == before
    assert export([str(tmp_path / "gone.ckpt")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_a_further_format_of_the_same_checkpoint_joins_the_card(tmp_path, capsys):
    """README's two lines one after the other; the card of other weights, and one that somebody wrote, stay."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint(path, **SMALL)
    card = formats.export(path, ["safetensors"])
    first = next(line for line in card.read_text().splitlines() if line.startswith("| run.safetensors |"))
    assert export([str(path), "--to", "torch"]) == 0
    text = card.read_text()
    assert first in text.splitlines() and "\n| run.pt2 |" in text and text.count("## Files") == 1
    assert export([str(path), "--to", "torch"]) == 2
    assert "run.pt2 already exists; pass --overwrite to replace it, or --out FOLDER" in capsys.readouterr().err
    card.with_suffix(".safetensors").write_bytes(b"x")  # no longer what the card says of it
    assert export([str(path), "--to", "torch", "--overwrite"]) == 0
    assert "run.safetensors |" not in card.read_text() and "\n| run.pt2 |" in card.read_text()
    card.with_suffix(".safetensors").unlink()
    for change in (lambda: checkpoint(path, **SMALL | {"dropout": 0.1}), lambda: card.write_text("mine")):
        change()
        before = card.read_bytes()
        assert export([str(path), "--to", "safetensors"]) == 2
        assert "run.md already exists; pass --overwrite" in capsys.readouterr().err
        assert card.read_bytes() == before and not card.with_suffix(".safetensors").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint(path, **SMALL)
    assert export([str(path), "--to", "safetensors", "--out", "/proc/x"]) == 2
    err = capsys.readouterr().err
    assert "error: cannot write /proc/x: No such file" in err and err.count("\n") == 1, err


def test_a_wrong_export_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint(path, **SMALL)
    wrong = lambda model, settings, part: (part.write_text("x"), lambda x: model(x).mean(2) + 1)[1]  # noqa: E731
    monkeypatch.setitem(formats.FORMATS, "safetensors", (".safetensors", wrong))
    with pytest.raises(InputError, match="gives other logits than the checkpoint"):
        formats.export(path, ["safetensors"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("times", "kept"), [(1, True), (20, False)])
def test_rounding_of_the_checkpoint_itself_is_no_wrong_export(times, kept, tmp_path, monkeypatch):
    """Where its own logits are 1e-3 from float64, an export's may be, and not 20 times as far."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint(path, **SMALL)
    content = torch.load(path, weights_only=True)
    for name, value in content["state_dict"].items():  # two features are constant, and cancel
        if "blocks.5" in name and name.endswith(("norm_c.weight", "norm_c.bias", "1_norm.weight", "1_norm.bias")):
            value[:2] = 0 if name.endswith("weight") else 1 / 3
    content["state_dict"]["net.blocks.6.proj.weight"][:, :2] = torch.tensor([1e4, -1e4])
    torch.save(content, path)

    def off(model, settings, part):
        part.write_text("x")
        exact = lambda clips: formats._exact(model, settings, clips)  # noqa: E731
        return lambda clips: (logits := model(clips).mean(2)) + times * (exact(clips) - logits)

    monkeypatch.setitem(formats.FORMATS, "safetensors", (".safetensors", off))
    with nullcontext() if kept else pytest.raises(InputError, match="gives other logits than the checkpoint"):
        formats.export(path, ["safetensors"], tmp_path / "out")
    assert (tmp_path / "out" / "run.safetensors").exists() == kept


# pytorchvideo's and torchvision's networks


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("arch", few(["i3d", "i3d_nonlocal", "i3d_8x8", "c2d_8x8", "slow_8x8"], (), ["i3d"]))
def test_pytorchvideo(arch, tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    model = checkpoint(path, 16, arch=arch, norm="gn")
    card = formats.export(path, ["pytorchvideo"], tmp_path)
    file = card.with_suffix(".pth")
    settings = open_trained(str(file)).settings
    net = create_resnet(**formats.pytorchvideo_arguments(settings)).eval()
    net.load_state_dict(torch.load(file, weights_only=True)["model_state"])
    x = clips(16)
    with torch.no_grad():
        torch.testing.assert_close(net((x.float() / 255 - 0.45) / 0.225), model(x).mean(2), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(open_trained(str(file)).scores(x), model.scores(x[None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", few(["gn", "bn"], (), ("gn",)))
def test_detector(norm, tmp_path):
    """The trunk inside torchvision's Mask R-CNN with FPN: equal features, and it trains."""
    path = tmp_path / "run" / "last.ckpt"
    model = checkpoint(path, 1, {"images": True}, arch="flat", norm=norm)
    file = formats.export(path, ["detector"], tmp_path).parent / "run.backbone.pth"
    layer = (lambda channels: nn.GroupNorm(32, channels)) if norm == "gn" else nn.BatchNorm2d
    trunk = torchvision.models.resnet50(num_classes=5, norm_layer=layer)
    trunk.load_state_dict(torch.load(file, weights_only=True))
    stages = {f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(trunk, stages, [256, 512, 1024, 2048], 256, norm_layer=layer).eval()
    x = clips(1, 96, 128)
    features = (x.float() / 255 - 0.45) / 0.225
    with torch.no_grad():
        ours, y = [], features
        for block in model.net.blocks[:-1]:
            y = block(y)
            ours.append(y)
        for found, expected in zip(backbone.body(features[:, :, 0]).values(), ours[1:], strict=True):
            scale = expected.abs().max().item()
            torch.testing.assert_close(found / scale, expected[:, :, 0] / scale, rtol=1e-4, atol=1e-5)

    torch.manual_seed(0)
    detector = MaskRCNN(backbone, 3, min_size=96, max_size=128, image_mean=[0.45] * 3, image_std=[0.225] * 3,
                        rpn_pre_nms_top_n_train=100, rpn_post_nms_top_n_train=50).train()  # fmt: skip
    boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0], [40.0, 20.0, 120.0, 90.0]])
    masks = torch.zeros(2, 96, 128, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}] * 2
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    before = detector.backbone.body.conv1.weight.clone()
    losses = detector(list(x[:, :, 0].float() / 255), targets)
    assert {"loss_mask", "loss_box_reg", "loss_objectness"} <= set(losses)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not torch.equal(before, detector.backbone.body.conv1.weight)


def test_formats_that_a_network_does_not_have(tmp_path, capsys):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint(path, **SMALL)
    for one, words in {"pytorchvideo": "create_resnet builds depths 50", "detector": "network for images"}.items():
        assert export([str(path), "--to", "safetensors", one, "--out", str(tmp_path / one)]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / one).exists()  # nothing by halves


# Files that are not what they say


@pytest.mark.slow
def test_exports_are_weights_to_start_from(exported):
    settings = open_trained(str(exported[1][".safetensors"])).settings
    net = partial(ResNet3d, **settings.net)
    again = VideoClassifier(settings.class_names, net, start=Start(init=str(exported[1][".safetensors"])))
    original = torch.load(exported[0], weights_only=True)["state_dict"]
    assert all(torch.equal(value, original[f"net.{name}"]) for name, value in again.net.state_dict().items())


@pytest.mark.slow
def test_a_program_is_opened_only_with_trust(exported, motion_folder, tmp_path, monkeypatch, capsys):
    """Whatever is in it: to load it is to run it, so without the flag not a byte is looked at."""
    for path in (exported[1][".pt2"], tmp_path / "text.pt2"):
        path.write_bytes(path.read_bytes() if path.exists() else b"no model")
        with monkeypatch.context() as patched:
            patched.setattr(torch.export, "load", lambda *args: pytest.fail("it was loaded"))
            assert predict([str(path), str(motion_folder / "val"), "--workers", "0"]) == 2
        err = capsys.readouterr().err
        assert "is a torch.export program, and to open it runs the code in it" in err
        assert "take the model's .safetensors or .onnx" in err and "--trust" in err and err.count("\n") == 1
    with pytest.raises(InputError, match="not an exported program, or is damaged"):
        open_trained(str(tmp_path / "text.pt2"), trust=True)
    shutil.copy(exported[1][".pt2"], tmp_path / "weights.pth")  # under another name it is no program at all
    shutil.copy(exported[1][".pt2"], tmp_path / "weights.ckpt")
    for name in ("weights.pth", "weights.ckpt"):
        with pytest.raises(InputError, match="damaged"):
            open_trained(str(tmp_path / name))


@pytest.mark.slow
def test_help_and_card_say_that_a_program_is_code(exported, capsys):
    with pytest.raises(SystemExit):
        export(["--help"])
    assert "A `.pt2` is a program; who opens it has to trust who made it" in capsys.readouterr().out
    assert "it is a program: only if you trust its maker" in exported[1][".md"].read_text()


def outside(model):
    """A weight moved into another file."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def outside_in_a_node(model):
    value = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL, dims=[4], data_type=onnx.TensorProto.UINT8)
    value.external_data.add(key="location", value="../../secret")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["secret"], value=value))


def endless(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], ["x"], body=body))


def other_names(model):
    settings = json.loads(model.metadata_props[0].value)
    settings["model"]["class_names"] = settings["model"]["class_names"][:-1]
    model.metadata_props[0].value = json.dumps(settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (outside, r"keeps its weights in another file \(/etc/passwd\), which was not opened"),
        (outside_in_a_node, r"another file \(\.\./\.\./secret\)"),
        (lambda m: m.graph.node.append(onnx.helper.make_node("Any", [], ["x"], domain="com.evil")), "of com.evil"),
        (lambda m: m.functions.append(onnx.helper.make_function("own", "f", [], [], [], m.opset_import)), "functions"),
        (endless, "functions or loops"),
        (lambda m: m.graph.node.append(onnx.helper.make_node("Gone", [], ["x"])), "damaged"),
        (lambda m: setattr(m.graph.output[1], "name", "other"), "damaged|cannot be run"),
        (lambda m: setattr(m.graph.input[0], "name", "other"), "damaged|cannot be run"),
        (other_names, "12.* scores of 2 clips, not 11"),
        (lambda m: setattr(m, "producer_name", "ORTM"), None),  # onnxruntime's own format begins like this
    ],
)
def test_an_onnx_file_with_more_than_a_network_in_it(change, words, exported, tmp_path):
    model = onnx.load(exported[1][".onnx"])
    change(model)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    x = clips(8, 40, 40)
    if words is None:
        assert open_trained(str(path)).scores(x).shape == (2, 12)
        return
    with pytest.raises(InputError, match=words) as caught:
        open_trained(str(path)).scores(x)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_bad_models(exported, tmp_path):
    last, files = exported
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "text.safetensors").write_text("no model")
    (tmp_path / "model.bin").write_text("no model")
    for suffix, path in {".ckpt": last, **files}.items():
        if suffix != ".md":
            content = path.read_bytes()
            (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    save_file({"blocks.0.conv.weight": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with safe_open(files[".safetensors"], "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    settings = json.loads(metadata["video_gn"])
    net = settings["model"]["net"]
    for name, change in {"norm": {"norm": "bn"}, "depth": {"depth": 14}, "unknown": {"from_tomorrow": 1}}.items():
        other = {"net": net | {"init_args": net["init_args"] | change}}
        changed = json.dumps(settings | {"model": settings["model"] | other})
        save_file(tensors, tmp_path / f"{name}.safetensors", {"video_gn": changed})
    save_file(tensors, tmp_path / "less.safetensors", {"video_gn": json.dumps(settings | {"clip": {}})})
    for name, words in {
        "gone.onnx": "no file",
        "text.onnx": "not an ONNX model, or is damaged",
        "text.safetensors": "damaged",
        "model.bin": "is no model; they end in",
        "cut.ckpt": "damaged",
        "cut.onnx": "damaged",
        "cut.safetensors": "damaged",
        "bare.safetensors": "does not say how its clips are made",
        "norm.safetensors": "trained with norm|without|another architecture",
        "depth.safetensors": "another architecture",
        "unknown.safetensors": "another version of this project",
        "less.safetensors": "lack .*num_frames",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            open_trained(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_settings_round_trip(exported):
    settings = Settings.of_checkpoint(str(exported[0]))
    assert Settings.from_json(settings.to_json(), "x") == Settings(
        json.loads(json.dumps(dict(settings.model))), json.loads(json.dumps(dict(settings.clip))), settings.run
    )
    assert np.isfinite(settings.clip["crop_size"])
