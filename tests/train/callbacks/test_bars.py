"""The bar of training, as a terminal of 80 columns shows it."""

import re

from command_lines import tiny

from video_gn.train import cli
from video_gn.train.callbacks import interrupt


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
