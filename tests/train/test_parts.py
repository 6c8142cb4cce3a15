"""Networks and optimisers by their class, through the command line: trained, stopped, resumed, tested, predicted."""

import json
import logging

import pytest
import torch
from command_lines import stop_at, tiny
from torch import nn

from video_gn.compat import shapes_alone
from video_gn.export.__main__ import main as export
from video_gn.models.resnet3d import ResNet3d
from video_gn.train import cli
from video_gn.train.memory.count import _twin
from video_gn.train.optim import SGD, AdamW, make_optimizer

OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes: int, hidden: int = 4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, clips):
        return self.layers(clips.mean((2, 3, 4)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return {"model.net": "my_module.Net", "model.net.hidden": 6}


def command(pictures, run_dir, *left_out):
    """The tiny run's, without some settings of the parts that are named here."""
    words = tiny(pictures, run_dir)
    pairs = zip(words[1::2], words[2::2], strict=True)
    return ["fit", *(word for pair in pairs if not pair[0].startswith(left_out) for word in pair)]


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


WRONG = """
import torch
from torch import nn

class NoClasses(nn.Module):
    def __init__(self):
        super().__init__()
"""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("my_modul.Net", "model.net: there is no module my_modul; it is looked for in the current folder and in"),
        ("my_module.Nett", "model.net: my_module has no Nett (did you mean Net?)"),
        ("broken.Net", "model.net: broken cannot be imported: No module named 'not_there'"),
        ("wrong.NoClasses", "takes 1 positional argument but 2 were given; its call has to take the number of classes"),
    ],
)
def test_mistakes_in_a_network_of_your_own_are_one_line(path, words, own, pictures, tmp_path, capsys):
    (tmp_path / "broken.py").write_text("import not_there")
    (tmp_path / "wrong.py").write_text(WRONG)
    assert cli.main([*command(pictures, tmp_path / "run", "--model.net."), "--model.net", path]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert words in line


def test_a_network_of_your_own(own, pictures, tmp_path, monkeypatch, capsys):
    words = command(pictures, tmp_path / "whole", "--model.net.")
    given = [word for key, value in own.items() for word in (f"--{key}", str(value))]
    assert cli.main([*words, *given]) == 0
    assert capsys.readouterr().out.endswith("last.ckpt --model.net my_module.Net --model.net.hidden 6\n")
    content = last(tmp_path / "whole")
    assert content["hyper_parameters"]["net"]["class_path"] == "my_module.Net"
    assert content["state_dict"]["net.layers.0.weight"].shape == (6, 3)
    assert json.loads((tmp_path / "whole/results.json").read_text())["run"]["name"] == "net_1x1_b2"

    words = command(pictures, tmp_path / "halved", "--model.net.")
    with monkeypatch.context() as patched:
        stop_at(patched, 15, ("training_step", 6))
        assert cli.main([*words, *given]) == 143
    assert cli.main([*words, *given]) == 0
    assert all(
        torch.equal(value, content["state_dict"][name])
        for name, value in last(tmp_path / "halved")["state_dict"].items()
    )

    checkpoint = str(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    assert cli.main(["test", "--ckpt_path", checkpoint]) == 2
    assert "the network in " in (err := capsys.readouterr().err) and "--model.net my_module.Net" in err
    assert cli.main(["test", "--ckpt_path", checkpoint, "--model.net", "my_module.Net", "--model.net.hidden", "5"]) == 2
    assert "layers.0.weight is [6, 3] there and [5, 3] here; name the settings" in capsys.readouterr().err
    assert cli.main(["test", "--ckpt_path", checkpoint, *given]) == 0
    out = tmp_path / "out.jsonl"
    assert (
        cli.main(["predict", "--ckpt_path", checkpoint, *given, "--videos", str(pictures / "val"), "--json", str(out)])
        == 0
    )
    assert len(out.read_text().splitlines()) == 8
    capsys.readouterr()
    assert export([checkpoint]) == 2 and "has a network of class my_module.Net" in capsys.readouterr().err
    assert cli.main([*words, *given, "--run_dir", str(tmp_path / "frozen"), "--model.start.freeze_stages", "1"]) == 2
    assert "needs a network that has `stages`, and Net has none" in capsys.readouterr().err


MAKERS = """
def make(num_classes: int) -> nn.Module:
    return Net(num_classes)

def silent(num_classes: int):
    return Net(num_classes)

def number(num_classes: int) -> int:
    return num_classes
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("others.Net", None), ("others.make", None), ("others.silent", "no function that says what it returns"),
        ("others.number", "no function that says"), ("others.Nett", "others has no Nett (did you mean Net?)"),
        ("gone.Net", "there is no module gone"),
    ],
)  # fmt: skip
def test_what_can_be_a_network(name, words, own, pictures, tmp_path, capsys):
    (tmp_path / "others.py").write_text(OWN + MAKERS)
    given = ["--model.net", name, "--trainer.max_epochs", "1"]
    assert cli.main([*command(pictures, tmp_path / "run", "--model.net."), *given]) == (2 if words else 0)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(said) == bool(words) and (not words or words in said[0]), said


@pytest.mark.slow
def test_adamw_keeps_what_sgd_has(pictures, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)
    given = {"model.optimizer": "AdamW", "model.optimizer.head_lr": 3}
    words = command(pictures, tmp_path / "whole", "--model.optimizer.")
    options = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    assert cli.main([*words, *options]) == 0
    err = capsys.readouterr().err
    assert "base_lr 0.001 x 2 / 64 clips a step" in err and "AdamW, betas 0.9 and 0.999; cosine" in err
    groups = last(tmp_path / "whole")["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0, 0.05]
    assert groups[2]["initial_lr"] == pytest.approx(3 * groups[0]["initial_lr"]) == pytest.approx(3 * 0.001 * 2 / 64)

    words = command(pictures, tmp_path / "run", "--model.optimizer.")
    with monkeypatch.context() as patched:
        stop_at(patched, 15, ("training_step", 6))
        assert cli.main([*words, *options]) == 143
    assert cli.main([*words, *options]) == 0
    whole, resumed = (last(tmp_path / name)["state_dict"] for name in ("whole", "run"))
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    capsys.readouterr()
    assert cli.main([*words, "--trainer.max_epochs", "4"]) == 2
    assert "was trained by AdamW, and model.optimizer is SGD; resume with the same" in capsys.readouterr().err
    assert export([str(tmp_path / "run/checkpoints/last.ckpt"), "--to", "safetensors"]) == 0
    card = (tmp_path / "run" / "export" / "run.md").read_text()
    assert "AdamW, betas 0.9 and 0.999" in card and "0.05, of norms 0" in card and "SGD" not in card
    assert json.loads((tmp_path / "run/results.json").read_text())["run"]["optimizer"].startswith("AdamW")


def test_another_class_begins_with_its_own_defaults(tmp_path):
    (tmp_path / "sgd.yaml").write_text("model: {optimizer: {base_lr: 0.8, weight_decay: 0.1, momentum: 0.5}}\n")
    words = ["fit", "-c", "demo", "-c", str(tmp_path / "sgd.yaml")]
    config = cli.resolve([*words, "--model.optimizer", "AdamW"])["model"]["optimizer"]["init_args"]
    assert config["base_lr"] == 1e-3 and config["weight_decay"] == 0.05 and "momentum" not in config
    config = cli.resolve([*words, "--model.optimizer", "AdamW", "--model.optimizer.base_lr", "0.01"])
    assert config["model"]["optimizer"]["init_args"]["base_lr"] == 0.01
    assert cli.resolve([*words, "--model.optimizer", "SGD"])["model"]["optimizer"]["init_args"]["base_lr"] == 0.8
    schedule = cli.resolve([*words, "--model.schedule", "Step"])["model"]["schedule"]
    assert schedule["init_args"] == {"decay_points": [0.375, 0.75], "warmup": 0.0}


# The optimizer's step in one kernel


def test_sgd_on_a_gpu_steps_in_one_kernel():
    """Elsewhere, and where float16 scales the loss, it does not; nor does another optimizer."""
    net = ResNet3d(2, "i3d_small", 11, 4, "frozen_bn")
    with shapes_alone(), torch.device("cuda"):
        net = _twin(net, "cuda", torch.float32, torch.contiguous_format)
        made = make_optimizer(SGD(), net, 0.1, None)
        assert all(group["fused"] and not group["foreach"] for group in made.param_groups)
        others = make_optimizer(SGD(), net, 0.1, object()), make_optimizer(AdamW(), net, 0.1, None)
        others += (make_optimizer(SGD(), nn.Linear(2, 2), 0.1, None),)  # of which not all may learn in the first step
    for other in (*others, make_optimizer(SGD(), nn.Linear(2, 2), 0.1, None)):
        assert not any(group["fused"] for group in other.param_groups)
