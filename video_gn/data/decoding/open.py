"""Opens videos and images, by the decoder asked for."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from video_gn.data.decoding.frames_reader import FrameFolder
from video_gn.data.decoding.image_reader import ImageFile
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.decoding.reader import Video
from video_gn.errors import DecodeError


def _decord(path: str, checked: bool) -> Video:
    from video_gn.data.decoding.decord_reader import DecordVideo  # 0.2 s, which what opens no video does not need

    return DecordVideo(path, checked)


BACKENDS: dict[str, Callable[[str, bool], Video]] = {
    "decord": _decord,
    "pyav": lambda path, checked: LibavVideo(path),
}
IMAGE = "image"  # what reads images; videos are none of its business


@contextmanager
def open_video(
    path: str | Path,
    backend: str = "decord",
    checked: bool = False,
    num_frames: int | None = None,
    pixel_aspect: float | None = None,
) -> Iterator[Video]:
    """Opens a video, to be read once.

    Args:
        path: The file, or a folder of frame images, which all backends of videos read alike.
        backend: A name of `BACKENDS`, which give the same pixels, or refuse; or `IMAGE`.
        checked: Whether this backend is known to read the right frames of this file.
        num_frames: Frames that can be decoded, where somebody counted them: containers may promise others.
        pixel_aspect: As of `Video`, where somebody looked: a backend that need not look does not know it.

    Raises:
        DecodeError: Here or in `Video.read`, whatever the way in which the backend fails.
    """
    path = str(path)
    video: Video
    if backend == IMAGE:
        video = ImageFile(path)
    else:
        video = FrameFolder(path) if os.path.isdir(path) else BACKENDS[backend](path, checked)
    try:
        if num_frames is not None:
            if num_frames > video.num_frames:
                raise DecodeError(path, f"has {video.num_frames} frames and was checked with {num_frames}: check again")
            video.num_frames = num_frames
        if pixel_aspect is not None:
            video.pixel_aspect = pixel_aspect
        yield video
    finally:
        video.close()
