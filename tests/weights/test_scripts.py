"""Checkpoints of other people's training scripts: where the state dict is, what is before its names, what is beside."""

import argparse
import collections
import datetime
import logging
import os
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from video_gn.errors import InputError
from video_gn.weights.pickles import load_torch
from video_gn.weights.reader import read_weights

NAMES = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight", "fc.weight")
STATE = {name: torch.full((2,), float(i)) for i, name in enumerate(NAMES)}


def below(prefix):
    return {f"{prefix}{name}": value for name, value in STATE.items()}


def read(content, tmp_path, **options):
    torch.save(content, tmp_path / "x.pth", **options)
    return read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        below("module."),
        below("_orig_mod."),
        below("module._orig_mod."),
        {name.replace("layer1.", "layer1._orig_mod."): value for name, value in STATE.items()},
        {"model": STATE},
        {"module": below("module.")},
        {"state_dict_ema": STATE},
        {"state_dict": below("model.backbone.") | {"model.loss.weight": torch.ones(3)}},
        {"state_dict": below("model."), "hyper_parameters": {"lr": 0.1, "class_names": ["a"]}, "epoch": 1},
        {"epoch": 3, "model": {"state_dict": below("encoder_q.")}},
        {**STATE, "epoch": 3},
    ],
    ids=[
        "bare",
        "ddp",
        "compiled",
        "both",
        "compiled stage",
        "model",
        "deepspeed",
        "ema",
        "lightning",
        "lightning with hyper-parameters",
        "nested",
        "mixed",
    ],
)
def test_the_network_is_found_in_what_scripts_save(content, tmp_path):
    found = read(content, tmp_path)
    assert found.kind == "torchvision" and found.tensors.keys() == STATE.keys()
    assert all(torch.equal(value, STATE[name]) for name, value in found.tensors.items())


def test_what_is_chosen_and_left_out_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        read({"state_dict": below("model.") | {"criterion.weight": torch.ones(1)}, "state_dict_ema": STATE}, tmp_path)
    assert "has state_dict and state_dict_ema; state_dict is taken" in caplog.text
    assert "what is not below model. is left out: criterion.weight" in caplog.text


@pytest.mark.parametrize("content", [below("student.") | below("teacher."), STATE | below("module.")])
def test_more_than_one_network_is_refused(content, tmp_path):
    with pytest.raises(InputError, match=r"more than one network \('.*before the name\); save the one that is meant"):
        read(content, tmp_path)


@pytest.mark.parametrize("archive", [True, False])
def test_plain_values_beside_the_weights_are_not_taken_for_code(archive, tmp_path):
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("x"), more=types.SimpleNamespace(a=np.float32(1))),
        "best": np.float64(0.5), "flag": np.bool_(True), "rng": ("MT19937", np.arange(624), 0), "order": np.arange(3),
        "strings": np.array(["a", "b"]), "objects": np.array([None, "a"], dtype=object), "type": np.dtype("f4"),
        "date": datetime.datetime(2026, 1, 2), "took": datetime.timedelta(1),
        "logs": collections.defaultdict(list, a=[1]),
    }  # fmt: skip
    found = read({"state_dict": STATE, **beside}, tmp_path, _use_new_zipfile_serialization=archive)
    assert torch.equal(found.tensors["fc.weight"], STATE["fc.weight"])
    opened = load_torch(str(tmp_path / "x.pth"), inert=True)
    assert {type(opened[name]).__name__ for name in ("args", "best", "order", "objects", "date")} == {"_Inert"}
    with pytest.raises(Exception, match="Unsupported"):  # nor are they admitted where nobody asks for them
        load_torch(str(tmp_path / "x.pth"))


RAN = Path(tempfile.gettempdir(), f"code_beside_weights_ran_{os.getpid()}")


class Runs:
    def __reduce__(self):
        return (os.mkdir, (str(RAN),))


@pytest.mark.parametrize(
    "value",
    [Runs(), argparse.Namespace(a=Runs()), np.array([Runs()], dtype=object), collections.defaultdict(list, a=Runs())],
)
def test_code_beside_the_weights_is_refused_by_name(value, tmp_path):
    with pytest.raises(InputError, match=r"it holds code \((posix|os) mkdir\), which was not run; its state"):
        read({"state_dict": STATE, "args": value}, tmp_path)
    assert not RAN.exists()
