"""Frames out of video files by PyAV (FFmpeg's libav): only the packets that the asked frames need are decoded.

A frame needs the packets from its keyframe on, in decoding order, less those that no other frame refers to (most
B-frames). libavcodec passes over such packets when asked to (`skip_frame`); what it decodes is bit-identical.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from video_gn.data.decoding.containers import OpenFile
from video_gn.data.decoding.display import Orientation, orientation, pixel_aspect, rgb, stored_size
from video_gn.data.decoding.libav import (
    is_cover,
    one_size,
    open_container,
    promised_frames,
    refusing,
    refusing_each,
    video_stream,
)
from video_gn.data.decoding.reader import LARGEST, Finish, Frames, as_they_are, assemble, part_size
from video_gn.errors import DecodeError

MOST_PACKETS = 1 << 20  # of a video, some 400 bytes of memory each beside what is in them
# Bytes of a video's packets, which are held in memory. They are part of the file, and so less than it; but Matroska may
# compress them, an MP4's index may name the same bytes again and again, and files made for that expand 1000 times.
MOST_BYTES, EXPANSION = 64 << 20, 16  # whichever is more: so much, or so many times the file's size
DROPPING = {"h264", "hevc", "mpeg4", "mpeg2video"}  # decoders that obey at once; dav1d does some packets later
OUT_OF_ORDER = "its time stamps contradict the order in which its frames are shown; remux it with ffmpeg"
LOST = 0.1  # fraction of the packets that may precede the first keyframe


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
        pixel_aspect: Width of a pixel by its height, as frames are shown.
        has_palette: Whether its pixels are numbers of colours.
        has_cover: Whether a cover picture is beside the video.
        codec: PyAV's context of its decoder.
        packets: From the first keyframe on, in the order of decoding.
        keys: Which of the packets are keyframes.
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
        self.codec = stream.codec_context
        self.width, self.height = self.codec.width, self.codec.height
        self.has_cover = any(map(is_cover, self._container.streams.video))
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
        self.packets: list[Any] = packets[first:]
        shown = [i for i, packet in enumerate(self.packets) if not packet.is_discard]  # the rest: an edit list's
        if not shown:
            raise DecodeError(self.path, "no frames")
        times = [self.packets[i].pts for i in shown]
        # AVI stores no time stamps; libavformat makes some up that are wrong where there are B-frames.
        # Those with a palette get it in the first packet alone: such a video is decoded from its beginning.
        self.has_palette = self.codec.pix_fmt == "pal8"
        stamped = self._file.container != "avi" and None not in times and not self.has_palette
        self._timed = stamped and len(set(times)) == len(times)
        if self._timed:
            shown.sort(key=lambda i: self.packets[i].pts)
        self._packet_of = shown  # of each frame, in the order in which they are shown
        self._frame_at = {self.packets[i].pts: frame for frame, i in enumerate(shown)} if self._timed else {}
        self.keys = [i for i, packet in enumerate(self.packets) if packet.is_keyframe]
        self.num_frames, self.num_keyframes = len(shown), len(self.keys)
        self.fps = float(stream.average_rate or 0)
        self.promised = promised_frames(self._container, stream)
        self.pixel_aspect = pixel_aspect(stream)
        if self.pixel_aspect != 1 and (picture := self.picture_of(0)) and orientation(picture).turns % 2:
            self.pixel_aspect = 1 / self.pixel_aspect

    def picture_of(self, packet: int) -> Any:
        """The picture of a keyframe, by the number of its packet, or the first after it that an edit list leaves in.

        None if it cannot be decoded. Not while frames are read: the decoder begins afresh.
        """
        last = next((i for i in range(packet, len(self.packets)) if not self.packets[i].is_discard), packet)
        try:
            parts = [*self.packets[packet : last + 1], None]
            pictures = [picture for part in parts for picture in self.codec.decode(part)]
        except av.FFmpegError:
            pictures = []
        self.codec.flush_buffers()
        return pictures[0] if pictures else None

    def _is_cut(self, stream: Any) -> bool:
        """Whether frames are missing because the file ends before them; an edit list leaves some out, too."""
        if self._file.container != "mov":
            return True
        return any(entry.pos + entry.size > self._file.size for entry in stream.index_entries)

    @property
    def lacks_times(self) -> bool:
        """Whether frames are stored in another order than they are shown, and nothing says in which."""
        return not self._timed and bool(self.codec.has_b_frames)

    @property
    def has_open_gop(self) -> bool:
        """Whether frames shown before a keyframe are stored after it, and so need the keyframe before that one."""
        if not self._timed:
            return False
        earliest = np.minimum.accumulate([packet.pts for packet in self.packets][::-1])[::-1]
        return any(earliest[key] < self.packets[key].pts for key in self.keys)

    @classmethod
    @contextmanager
    def opened(cls, path: str) -> Iterator["LibavVideo"]:
        """An open video, closed in the end."""
        with closing(cls(path)) as video:
            yield video

    def close(self) -> None:
        """Lets go of the file and its packets."""
        self.packets = []
        if self._container is not None:
            self._container.close()
        self._file.close()

    def read(self, indices: Sequence[int] | np.ndarray, finish: Finish = as_they_are) -> np.ndarray:
        """As `video_gn.data.decoding.open.Video.read`."""
        return assemble(indices, lambda wanted: refusing_each(self.path, self._parts(wanted)), finish)

    def _parts(self, wanted: np.ndarray) -> Iterator[Frames]:
        """The frames in ascending order, in parts."""
        reformatter, size_of_part = VideoReformatter(), part_size(len(wanted), 3 * self.width * self.height)
        missing = dict.fromkeys(wanted.tolist())
        part: list[np.ndarray] = []
        shown: Orientation | None = None
        for frame, picture in one_size(self._frames(wanted.tolist()), self.path, stored_size):
            shown = shown or orientation(picture)
            if frame in missing:
                del missing[frame]
                part.append(rgb(picture, reformatter, shown))
                if len(part) == size_of_part:
                    yield part
                    part = []
        if missing:
            raise DecodeError(self.path, f"frame {min(missing)} of {self.num_frames} cannot be decoded")
        if part:
            yield part

    def _frames(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """Number and picture of frames, at least of those wanted that can be decoded."""
        if not self._timed:  # frames are known by their order alone, from the beginning
            pictures = (picture for packet in [*self.packets, None] for picture in self.codec.decode(packet))
            yield from zip(range(wanted[-1] + 1), pictures, strict=False)
            self.codec.flush_buffers()
            return
        needed = {self._packet_of[frame] for frame in wanted}
        drops = self.codec.name in DROPPING
        for first, last in self._runs(wanted):
            time = None
            for i in [*range(first, last + 1), None]:
                self.codec.skip_frame = "NONREF" if drops and i is not None and i not in needed else "DEFAULT"
                for picture in self.codec.decode(None if i is None else self.packets[i]):
                    if time is not None and picture.pts is not None and picture.pts <= time:
                        raise DecodeError(self.path, OUT_OF_ORDER)
                    time = picture.pts
                    yield self._frame_at.get(picture.pts, -1), picture
            self.codec.flush_buffers()

    def _runs(self, wanted: list[int]) -> list[list[int]]:
        """First and last packet of each stretch to decode, in ascending order."""
        runs: list[list[int]] = []
        for frame in wanted:
            i = self._packet_of[frame]
            time = self.packets[i].pts
            # The last keyframe before it that is not shown after it: an open GOP's first frames need the one before.
            key = max((k for k in self.keys if k <= i and self.packets[k].pts <= time), default=0)
            if runs and key <= runs[-1][1] + 1:
                runs[-1][1] = max(runs[-1][1], i)
            else:
                runs.append([key, i])
        return runs
