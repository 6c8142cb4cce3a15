"""A picture of training clips, as a network gets them."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from video_gn.batch import Batch
from video_gn.console import printable
from video_gn.data.label_sets import in_words

CLIPS, FRAMES, SIDE = 16, 4, 112  # clips of a sheet, frames of each, and pixels of a frame
GAP, HEAD = 4, 20
LONGEST = 64  # characters of a label
INK, PAPER = (30, 30, 36), (255, 255, 255)

Labelled = tuple[Tensor, str]


def labelled(batch: Batch, class_names: Sequence[str], most: int = CLIPS) -> list[Labelled]:
    """Clips uint8 `[3, T, H, W]` of a training batch, at most so many, and their labels in words.

    Args:
        batch: Of the loader.
        class_names: The classes.
        most: Of the clips.
    """
    views = batch.clips.shape[1]
    clips = batch.clips.flatten(0, 1)[:most]
    found = []
    for number, clip in enumerate(clips):
        video = number // views
        words = in_words(batch.labels[video].cpu(), class_names)
        if batch.seconds is not None and batch.shares is not None and (share := float(batch.shares[video])) < 1:
            words = f"{share:.2f} {words} + {1 - share:.2f} {in_words(batch.seconds[video].cpu(), class_names)}"
        found.append((clip.to("cpu", torch.uint8, copy=True), words))
    return found


def sheet(clips: Iterable[Labelled]) -> Image.Image:
    """A picture of clips in two columns, each as some of its frames side by side below its label."""
    clips = list(clips)
    shown = [min(FRAMES, clip.shape[1]) for clip, _ in clips]
    wide = max(shown, default=1) * (SIDE + GAP) + GAP
    columns = 2 if wide > 2 * SIDE else 4
    rows = -(-len(clips) // columns)
    page = Image.new("RGB", (columns * wide + GAP, rows * (HEAD + SIDE + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for number, (clip, words) in enumerate(clips):
        x, y = GAP + number % columns * wide, GAP + number // columns * (HEAD + SIDE + GAP)
        text = printable(words)[:LONGEST]
        while font.getlength(text) > wide - 2 * GAP:
            text = f"{text[:-2]}…"
        draw.text((x, y), text, INK, font)
        where = np.linspace(0, clip.shape[1] - 1, shown[number]).round().astype(int)
        for place, frame in enumerate(clip[:, where].permute(1, 2, 3, 0).numpy()):
            how = Image.Resampling.LANCZOS if max(frame.shape[:2]) > SIDE else Image.Resampling.NEAREST
            small = Image.fromarray(np.ascontiguousarray(frame)).resize((SIDE, SIDE), how)
            page.paste(small, (x + place * (SIDE + GAP), y + HEAD))
    return page
