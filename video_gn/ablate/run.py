"""A run of an ablation: what it will do by its resolved settings, and what exists of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from video_gn.ablate.grid import Cell, command
from video_gn.train.callbacks.bn_statistics import CHOICES
from video_gn.train.callbacks.results import read_results
from video_gn.train.optim import scaled_lr


@dataclass(frozen=True)
class Run:
    """One cell with one seed.

    Attributes:
        cell: Of the grid.
        seed: Of everything drawn.
        folder: Where it is.
        config: Its settings by dotted key, resolved.
    """

    cell: Cell
    seed: int
    folder: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the run and its folder: `gn_32x2_b8_s0`."""
        return self.folder.name

    @property
    def words(self) -> list[str]:
        """After `video-gn`."""
        return command(self.cell, self.seed, self.folder)

    @property
    def command(self) -> list[str]:
        """Its words after `python`."""
        return ["-m", "video_gn", *self.words]

    @property
    def devices(self) -> int:
        """Processes on each node."""
        devices = self.config["trainer.devices"]
        if isinstance(devices, list) or (isinstance(devices, str) and "," in devices):
            return len(devices if isinstance(devices, list) else devices.strip(",").split(","))
        if str(devices) in ("auto", "-1"):
            gpu = self.config["trainer.accelerator"] != "cpu" and torch.cuda.is_available()
            return torch.cuda.device_count() if gpu else 1
        return int(devices)

    @property
    def clips_per_step(self) -> int:
        """Clips behind a step of the optimiser."""
        processes = self.devices * int(self.config["trainer.num_nodes"])
        return processes * self.config["data.batch_size"] * self.config["trainer.accumulate_grad_batches"]

    @property
    def lr(self) -> float:
        """Peak learning rate by the linear rule."""
        return scaled_lr(self.config["model.optimizer.base_lr"], self.clips_per_step)

    @property
    def epochs(self) -> int:
        """Of training."""
        return self.config["trainer.max_epochs"]

    @property
    def batch_norm(self) -> bool:
        """Whether its norm takes statistics over several clips."""
        return self.config.get("model.net.norm") in ("bn", "brn")

    @property
    def norm_clips(self) -> int:
        """Clips of a step that share a norm's statistics."""
        if not self.batch_norm and self.config.get("model.net.norm") != "mabn":
            return 1
        everyone = self.config["trainer.sync_batchnorm"]
        clips = self.config.get("model.net.ghost_batch") or self.config["data.batch_size"]
        return clips * self.devices * int(self.config["trainer.num_nodes"]) if everyone else clips

    @property
    def norm_over(self) -> str:
        """`norm_clips` in words."""
        return f"{self.norm_clips} clip{'s' * (self.norm_clips > 1)}"

    @property
    def cost(self) -> float:
        """Relative length of the run: it grows with the frames that pass through."""
        return self.epochs * self.config.get("data.clip.num_frames", 1)

    @cached_property
    def _wanted(self) -> set[str]:
        return set(CHOICES) if self.config["compare_statistics"] and self.batch_norm else set()

    def written(self) -> dict[str, Any] | None:
        """What its results.json says, if there is one."""
        path = self.folder / "results.json"
        return _read_json(path, path.stat().st_mtime_ns) if path.is_file() else None

    def results(self) -> dict[str, Any] | None:
        """What it measured, if it is finished."""
        results = self.written()
        if results is None:
            return None
        compared = {one.get("bn_statistics") for one in results.get("validations", [])}
        return results if "fit" in results and results.get("tests") and self._wanted <= compared else None

    def said(self) -> str:
        """What it measured, in a few words; empty if it is not finished."""
        results = self.results()
        test = results["tests"][-1] if results else None
        return f"top-1 {100 * test['top1']:.2f} %, top-5 {100 * test['top5']:.2f} %" if test else ""

    @property
    def state(self) -> str:
        """In the plan: finished, half-done, failed before, or nothing."""
        if self.results():
            return "finished"
        note = self.note()
        if note.get("status") == "failed" and "diverged" in note.get("error", ""):
            return f"diverged{self._progress('at')}"
        if (self.folder / "checkpoints" / "last.ckpt").is_file():
            return f"resumes{self._progress('from')}"
        return "failed before" if note.get("status") == "failed" else ""

    def _progress(self, word: str) -> str:
        share = self.progress()
        return f" {word} {100 * share:.0f} %" if share else ""

    def progress(self) -> float:
        """Share of training that is done, as the run says."""
        try:
            path = self.folder / "progress.json"
            said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            return said["steps"] / max(said["of"], 1)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return 0.0

    def note(self) -> dict[str, Any]:
        """What the ablation noted of its last try: status, error, seconds over all tries."""
        path = self.folder / "ablation.json"
        return _read_json(path, path.stat().st_mtime_ns) if path.is_file() else {}


@lru_cache(None)
def _read_json(path: Path, _: int) -> dict[str, Any]:
    return read_results(path)
