"""What decord would read otherwise than PyAV does, found by PyAV before decord is given a file.

Whatever backend is asked, the frames are the same: what is not known to be the same is refused here, and PyAV reads it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from video_gn.data.decoding.display import AS_STORED, orientation, shown_size
from video_gn.data.decoding.pyav_reader import LibavVideo

# Compared in tests, all with even heights. Of 4:1:1, 4:1:0, 4:4:0 and more than 8 bits the colours are others.
SAME_COLOURS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
# Whether a unit of a stream, from its first byte on, says the size of the frames.
SAYS_SIZE: dict[str, Callable[[int], bool]] = {
    "h264": lambda byte: byte & 31 == 7,
    "hevc": lambda byte: byte >> 1 & 63 == 33,
    "mpeg4": lambda byte: 0x20 <= byte <= 0x2F,
}
HEAD = 4096  # bytes of a packet, among which such a unit is
MOST_KEYFRAMES = 8  # that are decoded to compare their sizes, of codecs that are not in SAYS_SIZE


def why_not_decord(video: LibavVideo) -> str | None:
    """Why decord should not be asked to read a video, or None."""
    if video.has_palette:
        return "colours of a palette, which decord gets wrong"
    if video.has_cover:
        return "a cover picture beside the video, which decord may take for it"
    if reason := differs(video.codec, video.picture_of(0)):
        return reason
    return None if _keeps_size(video) else "the size of its frames may change, and decord scales them to the first one"


def differs(codec: Any, picture: Any) -> str | None:
    """Why decord shows a stream's first picture otherwise, or None."""
    if codec.pix_fmt not in SAME_COLOURS:
        return f"pixels of {codec.pix_fmt}, of which decord makes other colours"
    if codec.height % 2:
        return f"frames of {codec.width}x{codec.height} pixels, an odd height, of which decord makes other colours"
    if picture is None:
        return "damaged: its first frame cannot be decoded"
    if (shown := orientation(picture)) != AS_STORED or picture.rotation:
        return f"turned by {shown}, which decord does not always do"
    return None


def _keeps_size(video: LibavVideo) -> bool:
    """Whether all frames surely have the size of the first, by what is said at keyframes alone."""
    first, *others = video.keys
    if any(video.packets[key].has_sidedata("new_extradata") for key in video.keys):
        return False
    if says_size := SAYS_SIZE.get(video.codec.name):
        known = (video.codec.extradata or b"") + _head(video.packets[first])
        units = (unit for key in others for unit in _units(_head(video.packets[key])) if says_size(unit[0]))
        return all(unit in known for unit in units)
    if len(others) >= MOST_KEYFRAMES:
        return False
    pictures = [video.picture_of(key) for key in video.keys]
    return len({picture and shown_size(picture) for picture in pictures}) == 1


def _head(packet: Any) -> bytes:
    return bytes(memoryview(packet)[:HEAD])


def _units(head: bytes) -> Iterator[bytes]:
    """The units at the beginning of a packet: after start codes, or each after its length."""
    if head[:3] == b"\0\0\1" or head[:4] == b"\0\0\0\1":
        yield from (unit.rstrip(b"\0") for unit in re.split(b"\0\0\1", head)[1:] if unit.rstrip(b"\0"))
        return
    while len(head) > 4:
        length = int.from_bytes(head[:4], "big")
        yield head[4 : 4 + length] or b"\0"
        head = head[4 + length :]
