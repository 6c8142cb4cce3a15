"""Networks of other parts than the plain one, from the command line on."""

import pytest
import torch
from command_lines import tiny
from conftest import few
from states import stopped_and_resumed

from video_gn.train import cli

NETS = {
    "nonlocal": {"depth": 50, "nonlocal_blocks": 5},
    "resnetv2": {"arch": "resnetv2_flat", "weight_standardization": "true", "drop_path": 0.2},
}


def settings(net):
    return {f"model.net.{name}": value for name, value in NETS[net].items()}


@pytest.mark.parametrize("net", few(NETS, (), ()))
def test_a_stop_in_the_middle_changes_nothing(net, pictures, tmp_path, monkeypatch):
    stopped_and_resumed(("training_step", 6), pictures, tmp_path, monkeypatch, **settings(net))


@pytest.mark.slow
def test_from_a_network_without_nonlocal_blocks(pictures, tmp_path, capsys):
    """The run's name says what it has; a network with blocks starts from one without, and the reverse is refused."""
    given = {"trainer.max_epochs": 1, "ckpt_path": "null", "model.net.depth": 50}
    assert cli.main(tiny(pictures, tmp_path / "plain", **given)) == 0
    start = {"model.start.init": tmp_path / "plain" / "checkpoints" / "last.ckpt"}
    assert cli.main(tiny(pictures, tmp_path / "blocks", **given, **start, **{"model.net.nonlocal_blocks": 10})) == 0
    assert "the 10 non-local blocks, of which the file has none, start as the identity" in capsys.readouterr().err
    last = tmp_path / "blocks" / "checkpoints" / "last.ckpt"
    gammas = [
        value
        for name, value in torch.load(last, weights_only=True)["state_dict"].items()
        if name.endswith("nonlocal_block.norm.weight")
    ]
    assert len(gammas) == 10 and all(gamma.any() for gamma in gammas)
    assert cli.main(tiny(pictures, tmp_path / "back", **given, **{"model.start.init": last})) == 2
    assert "it has 10 non-local blocks, the model 0: take --model.net.nonlocal_blocks 10" in capsys.readouterr().err
