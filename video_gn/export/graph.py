"""The network as a graph: from clips of any size to logits and scores, without code."""

import copy
import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.export import Dim

from video_gn.compat import forget_inputs
from video_gn.errors import InputError
from video_gn.models.contract import known
from video_gn.models.conv_weights import fold_weights
from video_gn.models.input import normalize
from video_gn.models.mabn import as_batch_norms
from video_gn.predict.programs import smallest_side
from video_gn.predict.settings import Settings
from video_gn.train.classifier import VideoClassifier

_made: WeakKeyDictionary[VideoClassifier, torch.export.ExportedProgram] = WeakKeyDictionary()


class Graph(nn.Module):
    """The network from clips uint8 `[N, 3, T, H, W]` to logits and scores `[N, K]`, for a fixed T.

    At the training crop the head has one position. On larger frames it has several: `logits` are their mean, `scores`
    the mean of their scores, as in this project's tests. On smaller ones its window is cut to what is there. A head
    without a window averages over all of the features.

    Args:
        model: A classifier in evaluation.
    """

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.net = known(folded(model.net), "an exported graph")
        self.mean, self.std, self.loss = model.mean, model.std, model.loss
        self.window = self.net.window

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        x = self.net.features(normalize(clips, self.mean, self.std))
        if self.window is None:
            logits = self.net.classify(x.mean((2, 3)))
            return logits, self.loss.scores(logits)
        # Every window that begins within the features, the last ones cut: however many there are, nothing here depends
        # on it, so that torch.export need not make cases.
        high, wide = (self._windows(size, self.window) for size in x.shape[2:])
        pooled = nn.functional.avg_pool2d(nn.functional.pad(x, (0, self.window) * 2), self.window, stride=1)
        x = pooled[:, :, :-1, :-1] * (high[1][:, None] * wide[1])
        weights = (high[0][:, None] * wide[0]).flatten()[:, None]
        logits = self.net.classify(x.flatten(2).transpose(1, 2))
        return (logits * weights).sum(1), (self.loss.scores(logits, 2) * weights).sum(1)

    @staticmethod
    def _windows(size: Any, window: int) -> tuple[Tensor, Tensor]:
        """Of windows that begin at each of `size` positions: weight in the mean, and full size by what is there."""
        start = torch.arange(size)
        real = ((start == 0) | (start <= size - window)).float()
        return real / real.sum(), window / (size - start).clamp(max=window)


def folded(net: nn.Module) -> nn.Module:
    """A copy of a network for inference alone: kernels as they are used, averages over batches as BatchNorm."""
    return as_batch_norms(fold_weights(copy.deepcopy(net)))


def program_of(model: VideoClassifier, settings: Settings) -> torch.export.ExportedProgram:
    """The network as a program of ATen's operators, for any batch, height and width; made once for all formats.

    Raises:
        InputError: The model is tested on frames that are smaller than it can take.
    """
    if model in _made:
        return _made[model]
    crop, frames, least = settings.clip["crop_size"], settings.clip["num_frames"], smallest_side(settings)
    if (short := min(tested_size(settings))) < least:
        raise InputError(
            f"an exported graph takes frames from {least} pixels a side, and this model is tested at {short} "
            "(data.evaluation.short_side); take --to safetensors"
        )
    clips = torch.zeros(2, 3, frames, max(crop, least) + 32, max(crop, least) + 64, dtype=torch.uint8)
    sizes = {0: Dim("batch"), 3: Dim("height", min=least), 4: Dim("width", min=least)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        program = torch.export.export(Graph(model).eval(), (clips,), dynamic_shapes={"clips": sizes})
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):  # names of this machine's folders
            node.meta.pop(key, None)
    forget_inputs(program)
    _made[model] = program
    return program


def tested_size(settings: Settings) -> tuple[int, int]:
    """Height and width of frames as the model's test sees them, of a video of about 4 to 3."""
    if settings.clip["images"]:
        return settings.clip["crop_size"], settings.clip["crop_size"]
    side = settings.clip["test_short_side"]
    return side, side * 4 // 3 + 1
