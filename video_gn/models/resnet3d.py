"""The I3D ResNet (Wang et al. 2018, Table 1; Wu & He 2018, section 4.3), made of pytorchvideo's own parts.

State-dict names are pytorchvideo's. For a 32-frame clip of 224 x 224 pixels:

| block | layers                                                          | output T x H x W |
|-------|-----------------------------------------------------------------|------------------|
| stem  | conv 5x7x7, 64, stride 2,2,2; max pool 3x3x3, stride 2,2,2      | 8 x 56 x 56      |
| res2  | 3 bottlenecks, all of them inflated                             | 8 x 56 x 56      |
| pool2 | max pool 2x1x1, stride 2,1,1                                    | 4 x 56 x 56      |
| res3  | 4 bottlenecks, 0 and 2 inflated                                 | 4 x 28 x 28      |
| res4  | 6 bottlenecks, 0, 2 and 4 inflated                              | 4 x 14 x 14      |
| res5  | 3 bottlenecks, 1 inflated                                       | 4 x 7 x 7        |
| head  | average over T and a window of H x W, dropout, linear           | 1 x 1 x 1        |

"Inflated" is a first kernel of 3x1x1 in place of 1x1x1. The network is fully convolutional: on frames larger than
the training crop, the head's window slides and gives logits at each of its positions.
"""

from math import ceil
from typing import Any

from pytorchvideo.models.net import Net
from torch import nn

from video_gn.models.architectures import ARCHS, DEPTHS, MAX_WIDTH, NONLOCAL, nonlocal_places
from video_gn.models.blocks import Bottleneck, NonLocal, PreActBottleneck
from video_gn.models.build import make_blocks
from video_gn.models.conv_weights import form_weights
from video_gn.models.interface import Known
from video_gn.models.norm import RULES as NORM_RULES
from video_gn.models.norm import Norm, make_norm, norm_label, norm_options
from video_gn.rules import BELOW_1, FLAG, Rule, one_of, whole

# Of the network's settings.
RULES: dict[str, Rule] = {
    "arch": one_of(ARCHS),
    "depth": one_of(DEPTHS),
    "width": whole(1, MAX_WIDTH),
    **NORM_RULES,
    "dropout": BELOW_1,
    "drop_path": BELOW_1,
    "zero_init_gamma": FLAG,
    "nonlocal_blocks": one_of(sorted({0, *(count for _, count in NONLOCAL)})),
}


class ResNet3d(Net, Known):
    """The I3D ResNet: clips `[N, 3, T, H, W]` to logits `[N, num_classes, 1, h, w]`, 1 x 1 x 1 at the training crop.

    Convolutions start from He's normal, gamma from 1 and beta from 0; the linear layer from N(0, 0.01).

    Args:
        num_classes: K.
        arch: Kernels and strides, a key of `video_gn.models.architectures.ARCHS`.
        depth: Layers: 50 and 101 are the papers', 11 and 14 small ones.
        width: Channels of the stem; stage i has `4 * 2**i * width`. The papers' is 64.
        norm: A key of `video_gn.models.norm.NORMS`, or a function of the channel count.
        num_groups: Groups of `gn` and `evonorm_s0`.
        channels_per_group: Channels of each of their groups, in place of `num_groups`.
        ghost_batch: Clips that share statistics in `bn` and `brn`: consecutive groups of so many clips of a larger
            batch (Hoffer et al. 2017), so that one GPU with 32 clips trains as 8 GPUs with 4 each. None takes all
            clips of the GPU.
        r_max: Largest correction of the scale in `brn`.
        d_max: Largest correction of the mean in `brn`, in standard deviations.
        freeze_affine: Whether `frozen_bn` fixes gamma and beta too.
        average_batches: Batches over which `mabn` averages.
        weight_standardization: Whether kernels are standardised (Qiao et al. 2019; `video_gn.models.conv_weights`).
        dropout: Before the linear layer.
        drop_path: Probability with which a clip passes the last residual block by its shortcut alone in training; that
            of the others rises to it linearly (stochastic depth, Huang et al. 2016).
        zero_init_gamma: Whether gamma of each bottleneck's last norm starts at 0 (Wu & He 2018, section 4.1), which
            makes every residual block its shortcut at first. Where a branch ends in a convolution (`resnetv2`), its
            kernel starts at 0 instead; but not with weight standardization, which would blow it up at the first step,
            whatever the learning rate: there branches start as they are, as BiT's.
        nonlocal_blocks: How many non-local blocks are in res3 and res4 (Wang et al. 2018, section 4.1): 5, behind
            every other bottleneck (`video_gn.models.architectures.NONLOCAL`), 10, behind every one, or none. Depth 50
            takes 5 and 10, depth 101 takes 5. Each begins as the identity.

    Raises:
        InputError: A setting that cannot be, or channels that the norm's groups do not divide (the message names the
            layer).
    """

    rules = RULES

    def __init__(
        self,
        num_classes: int,
        arch: str = "i3d",
        depth: int = 50,
        width: int = 64,
        norm: str | Norm = "gn",
        num_groups: int = 32,
        channels_per_group: int | None = None,
        ghost_batch: int | None = None,
        r_max: float = 1.5,
        d_max: float = 0.5,
        freeze_affine: bool = False,
        average_batches: int = 16,
        weight_standardization: bool = False,
        dropout: float = 0.5,
        drop_path: float = 0.0,
        zero_init_gamma: bool = True,
        nonlocal_blocks: int = 0,
    ) -> None:
        given = locals()
        settings = {name: given[name] for name in RULES}
        settings["norm"] = norm if isinstance(norm, str) else getattr(norm, "__name__", "a function")
        ruled = settings if isinstance(norm, str) else {name: settings[name] for name in RULES if name != "norm"}
        self.check_settings(num_classes, ruled)
        layer = norm if callable(norm) else make_norm(norm, **norm_options(settings))
        places = nonlocal_places(depth, nonlocal_blocks)
        super().__init__(
            blocks=make_blocks(num_classes, ARCHS[arch], DEPTHS[depth], width, layer, dropout, zero_init_gamma, places)
        )
        self.settings = settings
        for module in self.modules():
            if isinstance(module, NonLocal):
                module.reset_parameters()
            elif isinstance(module, PreActBottleneck) and zero_init_gamma and not weight_standardization:
                nn.init.zeros_(module.conv_c.weight)
        if weight_standardization or norm == "mabn":
            form_weights(self, "standardized" if weight_standardization else "centered")
        blocks = [module for module in self.modules() if isinstance(module, Bottleneck)]
        for i, block in enumerate(blocks, 1):
            block.drop_path = drop_path * i / len(blocks)

    @property
    def arch(self) -> str:
        """Its kernels and strides, a key of `ARCHS`."""
        return self.settings["arch"]

    @property
    def norm(self) -> str:
        """Its norm in a word, with GN's division."""
        return norm_of(self.settings)

    @property
    def stages(self) -> list[nn.Module]:
        """The stem and the residual stages, from the first layer on."""
        return [block for block in self.blocks[:-1] if any(True for _ in block.parameters())]

    @property
    def head(self) -> Any:
        """What is new for other classes."""
        return self.blocks[-1]

    @property
    def min_frames(self) -> int:
        """Frames of the shortest clip that it takes."""
        return ARCHS[self.arch].min_frames

    def set_crop_size(self, crop_size: int) -> None:
        """Sets the head's window to what a training crop comes to, of so many pixels a side; it is made for 224."""
        stride = ARCHS[self.arch].spatial_stride(len(DEPTHS[self.settings["depth"]]))
        self.head.pool.window = ceil(crop_size / stride)

    @staticmethod
    def label(settings: Any) -> str:
        """A network with these settings as it is called in the name of a run: `i3d_r50_gn`, `i3d_r50_nl5_gn`."""
        width = "" if settings["width"] == 64 else f"w{settings['width']}"
        blocks = f"_nl{count}" if (count := settings.get("nonlocal_blocks", 0)) else ""
        return f"{settings['arch']}_r{settings['depth']}{width}{blocks}_{norm_of(settings)}"

    @classmethod
    def summary(cls, settings: Any) -> str:
        blocks = f", {count} non-local blocks" if (count := settings.get("nonlocal_blocks", 0)) else ""
        return f"ResNet-{settings['depth']} of width {settings['width']}, arch `{settings['arch']}`{blocks}"

    @classmethod
    def positions(cls, settings: Any, pixels: int) -> int:
        arch = ARCHS[settings["arch"]]
        last = arch.positions(pixels, len(DEPTHS[settings["depth"]]))
        return min(last, arch.positions(pixels, 3) // 2) if settings.get("nonlocal_blocks") else last


def norm_of(settings: Any) -> str:
    """The norm of a network with these settings as the names of runs have it: `gn8_ws` (`norm_label`)."""
    division = settings["num_groups"], settings.get("channels_per_group")
    return norm_label(settings["norm"], *division, settings.get("weight_standardization", False))
