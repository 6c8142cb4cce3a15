"""Frames out of video files by PyAV (FFmpeg's libav): only the packets that the asked frames need are decoded.

A frame needs the packets from its keyframe on, in decoding order, less those that no other frame refers to (most
B-frames). libavcodec passes over such packets when asked to (`skip_frame`); what it decodes is bit-identical.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from traceback import clear_frames
from typing import Any, TypeVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from video_gn.data.decoding.containers import OpenFile
from video_gn.data.decoding.reader import LARGEST, Finish, Frames, as_they_are, assemble, part_size
from video_gn.errors import DecodeError, InputError

MOST_PACKETS = 1 << 20  # of a video, some 400 bytes of memory each beside what is in them
# Bytes of a video's packets, which are held in memory. They are part of the file, and so less than it; but Matroska may
# compress them, an MP4's index may name the same bytes again and again, and files made for that expand 1000 times.
MOST_BYTES, EXPANSION = 64 << 20, 16  # whichever is more: so much, or so many times the file's size
LARGEST_FRAME = 36 << 20  # pixels: 8192 x 4608
LONGEST_FRAME = 32  # long side by short side: as much is made of it when its short side is scaled up
DROPPING = {"h264", "hevc", "mpeg4", "mpeg2video"}  # decoders that obey at once; dav1d does some packets later
LOST = 0.1  # fraction of the packets that may precede the first keyframe
NO_INDEX = "not a video file, or its index is lost"
Item = TypeVar("Item")


@contextmanager
def refusing(path: str, why: Callable[[Exception], str] | None = None) -> Iterator[None]:
    """Whatever a decoder raises becomes a DecodeError: on damaged content, libraries fail in every way.

    Args:
        path: The file.
        why: What an error says in one line; None takes `reason`.
    """
    try:
        yield
    except (DecodeError, InputError):
        raise
    except Exception as error:
        clear_frames(error.__traceback__)  # an open reader in one of them would crash a child that is forked meanwhile
        raise DecodeError(path, (why or reason)(error)) from None


def refusing_each(path: str, items: Iterable[Item], why: Callable[[Exception], str] | None = None) -> Iterator[Item]:
    """The items, as `refusing` while they are made; what is made of them is not the decoder's."""
    iterator = iter(items)
    while True:
        with refusing(path, why):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def one_size(pictures: Iterable[tuple[int, Any]], path: str) -> Iterator[tuple[int, Any]]:
    """Numbered pictures, as long as they have the size of the first one."""
    first: tuple[int, int] | None = None
    for number, picture in pictures:
        size = picture.width, picture.height
        if first is None:
            check_size(path, *size)
            first = size
        if size != first:
            raise DecodeError(path, "frames change from {}x{} to {}x{} pixels".format(*first, *size))
        yield number, picture


def open_container(file: OpenFile) -> Any:
    """PyAV's container of a file, in the format that its beginning says; it opens no other file and no address."""
    options = {
        "protocol_whitelist": "file",
        "enable_drefs": "0",  # MOV's references to other files
        "use_absolute_path": "0",
        "max_pixels": str(LARGEST_FRAME),
    }
    return av.open(file.address, format=file.container, options=options, metadata_errors="replace")


def video_stream(container: Any, path: str) -> Any:
    """The video stream of a container, ready to be decoded by one thread.

    Raises:
        DecodeError: There is none, nothing decodes it, or its frames are absurdly large.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise DecodeError(path, "no video stream")
    codec = stream.codec_context
    if codec is None:
        raise DecodeError(path, "its codec is unknown; convert it with ffmpeg")
    check_size(path, codec.width, codec.height)
    codec.options = {"max_pixels": str(LARGEST_FRAME)}
    codec.thread_count = 1
    return stream


def check_size(path: str, width: int, height: int) -> None:
    """Raises a DecodeError where frames are absurdly large or long: those of damaged headers would fill the memory."""
    if width * height > LARGEST_FRAME or max(width, height) > LONGEST_FRAME * max(1, min(width, height)):
        rule = f"at most {LARGEST_FRAME} pixels and sides of 1:{LONGEST_FRAME} are read"
        raise DecodeError(path, f"frames of {width}x{height} pixels, or a damaged header; {rule}")


def promised_frames(container: Any, stream: Any) -> int:
    """Frames that a file's header promises, as decord counts them before it reads the packets."""
    seconds = max(float((stream.duration or 0) * (stream.time_base or 0)), (container.duration or 0) / 1e6)
    rate = max(float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate))
    return stream.frames or int(rate * seconds)


class LibavVideo:
    """An open video; `video_gn.data.decoding.open.open_video` makes it.

    Its packets are read when it is opened and kept until `close`: a seek in a file can miss, a list cannot.

    Attributes:
        path: The file.
        num_frames: Frames of the video, at least 1.
        fps: Mean frames a second, 0 if unknown.
        num_keyframes: Frames from which decoding can start.
        promised: As `promised_frames`.
        width: Of the frames as they are stored, in pixels.
        height: As `width`.
        has_palette: Whether its pixels are numbers of colours.
    """

    _container: Any = None

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = OpenFile(path)
        try:
            if self._file.size > LARGEST:
                raise DecodeError(path, f"larger than {LARGEST >> 30} GiB; cut it into clips")
            with refusing(path):
                self._container = open_container(self._file)
                self._index()
        except DecodeError:
            self.close()
            raise

    def _index(self) -> None:
        """Reads the packets, and finds which of them makes which frame."""
        stream = video_stream(self._container, self.path)
        self._codec = stream.codec_context
        self.width, self.height = self._codec.width, self._codec.height
        packets, most, held = [], max(MOST_BYTES, EXPANSION * self._file.size), 0
        for packet in islice(self._container.demux(stream), MOST_PACKETS + 1):
            held += packet.size
            if held > most:
                raise DecodeError(self.path, f"its packets expand to more than {most >> 20} MiB; remux it with ffmpeg")
            if packet.size:
                packets.append(packet)
        if len(packets) > MOST_PACKETS:
            raise DecodeError(self.path, f"more than {MOST_PACKETS} packets; cut it into clips")
        if len(packets) < stream.frames and self._is_cut(stream):
            raise DecodeError(self.path, f"cut short: {len(packets)} of {stream.frames} frames are there")
        first = next((i for i, packet in enumerate(packets) if packet.is_keyframe), len(packets))
        if first > LOST * len(packets):
            raise DecodeError(self.path, f"the first keyframe is packet {first + 1} of {len(packets)}")
        self._packets: list[Any] = packets[first:]
        shown = [i for i, packet in enumerate(self._packets) if not packet.is_discard]  # the rest: an edit list's
        if not shown:
            raise DecodeError(self.path, "no frames")
        times = [self._packets[i].pts for i in shown]
        # AVI stores no time stamps; libavformat makes some up that are wrong where there are B-frames.
        # Those with a palette get it in the first packet alone: such a video is decoded from its beginning.
        self.has_palette = self._codec.pix_fmt == "pal8"
        stamped = self._file.container != "avi" and None not in times and not self.has_palette
        self._timed = stamped and len(set(times)) == len(times)
        if self._timed:
            shown.sort(key=lambda i: self._packets[i].pts)
        self._packet_of = shown  # of each frame, in the order in which they are shown
        self._frame_at = {self._packets[i].pts: frame for frame, i in enumerate(shown)} if self._timed else {}
        self._keys = [i for i, packet in enumerate(self._packets) if packet.is_keyframe]
        self.num_frames, self.num_keyframes = len(shown), len(self._keys)
        self.fps = float(stream.average_rate or 0)
        self.promised = promised_frames(self._container, stream)

    def _is_cut(self, stream: Any) -> bool:
        """Whether frames are missing because the file ends before them; an edit list leaves some out, too."""
        if self._file.container != "mov":
            return True
        return any(entry.pos + entry.size > self._file.size for entry in stream.index_entries)

    @property
    def lacks_times(self) -> bool:
        """Whether frames are stored in another order than they are shown, and nothing says in which."""
        return not self._timed and bool(self._codec.has_b_frames)

    @property
    def has_open_gop(self) -> bool:
        """Whether frames shown before a keyframe are stored after it, and so need the keyframe before that one."""
        if not self._timed:
            return False
        earliest = np.minimum.accumulate([packet.pts for packet in self._packets][::-1])[::-1]
        return any(earliest[key] < self._packets[key].pts for key in self._keys)

    @classmethod
    @contextmanager
    def opened(cls, path: str) -> Iterator["LibavVideo"]:
        """An open video, closed in the end."""
        with closing(cls(path)) as video:
            yield video

    def close(self) -> None:
        """Lets go of the file and its packets."""
        self._packets = []
        if self._container is not None:
            self._container.close()
        self._file.close()

    def read(self, indices: Sequence[int] | np.ndarray, finish: Finish = as_they_are) -> np.ndarray:
        """As `video_gn.data.decoding.open.Video.read`."""
        return assemble(indices, lambda wanted: refusing_each(self.path, self._parts(wanted)), finish)

    def _parts(self, wanted: np.ndarray) -> Iterator[Frames]:
        """The frames in ascending order, in parts."""
        reformatter, size = VideoReformatter(), part_size(len(wanted), 3 * self.width * self.height)
        missing = dict.fromkeys(wanted.tolist())
        part: list[np.ndarray] = []
        for frame, picture in one_size(self._frames(wanted.tolist()), self.path):
            if frame in missing:
                del missing[frame]
                part.append(rgb(picture, reformatter))
                if len(part) == size:
                    yield part
                    part = []
        if missing:
            raise DecodeError(self.path, f"frame {min(missing)} of {self.num_frames} cannot be decoded")
        if part:
            yield part

    def _frames(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """Number and picture of frames, at least of those wanted that can be decoded."""
        if not self._timed:  # frames are known by their order alone, from the beginning
            pictures = (picture for packet in [*self._packets, None] for picture in self._codec.decode(packet))
            yield from zip(range(wanted[-1] + 1), pictures, strict=False)
            self._codec.flush_buffers()
            return
        needed = {self._packet_of[frame] for frame in wanted}
        drops = self._codec.name in DROPPING
        for first, last in self._runs(wanted):
            for i in range(first, last + 1):
                self._codec.skip_frame = "NONREF" if drops and i not in needed else "DEFAULT"
                for picture in self._codec.decode(self._packets[i]):
                    yield self._frame_at.get(picture.pts, -1), picture
            for picture in self._codec.decode(None):
                yield self._frame_at.get(picture.pts, -1), picture
            self._codec.flush_buffers()

    def _runs(self, wanted: list[int]) -> list[list[int]]:
        """First and last packet of each stretch to decode, in ascending order."""
        runs: list[list[int]] = []
        for frame in wanted:
            i = self._packet_of[frame]
            time = self._packets[i].pts
            # The last keyframe before it that is not shown after it: an open GOP's first frames need the one before.
            key = max((k for k in self._keys if k <= i and self._packets[k].pts <= time), default=0)
            if runs and key <= runs[-1][1] + 1:
                runs[-1][1] = max(runs[-1][1], i)
            else:
                runs.append([key, i])
        return runs


def rgb(picture: Any, reformatter: VideoReformatter) -> np.ndarray:
    """A picture as it is shown: uint8 RGB `[H, W, 3]`, turned if the file says so."""
    pixels = _pixels(reformatter.reformat(picture, format="rgb24", threads=1))
    return np.rot90(pixels, round(picture.rotation / 90) % 4)


def _pixels(picture: Any) -> np.ndarray:
    """The RGB picture's memory, `[H, W, 3]`, a view."""
    plane = picture.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(picture.height, plane.line_size)
    return rows[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)


def reason(error: Exception) -> str:
    """PyAV's message in one line of ours."""
    if isinstance(error, av.InvalidDataError):
        decoding = "avcodec" in str(error)
        return "damaged: the decoder refuses a packet" if decoding else NO_INDEX
    if isinstance(error, MemoryError):
        return "damaged, or absurdly large: it does not fit in memory"
    if isinstance(error, av.FFmpegError):
        return f"damaged, or of a kind that libav cannot read ({error.strerror})"
    lines = str((isinstance(error, OSError) and error.strerror) or error).splitlines()
    return f"damaged ({lines[0] if lines else type(error).__name__})"
