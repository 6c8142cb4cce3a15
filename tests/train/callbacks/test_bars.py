"""The bar of training, as a terminal of 80 columns shows it."""

import re

import pytest
from command_lines import EPOCHS, STEPS, tiny

from video_gn.train import cli
from video_gn.train.callbacks import bars, interrupt
from video_gn.train.classifier import VideoClassifier
from video_gn.train.run import next_steps


def shown(capsys):
    """What stood in each line at last; a bar below it goes a line down and up again."""
    out = re.sub(r"\n[^\n]*\x1b\[A", "", capsys.readouterr().out)
    return [line.split("\r")[-1].rstrip() for line in out.split("\n")]


def test_a_line_an_epoch_and_what_to_do_next(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    bar = {"trainer.enable_progress_bar": "true"}
    with monkeypatch.context() as patched:  # stopped within the second epoch
        real = interrupt.StopAfterStep.on_train_batch_end
        calls = []

        def stops(self, trainer, *args):
            calls.append(1)
            self._received = 15 if len(calls) == 5 else self._received
            return real(self, trainer, *args)

        patched.setattr(interrupt.StopAfterStep, "on_train_batch_end", stops)
        assert cli.main(tiny(pictures, tmp_path / "run", **bar)) == 143
    first = [line for line in shown(capsys) if line.startswith("epoch")]
    assert re.fullmatch(r"epoch 1/3 4/4, 00:0\d, [\d.]+ clips/s, loss \d\.\d{3}, val/top1 [\d.]+ %", first[0])
    assert first[1].startswith("epoch 2/3 ") and len(first) == 2
    assert cli.main(tiny(pictures, tmp_path / "run", **bar)) == 0
    lines = shown(capsys)
    rest = [line for line in lines if line.startswith("epoch")]
    assert [line[:9] for line in rest] == ["epoch 2/3", "epoch 3/3"] and all(len(line) <= 80 for line in rest)
    assert lines[-4].startswith(
        f"the run is in {tmp_path / 'run'}; to test its model: python -m video_gn test --ckpt_path "
    )
    assert "predict" in lines[-3] and "export" in lines[-2]


@pytest.mark.parametrize("others", [False, True])
def test_a_step_asks_the_gpu_for_no_figure(others, pictures, tmp_path, monkeypatch):
    """A bar other than ours has numbers after each batch, for which a GPU is waited for."""
    seen = []
    monkeypatch.setattr(
        VideoClassifier, "on_train_batch_end", lambda model, *_: seen.append(dict(model.trainer.progress_bar_metrics))
    )
    if others:
        monkeypatch.setattr(bars, "ProgressBar", type(None))
    run = tiny(pictures, tmp_path / "run", **{"trainer.enable_progress_bar": "true"})
    assert cli.main([*run, "--trainer.limit_val_batches", "0"]) == 0
    assert len(seen) == STEPS * EPOCHS
    names = {"train/loss", "train/top1", "train/clips_per_s"} if others else set()
    assert set(seen[-1]) == names and len({shown.get("train/loss") for shown in seen}) == (len(seen) if others else 1)


@pytest.mark.parametrize(("started", "start"), [("", "python -m video_gn"), ("1", "uv run python -m video_gn")])
def test_the_lines_after_fit_begin_as_fit_did(started, start, tmp_path, monkeypatch):
    """What `uv run` has started is outside its environment not to be found."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    if started:
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", started)
    lines = next_steps(tmp_path, "train.py").splitlines()
    assert len(lines) == 3
    for line, command in zip(lines, ("test", "predict", "export"), strict=True):
        assert f": {start} {command} " in line
