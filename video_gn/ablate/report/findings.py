"""What an ablation's figures come to, before it is written."""

from collections.abc import Sequence
from typing import NamedTuple

from video_gn.ablate.contrasts import Contrast


class Findings(NamedTuple):
    """Measured sums of cells.

    Attributes:
        differences: Each value of each axis against the first, and how these differ between rows.
        highest: The highest cell of each column less the others, of three or more.
        levels: Each cell by itself.
    """

    differences: Sequence[Contrast]
    highest: Sequence[Contrast]
    levels: Sequence[Contrast]
