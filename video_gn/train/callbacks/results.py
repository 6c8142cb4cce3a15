"""What a run leaves behind for people and programs: results.json, and the table of a test."""

import itertools
import json
import logging
import os
import platform
import resource
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from video_gn.console import printable
from video_gn.distributed import gather
from video_gn.errors import InputError
from video_gn.files.commit import source_commit
from video_gn.files.locks import FolderLock
from video_gn.files.text import ESCAPED, read_text, write_json, write_text
from video_gn.files.writing import make_folder
from video_gn.models.norm import batch_norms
from video_gn.rules import plain
from video_gn.train.callbacks.bn_statistics import EvaluationStatistics
from video_gn.train.callbacks.history import HISTORY_FILE, medians
from video_gn.train.callbacks.memory import StepMemory
from video_gn.train.callbacks.position import Position
from video_gn.train.callbacks.speed import Progress
from video_gn.train.outcomes import VideoScores, gather_scores
from video_gn.train.page.write import figures_of, make_page, say_worst, write_figures, write_page

log = logging.getLogger(__name__)
PACKAGES = ("video_gn", "torch", "pytorch-lightning", "pytorchvideo", "decord2", "torchvision")
PARTS, EVALUATIONS = ("run", "versions", "fit", "diverged"), ("tests", "validations")  # of results.json
PATIENCE = 60.0  # seconds for which another process may take to write results.json
# Of the last epoch; "unreadable" and "fallbacks" count videos over all processes.
TRAIN_METRICS = {"loss": "epoch_loss", "top1": "epoch_top1", "unreadable": "unreadable", "fallbacks": "fallbacks"}


class RunReport(pl.Callback):
    """Keeps `results.json` in the run's folder and prints the test table.

    Beside it is for each test `test-0.csv` (named in `results.json`) with what became of each video: its true and
    predicted class, the rank of the true one among the scores (1 is top-1), and the scores of both; empty for an
    unreadable video, and for scores that are not finite. Its figures by class are beside that, and in `report.html`
    (`video_gn.train.page`).

    Args:
        run_dir: The run's folder.
        name: The run's name.
        settings: What tells this run from others, beyond the hyper-parameters: seed, precision and the like.
        config: The resolved configuration of a fit, as text.
    """

    def __init__(self, run_dir: Path, name: str, settings: dict[str, Any], config: str | None = None) -> None:
        self.path, self.name, self.settings = run_dir / "results.json", name, settings
        self.config = config

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        read_results(self.path)  # before hours of work whose results would have no place
        source_commit()  # of the code that begins, whatever becomes of its files meanwhile
        if trainer.is_global_zero and not trainer.fast_dev_run:
            make_folder(self.path.parent)

    @rank_zero_only
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Writes config.yaml; a resumed run with other settings gets config-1.yaml and so on beside it."""
        if self.config is not None and not trainer.fast_dev_run:
            folder, number = self.path.parent, 0
            path = folder / "config.yaml"
            config = self.config.encode("utf-8", ESCAPED)
            while path.exists() and path.read_bytes() != config and trainer.ckpt_path:
                number += 1
                path = folder / f"config-{number}.yaml"
            write_text(path, self.config)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        train = pl_module.training_means()
        position, progress = (_callback(trainer, kind) for kind in (Position, Progress))
        cuda, counted = _on_gpu(trainer), _callback(trainer, StepMemory).counted
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        fit = {
            "epochs": position.begun,
            "steps": trainer.global_step,
            "clips_per_s": progress.clips_per_s,
            "peak_memory_gib": peak / 2**30,
            "peak_memory_of": "GPU 0, allocated" if cuda else "main process, resident",
            "counted_memory_gib": counted and counted / 2**30,
            **({"reserved_memory_gib": torch.cuda.max_memory_reserved() / 2**30} if cuda else {}),
            "cuda_graph": pl_module.call.graphed,
            "train": {name: train.get(key) for name, key in TRAIN_METRICS.items()},
            "val": pl_module.results.get("val"),
            "val_median": medians(self.path.with_name(HISTORY_FILE)),
        }
        with self._alone(trainer):
            self._update(trainer, pl_module, "fit", fit)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Notes when training diverged."""
        step = getattr(exception, "step", None)
        if trainer.is_global_zero and trainer.state.fn == "fit" and step is not None:
            with self._alone(trainer):
                content = {"step": step, "epoch": trainer.current_epoch, "reason": str(exception)}
                self._update(trainer, pl_module, "diverged", content)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self._evaluated(trainer, pl_module, "test")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "validate":
            self._evaluated(trainer, pl_module, "val")

    def _evaluated(self, trainer: Any, pl_module: Any, split: str) -> None:
        data = trainer.datamodule
        seen = data.seen[split]
        result = seen | {
            "checkpoint": str(trainer.ckpt_path or _averaged(trainer) or "weights at the end of training"),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **pl_module.results[split],
            "bn_statistics": bn_statistics(trainer) if batch_norms(pl_module.net) else None,
            **({"norm_layers": pl_module.norm_layers} if pl_module.norm_layers else {}),
            "unreadable_videos": self._named(trainer, data.failures),
            "damaged_videos": self._named(trainer, data.damaged),
            "fallbacks": self._named(trainer, data.fallbacks),
        }
        names, tested = pl_module.class_names, None
        if split == "test":
            tested = gather_scores(trainer, pl_module.outcomes, names, result["unreadable_videos"])
        with self._alone(trainer):  # another test of this run may end at the same time
            number = len(read_results(self.path).get("tests", []))
            if tested:
                result["videos_file"] = self._write_tested(trainer, number, tested)
            self._update(trainer, pl_module, "tests" if split == "test" else "validations", result)
        by = f", BN by its {result['bn_statistics']} statistics" if result["bn_statistics"] else ""
        name = read_results(self.path).get("run", {}).get("name", self.name)  # of the training that this is a test of
        print_table(f"{name}, {split} by {seen['protocol']} ({seen['views']}){by}", result)
        if tested:
            self._show(trainer, number, tested)

    def _alone(self, trainer: Any) -> AbstractContextManager:
        """Within it, this process alone changes results.json."""
        writes = trainer.is_global_zero and not trainer.fast_dev_run
        return FolderLock(self.path.parent, PATIENCE, "results.lock") if writes else nullcontext()

    @rank_zero_only
    def _write_tested(self, trainer: Any, number: int, tested: VideoScores) -> str | None:
        """Writes what became of each video of the test, and its figures; gives the name of the videos' file."""
        if trainer.fast_dev_run:
            return None
        path = self.path.with_name(f"test-{number}.csv")
        tested.write(path)
        if figures := figures_of(tested):
            write_figures(path.parent, number, tested, figures)
        return path.name

    @rank_zero_only
    def _show(self, trainer: Any, number: int, tested: VideoScores) -> None:
        """Prints the classes that fare worst, and writes the page; what fails at it fails no test."""
        if not (figures := figures_of(tested)):
            return
        for line in say_worst(tested, figures):
            print(printable(line))
        if trainer.fast_dev_run:
            return
        folder, results = self.path.parent, read_results(self.path)
        try:
            page = make_page(folder, number, tested, figures, results, trainer.datamodule)
            with self._alone(trainer):
                path = write_page(folder, number, page)
        except Exception as error:  # the test itself is done, and a fit may go before it
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            log.warning("no page of this test could be written (%s%s); its figures are in results.json", kind, error)
        else:
            print(printable(f"what is right and wrong, video by video: {path}"))

    def _named(self, trainer: Any, videos: dict[str, Any]) -> dict[str, str]:
        """Path and reason, over all processes, of the videos named in this stage."""
        parts = gather(trainer, videos.get(trainer.state.stage.value, {}))
        return {path: failure.reason for part in parts for path, failure in part.items()}

    @rank_zero_only
    def _update(self, trainer: Any, pl_module: Any, part: str, content: dict[str, Any]) -> None:
        """Adds to what is there: earlier evaluations stay."""
        if trainer.fast_dev_run:
            return
        results = read_results(self.path)
        if part in ("fit", "diverged") or "run" not in results:
            results["run"] = self._run(trainer, pl_module)
            results["versions"] = versions()
        if part == "fit" and results.get(part, {}).get("steps") == content["steps"] and not content["clips_per_s"]:
            pass  # a run that was trained to its end earlier, and is resumed for what follows
        elif part in ("fit", "diverged"):
            results.pop("diverged", None)
            results[part] = content
        else:
            results.setdefault(part, []).append(content)
        write_json(self.path, results)

    def _run(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        model, data = dict(pl_module.hparams), dict(trainer.datamodule.hparams)
        model.pop("class_names", None)
        device = torch.cuda.get_device_name() if _on_gpu(trainer) else f"{os.cpu_count()} CPU cores"
        return {
            "name": self.name,
            "clip": trainer.datamodule.label,
            **({"clips_per_step": pl_module.clips_per_step, "lr": pl_module.lr} if trainer.state.fn == "fit" else {}),
            "world_size": trainer.world_size,
            "device": device,
            "norm_kernels": pl_module.call.norm_kernels,
            "execution": plain(pl_module.call.execution),
            "optimizer": f"{pl_module.optimizer}; {pl_module.schedule}",
            **self.settings,
            "model": model,
            "data": data,
        }


def read_results(path: Path) -> dict[str, Any]:
    """A run's `results.json`; empty if it is not there.

    Raises:
        InputError: It is not what a run writes.
    """
    try:
        results = json.loads(read_text(path)) if path.is_file() else {}
        evaluations = [results.get(part, []) for part in EVALUATIONS]
        parts = [results, *(results.get(part, {}) for part in PARTS), *itertools.chain(*evaluations)]
        if all(isinstance(part, dict) for part in parts) and all(isinstance(one, list) for one in evaluations):
            return results
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(f"{path} is damaged: it is not what a run wrote; move it away")


def _on_gpu(trainer: Any) -> bool:
    """Also where training has ended, and Lightning has moved the module back to the CPU."""
    return trainer.strategy.root_device.type == "cuda"


def _callback(trainer: Any, kind: type) -> Any:
    return next(one for one in trainer.callbacks if isinstance(one, kind))


def bn_statistics(trainer: Any) -> str:
    """Which statistics BatchNorm normalizes by in this run's evaluations."""
    return next((one.use for one in trainer.callbacks if isinstance(one, EvaluationStatistics)), "running")


def _averaged(trainer: Any) -> Path | None:
    """The checkpoint of averaged weights that this training ended with."""
    return next((path for one in trainer.callbacks if (path := getattr(one, "averaged", None))), None)


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that figures depend on, and the commit of a clone."""
    packages = {package: _version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **packages, "commit": source_commit()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder, not installed
        return None


@rank_zero_only
def print_table(title: str, result: dict[str, Any]) -> None:
    """An evaluation's figures as people read them."""
    print(f"\n{title}")
    several = {"mAP": "map", "macro-F1": "macro_f1"} if "map" in result else {}
    shares = several | {"video top-1": "top1", "video top-5": "top5", "clip top-1": "clip_top1"}
    head = (*shares, "videos", "unreadable")
    cells = [f"{100 * result[key]:.2f} %" for key in shares.values()]
    cells += [f"{result['videos']:.0f}", f"{result['unreadable']:.0f}"]
    print("  ".join(f"{title:>12}" for title in head))
    print("  ".join(f"{cell:>12}" for cell in cells))
    if result["unreadable"]:
        print("unreadable videos count as wrong; they are named above")
    if result["not_finite"]:
        print(f"the scores of {result['not_finite']:.0f} videos are not finite; they count as wrong")
