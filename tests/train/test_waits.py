"""A training step asks the device for nothing: each question waits for a GPU until it has done all before it."""

import traceback

import pytest
import torch
from command_lines import tiny
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from video_gn.train import cli
from video_gn.train.callbacks import interrupt
from video_gn.train.classifier import VideoClassifier

# What a GPU is waited for: numbers and copies from it, and tensors of Python's numbers, whose memory is not pinned.
ASKS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.is_nonzero.default}
COPIES = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.item}
MAKES = {torch.tensor, torch.as_tensor}


def place():
    """Where a question comes from; not of the loader, which is in processes of its own, or of what is a CPU's alone."""
    stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack()]
    if any("fetchers.py" in frame or "cpu_norm.py" in frame for frame in stack):
        return None
    return next(frame for frame in reversed(stack) if "video_gn/" in frame or "pytorch_lightning/" in frame)


class Asked(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in ASKS and (where := place()):
            self.found.append(where)
        return function(*args, **(kwargs or {}))


class Copied(TorchFunctionMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if (function in COPIES or (function in MAKES and (kwargs or {}).get("device"))) and (where := place()):
            self.found.append(where)
        return function(*args, **(kwargs or {}))


def questions(monkeypatch, pictures, run_dir, **settings):
    """Of two steps from the begin of the first to that of a third, with all that is between them."""
    found: list[str] = []
    modes, begin = (Copied(found), Asked(found)), VideoClassifier.on_train_batch_start
    run_dir.mkdir()
    (run_dir / "training_clips.jpg").touch()  # for which the first batches are copied

    def watched(self, batch, batch_idx):
        if batch_idx == 1:
            for mode in modes:
                mode.__enter__()
        elif batch_idx == 3:
            for mode in reversed(modes):
                mode.__exit__(None, None, None)
        return begin(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(VideoClassifier, "on_train_batch_start", watched)
        # On a CPU its loss is looked at in each step, on a GPU in each 50th.
        patched.setattr(interrupt.StopAfterStep, "_check_loss", lambda *_: None)
        words = {"trainer.max_epochs": 1, "trainer.log_every_n_steps": 100} | settings
        assert cli.main(tiny(pictures, run_dir, **words)) == 0
    return found


@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_a_step_asks_for_nothing(norm, pictures, tmp_path, monkeypatch):
    settings = {"model.net.norm": norm, "trainer.logger": "true"}
    assert questions(monkeypatch, pictures, tmp_path / "run", **settings) == []


def test_a_question_would_be_found(pictures, tmp_path, monkeypatch):
    step = VideoClassifier.training_step

    def asks(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        assert loss > 0
        torch.tensor([0.45], device=loss.device)
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(VideoClassifier, "training_step", asks)
        found = questions(monkeypatch, pictures, tmp_path / "run")
    assert len(found) == 4  # two of each step


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_not_waited_for(pictures, tmp_path, monkeypatch):
    """As PyTorch itself sees it; with and without graphs, which are recorded before."""
    begin = VideoClassifier.on_train_batch_start

    def watched(self, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx in (1, 2) else "default")
        return begin(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "on_train_batch_start", watched)
    for graph in ("true", "false"):
        words = {"trainer.accelerator": "gpu", "trainer.devices": 1, "trainer.max_epochs": 1}
        words |= {"trainer.log_every_n_steps": 100, "model.execution.cuda_graph": graph}
        assert cli.main(tiny(pictures, tmp_path / graph, **words)) == 0
