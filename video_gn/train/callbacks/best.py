"""What a run keeps as `last.ckpt`, to resume from, and as `best.ckpt`: settings and tie-breaks of ModelCheckpoint."""

import math
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from video_gn.train.metrics import MultiLabelAccuracy

MONITORS = tuple(f"val/{name}" for name in MultiLabelAccuracy.names)


class LastCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt` when it is asked to, as Lightning's ModelCheckpoint, and says what `best.ckpt` is the best of.

    Args:
        monitor: Figure of validation by which `best.ckpt` is chosen: the lowest loss, or the highest of another one.
        kwargs: Of ModelCheckpoint.
    """

    def __init__(self, monitor: str = "val/top1", **kwargs: Any) -> None:
        # The newest state follows nothing that is measured.
        super().__init__(monitor=None, mode="min", **kwargs)
        self.best_of = monitor

    @property
    def state_key(self) -> str:
        return _as_lightnings(super().state_key)


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`; of two equal figures, that with the lower validation loss counts, then the later one.

    Args:
        folder: Of the checkpoints.
        monitor: One of `MONITORS`.
    """

    def __init__(self, folder: str, monitor: str) -> None:
        mode = "min" if monitor == "val/loss" else "max"
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.loss = math.inf  # of the best

    @property
    def state_key(self) -> str:
        return _as_lightnings(super().state_key)

    def check_monitor_top_k(self, trainer: Any, current: Tensor | None = None) -> bool:
        better = super().check_monitor_top_k(trainer, current)
        if current is None:
            return better
        loss = float(trainer.callback_metrics.get("val/loss", math.nan))
        loss = math.inf if math.isnan(loss) else loss  # no video was readable
        if not better and bool(current == self.best_k_models[self.kth_best_model_path]):
            better = loss <= self.loss
        if better:
            self.loss = loss
        return better

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.loss = float(state_dict.get("loss", math.inf))


def _as_lightnings(key: str) -> str:
    """The name of a callback's state in checkpoints, which have had it before these classes."""
    return f"{ModelCheckpoint.__qualname__}{key[key.index('{') :]}"
