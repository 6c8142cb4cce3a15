"""Exports of networks of other libraries: the scores of the checkpoint, or a refusal in one line."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from conftest import few
from samples import NAMES, randomize, video_data

from video_gn.errors import InputError
from video_gn.export.__main__ import main as export
from video_gn.models.input import normalize
from video_gn.models.known import NAMES as NETWORKS
from video_gn.models.norm import NORMS
from video_gn.models.resnet3d import ResNet3d
from video_gn.predict.model_file import open_trained
from video_gn.predict.pictures import class_activation
from video_gn.train.classifier import VideoClassifier

FRAMES, SIDE, TESTED = 8, 64, 80


def checkpoint(path, name, **settings):
    """A checkpoint as Lightning writes them, of random weights; gives the classifier."""
    kind, own, _ = NETWORKS[name]
    small = {"width": 8, "num_groups": 4} if kind is ResNet3d else {}
    torch.manual_seed(1)
    model = VideoClassifier(NAMES, partial(kind, **own, **small, **settings), crop_size=SIDE).eval()
    randomize(model.net)
    torch.nn.init.normal_(model.net.classifier.weight, std=1e-3)  # so that no score is all of 1
    clip = {"num_frames": FRAMES, "crop_size": SIDE, "short_side": (SIDE, SIDE), "test_short_side": TESTED}
    data = video_data(class_names=NAMES, **clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "epoch": 1, "global_step": 2}
    torch.save(content | {"datamodule_hyper_parameters": dict(data.hparams)}, path)
    return model


# mabn and standardised kernels are folded; EvoNorm has the place of activations.
CASES = {
    "mc3_18": {"norm": "bn"}, "r3d_18": {"norm": "evonorm_s0"}, "r2plus1d_18": {"norm": "gn"}, "s3d": {"norm": "mabn"},
    "r2plus1d_r50": {"norm": "in"}, "x3d_s": {"norm": "gn", "weight_standardization": True},
    "x3d_l": {"norm": "mabn"}, "slowfast_r50": {"norm": "gn"}, "csn_r101": {"norm": "frozen_bn"},
}  # fmt: skip
# The others have the norms by turns.
CASES |= {name: {"norm": list(NORMS)[i % len(NORMS)]} for i, name in enumerate(NETWORKS) if name not in CASES}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_scores_of_exports_are_the_checkpoint_s(name, tmp_path):
    """At the training crop, and on wider frames, where the head has several positions."""
    model = checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", name, **CASES[name])
    assert export([str(tmp_path / "run" / "checkpoints" / "last.ckpt"), "--to", "safetensors", "onnx"]) == 0
    exactly = copy.deepcopy(model.net).double()
    exported = {path.suffix: open_trained(str(path)) for path in (tmp_path / "run" / "export").glob("run.[so]*")}
    assert exported.keys() == {".safetensors", ".onnx"}
    for size in ((SIDE, SIDE), (TESTED, 2 * TESTED)):
        clips = torch.randint(0, 256, (2, 3, FRAMES, *size), dtype=torch.uint8, generator=torch.manual_seed(4))
        with torch.no_grad():
            expected = model.scores(clips[None])[0]
            exact = exactly(normalize(clips, model.mean, model.std).double()).flatten(2).softmax(1).mean(2)
        rounding = (expected - exact).abs().max().item()  # of the checkpoint, which 101 random layers make large
        for found in exported.values():
            torch.testing.assert_close(found.scores(clips), expected, atol=max(2e-5, 4 * rounding), rtol=1e-4)
        assert rounding < 1e-3
    card = (tmp_path / "run" / "export" / "run.md").read_text()
    assert f"{model.net.summary(model.net.settings)}, norm `{model.net.norm}`" in card


@pytest.mark.slow
def test_what_an_architecture_has_not_is_one_line(tmp_path, capsys):
    path = tmp_path / "checkpoints" / "last.ckpt"
    model = checkpoint(path, "x3d_s")
    for form, words in (("pytorchvideo", "create_resnet"), ("detector", "torchvision's ResNet")):
        assert export([str(path), "--to", form]) == 2
        assert f"{words} is another network than x3d_s; take another format" in capsys.readouterr().err
    with pytest.raises(
        InputError, match="x3d_s has no class-activation map: it has a ReLU between its last two layers"
    ):
        class_activation(model, torch.zeros(3, FRAMES, SIDE, SIDE, dtype=torch.uint8), 0)


@pytest.mark.parametrize("name", few(("r3d_18", "s3d", "csn_r101"), ("s3d",)))
def test_class_activation_is_the_logit_s(name, tmp_path):
    """The mean of a map, before it is cut at 0 and stretched, is the logit without its bias, where all is averaged."""
    model = checkpoint(tmp_path / "last.ckpt", name)
    net = model.net
    x = torch.randn(1, 3, FRAMES, SIDE, SIDE, generator=torch.manual_seed(1))
    with torch.no_grad():
        map_, logit = net.activation(x, 2)[0], net(x)[0, 2].item() - net.classifier.bias[2].item()
    if name == "s3d":  # averages pairs of frames first
        map_ = (map_[1:] + map_[:-1]) / 2 if len(map_) > 1 else map_
    assert map_.mean().item() == pytest.approx(logit, rel=1e-3, abs=1e-5)
    clip = torch.randint(0, 256, (3, FRAMES, SIDE, SIDE), dtype=torch.uint8, generator=torch.manual_seed(2))
    shown = class_activation(model, clip, 2)
    assert shown.shape == (FRAMES, SIDE, SIDE) and 0 <= shown.min() <= shown.max() <= 1 and np.isfinite(shown).all()
