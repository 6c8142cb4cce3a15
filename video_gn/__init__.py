"""Video classification with Group Normalization, for when memory leaves only a few clips per GPU.

Nothing heavy is imported before one of the names below is asked for.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_gn.data.image_data import ImageData as ImageData
    from video_gn.data.settings import Augment as Augment
    from video_gn.data.settings import Clip as Clip
    from video_gn.data.settings import Evaluation as Evaluation
    from video_gn.data.settings import Loading as Loading
    from video_gn.data.video_data import VideoData as VideoData
    from video_gn.kernels.layers import GroupNorm as GroupNorm
    from video_gn.models.convert import convert_norm as convert_norm
    from video_gn.models.norm import make_norm as make_norm
    from video_gn.models.norm_layers import BatchNorm3d as BatchNorm3d
    from video_gn.models.norm_layers import BatchRenorm3d as BatchRenorm3d
    from video_gn.models.norm_layers import FrozenBatchNorm3d as FrozenBatchNorm3d
    from video_gn.models.resnet3d import ResNet3d as ResNet3d
    from video_gn.predict.load import load_model as load_model
    from video_gn.train.classifier import VideoClassifier as VideoClassifier
    from video_gn.train.loss import Loss as Loss
    from video_gn.train.optim import SGD as SGD
    from video_gn.train.optim import AdamW as AdamW
    from video_gn.train.schedule import Cosine as Cosine
    from video_gn.train.schedule import Step as Step
    from video_gn.train.settings import Execution as Execution
    from video_gn.train.settings import Start as Start
    from video_gn.weights.zoo import create_model as create_model
    from video_gn.weights.zoo import list_models as list_models

# fvcore's, at its import, which pytorchvideo's brings.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

_WHERE = {
    "weights.zoo": ("create_model", "list_models"),
    "predict.load": ("load_model",),
    "models.resnet3d": ("ResNet3d",),
    "models.norm": ("make_norm",),
    "models.convert": ("convert_norm",),
    "kernels.layers": ("GroupNorm",),
    "models.norm_layers": ("BatchNorm3d", "BatchRenorm3d", "FrozenBatchNorm3d"),
    "train.classifier": ("VideoClassifier",),
    "train.loss": ("Loss",),
    "train.optim": ("SGD", "AdamW"),
    "train.schedule": ("Step", "Cosine"),
    "train.settings": ("Start", "Execution"),
    "data.video_data": ("VideoData",),
    "data.image_data": ("ImageData",),
    "data.settings": ("Augment", "Clip", "Evaluation", "Loading"),
}
_MODULES = {name: f"video_gn.{module}" for module, names in _WHERE.items() for name in names}
__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("video_gn")
        except PackageNotFoundError:  # run from a folder, not installed
            return "unknown"
    if name not in _MODULES:
        raise AttributeError(f"video_gn has no {name}; it has: {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
