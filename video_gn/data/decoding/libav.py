"""Files opened by PyAV (FFmpeg's libav): within bounds, and with every failure as one line."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from traceback import clear_frames
from typing import Any, TypeVar

import av
from av.stream import Disposition

from video_gn.data.decoding.containers import OpenFile
from video_gn.data.decoding.display import shown_size
from video_gn.errors import DecodeError, InputError

LARGEST_FRAME = 36 << 20  # pixels: 8192 x 4608
LONGEST_FRAME = 32  # long side by short side: as much is made of it when its short side is scaled up
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


def one_size(
    pictures: Iterable[tuple[int, Any]], path: str, size_of: Callable[[Any], tuple[int, int]] = shown_size
) -> Iterator[tuple[int, Any]]:
    """Numbered pictures, as long as they have the size of the first one."""
    first: tuple[int, int] | None = None
    for number, picture in pictures:
        size = size_of(picture)
        if first is None:
            check_size(path, *size)
            first = size
        if size != first:
            change = "frames change from {}x{} to {}x{} pixels".format(*first, *size)
            raise DecodeError(path, f"{change}; cut it there, or scale it to one size by ffmpeg")
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
        DecodeError: There is none but a cover picture, nothing decodes it, or its frames are absurdly large.
    """
    films = [stream for stream in container.streams.video if not is_cover(stream)]
    if not films:
        covers = len(container.streams.video)
        raise DecodeError(path, "no video stream" + (", only a cover picture" if covers else ""))
    best = container.streams.best("video")
    stream = films[0] if best is None or is_cover(best) else best
    codec = stream.codec_context
    if codec is None:
        raise DecodeError(path, "its codec is unknown; convert it with ffmpeg")
    check_size(path, codec.width, codec.height)
    codec.options = {"max_pixels": str(LARGEST_FRAME)}
    codec.thread_count = 1
    return stream


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a picture that belongs to the file: a cover of music, or the preview of a chapter."""
    return bool(stream.disposition & Disposition.attached_pic)


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
