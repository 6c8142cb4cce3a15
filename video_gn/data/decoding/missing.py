"""Frames that refer to others which are missing, as after packets were dropped, by what their decoder says.

H.264 numbers the frames that others refer to, and HEVC names those that a frame needs; their decoders say what is not
there and make something up. Other codecs show nothing of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av.logging

SAID = (
    "Frame num gap",  # H.264; in streams that may have gaps it means nothing
    "reference picture missing during reorder",
    "Missing reference picture",
    "Could not find ref with POC",  # HEVC
    "Requested reference",  # VP9, AV1
)
_HIGH = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}  # profiles whose parameters say the chroma


def decode_hearing(container: Any, stream: Any, missing: list[int]) -> Iterator[Any]:
    """Every picture of a stream; the number of each packet that refers to missing frames is added to `missing`.

    What comes before the first keyframe, in decoding or when shown, may refer to what was cut off: players leave it
    out.
    """
    extradata = stream.codec_context.extradata or b""
    said = SAID[1:] if stream.codec_context.name == "h264" and may_have_gaps(extradata) else SAID
    first: int | None = None
    begun = False
    for number, packet in enumerate(container.demux(stream)):
        with messages() as heard:
            pictures = packet.decode()
        leads = not begun or (None not in (packet.pts, first) and packet.pts < first)
        if not leads and any(part in text for _, _, text in heard for part in said):
            missing.append(number)
        if packet.is_keyframe and not begun:
            begun, first = True, packet.pts
        yield from pictures


@contextmanager
def messages() -> Iterator[list[tuple[int, str, str]]]:
    """What libav says meanwhile in this thread: level, who, text. Nothing of it is printed."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.DEBUG)
    try:
        with av.logging.Capture() as heard:
            yield heard
    finally:
        av.logging.set_level(level)


def may_have_gaps(extradata: bytes) -> bool:
    """Whether H.264's sequence parameters (7.3.2.1.1) allow gaps in the numbers of frames."""
    at = gaps_bit(extradata)
    return at is not None and bool(at[0][at[1] // 8] >> (7 - at[1] % 8) & 1)


def gaps_bit(extradata: bytes) -> tuple[bytes, int] | None:
    """The sequence parameters of a stream's header, and which bit of them is gaps_in_frame_num_value_allowed_flag."""
    if extradata[:1] == b"\1":  # as MP4 has them: with their lengths
        unit = extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")]
    else:
        units = [unit for unit in extradata.split(b"\0\0\1") if unit and unit[0] & 31 == 7]
        unit = units[0] if units else b""
    plain = unit.replace(b"\0\0\3", b"\0\0")
    try:
        return plain, _Bits(plain).gaps_flag()
    except IndexError:  # cut short
        return None


class _Bits:
    """The fields of sequence parameters, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int = 1) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self.data[self.at // 8] >> (7 - self.at % 8) & 1
            self.at += 1
        return value

    def golomb(self) -> int:
        """An unsigned Exp-Golomb number (9.1)."""
        zeros = 0
        while not self.take():
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def gaps_flag(self) -> int:
        """Where the flag is, in bits."""
        self.take(8)
        profile = self.take(8)
        self.take(16)
        self.golomb()
        if profile in _HIGH:
            chroma = self.golomb()
            if chroma == 3:
                self.take()
            self.golomb(), self.golomb(), self.take()
            if self.take():
                for i in range(12 if chroma == 3 else 8):
                    if self.take():
                        self._scaling_list(16 if i < 6 else 64)
        self.golomb()
        order = self.golomb()
        if order == 0:
            self.golomb()
        elif order == 1:
            self.take(), self.golomb(), self.golomb()
            for _ in range(self.golomb()):
                self.golomb()
        self.golomb()
        self.take()
        return self.at - 1

    def _scaling_list(self, size: int) -> None:
        last = following = 8
        for _ in range(size):
            if following:
                number = self.golomb()
                delta = (number + 1) // 2 if number % 2 else -(number // 2)
                following = (last + delta) % 256
            last = following or last
