"""What weights, exports, pictures and the command line ask of a network of this project, whatever it is made of."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.rules import Rule, check, shown, whole


class Known(nn.Module):
    """A network whose parts are known by name; its methods are those of a trunk and a head with a window and a layer.

    `ResNet3d` and each class of `video_gn.models.networks` are such ones (`video_gn.models.known` lists them). Files
    name it by its class and its settings.

    Attributes:
        settings: The arguments that it is made by, without the number of classes.
        mean: Of each colour on the scale from 0 to 1, less which its input is; Kinetics', unless weights say another.
        std: Of each colour, by which its input is divided.
        rules: Of its settings.
        fits_groups: Whether GN has fewer groups than its settings say where channels are not divisible.
        library: Where it comes from.
        prefix: Of the names of its state dict, which its public weights do not have.
        first: The kernels that see the colours, in its state dict without the prefix.
        blocks: The stem, the stages and the head.
    """

    settings: dict[str, Any]
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    rules: ClassVar[dict[str, Rule]]
    fits_groups: ClassVar[bool] = False
    library: ClassVar[str] = "video_gn"
    prefix: ClassVar[str] = ""
    first: ClassVar[tuple[str, ...]] = ("blocks.0.conv.weight",)
    blocks: Any

    @classmethod
    def check_settings(cls, num_classes: int, settings: Mapping[str, Any]) -> None:
        """Raises InputError for a setting that breaks its rule, or a network without classes."""
        check(settings, cls.rules, "model.net")
        if not (rule := whole(1, 10**6)).holds(num_classes):
            raise InputError(f"num_classes is {shown(num_classes)}; it has to be {rule.words}")

    @property
    def window(self) -> int | None:
        """Side of the window over which the head averages, in positions; None for all that there are."""
        return self.blocks[-1].pool.window

    @property
    def classifier(self) -> Any:
        """The layer whose outputs are the classes; its weight has the shape `[K, ...]`."""
        return self.blocks[-1].proj

    def without_norm(self) -> list[Any]:
        """The convolutions without a bias that have no norm behind them."""
        return []

    def trunk(self, x: Tensor) -> Tensor:
        """Features `[N, C, t, h, w]` of clips, before anything is averaged."""
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """Features `[N, C, h, w]` of clips, averaged over time."""
        return self.trunk(x).mean(2)

    def classify(self, x: Tensor) -> Tensor:
        """Logits `[..., K]` of features `[..., C]` that were averaged over the window."""
        return self.classifier(x)

    def activation(self, x: Tensor, label: int) -> Tensor:
        """Class-activation maps `[N, t, h, w]` of clips (Zhou et al. 2016).

        Raises:
            InputError: The network is not linear from its features on.
        """
        weight = self.classifier.weight[label].flatten()
        return torch.einsum("c,ncthw->nthw", weight.float(), self.trunk(x).float())

    @classmethod
    def summary(cls, settings: Any) -> str:
        """A network with these settings in words, without its norm."""
        raise NotImplementedError

    @classmethod
    def positions(cls, settings: Any, pixels: int) -> int:
        """Of frames of so many pixels, H or W of the features of a network with these settings, or less in a block."""
        raise NotImplementedError
