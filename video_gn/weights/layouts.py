"""Names of the same tensor in the files of others: a place in a ResNet, and each layout's name of it."""

from collections.abc import Callable
from typing import NamedTuple

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of torchvision's and timm's ResNets
HALF = ((0.5,) * 3, (0.5,) * 3)  # of BiT
KINETICS = ((0.45,) * 3, (0.225,) * 3)  # of video-nonlocal-net, PySlowFast and pytorchvideo
DETECTRON_MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)  # RGB; detectron/core/config.py


class Place(NamedTuple):
    """Where in a ResNet a tensor belongs.

    Attributes:
        stage: 0 is the stem, 1 to 4 are res2 to res5, 5 is what follows the last one.
        block: Bottleneck of the stage.
        part: "conv" or "norm" of the stem; "conv_a" to "norm_c", "branch1_conv" or "branch1_norm" of a bottleneck;
            "nonlocal_conv_theta" to "nonlocal_conv_out" or "nonlocal_norm" of the non-local block behind it; "proj" of
            the head, and "norm" before it.
        what: "weight", "bias", "running_mean", "running_var" or "num_batches_tracked".
    """

    stage: int
    block: int
    part: str
    what: str


Layout = Callable[[Place], str]  # the name of a place's tensor
NONLOCAL = "nonlocal_"  # begins the parts of non-local blocks


def torchvision_name(place: Place) -> str:
    """As in torchvision's and timm's ResNet."""
    parts = {
        "conv": "conv1",
        "norm": "bn1",
        "proj": "fc",
        "branch1_conv": "downsample.0",
        "branch1_norm": "downsample.1",
    }
    for number, letter in enumerate("abc", 1):
        parts |= {f"conv_{letter}": f"conv{number}", f"norm_{letter}": f"bn{number}"}
    stage = f"layer{place.stage}.{place.block}." if 1 <= place.stage <= 4 else ""
    part = parts.get(place.part, place.part)  # it has no non-local blocks
    return f"{stage}{part}.{place.what}"


def resnetv2_name(place: Place) -> str:
    """As in timm's ResNetV2."""
    if place.part == "proj":
        return f"head.fc.{place.what}"
    if place.stage in (0, 5):
        return f"stem.conv.{place.what}" if place.part == "conv" else f"norm.{place.what}"
    kind, _, letter = _parts(place)
    part = f"{kind}{'abc'.index(letter) + 1}" if letter in ("a", "b", "c") else f"downsample.{kind}"
    return f"stages.{place.stage - 1}.blocks.{place.block}.{part}.{place.what}"


def _parts(place: Place) -> tuple[str, str, str]:
    """`("conv", "_", "a")` of a part "conv_a", also within the shortcut and a non-local block."""
    return place.part.removeprefix("branch1_").removeprefix(NONLOCAL).partition("_")


def _caffe2_name(place: Place, norm: str, stem_norm: str) -> str:
    what = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}.get(place.what, place.what)
    if place.part == "proj":
        return f"pred_{'w' if place.what == 'weight' else 'b'}"
    if place.stage == 0:
        return "conv1_w" if place.part == "conv" else f"{stem_norm}_{norm}_{what}"
    if place.part.startswith(NONLOCAL):
        block, (kind, _, letter) = f"nonlocal_conv{place.stage + 1}_{place.block}", _parts(place)
        return f"{block}_{letter}_{'w' if what == 's' else what}" if kind == "conv" else f"{block}_{norm}_{what}"
    kind, _, letter = _parts(place)
    branch = f"res{place.stage + 1}_{place.block}_branch" + ("1" if "branch1" in place.part else f"2{letter}")
    return f"{branch}_w" if kind == "conv" else f"{branch}_{norm}_{what}"


def detectron_name(place: Place) -> str:
    """As in Detectron's ResNets with GN."""
    return _caffe2_name(place, "gn", "conv1")


def nonlocal_name(place: Place) -> str:
    """As in video-nonlocal-net's Caffe2 files."""
    return _caffe2_name(place, "bn", "res_conv1")


def pyslowfast_name(place: Place) -> str:
    """As in PySlowFast's networks of one pathway."""
    if place.part == "proj":
        return f"head.projection.{place.what}"
    if place.stage == 0:
        return f"s1.pathway0_stem.{'conv' if place.part == 'conv' else 'bn'}.{place.what}"
    kind, _, letter = _parts(place)
    if place.part.startswith(NONLOCAL):
        return f"s{place.stage + 1}.pathway0_nonlocal{place.block}.{f'conv_{letter}' if letter else 'bn'}.{place.what}"
    branch = "branch1" if "branch1" in place.part else f"branch2.{letter}"
    bn = "" if kind == "conv" else "_bn"
    return f"s{place.stage + 1}.pathway0_res{place.block}.{branch}{bn}.{place.what}"


def pytorchvideo_name(stages: list[int], head: int) -> Layout:
    """As in a pytorchvideo `Net`.

    Args:
        stages: The numbers of the blocks that are residual stages.
        head: The number of the last block.
    """

    def name(place: Place) -> str:
        if place.stage == 0:
            return f"blocks.0.{place.part}.{place.what}"
        if place.part == "proj":
            return f"blocks.{head}.proj.{place.what}"
        if place.stage == 5:
            return f"blocks.{stages[-1] if stages else head}.norm.{place.what}"
        stage = str(stages[place.stage - 1]) if place.stage <= len(stages) else f"(res{place.stage + 1})"
        block = f"blocks.{stage}.res_blocks.{place.block}."
        if place.part.startswith(NONLOCAL):
            return f"{block}nonlocal_block.{place.part.removeprefix(NONLOCAL)}.{place.what}"
        return block + ("" if "branch1" in place.part else "branch2.") + f"{place.part}.{place.what}"

    return name
