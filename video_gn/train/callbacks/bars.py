"""The progress bars of a run: one line each that fits into 80 columns."""

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from video_gn.console import progress

WIDE = 110  # columns from which there is room for a bar between the words
EVERY = 0.3  # seconds from one look at the figures to the next: each waits for a GPU


def asks_each_step(trainer: Any) -> bool:
    """Whether there is a bar other than this one, for which Lightning asks the GPU for figures at each step."""
    return not isinstance(trainer.progress_bar_callback, ProgressBar | None)


def _reaches(stage: str) -> Callable[..., None]:
    """The hook after a batch of an evaluation."""
    return lambda bars, trainer, pl_module, outputs, batch, batch_idx, *_: bars.reach(stage, batch_idx)


class ProgressBar(pl.callbacks.ProgressBar):
    """Of training: epoch of epochs, time left, clips a second, loss and the last validation's top-1."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._bars: dict[str, tqdm] = {}
        self._looked = 0.0

    def disable(self) -> None:
        self._shown = False

    def enable(self) -> None:
        self._shown = True

    def _open(self, stage: str, name: str, total: float, done: int = 0, leave: bool = True) -> None:
        self._close(stage)
        middle = " |{bar}|" if shutil.get_terminal_size().columns >= WIDE else ""
        self._bars[stage] = progress(
            total=int(total) if math.isfinite(total) else None,
            desc=name,
            initial=done,
            leave=leave,
            position=len(self._bars),
            file=sys.stdout,
            disable=not self._shown,
            dynamic_ncols=True,
            bar_format=f"{{desc}}{middle} {{n_fmt}}/{{total_fmt}}, {{remaining}} left{{postfix}}",
        )

    def reach(self, stage: str, batch_idx: int) -> None:
        if bar := self._bars.get(stage):
            bar.update(batch_idx + 1 - bar.n)

    def _close(self, *stages: str) -> None:
        for stage in stages or list(self._bars):
            bar = self._bars.pop(stage, None)
            if bar and not bar.disable:
                bar.bar_format = (bar.bar_format or "").replace("{remaining} left", "{elapsed}")
                bar.close()

    # Training

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self._open_training(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if "train" not in self._bars:  # resumed within an epoch, which is not said to begin
            self._open_training(trainer, batch_idx)

    def _open_training(self, trainer: Any, done: int = 0) -> None:
        epochs = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else "?"
        self._open("train", f"epoch {trainer.current_epoch + 1}/{epochs}", trainer.num_training_batches, done)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._shown and time.monotonic() - self._looked > EVERY:
            self._say(trainer)
        self.reach("train", batch_idx)

    def _say(self, trainer: Any) -> None:
        """Puts the figures behind the bar of training."""
        self._looked = time.monotonic()
        found, bar = trainer.callback_metrics, self._bars.get("train")
        forms = {"train/clips_per_s": "{:.1f} clips/s", "train/loss": "loss {:.3f}"}
        words = [form.format(float(found[name])) for name, form in forms.items() if name in found]
        words += [f"val/top1 {100 * found['val/top1']:.1f} %"] if "val/top1" in found else []
        if bar:
            bar.set_postfix_str(", ".join(words), refresh=False)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._say(trainer)
        self._close("train")

    # Evaluation; the look at validation before training has no bar

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._evaluate("val", "validation", trainer.num_val_batches, trainer.state.fn == "validate")

    def on_test_batch_start(self, trainer: Any, *_: Any) -> None:
        self._evaluate("test", "test", trainer.num_test_batches)

    def on_predict_batch_start(self, trainer: Any, *_: Any) -> None:
        self._evaluate("predict", "prediction", trainer.num_predict_batches)

    def _evaluate(self, stage: str, name: str, batches: list[float], leave: bool = True) -> None:
        if stage not in self._bars:
            self._open(stage, name, sum(batches), leave=leave)

    on_validation_batch_end = _reaches("val")
    on_test_batch_end = _reaches("test")
    on_predict_batch_end = _reaches("predict")

    def on_validation_end(self, *_: Any) -> None:
        self._close("val")

    def on_test_end(self, *_: Any) -> None:
        self._close("test")

    def on_predict_end(self, *_: Any) -> None:
        self._close("predict")

    # What comes after a bar begins on a line of its own

    def on_exception(self, *_: Any) -> None:
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._close()
