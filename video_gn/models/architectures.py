"""The networks by name: depths, and what of kernels and strides differs between them."""

import itertools
from dataclasses import dataclass

from video_gn.errors import InputError

# Bottlenecks of each stage. The small ones have one a stage; 11 ends after res4.
DEPTHS: dict[int, tuple[int, ...]] = {11: (1, 1, 1), 14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# The non-local blocks of a depth by their number: of each stage, the bottlenecks that one is behind. Of depth 50, every
# other bottleneck of res3 and res4, or every one (Wang et al. 2018, 4.1); of 101, as video-nonlocal-net places 5
# (resnet_video_org.py: every 2nd of res3, every 7th of res4). It has no place for 10 there.
NONLOCAL: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {
    (50, 5): ((), (1, 3), (1, 3, 5), ()),
    (50, 10): ((), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5), ()),
    (101, 5): ((), (1, 3), (6, 13, 20), ()),
}
EXPANSION = 4
MAX_WIDTH = 1024  # 16 times the papers': 7 billion parameters at depth 50


@dataclass(frozen=True)
class Arch:
    """Kernels and strides that differ between the networks; triples are T, H, W.

    Attributes:
        stem_kernel: Of the first convolution.
        stem_stride: Of the first convolution.
        pool1: Kernel of the stem's max pool; its padding is half of that, rounded down. None for no pool.
        pool1_stride: Of the stem's max pool.
        temporal_pools: The stages (0 = res2) after which a 2x1x1 max pool halves T.
        inflated: For each stage, which of its bottlenecks begin with a 3x1x1 kernel, as a sequence that repeats.
        padded: Whether the stem's max pool is padded.
        preactivated: Whether each norm and ReLU comes before its convolution, and not behind it (He et al. 2016,
            *Identity Mappings in Deep Residual Networks*). The stem has none then, the last stage ends in one, and
            padding of the stem's max pool is with zeros in H and W.
    """

    stem_kernel: tuple[int, int, int]
    stem_stride: tuple[int, int, int]
    pool1: tuple[int, int, int] | None
    pool1_stride: tuple[int, int, int]
    temporal_pools: tuple[int, ...]
    inflated: tuple[tuple[bool, ...], ...]
    padded: bool = True
    preactivated: bool = False

    @property
    def pool1_padding(self) -> tuple[int, int, int]:
        """Of the stem's max pool."""
        t, h, w = self.pool1 or (1, 1, 1)
        return (t // 2, h // 2, w // 2) if self.padded else (0, 0, 0)

    def spatial_stride(self, stages: int) -> int:
        """Pixels of the input per position after the last of so many stages."""
        return self.stem_stride[1] * (self.pool1_stride[1] if self.pool1 else 1) * 2 ** (stages - 1)

    def frames_out(self, frames: int) -> int:
        """T behind the last stage, of a clip of so many frames."""
        t = (frames - 1) // self.stem_stride[0] + 1  # kernels are odd and padded
        if self.pool1:
            t = (t + 2 * self.pool1_padding[0] - self.pool1[0]) // self.pool1_stride[0] + 1
        return t >> len(self.temporal_pools)

    def positions(self, pixels: int, stages: int) -> int:
        """H or W behind the last of so many stages, of frames of so many pixels."""
        size = (pixels - 1) // self.stem_stride[1] + 1
        if self.pool1:
            size = (size + 2 * self.pool1_padding[1] - self.pool1[1]) // self.pool1_stride[1] + 1
        for _ in range(stages - 1):
            size = (size - 1) // 2 + 1
        return size

    @property
    def min_frames(self) -> int:
        """The shortest clip that every pool can halve, in frames."""
        return next(frames for frames in itertools.count(1) if self.frames_out(frames) >= 1)


def nonlocal_places(depth: int, count: int) -> tuple[tuple[int, ...], ...]:
    """Of each stage, the bottlenecks that one of so many non-local blocks is behind.

    Raises:
        InputError: There are none of that number at that depth.
    """
    if not count:
        return ((),) * len(DEPTHS[depth])
    if (depth, count) not in NONLOCAL:
        known = " and ".join(f"{blocks} at depth {layers}" for layers, blocks in NONLOCAL)
        raise InputError(f"model.net.nonlocal_blocks is {count}, and model.net.depth {depth}; there are {known}")
    return NONLOCAL[depth, count]


_I3D = ((True,), (True, False), (True, False), (False, True))
_FLAT = ((False,),) * 4
ARCHS: dict[str, Arch] = {
    # The network of both papers.
    "i3d": Arch((5, 7, 7), (2, 2, 2), (3, 3, 3), (2, 2, 2), (0,), _I3D),
    # As video-nonlocal-net's code has it (resnet_video_org.py): its pools are not padded.
    "i3d_nonlocal": Arch((5, 7, 7), (2, 2, 2), (2, 3, 3), (2, 2, 2), (0,), _I3D, padded=False),
    # pytorchvideo's and PySlowFast's networks for 8 frames at interval 8: no temporal stride in the stem.
    "i3d_8x8": Arch((5, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (0,), _I3D),
    "c2d_8x8": Arch((1, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (0,), _FLAT),
    "slow_8x8": Arch((1, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (), ((False,), (False,), (True,), (True,))),
    # The 2D ResNet, for images as clips of one frame; it inflates into the others.
    "flat": Arch((1, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (), _FLAT),
    # With pre-activation, and the 2D one that inflates into it: BiT's (Kolesnikov et al. 2020), as timm's ResNetV2.
    "resnetv2": Arch((5, 7, 7), (2, 2, 2), (3, 3, 3), (2, 2, 2), (0,), _I3D, preactivated=True),
    "resnetv2_flat": Arch((1, 7, 7), (1, 2, 2), (1, 3, 3), (1, 2, 2), (), _FLAT, preactivated=True),
    # For crops of 32 to 64 pixels and clips of 8 to 16 frames (the embedded data set, tests), and its 2D network.
    "i3d_small": Arch((3, 5, 5), (1, 2, 2), None, (1, 1, 1), (0, 1), _I3D),
    "flat_small": Arch((1, 5, 5), (1, 2, 2), None, (1, 1, 1), (), _FLAT),
}
