"""Videos decoded from the first frame to the last, to see whether they are whole."""

import os
from collections.abc import Iterator
from typing import Any

from video_gn.data.decoding.containers import OpenFile
from video_gn.data.decoding.frames_reader import FrameFolder
from video_gn.data.decoding.pyav_reader import one_size, open_container, refusing, refusing_each, video_stream
from video_gn.errors import DecodeError


def decode_all(path: str) -> Iterator[Any]:
    """Every picture of a video from the first to the last, as PyAV's `VideoFrame`: nothing is left out or sought.

    Raises:
        DecodeError: Where it breaks off.
    """
    with OpenFile(path) as file:
        with refusing(path):
            container = open_container(file)
        with container:
            for _, picture in refusing_each(path, one_size(enumerate(_pictures(container, path)), path)):
                yield picture


def _pictures(container: Any, path: str) -> Iterator[Any]:
    yield from container.decode(video_stream(container, path))


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

    Flipped bits are concealed by the decoder, and a file cut short without an index just ends: no reader raises for
    either. This decodes the whole video once more.
    """
    if os.path.isdir(path):
        return FrameFolder(path).find_damage()
    if cut := find_cut(path):
        return cut
    decoded = damaged = 0
    try:
        for picture in decode_all(path):
            decoded += 1
            damaged += picture.is_corrupt
    except DecodeError:
        return f"decoding breaks off after {decoded} frames"
    return f"{damaged} of {decoded} frames are damaged" if damaged else None
