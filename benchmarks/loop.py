#!/usr/bin/env python
"""Measures what the loop of `train.py fit` costs beside the bare step: forward, loss, backward and optimizer.

One batch in memory takes the place of the loader, so that no video is decoded meanwhile. Epochs of the loop take turns
with as many bare steps of a twin of the same network, in one process; figures are medians.
"""

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import cpu_name, installed

from video_gn.batch import Batch
from video_gn.data.loader import VideoLoader
from video_gn.files.text import write_text
from video_gn.train import cli
from video_gn.train.classifier import VideoClassifier
from video_gn.train.optim import make_optimizer


class Turns:
    """Bare steps before each epoch of a run, and the times of both.

    Args:
        steps: Of each turn.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.bare: list[float] = []
        self.loop: list[float] = []
        self._twin: Any = None
        self._last = 0.0

    def epoch_starts(self, model: VideoClassifier, batch: Batch) -> None:
        """Takes the bare steps."""
        device = model.device
        if self._twin is None:
            net, call = copy.deepcopy((model.net, model.call))
            self._twin = call, make_optimizer(model.optimizer, net, model.lr, None)
        call, optimizer = self._twin
        clips, labels = batch.clips.flatten(0, 1).to(device), batch.labels.to(device)
        times = []
        for _ in range(self.steps + 1):
            begin = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(call(clips).flatten(1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        self.bare += times[1:]
        self._last = 0.0

    def step_starts(self) -> None:
        """Marks the begin of a step of the loop."""
        now = time.perf_counter()
        if self._last:
            self.loop.append(now - self._last)
        self._last = now


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a line, and returns the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="turns; default: 8")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("words", nargs="*", help="further words of fit, behind --: -- --model.net.norm bn")
    given = parser.parse_args(args)
    steps = 15  # of an epoch of the demo's set, 120 videos in batches of 8
    shape = (8, 1, 3, 16, 32, 32)
    batch = Batch(torch.randint(256, shape, dtype=torch.uint8), torch.arange(8), torch.arange(8), [], [], [])
    turns = Turns(steps)
    epoch_starts, step_starts = VideoClassifier.on_train_epoch_start, VideoClassifier.on_train_batch_start

    def at_epoch(model: VideoClassifier) -> None:
        turns.epoch_starts(model, batch)
        epoch_starts(model)

    def at_step(model: VideoClassifier, *hook: Any) -> None:
        turns.step_starts()
        step_starts(model, *hook)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.multiple(VideoClassifier, on_train_epoch_start=at_epoch, on_train_batch_start=at_step),
        mock.patch.object(VideoLoader, "__iter__", lambda loader: iter([batch] * len(loader))),
    ):
        settings = {
            "data.motion": "{train_per_class: 10, val_per_class: 1}",
            "data.root": folder,
            "data.loading.num_workers": 0,
            "run_dir": f"{folder}/run",
            "trainer.max_epochs": given.epochs,
            "trainer.limit_val_batches": 0,
            "trainer.num_sanity_val_steps": 0,
            "test_after_fit": "false",
        }
        words = (word for key, value in settings.items() for word in (f"--{key}", str(value)))
        if cli.main(["fit", "-c", "demo", *words, *given.words]):
            raise SystemExit(1)
    bare, loop = (statistics.median(times) for times in (turns.bare, turns.loop))
    result = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} x {cpu_name()}",
        "torch": installed("torch"),
        "bare_seconds": bare,
        "loop_seconds": loop,
        "steps": len(turns.loop),
    }
    print(f"bare step {1e3 * bare:.1f} ms, of the loop {1e3 * loop:.1f} ms: {loop / bare:.3f} of it")
    if given.json:
        write_text(given.json, json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
