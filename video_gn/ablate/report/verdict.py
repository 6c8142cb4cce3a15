"""What an ablation comes to, in a few sentences that are made from its figures."""

from collections.abc import Sequence

from video_gn.ablate.contrasts import Contrast
from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import Cells
from video_gn.ablate.words import word

FEW = 4  # columns of which each has a sentence


def verdict(grid: Grid, cells: Cells, differences: Sequence[Contrast], best: Sequence[Contrast]) -> list[str]:
    """A sentence for each question of the grid; what is not shown is said with what would have been.

    Args:
        grid: The ablation.
        cells: What was measured.
        differences: Each value against the first of its axis.
        best: The highest of each column less the others, where a column has three or more.
    """
    if not differences:
        return []
    if all(contrast.shown is None for contrast in differences):
        return ["With one seed nothing is shown: how much other seeds would differ is not known."]
    rows = grid.rows[0]
    found = _highest(best) if best else _rows([one for one in differences if one.kind == rows])
    for axis in grid.columns:
        found += _along(grid, axis, [one for one in differences if one.kind == axis])
    return [*found, *_paper(differences)]


def _rows(found: Sequence[Contrast]) -> list[str]:
    """Of the values down the table, against the first."""
    sentences = []
    for what in dict.fromkeys(one.what for one in found):
        value, _, base = what.partition(" − ")
        own = [one for one in found if one.what == what]
        parts = []
        for sign, is_so in ((1, "above"), (-1, "below")):
            shown = [one for one in own if one.sign == sign]
            if shown:
                parts.append(f"{is_so} {base} by {_most(shown, len(own))}")
        if unshown := [one for one in own if not one.shown]:
            often = "" if len(own) == 1 else f"in {len(unshown)} of {len(own)} settings "
            parts.append(f"not shown to differ {often}({_would(unshown)})")
        sentences.append(f"{value} is {'; '.join(parts)}.")
    return sentences


def _most(shown: Sequence[Contrast], total: int, row: str = "") -> str:
    """The largest of some effects, where it is, and how many of how many settings have one."""
    most = max(shown, key=lambda one: abs(one.figures["top1"][0]))
    if total == 1:
        return points(most)
    return f"{'up to ' * (len(shown) > 1)}{points(most)}, {_settings(most.at, row)}in {len(shown)} of {total} settings"


def _settings(at: str, row: str) -> str:
    left = at.removeprefix(row).removeprefix(", ")
    return f"at {left}, " if left else ""


def _highest(best: Sequence[Contrast]) -> list[str]:
    """Of each column the highest, and those that it is not shown to be above."""
    sentences = []
    columns = list(dict.fromkeys(one.at for one in best))
    for at in columns[:FEW]:
        own = [one for one in best if one.at == at]
        top = own[0].what.partition(" − ")[0]
        alike = [one.what.partition(" − ")[2] for one in own if not one.shown]
        where = f"At {at} " if at else ""
        if not alike:
            sentences.append(f"{where}{top} is highest, above all others.")
        elif len(alike) == len(own):
            sentences.append(f"{where}{top} is highest, and not shown to be above any other.")
        else:
            sentences.append(f"{where}{top} is highest; not shown to be below it: {', '.join(alike)}.")
    return sentences


def _along(grid: Grid, axis: str, found: Sequence[Contrast]) -> list[str]:
    """From an axis's first value to its last: which rows lose or gain, and where nothing is shown."""
    first, last = (word(grid.axes, axis, value) for value in (grid.axes[axis][0], grid.axes[axis][-1]))
    place = list(grid.axes).index(grid.rows[0])
    by_row: dict[str, list[Contrast]] = {}
    for one in found:
        if one.what == f"{last} − {first}":
            by_row.setdefault(word(grid.axes, grid.rows[0], next(iter(one.weights))[place]), []).append(one)
    parts, unshown = [], []
    for row, own in by_row.items():
        shown = [one for one in own if one.shown]
        for sign, verb in ((-1, "loses"), (1, "gains")):
            if changes := [one for one in shown if one.sign == sign]:
                parts.append(f"{row} {verb} {_most(changes, len(own), row)}")
        if not shown:
            unshown.append((row, own))
    if unshown:
        rows = ", ".join(row for row, _ in unshown)
        parts.append(f"no change is shown of {rows} ({_would([one for _, own in unshown for one in own])})")
    return [f"From {first} to {last}: {'; '.join(parts)}."] if parts else []


def _paper(found: Sequence[Contrast]) -> list[str]:
    published = [one for one in found if one.paper]
    if not published:
        return []
    same = sum(one.sign * one.paper["top1"] > 0 for one in published)
    other = sum(one.sign * one.paper["top1"] < 0 for one in published)
    left = len(published) - same - other
    return [
        f"Of the {len(published)} differences that the paper's figures give, {same} are shown here with the same sign, "
        f"{other} with the other, and {left} are not shown."
    ]


def _would(found: Sequence[Contrast]) -> str:
    least = sorted(one.detectable for one in found if one.detectable is not None)
    if not least:
        return "of one seed"
    span = f"{least[0]:.0f}" if f"{least[0]:.0f}" == f"{least[-1]:.0f}" else f"{least[0]:.0f} to {least[-1]:.0f}"
    return f"effects above {span} points would have been"


def points(contrast: Contrast) -> str:
    """The size of a difference with its interval, without its sign: `35.1 points (29.3 to 41.0)`."""
    mean, low, high = contrast.figures["top1"]
    low, high = (low, high) if mean >= 0 else (-high, -low)
    return f"{abs(mean):.1f} points ({low:.1f} to {high:.1f})"
