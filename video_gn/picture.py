"""Pictures of predictions: a strip of a clip's frames with the likeliest classes, and the video with them beside it."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from video_gn.console import printable
from video_gn.data.decoding.pyav_reader import create_mp4
from video_gn.files.writing import replacing

Classes = Sequence[tuple[str, float]]  # name and score, the likeliest first
INK, PAPER, BAR, EMPTY = (30, 30, 36), (255, 255, 255), (52, 104, 176), (232, 234, 238)
ROW = 30  # pixels of a class
GAP = 6


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
    heat = (255 * colormaps["inferno"](maps)[..., :3]).astype(np.float32)
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
    """
    *_, features, head = model.net.blocks
    kept: list[torch.Tensor] = []
    hook = features.register_forward_hook(lambda module, given, out: kept.append(out))
    with torch.inference_mode():
        try:
            model(clip[None].to(model.device))
        finally:
            hook.remove()
        maps = torch.einsum("c,cthw->thw", head.proj.weight[label].float(), kept[0][0].float()).relu()
        maps = torch.nn.functional.interpolate(maps[None, None], clip.shape[1:], mode="trilinear")[0, 0]
        return (maps / maps.max().clamp_min(1e-6)).cpu().numpy()
