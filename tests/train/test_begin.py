"""`model.start.convert`: weights of BN in a network with another norm, re-fitted on training clips."""

import re

import pytest
import pytorch_lightning as pl
import torch
from command_lines import tiny
from conftest import few
from samples import SMALL, checkpoint, classifier
from states import stopped_and_resumed
from torch import nn

from video_gn.data.image_data import ImageData
from video_gn.data.settings import Loading
from video_gn.errors import InputError
from video_gn.models import mabn
from video_gn.models.convert import convert
from video_gn.models.input import normalize
from video_gn.train import begin, cli
from video_gn.train.classifier import VideoClassifier
from video_gn.train.settings import Start

MABN = {"model.net.norm": "mabn", "model.net.average_batches": 3, "model.net.drop_path": 0.5}
FLAT = {"arch": "flat_small", "width": 4, "num_groups": 2}


@pytest.fixture(scope="module")
def with_bn(tmp_path_factory):
    """A checkpoint of the tiny network with BN."""
    path = tmp_path_factory.mktemp("bn") / "run" / "checkpoints" / "last.ckpt"
    model = checkpoint(path, 1, {"images": True}, norm="bn", **SMALL | FLAT)
    return str(path), model


def converting(pictures, run_dir, with_bn, **settings):
    given = {"model.start.init": with_bn[0], "model.start.convert": 6, "model.net.norm": "gn"}
    return tiny(pictures, run_dir, **given | settings)


@pytest.mark.parametrize("standardized", few([False, True], [False]))
def test_fit_begins_with_what_convert_norm_gives(standardized, pictures, tmp_path, with_bn, monkeypatch, capsys):
    begun, clips = [], []
    hook, norm = VideoClassifier.on_train_start, VideoClassifier.setup

    def on_train_start(self):
        begun.append({name: value.clone() for name, value in self.net.state_dict().items()})
        hook(self)

    def setup(self, stage):
        clips.extend(self.trainer.datamodule.training_clips(3, alone=True))
        norm(self, stage)

    monkeypatch.setattr(VideoClassifier, "on_train_start", on_train_start)
    monkeypatch.setattr(VideoClassifier, "setup", setup)
    settings = {"model.net.weight_standardization": str(standardized).lower()}
    assert cli.main(converting(pictures, tmp_path, with_bn, **settings)) == 0
    _, model = with_bn
    scaled = normalize(torch.cat(clips)[:6], model.mean, model.std)
    expected, said = convert(VideoClassifier.load_from_checkpoint(with_bn[0]).net, "gn", scaled, num_groups=2,
                             weight_standardization=standardized)  # fmt: skip
    for name, value in expected.state_dict().items():
        if ".proj." not in name:  # of other classes
            assert torch.equal(value, begun[0][name]), name
    said_by_fit = capsys.readouterr().err
    assert re.search(r"weights of BN: 13 BatchNorm3d are gn now; .*the class .* re-fitted on [\d.]+%", said_by_fit)
    assert said.clips == 6
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["start"]["convert"] == 6


@pytest.mark.slow
def test_a_resumed_run_does_not_convert_again(pictures, tmp_path, monkeypatch, with_bn):
    converted, real = [], begin.refit
    monkeypatch.setattr(begin, "refit", lambda *given: converted.append(1) or real(*given))
    settings = {"model.start.init": with_bn[0], "model.start.convert": 6, "model.net.norm": "gn"}
    stopped_and_resumed(("training_step", 6), pictures, tmp_path, monkeypatch, **settings)
    assert len(converted) == 2  # in the run that is not stopped, and in the first part of the other one


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model.start.convert": 0}, "was trained with norm bn, the model has gn2.*--model.start.convert 32"),
        ({"model.net.norm": "mabn"}, "model.start.convert fits gamma and beta of: gn, ln, in; model.net.norm is mabn"),
        ({"model.start.init": "null"}, "model.start.convert is 6, and model.start.init null; name the weights of BN"),
        ({"model.start.convert": -1}, "model.start.convert is -1; it has to be a whole number from 0 to 4096"),
    ],
)
def test_what_cannot_be_converted_is_one_line(settings, words, pictures, tmp_path, with_bn, capsys):
    assert cli.main(converting(pictures, tmp_path, with_bn, **settings)) == 2
    err = capsys.readouterr().err
    assert re.search(words, err) and len(err.strip().splitlines()) == 1


def test_weights_of_bn_in_a_network_with_bn_are_not_converted(with_bn):
    again = classifier(with_bn[1].class_names, norm="frozen_bn", init=with_bn[0], convert=6, **SMALL | FLAT)
    assert all(torch.equal(value, with_bn[1].net.state_dict()[name]) for name, value in again.net.state_dict().items())
    assert again.hparams["start"]["convert"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    few([MABN, {"model.net.norm": "evonorm_s0", "model.net.weight_standardization": "true"}], (), [MABN]),
)
def test_every_norm_resumes_exactly(settings, pictures, tmp_path, monkeypatch):
    """In the middle of an epoch, with averages over batches, and clips that pass blocks by."""
    monkeypatch.setattr(mabn, "WARM_UP", 2)
    stopped_and_resumed(("training_step", 7), pictures, tmp_path, monkeypatch, **settings)


@pytest.mark.slow
def test_clips_that_do_not_fit_on_the_device_are_fitted_to_on_the_cpu(pictures, tmp_path, with_bn, monkeypatch, capsys):
    calls, real = [], begin.refit

    def refit(*args):
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(*args)

    monkeypatch.setattr(begin, "refit", refit)
    assert cli.main(converting(pictures, tmp_path, with_bn, **{"trainer.max_epochs": 1})) == 0
    said = capsys.readouterr().err
    assert "has no memory for 6 clips at once; they are fitted to on the CPU" in said and "re-fitted on" in said


def test_a_model_out_of_a_checkpoint_trains_in_training_mode(with_bn, pictures, monkeypatch):
    """Lightning leaves the mode as it is, and a checkpoint's is evaluation."""
    model, modes = VideoClassifier.load_from_checkpoint(with_bn[0]), []
    monkeypatch.setattr(
        VideoClassifier, "on_train_end", lambda self: modes.append({m.training for m in self.modules()})
    )
    data = ImageData(
        str(pictures), "train", "val", crop_size=32, short_side=32, batch_size=2, loading=Loading(num_workers=0)
    )
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, limit_val_batches=0)  # fmt: skip
    assert not model.training
    trainer.fit(model, data)
    assert modes == [{True}]


def test_what_is_not_converted_yet_is_not_tested(with_bn, pictures):
    model = classifier(with_bn[1].class_names, norm="gn", init=with_bn[0], convert=6, **SMALL | FLAT)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data = ImageData(str(pictures), "train", "val", crop_size=32, short_side=32, loading=Loading(num_workers=0))
    with pytest.raises(InputError, match=r"model\.start\.convert is done by fit; test what it trained"):
        trainer.validate(model, data, verbose=False)


def test_a_network_that_convert_does_not_know_is_one_line(with_bn):
    with pytest.raises(InputError, match=r"model\.start\.convert needs a network of video_gn, and this one is Linear"):
        VideoClassifier(with_bn[1].class_names, lambda k: nn.Linear(3, k), start=Start(init=with_bn[0], convert=4))
