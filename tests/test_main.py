"""The command `video-gn`: what it finds, says and imports."""

import importlib
import json
import os
import subprocess
import sys

import pytest
from command_lines import fit, short
from conftest import REPO

from video_gn import __main__ as command
from video_gn.models.architectures import ARCHS
from video_gn.models.norm import NORMS

EVERY = {**command.COMMANDS, **{f"data {name}": one for name, one in command.DATA.items()}}


@pytest.fixture
def called(monkeypatch):
    """What each module's `main` is called with, in its place."""
    calls = []
    for module in {one.module for one in EVERY.values()} - {""} | {command.PREDICT}:
        stand_in = lambda args, prog, module=module: calls.append((module, args, prog)) or 7  # noqa: E731
        monkeypatch.setattr(importlib.import_module(module), "main", stand_in)
    return calls


@pytest.mark.parametrize(
    ("words", "module", "args", "prog"),
    [
        ("fit -c demo", command.TRAINING, "fit -c demo", "video-gn"),
        ("predict --ckpt_path x", command.TRAINING, "predict --ckpt_path x", "video-gn"),
        ("predict x.ckpt y.mp4", command.PREDICT, "x.ckpt y.mp4", "video-gn predict"),
        ("predict", command.TRAINING, "predict", "video-gn"),
        ("export x --to onnx", "video_gn.export.__main__", "x --to onnx", "video-gn export"),
        ("data make-list x", "video_gn.data.tools.make_list", "x", "video-gn data make-list"),
        ("models", "video_gn.weights.__main__", "", "video-gn models"),
    ],
)
def test_each_command_is_its_module_s(words, module, args, prog, called):
    assert command.main(words.split()) == 7
    assert called == [(module, args.split(), prog)]


def test_usage_says_what_was_typed(monkeypatch, capsys):
    for typed, prog in (("/venv/bin/video-gn", "video-gn"), (command.__file__, "python -m video_gn")):
        monkeypatch.setattr(sys, "argv", [typed])
        for words in ("export", "ablate", "data check", "predict x", "fit --no"):
            code = None
            try:
                code = command.main(words.split())
            except SystemExit as end:
                code = end.code
            assert code == 2
        err = capsys.readouterr().err
        assert all(f"usage: {prog} {words}" in err for words in ("export", "ablate", "data check", "predict"))
        with pytest.raises(SystemExit):
            command.main(["fit", "--help"])
        out = capsys.readouterr().out
        assert f"usage: {prog} fit [-c FILE ...]" in out
        assert "package: 64x1, b4, base, bn, demo, " in " ".join(out.split())


def test_help_names_every_command(capsys):
    assert command.main(["--help"]) == command.main(["data", "-h"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name.removeprefix('data ')} " in out for name in EVERY)
    assert "usage: video-gn COMMAND" in out and "usage: video-gn data COMMAND" in out
    assert command.main([]) == command.main(["data"]) == 2


@pytest.mark.parametrize("words", ["ftt", "Fit", "--ckpt_path x fit", "data chek", "-v"])
def test_a_misspelt_command_is_one_line(words, capsys):
    assert command.main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    choices = command.DATA if words.startswith("data") else command.COMMANDS
    assert line.endswith(f"the commands are: {', '.join(choices)}") and line.startswith("error: ")


def test_models_lists_what_there_is(capsys):
    assert command.main(["models"]) == 0
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [*ARCHS, *NORMS] == named[: len(ARCHS) + len(NORMS)] and "timm:resnet50_gn.a1h_in1k" in named
    assert {"x3d_m", "pytorchvideo:x3d_m"} < set(named)
    assert command.main(["models", "r3d_1?"]) == 0
    assert "  r3d_18  33.37 M parameters, 40.70 GMACs for 16x2 at 112 pixels" in capsys.readouterr().out
    assert command.main(["models", "r3d"]) == 2


LIGHT = """
import sys
from video_gn import __main__ as command
for words in (["--help"], ["data", "--help"], ["--version"], ["nope"]):
    command.main(words)
print([name for name in ("torch", "numpy", "pytorch_lightning", "yaml", "argparse") if name in sys.modules])
"""


def test_help_and_mistakes_import_nothing():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_the_wheel_in_an_empty_folder(tmp_path, motion_folder):
    """Built, unpacked by an installer, and used where there is no clone: its own configs are found."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    subprocess.run([*uv, "build", "-q", "--wheel", "--out-dir", str(tmp_path), str(REPO)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*uv, "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)

    def run(*commands):
        code = "import sys, json; from video_gn.__main__ import main; sys.exit(any(map(main, json.loads(sys.argv[1]))))"
        env = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, "-c", code, json.dumps(commands)]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert run(["--version"]).startswith("video-gn ")
    _, _, _, *settings = fit("runs/x", motion_folder.parent, *short("--model.start.init", "null"))
    trained = ["fit", "-c", "demo", "-c", "bn", *map(str, settings)]
    out = run(["models"], ["ablate", "table8", "--dry-run"], trained)
    assert "gn of num_groups=1" in out and "python -m video_gn fit -c configs/base.yaml" in out
    assert (work / "runs" / "x" / "checkpoints" / "last.ckpt").is_file()
    assert (work / "runs" / "x" / "config.yaml").read_text().count("norm: bn") == 1
    assert not (work / "configs").exists()
