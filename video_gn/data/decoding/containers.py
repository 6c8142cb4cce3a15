"""Video files as decoders are given them: opened and looked at here, and never known by their name.

libavformat takes `word:` at the head of a name as a protocol, so that a folder `http:` makes it fetch from the network;
`%03d` in a name means several files; and what a file is, it guesses from the name and from the content, among some 350
formats. Some of these are lists of other files and addresses (HLS, concat, SDP). So a file is opened once, by
its name's bytes; its first bytes have to be those of a container that is meant; and the decoder gets the open file.
"""

import os
import stat
from contextlib import suppress

from video_gn.errors import DecodeError

# libavformat's name of each container and what people call it. All of them hold their video themselves.
CONTAINERS = {
    "mov": "MP4, MOV, 3GP",
    "matroska": "Matroska, WebM",
    "avi": "AVI",
    "flv": "FLV",
    "asf": "ASF (WMV)",
    "mpeg": "MPEG program stream",
    "mpegts": "MPEG-TS",
    "mpegvideo": "MPEG-1 and -2 video",
    "mxf": "MXF",
    "ogg": "Ogg",
    "gif": "GIF",
}
# decord gives no choice of format, so libavformat guesses it from the content. Of these it is certain: none of the
# formats that name other files can score as high on content that begins in the same way.
CERTAIN = {"mov", "matroska", "avi", "flv", "asf"}

_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"pnot", b"skip", b"junk", b"styp", b"uuid"}
_RIFF = {b"AVI ", b"AVIX", b"AVI\x19"}
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MXF = bytes.fromhex("060e2b34020501010d0102010102")  # the key of its header
_HEAD = 16  # bytes by which all are known but transport streams
_PACKETS = (188, 192, 204)  # bytes of a transport stream's packet, which begins with 0x47 or a time stamp
_BY_NUMBER = os.path.isdir("/proc/self/fd")


class OpenFile:
    """A file that is open for a decoder.

    Args:
        path: The file.

    Attributes:
        container: A name of `CONTAINERS`.
        address: What a decoder opens: no name, but this open file, where the system allows it (Linux).
        size: In bytes.

    Raises:
        DecodeError: There is no such file, or it is in none of `CONTAINERS`.
    """

    def __init__(self, path: str) -> None:
        self._number = -1
        if not os.path.isfile(path):
            raise DecodeError(path, "no such file")
        try:
            self._number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            status = os.fstat(self._number)
            if not stat.S_ISREG(status.st_mode):
                raise DecodeError(path, "not a file")
            self.size, head = status.st_size, os.pread(self._number, _HEAD, 0)
            found = find_container(head) or find_transport_stream(os.pread(self._number, 8 * max(_PACKETS), 0))
            if found == "ogg" and _has_empty_packets(self._number):
                raise DecodeError(path, "Ogg that repeats frames without storing them; convert it with ffmpeg")
        except OSError as error:
            self.close()
            raise DecodeError(path, f"cannot be opened: {error.strerror}") from None
        except DecodeError:
            self.close()
            raise
        if found is None:
            self.close()
            raise DecodeError(path, _unknown(head))
        self.container = found
        self.address = address(path, self._number)

    def close(self) -> None:
        """Lets go of the file."""
        if self._number >= 0:
            number, self._number = self._number, -1
            with suppress(OSError):
                os.close(number)

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def address(path: str, number: int) -> str:
    """What libavformat is given to open a file that is open as `number`; no part of it can be taken for a protocol."""
    return f"/proc/self/fd/{number}" if _BY_NUMBER else f"file:{os.path.abspath(path)}"


def find_container(head: bytes) -> str | None:
    """The container whose files begin like this, a name of `CONTAINERS`; all of them but transport streams."""
    if head[4:8] in _BOXES:
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return "avi"
    if head[:3] == b"FLV" and head[3] < 5 and head[5] == 0:
        return "flv"
    if head == _ASF:
        return "asf"
    if head.startswith(_MXF):
        return "mxf"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return {b"\0\0\1\xba": "mpeg", b"\0\0\1\xb3": "mpegvideo", b"OggS": "ogg"}.get(head[:4])


def find_transport_stream(head: bytes) -> str | None:
    """As `find_container`, from more bytes: a transport stream may begin in the middle of a packet."""
    for size in _PACKETS:
        if any(head[at : at + 4 * size : size] == b"GGGG" for at in range(size)):
            return "mpegts"
    return None


def _has_empty_packets(number: int) -> bool:
    """Whether an Ogg file has packets of no bytes, by which Theora repeats a frame: PyAV gives none for them."""
    at, continued = 0, False
    while (page := os.pread(number, 27 + 255, at))[:4] == b"OggS" and len(page) >= 27:
        table = page[27 : 27 + page[26]]
        for size in table:
            if not size and not continued:
                return True
            continued = size == 255
        at += 27 + len(table) + sum(table)
    return False


def _unknown(head: bytes) -> str:
    if not head:
        return "not a video file: it is empty"
    if head.isascii() and head.decode().replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return "not a video file but text; playlists are not followed: name the videos themselves"
    known = ", ".join(CONTAINERS.values())
    return f"not a video file of a kind that is read ({known}), or its beginning is lost; ffmpeg converts others"
