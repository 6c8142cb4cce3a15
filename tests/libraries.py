"""Networks of torchvision and pytorchvideo themselves, for clips of a few frames of 64 x 64 pixels."""

from pytorchvideo.models import hub
from pytorchvideo.models.csn import create_csn
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.x3d import create_x3d
from torch import nn
from torchvision.models import video

SIDE, FRAMES = 64, 8
X3D_L = {"depth_factor": 5.0}


def library(name, num_classes):
    """The library's network with its own BatchNorm, whose head gives logits and fits such clips."""
    if name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        return getattr(video, name)(num_classes=num_classes)
    if name == "s3d":
        net = video.s3d(num_classes=num_classes)
        net.avgpool = nn.AvgPool3d((2, 2, 2), stride=1)
        return net
    given = {"model_num_class": num_classes}
    if name.startswith("x3d"):
        clip = {"input_clip_length": FRAMES, "input_crop_size": SIDE}
        return create_x3d(**given, **clip, head_activation=None, **X3D_L if name == "x3d_l" else {})
    if name.startswith("slowfast"):
        sizes = ((FRAMES // 4, 2, 2), (FRAMES, 2, 2))
        return getattr(hub, name)(**given, head_pool_kernel_sizes=sizes)
    if name == "csn_r101":
        return create_csn(**given, model_depth=101, stem_pool=nn.MaxPool3d, head_pool_kernel_size=(1, 2, 2))
    return create_r2plus1d(**given, head_pool_kernel_size=(2, 2, 2), head_activation=None)
