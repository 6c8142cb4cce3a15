"""The clips that networks by name are published with."""

from typing import NamedTuple

# Mean and std of torchvision's `VideoClassification` transforms.
TORCHVISION_VIDEO = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


class PublishedClip(NamedTuple):
    """How clips are made for a network, where nobody says another thing.

    Attributes:
        num_frames: T.
        frame_interval: Raw frames of a video of 30 frames a second from one frame of a clip to the next.
        crop_size: Side of the training crop, in pixels.
        short_side: Range of the random short side in training, in pixels.
        test_short_side: Short side in tests, in pixels.
    """

    num_frames: int
    frame_interval: int
    crop_size: int = 224
    short_side: tuple[int, int] = (256, 320)
    test_short_side: int = 256


# Of this project's by arch: of Wang et al. 2018, and of PySlowFast's configs C2D_8x8, I3D_8x8 and SLOW_8x8.
OURS = {
    **dict.fromkeys(("i3d", "i3d_nonlocal", "resnetv2"), PublishedClip(32, 2)),
    **dict.fromkeys(("i3d_8x8", "c2d_8x8", "slow_8x8"), PublishedClip(8, 8)),
}
