"""Command lines of quick runs, and signals in the middle of them."""

import os
import signal

from conftest import REPO

from video_gn.train import cli
from video_gn.train.classifier import VideoClassifier

DEMO = str(REPO / "configs" / "demo.yaml")
STEPS = int(os.environ.get("VIDEO_GN_STEPS", 4))  # of an epoch of `tiny`: 12 gives 36 in all
EPOCHS = 3


def fit(run_dir, root, *args):
    return ["fit", "-c", DEMO, "--run_dir", str(run_dir), "--data.root", str(root), *map(str, args)]


def short(*args):
    """Two quick epochs of a narrower network on the small set, without a test."""
    settings = {
        "data.motion": "{train_per_class: 2, val_per_class: 2}", "data.loading.num_workers": 0,
        "data.clip.num_frames": 8, "data.clip.frame_interval": 8, "model.net.width": 8, "model.net.dropout": 0.5,
        "trainer.max_epochs": 2, "trainer.num_sanity_val_steps": 0, "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false", "test_after_fit": "false",
    }  # fmt: skip
    return (*(word for key, value in settings.items() for word in (f"--{key}", value)), *args)


def tiny(root, run_dir, **settings):
    """3 epochs of a network of one narrow layer a stage, with dropout."""
    given = {
        "data.root": root, "data.train": "train", "data.val": "val", "images": "true",
        "data.crop_size": 16, "data.short_side": 16, "data.batch_size": 2, "data.loading.num_workers": 0,
        "model.net.arch": "flat_small", "model.net.depth": 11, "model.net.width": 4, "model.net.num_groups": 2,
        "model.schedule": "Cosine", "model.optimizer.base_lr": 0.3,
        "trainer.max_epochs": EPOCHS, "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false", "trainer.logger": "false", "trainer.num_sanity_val_steps": 0,
        "ckpt_path": "last", "run_dir": run_dir,
    } | settings  # fmt: skip
    return ["fit", *(str(word) for key, value in given.items() for word in (f"--{key}", value))]


def stop_at(patched, number, when):
    """Has a signal come in the middle of the n-th call of a step, training's or validation's."""
    hook, count = when
    real, calls = getattr(VideoClassifier, hook), []

    def sends(self, *args):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return real(self, *args)

    patched.setattr(VideoClassifier, hook, sends)


def stopped(pictures, run_dir, monkeypatch, step, **settings):
    with monkeypatch.context() as patched:
        stop_at(patched, signal.SIGTERM, ("training_step", step))
        assert cli.main(tiny(pictures, run_dir, **settings)) == 143
