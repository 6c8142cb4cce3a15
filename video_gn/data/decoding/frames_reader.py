"""Folders of frame images in the place of videos, as many sets of features and actions are handed on."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from video_gn.data.decoding.image_reader import ImageFile
from video_gn.data.decoding.reader import Finish, Frames, as_they_are, assemble, part_size
from video_gn.data.folders import frames_of
from video_gn.errors import DecodeError

FPS = 30.0  # which images do not say: at it a prediction is shown, and slowfast-30view spans its seconds


class FrameFolder:
    """A folder of numbered images (`img_00001.jpg`) as a video, of which only the frames asked for are decoded.

    Frames are in the order of their numbers; a number that is missing is no frame.

    Args:
        path: The folder.

    Raises:
        DecodeError: It cannot be read, or holds no frames of one kind.
    """

    fps, pixel_aspect = FPS, 1.0

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            names = [name for name in os.listdir(path) if not name.startswith(".")]
        except OSError as error:
            raise DecodeError(path, f"the folder cannot be read: {error.strerror}") from None
        self._names = frames_of(names)
        self.num_frames = len(self._names)
        if not self._names:
            raise DecodeError(path, "a folder, and not one of frames: numbered images of one name (img_00001.jpg)")

    def read(self, indices: Sequence[int] | np.ndarray, finish: Finish = as_they_are) -> np.ndarray:
        """As `video_gn.data.decoding.open.Video.read`."""
        return assemble(indices, self._parts, finish)

    def _parts(self, wanted: np.ndarray) -> Iterator[Frames]:
        """The frames in ascending order, in parts."""
        size, part, shape = 0, [], None
        for number in wanted.tolist():
            frame = self._frame(number)
            if shape is None:
                shape = frame.shape
                size = part_size(len(wanted), frame.nbytes)
            if frame.shape != shape:
                change = "from {1}x{0} to {3}x{2}".format(*shape[:2], *frame.shape[:2])
                raise DecodeError(self.path, f"frames change {change} pixels ({self._names[number]})")
            part.append(frame)
            if len(part) == size:
                yield part
                part = []
        if part:
            yield part

    def _frame(self, number: int) -> np.ndarray:
        try:
            return ImageFile(os.path.join(self.path, self._names[number])).read([0])[0]
        except DecodeError as error:
            raise DecodeError(self.path, f"frame {number} ({self._names[number]}): {error.reason}") from None

    def find_damage(self) -> str | None:
        """What is wrong with the first frame that cannot be decoded, or None; decodes them all."""
        try:
            for _ in self._parts(np.arange(self.num_frames)):
                pass
        except DecodeError as error:
            return error.reason
        return None

    def close(self) -> None:
        """As `video_gn.data.decoding.open.Video.close`."""
