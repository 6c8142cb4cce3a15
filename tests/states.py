"""States of runs that are stopped and resumed, and whether they are those of runs that were not."""

import copy
import signal

import torch
from command_lines import stop_at, tiny

from video_gn.train import cli
from video_gn.train.callbacks import interrupt
from video_gn.train.classifier import VideoClassifier


def difference(a, b, at=""):
    """Where two states differ first, bit for bit; the paths of files may. Empty if they do not."""
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{at}: {a.keys() ^ b.keys()}"
        return next(filter(None, (difference(a[key], b[key], f"{at}/{key}") for key in a if not _names(key))), "")
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return f"{at}: {len(a)} and {len(b)}"
        return next(filter(None, (difference(*pair, f"{at}/{i}") for i, pair in enumerate(zip(a, b, strict=True)))), "")
    equal = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b
    return "" if equal else f"{at}: {a} and {b}"


def _names(key):  # current_score is not resumed by Lightning, nor used
    return str(key).endswith(("path", "best_k_models", "current_score"))


def what_counts(checkpoint):
    """Weights, optimiser, schedule, where the run is, sums of the epoch, the best so far."""
    best = {name: {key: value for key, value in state.items() if key != "dirpath"}
            for name, state in checkpoint["callbacks"].items()}  # fmt: skip
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "training_sums", "validation", "loops", "epoch")
    return {name: checkpoint[name] for name in parts} | {"callbacks": best}


def ends(run_dir):
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return what_counts(checkpoint) | {"best": best, "history": (run_dir / "history.csv").read_text()}


class Record:
    """What a stop after each step of a run would leave: the checkpoint, and the other files."""

    def __init__(self, monkeypatch, run_dir):
        self.states, self.files = {}, {}
        real = interrupt.StopAfterStep.on_train_batch_end

        def record(callback, trainer, *args):
            real(callback, trainer, *args)
            step = trainer.global_step
            self.states[step] = copy.deepcopy(trainer._checkpoint_connector.dump_checkpoint(False))
            found = (run_dir / "history.csv", run_dir / "checkpoints" / "best.ckpt")
            self.files[step] = {path.relative_to(run_dir): path.read_bytes() for path in found if path.exists()}

        monkeypatch.setattr(interrupt.StopAfterStep, "on_train_batch_end", record)

    def put(self, step, run_dir):
        (run_dir / "checkpoints").mkdir(parents=True)
        torch.save(self.states[step], run_dir / "checkpoints" / "last.ckpt")
        for name, content in self.files[step].items():
            (run_dir / name).write_bytes(content)


class Killed(BaseException):
    """In the place of kill -9: nothing more is saved."""


def die_at(patched, when):
    hook, count = when
    real, calls = getattr(VideoClassifier, hook), []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return real(self, *args)

    patched.setattr(VideoClassifier, hook, dies)


def stopped_and_resumed(when, pictures, tmp_path, monkeypatch, **given):
    """SIGTERM in the middle of that call, and on to the end, which is that of a run that was not stopped."""
    assert cli.main(tiny(pictures, tmp_path / "whole", **given)) == 0
    with monkeypatch.context() as patched:
        stop_at(patched, signal.SIGTERM, when)
        assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 143
    assert cli.main(tiny(pictures, tmp_path / "run", **given)) == 0
    assert not difference(ends(tmp_path / "run"), ends(tmp_path / "whole"))
