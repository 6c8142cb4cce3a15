"""Pictures of predictions: a strip of a clip's frames with the likeliest classes, and the video with them beside it."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from video_gn.console import printable
from video_gn.data.decoding.open import IMAGE, open_video
from video_gn.data.mp4 import create_mp4
from video_gn.data.views import ProtocolViews, Views
from video_gn.errors import InputError
from video_gn.files.writing import replacing
from video_gn.models.contract import known
from video_gn.models.input import normalize
from video_gn.predict.model_file import Trained
from video_gn.train.callbacks.predictions import TOP

Classes = Sequence[tuple[str, float]]  # name and score, the likeliest first
INK, PAPER, BAR, EMPTY = (30, 30, 36), (255, 255, 255), (52, 104, 176), (232, 234, 238)
ROW = 30  # pixels of a class
GAP = 6

HEAT = np.array(
    [
        (0, 0, 4),
        (11, 7, 36),
        (33, 12, 74),
        (61, 9, 101),
        (87, 16, 110),
        (113, 25, 110),
        (138, 34, 106),
        (163, 44, 97),
        (188, 55, 84),
        (210, 70, 68),
        (228, 90, 49),
        (241, 115, 29),
        (249, 142, 9),
        (252, 172, 17),
        (249, 203, 53),
        (242, 234, 105),
        (252, 255, 164),
    ]
)  # matplotlib's inferno at equal distances
SHOWN = 8  # frames in a strip
LONGEST_STEM = 200  # bytes of a picture's name; file systems take 255, endings included


def strip(
    frames: np.ndarray, top: Classes, title: str, maps: np.ndarray | None = None, height: int = 150
) -> Image.Image:
    """Frames of a clip side by side, below them where the model looks, below that its likeliest classes.

    Args:
        frames: uint8 `[n, H, W, 3]`.
        top: Its classes.
        title: Above.
        maps: Of `class_activation`, `[n, H, W]` from 0 to 1, laid over the frames in a second row.
        height: Of a frame in the picture, in pixels.
    """
    rows = [frames] if maps is None else [frames, overlay(frames, maps)]
    width = max(1, round(height * frames.shape[2] / frames.shape[1]))
    wide = max(len(frames) * (width + GAP) + GAP, 480)
    head = 28
    page = Image.new("RGB", (wide, head + len(rows) * (height + GAP) + GAP + len(top) * ROW + GAP), PAPER)
    ImageDraw.Draw(page).text((GAP, 5), printable(title), INK, _font(15))
    for y, row in enumerate(rows):
        for x, frame in enumerate(row):
            small = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
            page.paste(small, (GAP + x * (width + GAP), head + y * (height + GAP)))
    page.paste(bars(top, min(wide - 2 * GAP, 720)), (GAP, head + len(rows) * (height + GAP) + GAP))
    return page


def bars(top: Classes, width: int) -> Image.Image:
    """The classes as bars from 0 to 100 %."""
    image = Image.new("RGB", (width, max(1, len(top)) * ROW), PAPER)
    draw, font = ImageDraw.Draw(image), _font(14)
    top = [(printable(name), score) for name, score in top]  # PIL writes no line breaks into a line
    longest = max((draw.textlength(name, font) for name, _ in top), default=0)
    left, right = int(min(longest, 0.45 * width)) + 10, width - 62
    for i, (name, score) in enumerate(top):
        y = i * ROW
        draw.text((0, y + 6), _fitting(draw, name, left - 10, font), INK, font)
        draw.rectangle((left, y + 5, right, y + ROW - 6), EMPTY)
        draw.rectangle((left, y + 5, left + round(score * (right - left)), y + ROW - 6), BAR)
        draw.text((right + 8, y + 6), f"{100 * score:.1f} %", INK, font)
    return image


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: float, font: Any) -> str:
    text = text[:200]
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = f"{text[:-2]}…"
    return text


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def overlay(frames: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Frames `[n, H, W, 3]` with maps `[n, H, W]` from 0 to 1 in colour over them."""
    at = np.linspace(0, 1, len(HEAT))
    heat = np.stack([np.interp(maps, at, colour) for colour in HEAT.T], -1)
    opacity = 0.15 + 0.5 * maps[..., None]
    return np.clip((1 - opacity) * frames + opacity * heat + 0.5, 0, 255).astype(np.uint8)


def write_video(
    path: Path, frames: Iterable[np.ndarray], tops: Iterable[Classes], fps: float, height: int = 320, panel: int = 380
) -> None:
    """An H.264 video of frames, each with its likeliest classes to its right.

    Args:
        path: MP4; it appears when it is whole.
        frames: uint8 `[H, W, 3]` each.
        tops: The classes beside each.
        fps: Frames a second.
        height: Of the video, in pixels.
        panel: Width of the classes' part, in pixels.
    """
    with replacing(path) as part, create_mp4(part) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        for frame, top in zip(frames, tops, strict=True):
            width = 2 * round(height * frame.shape[1] / frame.shape[0] / 2)
            page = Image.new("RGB", (width + panel, height), PAPER)
            page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
            side = bars(top, panel - 24)
            page.paste(side, (width + 12, (height - side.height) // 2))
            if not stream.codec_context.is_open:
                stream.width, stream.height = page.size
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(page), format="rgb24")))
        container.mux(stream.encode())


def class_activation(model: Any, clip: torch.Tensor, label: int) -> np.ndarray:
    """Where in a clip, and when, a class is seen (Zhou et al. 2016), `[T, H, W]` from 0 to 1.

    The last layer's weights for the class, over the features before they are averaged.

    Args:
        model: A `VideoClassifier`.
        clip: uint8 `[3, T, H, W]`.
        label: The class.

    Raises:
        InputError: The network has no such maps.
    """
    net = known(model.net, "a class-activation map")
    with torch.inference_mode():
        maps = net.activation(normalize(clip[None].to(model.device), model.mean, model.std), label).relu()
        maps = torch.nn.functional.interpolate(maps[:, None], clip.shape[1:], mode="trilinear")[0, 0]
        return (maps / maps.max().clamp_min(1e-6)).cpu().numpy()


# Pictures


@dataclasses.dataclass
class Pictures:
    """Makes pictures of predictions.

    Args:
        folder: Where they go.
        model: What predicted.
        views: How it saw them.
        cam: Whether to show where it looks.
        video: Whether to write an MP4 too.
    """

    folder: Path
    model: Trained
    views: Views
    cam: bool = False
    video: bool = False

    def make(self, path: str, scores: Tensor) -> list[Path]:
        """Writes the pictures of one video; gives their paths, none of which was there before."""
        frames, clips, fps = self._look(path)
        per_clip = scores.unflatten(0, (len(clips), -1)).mean(1)
        label = int(scores.mean(0).argmax())
        middle = len(clips) // 2
        at = clips[middle][np.linspace(0, clips.shape[1] - 1, min(SHOWN, clips.shape[1])).round().astype(int)]
        maps = self._maps(frames, clips, label, range(len(clips)) if self.video else [middle]) if self.cam else None
        title = f"{Path(path).name}: clip {middle + 1} of {len(clips)}" if len(clips) > 1 else Path(path).name
        if maps is not None:
            title += f"; where it sees {self._names[label]}"
        shown = strip(frames[at], self._top(scores.mean(0)), title, None if maps is None else maps[at])
        target = self._free(Path(path).stem)
        shown.save(target)
        if not self.video or len(frames) == 1:
            return [target]
        nearest = np.abs(np.arange(len(frames))[:, None] - np.median(clips, 1)).argmin(1)
        tops = [self._top(one) for one in per_clip]
        film = frames if maps is None else overlay(frames, maps)
        write_video(target.with_suffix(".mp4"), film, (tops[i] for i in nearest), fps)
        return [target, target.with_suffix(".mp4")]

    @property
    def _names(self) -> list[str]:
        return self.model.settings.class_names

    def _top(self, scores: Tensor) -> list[tuple[str, float]]:
        best = scores.topk(min(TOP, len(scores)))
        return [(self._names[i], value) for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def _free(self, stem: str) -> Path:
        """A name that is not taken, from the beginning of one that may be as long as names can be."""
        while len(os.fsencode(stem)) > LONGEST_STEM:
            stem = stem[:-1]
        names = (self.folder / f"{stem}{f'-{i}' if i else ''}.png" for i in range(10**6))
        return next(path for path in names if not path.exists() and not path.with_suffix(".mp4").exists())

    def _look(self, path: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Frames `[F, H, W, 3]` as the model saw them, those of each clip `[clips, T]`, and frames a second."""
        if not isinstance(self.views, ProtocolViews):
            with open_video(path, IMAGE) as image:
                frame = self.views(image, np.random.default_rng())[0][0]
            return frame, np.zeros((1, 1), np.int64), 1.0
        views = self.views
        with open_video(path, "pyav") as video:
            clips = np.unique(views.clips(video))
            step = np.median(np.diff(clips)) if len(clips) > 1 else 1.0
            seen = views(video, np.random.default_rng())
            assert seen.clip_frames is not None
            return seen.clips[0], seen.clip_frames, float(np.clip(video.fps / step, 1, 60))

    def _maps(self, frames: np.ndarray, clips: np.ndarray, label: int, of: Any) -> np.ndarray:
        """Activation of each frame `[F, H, W]`, the mean over the clips that it is in."""
        if self.model.model is None:
            raise InputError("--cam needs the network: take the checkpoint or its .safetensors, not a graph")
        total, count = np.zeros(frames.shape[:3], np.float32), np.zeros(len(frames), np.float32)
        for i in of:
            clip = torch.from_numpy(frames[clips[i]]).permute(3, 0, 1, 2).contiguous()
            for place, found in zip(clips[i], class_activation(self.model.model, clip, label), strict=True):
                total[place] += found
                count[place] += 1
        return total / np.maximum(count, 1)[:, None, None]
