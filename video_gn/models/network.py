"""What every network of another library is here: its parts under the library's names, with a norm of the family."""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.models.blocks import Conv3d
from video_gn.models.interface import Known
from video_gn.models.norm import OPTIONS
from video_gn.models.norm import RULES as NORM_RULES
from video_gn.models.published import PublishedClip
from video_gn.models.replace import replace_norms
from video_gn.models.resnet3d import norm_of
from video_gn.rules import BELOW_1, FLAG, or_none

# Of the settings, which are those of `ResNet3d` but for what makes its architecture.
RULES = NORM_RULES | {"dropout": or_none(BELOW_1), "drop_path": BELOW_1, "zero_init_gamma": FLAG}


class Network(Known):
    """A network of another library: clips `[N, 3, T, H, W]` to logits `[N, num_classes, 1, h, w]`.

    It is fully convolutional: h and w are 1 at the training crop, and more on larger frames. Where channels are not
    divisible by `num_groups`, GN has fewer groups there (`video_gn.models.replace`).

    Args:
        num_classes: K.
        norm: A key of `video_gn.models.norm.NORMS`.
        num_groups: Most groups of `gn` and `evonorm_s0`.
        channels_per_group: Channels of each of their groups, in place of `num_groups`.
        ghost_batch: Clips that share statistics in `bn` and `brn`; None takes all clips of the GPU.
        r_max: Largest correction of the scale in `brn`.
        d_max: Largest correction of the mean in `brn`, in standard deviations.
        freeze_affine: Whether `frozen_bn` fixes gamma and beta too.
        average_batches: Batches over which `mabn` averages.
        weight_standardization: Whether kernels before a norm are standardised (`video_gn.models.conv_weights`).
        dropout: Before the last layer; None for what the library has there.
        drop_path: Probability with which a clip passes the last residual block by its shortcut alone in training; that
            of the others rises to it linearly.
        zero_init_gamma: Whether gamma of each residual branch's last norm starts at 0, whatever the norm.

    Attributes:
        body: The library's module, whose names its public weights have.
        published: The clip that its public weights were trained with.
        stride: Pixels of the input per position of its features.
        usual_dropout: The library's.
        min_frames: T of the shortest clip that it takes.

    Raises:
        InputError: A setting that cannot be, or channels that the norm's groups do not divide.
    """

    rules = RULES
    fits_groups = True
    prefix = "body."
    published: ClassVar[PublishedClip]
    stride: ClassVar[int] = 32
    usual_dropout: ClassVar[float] = 0.0
    min_frames = 1
    window: int | None = None  # type: ignore[assignment]

    def __init__(
        self,
        num_classes: int,
        norm: str = "gn",
        num_groups: int = 32,
        channels_per_group: int | None = None,
        ghost_batch: int | None = None,
        r_max: float = 1.5,
        d_max: float = 0.5,
        freeze_affine: bool = False,
        average_batches: int = 16,
        weight_standardization: bool = False,
        dropout: float | None = None,
        drop_path: float = 0.0,
        zero_init_gamma: bool = True,
    ) -> None:
        given = locals()
        settings = {name: given[name] for name in self.rules}
        self.check_settings(num_classes, settings)
        super().__init__()
        settings["dropout"] = self.usual_dropout if dropout is None else dropout
        self.settings: dict[str, Any] = settings
        self.body = self.build(num_classes)
        convolutions: list[Any] = [module for module in self.body.modules() if isinstance(module, nn.Conv3d)]
        for conv in convolutions:
            conv.__class__ = Conv3d  # their one difference is in how they compute
        options = {name: settings[name] for name in ("weight_standardization", *OPTIONS.get(norm, ()))}
        replace_norms(self.body, norm, **options)
        for conv in self.without_norm():
            conv.__class__ = Conv3d  # whose kernel is used as it is, whatever the norm
            vars(conv).pop("form", None)
        self.dropout = nn.Dropout(settings["dropout"])
        self._start_gammas(zero_init_gamma)
        self._drop_paths(drop_path)
        self.set_crop_size(self.published.crop_size)

    def build(self, num_classes: int) -> Any:
        """The library's module with its own BatchNorm."""
        raise NotImplementedError

    def last_norms(self) -> Iterable[nn.Module]:
        """The last norm of each residual branch."""
        return ()

    def residual_blocks(self) -> list[Any]:
        """The blocks that have a shortcut, from the first one on."""
        return []

    def drop(self, block: Any, rate: float) -> None:
        """Has a residual block pass a clip by the shortcut alone, in training, at this rate."""

    @property
    def stages(self) -> list[nn.Module]:
        """The stem and the stages, from the first layer on."""
        raise NotImplementedError

    @property
    def head(self) -> Any:
        """What is new for other classes."""
        return self.classifier

    @property
    def classifier(self) -> Any:
        raise NotImplementedError

    def trunk(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        high, wide = x.shape[2:]
        window = (high, wide) if self.window is None else (min(high, self.window), min(wide, self.window))
        x = nn.functional.avg_pool2d(x, window, stride=1)
        return self.classify(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).unsqueeze(2)

    def set_crop_size(self, crop_size: int) -> None:
        """Sets the head's window to what a training crop comes to, of so many pixels a side."""
        self.window = max(self.positions(self.settings, crop_size), 1)

    @property
    def norm(self) -> str:
        """Its norm in a word, with GN's division."""
        return norm_of(self.settings)

    @classmethod
    def label(cls, settings: Any) -> str:
        """A network with these settings as it is called in the name of a run: `r3d_18_gn`."""
        return f"{cls.__name__}_{norm_of(settings)}"

    @classmethod
    def summary(cls, settings: Any) -> str:
        return f"{cls.__name__} as {cls.library} has it"

    @classmethod
    def positions(cls, settings: Any, pixels: int) -> int:
        return -(-pixels // cls.stride)

    def _start_gammas(self, at_zero: bool) -> None:
        for layer in self.last_norms():
            if getattr(layer, "weight", None) is not None:
                nn.init.constant_(layer.weight, 0.0 if at_zero else 1.0)  # type: ignore[arg-type]
            elif at_zero:
                raise InputError(
                    f"{type(self).__name__}: its norm has no gamma to start at 0; set zero_init_gamma to false"
                )

    def _drop_paths(self, rate: float) -> None:
        blocks = self.residual_blocks()
        if rate and not blocks:
            raise InputError(f"{type(self).__name__} has no residual blocks; set drop_path to 0")
        for i, block in enumerate(blocks if rate else (), 1):
            self.drop(block, rate * i / len(blocks))
