#!/usr/bin/env python
"""Measures what is left of a network with BN once it has another norm: at once, re-fitted on clips, and trained on.

Test videos or images alone are counted, none of which gamma and beta were fitted to. "As BN" is the fraction of them
that get the class that the network with BN gives them. Each training has so many steps by SGD, at a rate that falls by
a cosine from its full value to 0, always on the same clips: from what the conversion gave without and with clips, from
random weights, and of BN itself. Every figure is the mean over checkpoints and seeds (of the clips that are drawn, and
of random weights) +- their standard deviation, in %.
"""

import argparse
import json
import logging
import os
import statistics
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from machine import cpu_name, installed
from torch import nn
from tqdm import tqdm

from video_gn.data.datamodule import DataModule
from video_gn.data.image_data import ImageData
from video_gn.data.motion12 import Motion
from video_gn.data.settings import Augment, Clip, Evaluation, Loading
from video_gn.data.video_data import VideoData
from video_gn.errors import InputError
from video_gn.files.text import write_text
from video_gn.models.convert import FITTED, convert
from video_gn.models.known import CLASSES
from video_gn.train.checkpoint import Checkpoint, read_checkpoint
from video_gn.train.classifier import VideoClassifier
from video_gn.train.optim import SGD
from video_gn.train.schedule import Cosine
from video_gn.train.settings import Start
from video_gn.weights.stored import net_settings

PARTS = {"clip": Clip, "evaluation": Evaluation, "loading": Loading, "augment": Augment, "motion": Motion}
BLIND, EXACT, RANDOM = "blind", "exact", "random"


class Row(NamedTuple):
    """One network, tested.

    Attributes:
        norm: A word of the family.
        begun: Where it is from: `BN`; `blind`, gamma and beta of BN; `exact`, the same where they fit; `8 clips`, gamma
            and beta fitted to so many; `random`, new weights.
        steps: Of training after that.
        top1: On the test's videos, as a fraction.
        as_bn: Of them, the fraction that get the class that BN gives them.
        fitted: Of the clips that gamma and beta were fitted to, the fraction that do; None where they were not.
    """

    norm: str
    begun: str
    steps: int
    top1: float
    as_bn: float
    fitted: float | None = None


class Bench:
    """A network with BN, out of a checkpoint, and what is made of it with one seed.

    Args:
        path: The checkpoint.
        given: Of the command line.
        seed: Of all that is drawn.

    Raises:
        InputError: Its network is not one of this project with BN.
    """

    def __init__(self, path: str, given: argparse.Namespace, seed: int) -> None:
        self.checkpoint, self.given, self.seed = read_checkpoint(path), given, seed
        self.settings = net_settings(self.checkpoint.model, path)
        if self.settings["norm"] != "bn":
            raise InputError(f"the network in {path} has norm={self.settings['norm']}; give one with bn")
        self.before = VideoClassifier.load_from_checkpoint(path)
        self.data = data_of(self.checkpoint, given, seed)
        self.data.prepare_data()
        self.classes = np.empty(0, int)  # what BN says of the test's videos

    def rows(self) -> Iterator[Row]:
        """Every network, in the order of the table."""
        counts = sorted(self.given.clips)
        clips = torch.cat(list(self.data.training_clips(-(-counts[-1] // self.data.batch_size), alone=True)))
        clips = self.before.call.normalize(clips)
        self.classes = self._classes(self.before)
        yield Row("bn", "BN", 0, self.before.results["test"]["top1"], 1.0)
        if self.given.steps:
            yield self._row(self._trained(self._net()), "bn", "BN", self.given.steps)
        for norm in self.given.to:
            options = {"num_groups": self.settings["num_groups"]} if norm == "gn" else {}
            blind, done = convert(self._net(), norm, **options)
            if not done.replaced.unlike:
                yield from self._rows(blind, norm, EXACT)
                continue
            yield from self._rows(blind, norm, BLIND)
            for count in counts:
                net, done = convert(self._net(), norm, clips[:count], **options)
                yield from self._rows(net, norm, f"{count} clips", done.refitted, train=count == counts[-1])
            if self.given.steps:
                torch.manual_seed(self.seed)
                make: Any = CLASSES[self.checkpoint.model["net"]["class_path"]]
                new = make(len(self.before.class_names), **{**self.settings, "norm": norm})
                yield self._row(self._trained(new), norm, RANDOM, self.given.steps)

    def _rows(
        self, net: nn.Module, norm: str, begun: str, fitted: float | None = None, train: bool = True
    ) -> Iterator[Row]:
        """A network as it is, and trained."""
        yield self._row(self._classifier(net), norm, begun, fitted=fitted)
        if train and self.given.steps:
            yield self._row(self._trained(net), norm, begun, self.given.steps)

    def _net(self) -> nn.Module:
        return deepcopy(self.before.net)

    def _classifier(self, net: nn.Module) -> VideoClassifier:
        """Around a network: the recipe that all are trained by."""
        mean, std = self.checkpoint.model["start"]["mean"], self.checkpoint.model["start"]["std"]
        return VideoClassifier(
            self.before.class_names,
            lambda _: net,
            SGD(self.given.base_lr),
            Cosine(),
            Start(mean=mean, std=std),
            batch_size=self.data.batch_size,
            crop_size=self.checkpoint.model["crop_size"],
            seed=self.seed,
        )

    def _trained(self, net: nn.Module) -> VideoClassifier:
        model = self._classifier(net)
        data = data_of(self.checkpoint, self.given, self.seed)
        trainer(max_steps=self.given.steps, max_epochs=-1, limit_val_batches=0).fit(model, data)
        return model

    def _classes(self, model: VideoClassifier) -> np.ndarray:
        """What the classifier says of each video of the test, by row; it leaves its accuracies in `results`."""
        trainer().test(model, self.data, verbose=False)
        rows, scores = model.outcomes.parts() or (np.empty(0, int), np.empty((0, 1)))
        return scores[rows.argsort()].argmax(1)

    def _row(self, model: VideoClassifier, norm: str, begun: str, steps: int = 0, fitted: float | None = None) -> Row:
        classes = self._classes(model)
        return Row(norm, begun, steps, model.results["test"]["top1"], float((classes == self.classes).mean()), fitted)


def data_of(checkpoint: Checkpoint, given: argparse.Namespace, seed: int) -> DataModule:
    """The data module that a checkpoint says, with another seed and what the command line changes of it."""
    said = dict(checkpoint.content["datamodule_hyper_parameters"])
    kind: Any = {"videos": VideoData, "images": ImageData}[said.pop("kind")]
    del said["format"]
    said = {name: PARTS[name](**value) if isinstance(value, dict) else value for name, value in said.items()}
    if given.workers is not None:
        said["loading"] = replace(said["loading"], num_workers=given.workers)
    if given.protocol and "evaluation" in said:
        said["evaluation"] = replace(said["evaluation"], protocol=given.protocol)
    changed = {"root": given.root, "batch_size": given.batch_size}
    return kind(**said | {name: value for name, value in changed.items() if value} | {"seed": seed})


def trainer(**settings: Any) -> pl.Trainer:
    """A trainer that says and writes nothing."""
    silent: Any = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return pl.Trainer(accelerator="auto", devices=1, **silent, **settings)


def table(runs: list[list[Row]]) -> str:
    """The rows of all runs as text, each figure over the runs."""
    lines = [f"{'norm':10} {'from':10} {'steps':>6} {'top-1':>14} {'as BN':>14} {'on its clips':>14}"]
    for same in zip(*runs, strict=True):
        first = same[0]
        figures = (spread([getattr(row, name) for row in same]) for name in ("top1", "as_bn", "fitted"))
        lines.append(f"{first.norm:10} {first.begun:10} {first.steps:6} " + " ".join(f"{text:>14}" for text in figures))
    return "\n".join(lines)


def spread(values: list[float | None]) -> str:
    """Mean and standard deviation of fractions, in %."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return ""
    return f"{statistics.mean(known):.1f}" + (f" +- {statistics.stdev(known):.1f}" if len(known) > 1 else "")


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Prints the table, and returns the rows of each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="of networks of this project with BN, of videos or of images")
    parser.add_argument("--to", nargs="+", default=["gn", "ln", "in"], choices=FITTED, help="default: gn ln in")
    parser.add_argument("--clips", type=int, nargs="+", default=[8, 32, 128], help="training is from the most of them")
    parser.add_argument("--steps", type=int, default=200, help="of training, 0 for none; default: 200")
    parser.add_argument("--base_lr", type=float, default=0.2, help="at 64 clips a step; default: 0.2")
    parser.add_argument("--batch_size", type=int, help="clips of a step; default: the checkpoint's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--root", help="folder of the data; default: the checkpoint's data.root")
    parser.add_argument("--protocol", help="views of a test's video; default: the checkpoint's")
    parser.add_argument("--workers", type=int, help="loader processes; default: the checkpoint's")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(args)
    if min(given.clips) < 1:
        parser.error(f"--clips is {min(given.clips)}; it has to be at least 1")
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    runs: list[list[Row]] = []
    try:
        for path in given.checkpoints:
            for seed in given.seeds:
                runs.append(list(tqdm(Bench(path, given, seed).rows(), f"{path}, seed {seed}", unit=" networks")))
    except InputError as error:
        parser.error(str(error))
    print(f"\n{os.cpu_count()} x {cpu_name()}, torch {installed('torch')}, {date.today().isoformat()}")
    print(table(runs))
    found = {"command": {**vars(given), "json": None}, "runs": [[row._asdict() for row in rows] for rows in runs]}
    if given.json:
        write_text(given.json, json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
