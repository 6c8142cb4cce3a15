"""Videos decoded from the first frame to the last, to see whether they are whole."""

import os
from collections.abc import Iterator
from typing import Any

from video_gn.data.decoding.containers import OpenFile
from video_gn.data.decoding.frames_reader import FrameFolder
from video_gn.data.decoding.libav import one_size, open_container, refusing, refusing_each, video_stream
from video_gn.data.decoding.missing import decode_hearing
from video_gn.errors import DecodeError

DROPPED = "packets were dropped: frames that others refer to are missing"


def decode_all(path: str, missing: list[int] | None = None) -> Iterator[Any]:
    """Every picture of a video from the first to the last, as PyAV's `VideoFrame`: nothing is left out or sought.

    Args:
        path: The file.
        missing: Gets the number of each packet that refers to frames which are not there.

    Raises:
        DecodeError: Where it breaks off.
    """
    with OpenFile(path) as file:
        with refusing(path):
            container = open_container(file)
        with container:
            pictures = _pictures(container, path, missing)
            for _, picture in refusing_each(path, one_size(enumerate(pictures), path)):
                yield picture


def _pictures(container: Any, path: str, missing: list[int] | None) -> Iterator[Any]:
    stream = video_stream(container, path)
    yield from container.decode(stream) if missing is None else decode_hearing(container, stream, missing)


def find_cut(path: str) -> str | None:
    """Says that a video's file ends before what its header promises, where that can be seen, or None."""
    with refusing(path), open(path, "rb") as file:
        head = file.read(8)
        size = file.seek(0, 2)
    promised = int.from_bytes(head[4:], "little") + 8
    if head[:4] == b"RIFF" and promised > size:
        return f"cut short: {size} of {promised} bytes"
    return None


def find_damage(path: str) -> str | None:
    """What is wrong with a video whose frames may decode all the same, or None.

    Flipped bits are concealed by the decoder, as is what dropped packets held, and a file cut short without an index
    just ends: no reader raises for any of them. This decodes the whole video once more.
    """
    if os.path.isdir(path):
        return FrameFolder(path).find_damage()
    if cut := find_cut(path):
        return cut
    decoded = damaged = 0
    missing: list[int] = []
    try:
        for picture in decode_all(path, missing):
            decoded += 1
            damaged += picture.is_corrupt
    except DecodeError as error:
        return breaks_off(error, decoded)
    return concealed(damaged, len(missing), decoded)


def breaks_off(error: DecodeError, decoded: int) -> str:
    """What is wrong with a video of which only so many frames can be decoded."""
    return f"decoding breaks off after {decoded} frames: {error.reason}" if decoded else error.reason


def concealed(damaged: int, missing: int, decoded: int) -> str | None:
    """What is wrong with a video of which so many frames are made up by the decoder, or lack what they refer to."""
    if damaged:
        return f"{damaged} of {decoded} frames are damaged"
    if missing:
        return f"{DROPPED} ({missing} of {decoded} frames)"
    return None
