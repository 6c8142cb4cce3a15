"""Which videos of a test are shown, and as what moving pictures."""

import base64
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from video_gn.console import progress
from video_gn.data.glimpse import Glimpse
from video_gn.train.outcomes import VideoScores

ERRORS, UNSURE, RIGHT = 48, 16, 16  # pictures of each kind
SECONDS = 45.0  # for all pictures; those that are left are shown without
QUALITY = 55  # of WebP
STEP = 250  # milliseconds from frame to frame


@dataclass
class Shown:
    """A video of the gallery, and its picture."""

    row: int
    picture: str = ""
    """As a data address; empty where there is none."""
    width: int = 0
    """In pixels."""
    height: int = 0
    """In pixels."""
    reason: str = ""
    """Why there is no picture."""


def choose(tested: VideoScores, seed: int = 0) -> dict[str, list[int]]:
    """Rows of the errors that the network is surest of, of what it is least sure of, and of right ones at random.

    Each video is in one of them. Errors come by `VideoScores.margin` (wrong labels come earlier so than by the score of
    what is said alone), others by `VideoScores.sure`.

    Args:
        tested: The test.
        seed: Of the right ones.
    """
    has_scores = tested.rank > 0
    sure, margin = tested.sure, tested.margin
    wrong = np.flatnonzero(has_scores & ~tested.right)
    errors = wrong[np.argsort(-margin[wrong], kind="stable")][:ERRORS]
    others = np.setdiff1d(np.flatnonzero(has_scores), errors)
    unsure = others[np.argsort(sure[others], kind="stable")][:UNSURE]
    rest = np.setdiff1d(np.flatnonzero(tested.right), unsure)
    right = np.sort(np.random.default_rng(seed).permutation(rest)[:RIGHT])
    return {"errors": errors.tolist(), "unsure": unsure.tolist(), "right": right.tolist()}


def pictures(found: Iterable[Glimpse], rows: list[int]) -> dict[int, Shown]:
    """The pictures of some rows. What goes wrong with a video is said in its place.

    Args:
        found: What there is to see of them, in their order.
        rows: The rows.
    """
    shown = {row: Shown(row, reason=f"no time was left for it: pictures take at most {SECONDS:g} s") for row in rows}
    began = time.monotonic()
    with progress(total=len(rows), desc="page", unit="video", leave=False) as bar:
        for glimpse in found:
            shown[glimpse.row] = _picture(glimpse)
            bar.update()
            if time.monotonic() - began > SECONDS:
                break
    return shown


def _picture(found: Glimpse) -> Shown:
    if found.frames is None:
        return Shown(found.row, reason=found.reason)
    height, width = found.frames.shape[1:3]
    return Shown(found.row, webp(found.frames), width, height)


def webp(frames: np.ndarray) -> str:
    """Frames uint8 `[T, H, W, 3]` as a moving picture that repeats, in a data address."""
    first, *others = map(Image.fromarray, frames)
    file = io.BytesIO()
    moving = {"save_all": True, "append_images": others, "duration": STEP, "loop": 0} if others else {}
    first.save(file, "WEBP", quality=QUALITY, method=2, **moving)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
