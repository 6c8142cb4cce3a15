"""All differences at a glance, grouped by what they ask."""

from collections.abc import Sequence

from video_gn.ablate.contrasts import Contrast
from video_gn.ablate.figures.style import GREY, colour, drawn, place, svg
from video_gn.ablate.grid import Grid

ROW = 0.24  # inches
PAPER = "#000000"


def forest(grid: Grid, differences: Sequence[Contrast]) -> str:
    """Differences in points with 95 % intervals: filled where they are shown, hollow where not, a cross for the paper.

    A difference within one value of the first axis down the table has that value's colour.
    """
    kinds = list(dict.fromkeys(contrast.kind for contrast in differences))
    heights = [sum(contrast.kind == kind for contrast in differences) for kind in kinds]
    with drawn(8.4, ROW * sum(heights) + 0.5 * len(kinds) + 0.7) as figure:
        panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=[h + 0.6 for h in heights])
        published = False
        for kind, panel in zip(kinds, panels[:, 0], strict=True):
            own = [contrast for contrast in differences if contrast.kind == kind]
            for y, one in enumerate(own):
                mean, low, high = one.figures["top1"]
                ink = _ink(grid, one)
                panel.plot([low, high], [y, y], color=ink, linewidth=1.8, solid_capstyle="butt")
                panel.plot(mean, y, "o", color=ink, markersize=5.5, markerfacecolor=ink if one.shown else "white")
                if one.paper:
                    published = True
                    panel.plot(one.paper["top1"], y, "x", color=PAPER, markersize=5, markeredgewidth=1.3, zorder=4)
                said = f"{mean:+.1f}"
                panel.text(1.01, y, said, transform=panel.get_yaxis_transform(), va="center", fontsize=8)
            panel.axvline(0, color=GREY, linewidth=1)
            panel.set_yticks(
                range(len(own)),
                [f"{contrast.what}{f', {contrast.at}' if contrast.at else ''}" for contrast in own],
                fontsize=8,
            )
            panel.set_ylim(len(own) - 0.4, -0.6)
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
            panel.spines["left"].set_visible(False)
            panel.set_title(kind.replace(" x ", " × "), loc="left", fontweight="bold")
        cross = "; ×: the paper's" if published else ""
        panels[-1, 0].set_xlabel(f"difference of test top-1, points (filled: shown; hollow: not shown{cross})")
        return svg(figure)


def _ink(grid: Grid, one: Contrast) -> str:
    """Of a norm where the difference is within it; dark where it is between norms."""
    rows = {values[place(grid, grid.rows[0])] for values in one.weights}
    return colour(grid, next(iter(rows))) if len(rows) == 1 else "#333333"
