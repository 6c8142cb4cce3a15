"""Networks of torchvision and pytorchvideo by their names there, with any norm of the family.

Each class has the name of its network in lower case, which is the word of the command line and of configs. Weights that
a library publishes for a network have the names below `body`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from pytorchvideo.models import hub
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.resnet import ResBlock
from torch import Tensor, nn
from torchvision.models import video
from torchvision.models.video.resnet import BasicBlock
from torchvision.ops import StochasticDepth

from video_gn.errors import InputError
from video_gn.models.network import Network
from video_gn.models.published import TORCHVISION_VIDEO, PublishedClip


class _OfTorchvision(Network):
    """Mean and std are those of its `VideoClassification` transforms."""

    library = "torchvision"
    mean, std = TORCHVISION_VIDEO

    def build(self, num_classes: int) -> Any:
        return getattr(video, type(self).__name__)(num_classes=num_classes)


class _VideoResNet(_OfTorchvision):
    """Clips are of 16 frames at 15 a second, crops of 112 pixels of frames of 128 (torchvision's docs and transforms).

    Its head averages over all positions.
    """

    stride = 16
    first = ("stem.0.weight",)
    published = PublishedClip(16, 2, 112, (128, 128), 128)

    def residual_blocks(self) -> list[Any]:
        return [block for block in self.body.modules() if isinstance(block, BasicBlock)]

    def last_norms(self) -> Iterable[nn.Module]:
        return [block.conv2[1] for block in self.residual_blocks()]

    def drop(self, block: Any, rate: float) -> None:
        block.conv2.append(StochasticDepth(rate, "row"))

    def set_crop_size(self, crop_size: int) -> None:
        self.window = None

    @property
    def stages(self) -> list[nn.Module]:
        return [self.body.stem, self.body.layer1, self.body.layer2, self.body.layer3, self.body.layer4]

    @property
    def classifier(self) -> Any:
        return self.body.fc


class r3d_18(_VideoResNet):
    """The 3D ResNet of 18 layers (Tran et al. 2018), torchvision's."""


class mc3_18(_VideoResNet):
    """The ResNet of 18 layers whose first stage alone convolves over time (Tran et al. 2018), torchvision's."""


class r2plus1d_18(_VideoResNet):
    """R(2+1)D of 18 layers: kernels over space, then over time (Tran et al. 2018), torchvision's."""


class s3d(_OfTorchvision):
    """S3D, the separable Inception (Xie et al. 2018), torchvision's.

    It has no residual branches. Clips are of 128 frames at 15 a second, crops of 224 pixels of frames of 256
    (torchvision's docs and transforms). The features are averaged over 2 frames and the window, and logits over time.
    """

    stride = 16
    first = ("features.0.0.0.weight",)
    published = PublishedClip(128, 2, 224, (256, 256), 256)
    usual_dropout = 0.2
    min_frames = 5  # of which its temporal strides leave 3, 2 and 1; 14 in torchvision, whose last pool is not cut

    def trunk(self, x: Tensor) -> Tensor:
        return self.body.features(x)

    def features(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return nn.functional.avg_pool3d(x, (min(2, x.shape[2]), 1, 1), stride=1).mean(2)

    def classify(self, x: Tensor) -> Tensor:
        return _pointwise(self.classifier, self.dropout(x))

    @property
    def stages(self) -> list[nn.Module]:
        return [layer for layer in self.body.features if any(True for _ in layer.parameters())]

    @property
    def classifier(self) -> Any:
        return self.body.classifier[1]

    @classmethod
    def positions(cls, settings: Any, pixels: int) -> int:
        return super().positions(settings, pixels) // 2  # the last pool is not padded


class _OfPytorchvideo(Network):
    """Mean and std are 0.45 and 0.225, as its transforms have them."""

    library = "pytorchvideo"

    def residual_blocks(self) -> list[Any]:
        return [block for block in self.body.modules() if isinstance(block, ResBlock)]

    def last_norms(self) -> Iterable[nn.Module]:
        return [block.branch2.norm_c for block in self.residual_blocks()]

    def drop(self, block: Any, rate: float) -> None:
        block.branch_fusion = _Sum(rate)

    @property
    def stages(self) -> list[nn.Module]:
        return list(self.body.blocks[:-1])

    @property
    def classifier(self) -> Any:
        return self.body.blocks[-1].proj


class r2plus1d_r50(_OfPytorchvideo):
    """R(2+1)D of 50 layers (Tran et al. 2018), pytorchvideo's; clips as in PySlowFast's R2PLUS1D_16x4_R50."""

    published = PublishedClip(16, 4)
    usual_dropout = 0.5

    def build(self, num_classes: int) -> Any:
        return create_r2plus1d(model_num_class=num_classes)


class csn_r101(_OfPytorchvideo):
    """ir-CSN of 101 layers, whose 3x3x3 kernels are depthwise (Tran et al. 2019), pytorchvideo's.

    Clips as in PySlowFast's CSN_32x2_R101.
    """

    published = PublishedClip(32, 2)

    def build(self, num_classes: int) -> Any:
        return hub.csn_r101(model_num_class=num_classes)


class _X3d(_OfPytorchvideo):
    """X3D (Feichtenhofer 2020), pytorchvideo's; clips as in PySlowFast's X3D configs.

    Its head has two layers after the average, and a ReLU between them.
    """

    first = ("blocks.0.conv.conv_t.weight",)
    usual_dropout = 0.5

    def build(self, num_classes: int) -> Any:
        return getattr(hub, type(self).__name__)(model_num_class=num_classes, inner_act=nn.SiLU)

    def without_norm(self) -> list[Any]:
        return [self.body.blocks[-1].pool.post_conv]

    def features(self, x: Tensor) -> Tensor:
        pool = self.body.blocks[-1].pool
        return pool.pre_act(pool.pre_norm(pool.pre_conv(self.trunk(x)))).mean(2)

    def classify(self, x: Tensor) -> Tensor:
        pool = self.body.blocks[-1].pool
        return self.classifier(self.dropout(pool.post_act(_pointwise(pool.post_conv, x))))

    def activation(self, x: Tensor, label: int) -> Tensor:
        raise InputError(_no_map(self, "a ReLU between its last two layers"))


class x3d_xs(_X3d):
    """X3D-XS (Feichtenhofer 2020), pytorchvideo's; clips as in PySlowFast's X3D_XS."""

    published = PublishedClip(4, 12, 160, (182, 228), 182)


class x3d_s(_X3d):
    """X3D-S (Feichtenhofer 2020), pytorchvideo's; clips as in PySlowFast's X3D_S."""

    published = PublishedClip(13, 6, 160, (182, 228), 182)


class x3d_m(_X3d):
    """X3D-M (Feichtenhofer 2020), pytorchvideo's; clips as in PySlowFast's X3D_M."""

    published = PublishedClip(16, 5)


class x3d_l(_X3d):
    """X3D-L (Feichtenhofer 2020), pytorchvideo's; clips as in PySlowFast's X3D_L."""

    published = PublishedClip(16, 5, 312, (356, 446), 356)


class _SlowFast(_OfPytorchvideo):
    """SlowFast 8x8 (Feichtenhofer et al. 2019), pytorchvideo's; clips as in PySlowFast's SLOWFAST_8x8_R50.

    The fast pathway sees all T frames, the slow one every fourth as PySlowFast takes them: evenly from the first to the
    last, rounded down. Where 4 does not divide T, the slow pathway has one frame more, and the fusion fits.
    """

    first = ("blocks.0.multipathway_blocks.0.conv.weight", "blocks.0.multipathway_blocks.1.conv.weight")
    published = PublishedClip(32, 2)
    usual_dropout = 0.5

    def build(self, num_classes: int) -> Any:
        return getattr(hub, type(self).__name__)(model_num_class=num_classes)

    def features(self, x: Tensor) -> Tensor:
        pathways = [torch.stack([x[:, :, i] for i in slow_frames(x.shape[2])], 2), x]
        for stage in self.stages:
            pathways = stage(pathways)
        return torch.cat([pathway.mean(2) for pathway in pathways], 1)

    @property
    def stages(self) -> list[nn.Module]:
        return list(self.body.blocks[:-2])

    def activation(self, x: Tensor, label: int) -> Tensor:
        raise InputError(_no_map(self, "two pathways of different lengths"))


class slowfast_r50(_SlowFast):
    """SlowFast 8x8 of 50 layers (Feichtenhofer et al. 2019), pytorchvideo's; clips as in SLOWFAST_8x8_R50."""


class slowfast_r101(_SlowFast):
    """SlowFast 8x8 of 101 layers (Feichtenhofer et al. 2019), pytorchvideo's; clips as in SLOWFAST_8x8_R101."""


class _Sum(StochasticDepth):
    """A shortcut and its branch, which a clip passes by at a rate."""

    def __init__(self, rate: float) -> None:
        super().__init__(rate, "row")

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:  # type: ignore[override]
        return shortcut + super().forward(branch)


def slow_frames(frames: int) -> list[int]:
    """Of so many frames those that the slow pathway sees.

    PySlowFast's, in whole numbers: of 160 and of 544 frames its float32 arithmetic takes one that is a frame earlier.
    """
    count = -(-frames // 4)
    return [i * (frames - 1) // max(count - 1, 1) for i in range(count)]


def _pointwise(conv: Any, x: Tensor) -> Tensor:
    """A 1x1x1 convolution over the last dimension."""
    return nn.functional.linear(x, conv.weight.flatten(1), conv.bias)


def _no_map(net: nn.Module, why: str) -> str:
    return f"{type(net).__name__} has no class-activation map: it has {why}; leave --cam out"


NETWORKS: dict[str, type[Network]] = {
    kind.__name__: kind
    for kind in (
        *(r3d_18, mc3_18, r2plus1d_18, s3d, r2plus1d_r50, x3d_xs, x3d_s, x3d_m, x3d_l),
        *(slowfast_r50, slowfast_r101, csn_r101),
    )
}
