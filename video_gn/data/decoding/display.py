"""How a decoded picture is shown: in which colours, turned or mirrored, and how wide a pixel is."""

from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from video_gn.data.video_list import WIDEST_PIXEL

# Where sides are scaled to whole or even numbers, ffmpeg notes the rest here: half of all Kinetics clips are so.
ROUNDED = 0.02


class Orientation(NamedTuple):
    """How a stored picture is shown.

    Attributes:
        mirrored: Whether left and right are exchanged.
        turns: Quarter turns counterclockwise after that, 0 to 3.
    """

    mirrored: bool
    turns: int

    def __str__(self) -> str:
        return f"{90 * self.turns}{' mirrored' if self.mirrored else ''}"


AS_STORED = Orientation(False, 0)


def orientation(picture: Any) -> Orientation:
    """What a picture's display matrix says; of other angles than quarter turns, the nearest.

    The file's header may have the matrix (MP4's tkhd, Matroska's projection) or the stream itself (H.264's and HEVC's
    SEI message); libavcodec gives either with the picture.
    """
    data = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return AS_STORED
    # The pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift; y points down.
    a, b, _, c, d, *_ = np.frombuffer(data, np.int32).tolist()
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if abs(a + d) >= abs(b - c):
        return Orientation(mirrored, 2 if a + d < 0 else 0)
    return Orientation(mirrored, 3 if b - c > 0 else 1)


def stored_size(picture: Any) -> tuple[int, int]:
    """Width and height of a picture as it is stored, in pixels."""
    return picture.width, picture.height


def shown_size(picture: Any) -> tuple[int, int]:
    """Width and height of a picture as it is shown, in pixels."""
    size = stored_size(picture)
    return size[::-1] if orientation(picture).turns % 2 else size


def pixel_aspect(stream: Any) -> float:
    """Width of a pixel as it is stored, by its height; 1 where it nearly is, or nothing believable says it."""
    aspect = float(stream.sample_aspect_ratio or 0)
    believable = 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL
    return aspect if believable and abs(aspect - 1) > ROUNDED else 1.0


def rgb(picture: Any, reformatter: VideoReformatter, shown: Orientation | None = None) -> np.ndarray:
    """A picture as it is shown: uint8 RGB `[H, W, 3]`.

    Args:
        picture: PyAV's.
        reformatter: Kept from picture to picture, because it is slow to make.
        shown: How it is turned and mirrored; None takes the picture's own orientation.
    """
    pixels = _pixels(reformatter.reformat(as_progressive(picture), format="rgb24", threads=1))
    mirrored, turns = shown or orientation(picture)
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, turns)


def as_progressive(picture: Any) -> Any:
    """The picture, or of an interlaced one a copy that does not say so.

    libswscale treats the fields of such pictures apart where they are handed to it as PyAV does. decord and the ffmpeg
    command have it convert the picture as a whole; so do we, or the backends would differ.
    """
    if not picture.interlaced_frame:
        return picture
    copy = av.VideoFrame(picture.width, picture.height, picture.format.name)
    for source, target in zip(picture.planes, copy.planes, strict=True):
        row = min(source.line_size, target.line_size)
        _rows(target)[:, :row] = _rows(source)[:, :row]
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(copy, name, getattr(picture, name))
    return copy


def _rows(plane: Any) -> np.ndarray:
    """The plane's memory, a row of bytes for each row of pixels, a view."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


def _pixels(picture: Any) -> np.ndarray:
    """The RGB picture's memory, `[H, W, 3]`, a view."""
    return _rows(picture.planes[0])[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)
