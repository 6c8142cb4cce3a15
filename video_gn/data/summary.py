"""What is in the lists of a run: videos and groups by class and split, lengths, sizes, frame rates, bad files.

Headers are read of a bounded sample, so that lists of any length take seconds.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from video_gn.data import sampling
from video_gn.data.decoding.containers import OpenFile
from video_gn.data.decoding.display import shown_size
from video_gn.data.decoding.frames_reader import FrameFolder
from video_gn.data.decoding.image_reader import FORMATS, ImageFile
from video_gn.data.decoding.libav import open_container, promised_frames, refusing, video_stream
from video_gn.data.decoding.open import IMAGE
from video_gn.data.label_sets import by_class, pairs
from video_gn.data.video_list import VideoList
from video_gn.errors import DecodeError

SAMPLE = 200  # videos of a split whose headers are read
SECONDS = 2.0  # for those of a split, at most
MOSTLY = 0.9  # share of one class from which it is said
FEW = 0.05  # share of videos from which it is said that they are portrait, or that their clips are looped
NAMED = 5  # classes in a line


class Header(NamedTuple):
    """What a file says of itself, as it is shown."""

    frames: int
    fps: float
    width: int
    height: int


def read_header(path: str, backend: str = "decord") -> Header:
    """What the header and the first frame of a video say, or of a folder of frames; or the header of an image.

    Raises:
        DecodeError: They cannot be read.
    """
    if backend == IMAGE:
        return Header(1, 0.0, *_size_of(path))
    if os.path.isdir(path):
        frames = FrameFolder(path)
        height, width = frames.read([0]).shape[1:3]
        return Header(frames.num_frames, frames.fps, width, height)
    with OpenFile(path) as file, refusing(path), open_container(file) as container:
        stream = video_stream(container, path)
        picture = next(container.decode(stream), None)
        if picture is None:
            raise DecodeError(path, "damaged: its first frame cannot be decoded")
        return Header(promised_frames(container, stream), float(stream.average_rate or 0), *shown_size(picture))


def _size_of(path: str) -> tuple[int, int]:
    try:
        with Image.open(path, formats=FORMATS) as image:  # its header alone
            return image.size if image.getexif().get(274, 1) < 5 else image.size[::-1]
    except Exception:  # on damaged content, Pillow fails in every way
        return ImageFile(path).image.size


def summarize(
    lists: Mapping[str, VideoList],
    num_classes: int,
    backend: str = "decord",
    clip: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What is in the lists, in types of JSON, by split.

    Args:
        lists: Of each split.
        num_classes: K.
        backend: Of the data module: videos, or `video_gn.data.decoding.open.IMAGE`.
        clip: Settings of `video_gn.data.settings.Clip`; none of images.
        seed: Of the sample whose headers are read.
    """
    interval = clip and (min(1, clip["frame_interval"]) if clip.get("shrink") else clip["frame_interval"])
    span = sampling.span(clip["num_frames"], interval or 0) if clip else None
    return {split: _split(videos, num_classes, backend, span, seed) for split, videos in lists.items()}


def _split(videos: VideoList, num_classes: int, backend: str, span: int | None, seed: int) -> dict[str, Any]:
    groups = videos.groups
    of, classes = pairs(videos.labels)
    found: dict[str, Any] = {"videos": len(videos), "by_class": by_class(videos.labels, num_classes).tolist()}
    if videos.labels.ndim == 2:
        found["multi_label"] = True
    if groups is not None:
        both = set(zip(classes.tolist(), groups[of].tolist(), strict=True))
        found["groups"] = len(np.unique(groups))
        found["groups_by_class"] = np.bincount([label for label, _ in both], minlength=num_classes).tolist()
    found["known_bad"], found["known_damaged"] = len(videos.set_aside), len(videos.damaged)
    return found | _headers(videos, backend, span, seed)


def _headers(videos: VideoList, backend: str, span: int | None, seed: int) -> dict[str, Any]:
    rows = np.random.default_rng(seed).permutation(len(videos))[:SAMPLE].tolist()
    headers, unreadable, began = [], 0, time.monotonic()
    for row in rows:
        if row in videos.set_aside:
            continue
        try:
            headers.append(read_header(videos.path(row), backend))
        except DecodeError:
            unreadable += 1
        if time.monotonic() - began > SECONDS:
            break
    found: dict[str, Any] = {"looked_at": len(headers) + unreadable, "unreadable": unreadable}
    if not headers:
        return found
    sizes = Counter((header.width, header.height) for header in headers)
    found["sizes"] = [[*size, count] for size, count in sizes.most_common(3)]
    found["portrait"] = sum(header.height > header.width for header in headers)
    found["landscape"] = sum(header.height < header.width for header in headers)
    if backend != IMAGE:
        found["frames"] = _ends([header.frames for header in headers])
        timed = [header for header in headers if header.fps > 0]
        found["fps"] = _ends([header.fps for header in timed])
        found["seconds"] = _ends([header.frames / header.fps for header in timed])
    if span:
        found |= {"span": span, "looped": sum(0 < header.frames < span for header in headers)}
    return found


def _ends(values: Sequence[float]) -> list[float]:
    """Least, median and greatest."""
    return [round(float(value), 2) for value in np.percentile(values, (0, 50, 100))] if values else []


def _from_to(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if values[0] == values[-1] else f"{values[0]:g} to {values[-1]:g}"


def remarks(summary: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    """What a user may not expect of the data, in a line each."""
    said = []
    for split, found in summary.items():
        counts, of = found["by_class"], f"of {found['looked_at']} {split} videos that were looked at"
        most = int(np.argmax(counts))
        if len(counts) > 1 and counts[most] >= MOSTLY * found["videos"] and not found.get("multi_label"):
            share = 100 * counts[most] / found["videos"]
            said.append(
                f"{share:.0f} % of the {split} videos are of class {class_names[most]}: always saying so is as often "
                "right, so look at mean_class_accuracy and macro_f1"
            )
        if missing := [name for name, count in zip(class_names, counts, strict=True) if not count]:
            names = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
            said.append(f"{len(missing)} of {len(counts)} classes have no {split} video: {names}")
        portrait, landscape = found.get("portrait", 0), found.get("landscape", 0)
        if portrait >= FEW * found["looked_at"] and portrait and landscape:
            said.append(f"{portrait} {of} are taller than wide, and {landscape} wider than tall: square crops of them "
                        "show other parts of a scene")  # fmt: skip
        if (looped := found.get("looped", 0)) and looped >= FEW * found["looked_at"]:
            said.append(
                f"{looped} {of} are shorter than a clip of {found['span']} frames, so that their clips are looped; "
                "lower data.clip.frame_interval or data.clip.num_frames"
            )
        if found["unreadable"]:
            said.append(f"{found['unreadable']} {of} cannot be read; video-gn data check names them")
    return said


def described(split: str, found: Mapping[str, Any]) -> str:
    """A split in one line."""
    counts = [count for count in found["by_class"] if count]
    each = (
        f"{min(counts)} to {max(counts)} each"
        if counts and min(counts) < max(counts)
        else f"{max(counts, default=0)} each"
    )
    parts = [f"{found['videos']} videos of {len(counts)} {'class' if len(counts) == 1 else 'classes'} ({each})"]
    if "groups" in found:
        parts.append(f"{found['groups']} groups")
    if bad := found["known_bad"] + found["known_damaged"]:
        parts.append(f"{bad} known to be bad")
    if found.get("frames"):
        parts += [
            f"{_from_to(found['frames'])} frames",
            *([f"{_from_to(found['fps'])} a second"] if found["fps"] else []),
        ]
    if found.get("sizes"):
        width, height, _ = found["sizes"][0]
        parts.append(f"{'most ' if len(found['sizes']) > 1 else ''}{width}x{height}")
    sampled = "" if found["looked_at"] == found["videos"] else f" (headers of {found['looked_at']})"
    return f"{split}: {', '.join(parts)}{sampled}"
