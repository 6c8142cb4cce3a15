"""What an ablation comes to, in a few sentences that are made from its figures."""

from collections.abc import Sequence

from video_gn.ablate.contrasts import Contrast
from video_gn.ablate.grid import Grid
from video_gn.ablate.words import label, word

FEW = 4  # columns whose highest value has a sentence
LEAST = 0.05  # points of a published difference that has a sign


def verdict(grid: Grid, differences: Sequence[Contrast], best: Sequence[Contrast]) -> list[str]:
    """A sentence for each question of the grid; what is not shown is said with what would have been.

    Args:
        grid: The ablation.
        differences: Each value against the first of its axis.
        best: The highest of each column less the others, where a column has three or more.
    """
    if not differences:
        return []
    if all(contrast.shown is None for contrast in differences):
        what = (
            "one seed" if all(contrast.seeds == 1 for contrast in differences) else "so few seeds or groups of videos"
        )
        return [f"With {what} nothing is shown: how much others would differ is not known."]
    rows = grid.rows[0]
    found = [*_rows(grid, [contrast for contrast in differences if contrast.kind == rows]), *_highest(grid, best)]
    for axis in grid.axes:
        if axis != rows:
            found += _along(grid, axis, [contrast for contrast in differences if contrast.kind == axis])
    return [*found, *_paper(differences)]


def _of(grid: Grid, one: Contrast, axis: str, sign: int = 1) -> str:
    """The value of the cell with this sign on an axis, in words."""
    values = next(values for values, weight in one.weights.items() if weight == sign)
    return word(grid.axes, axis, values[list(grid.axes).index(axis)])


def _at(grid: Grid, one: Contrast, *without: str) -> str:
    """Where a difference is, on all axes but some, in words."""
    values = next(iter(one.weights))
    kept = [value if axis not in without else None for axis, value in zip(grid.axes, values, strict=True)]
    return label(grid.axes, kept)


def _rows(grid: Grid, found: Sequence[Contrast]) -> list[str]:
    """Of the values down the table, against the first: each of which something is shown, then the rest."""
    axis, sentences = grid.rows[0], []
    by_value: dict[str, list[Contrast]] = {}
    for contrast in found:
        by_value.setdefault(_of(grid, contrast, axis), []).append(contrast)
    base = word(grid.axes, axis, grid.axes[axis][0])
    alike = {value: own for value, own in by_value.items() if not any(contrast.shown for contrast in own)}
    for value, own in by_value.items():
        if value in alike:
            continue
        parts = []
        for sign, is_so in ((1, "above"), (-1, "below")):
            if shown := [contrast for contrast in own if contrast.sign == sign]:
                parts.append(f"{is_so} {base} by {_most(grid, shown, len(own), axis)}")
        if unshown := [contrast for contrast in own if not contrast.shown]:
            often = "" if len(own) == 1 else f"in {len(unshown)} of {len(own)} settings "
            parts.append(f"not shown to differ from {base} {often}({_would(unshown)})")
        sentences.append(f"{value} is {'; '.join(parts)}.")
    if alike:
        every = [contrast for own in alike.values() for contrast in own]
        often = "" if len(every) == len(alike) else " in any setting"
        verb = "is" if len(alike) == 1 else "are"
        sentences.append(f"{', '.join(alike)} {verb} not shown to differ from {base}{often} ({_would(every)}).")
    return sentences


def _most(grid: Grid, shown: Sequence[Contrast], total: int, *without: str) -> str:
    """The largest of some effects, where it is, and how many of how many settings have one."""
    most = max(shown, key=lambda one: abs(one.figures["top1"][0]))
    if total == 1:
        return points(most)
    where = _at(grid, most, *without)
    return f"{'up to ' * (len(shown) > 1)}{points(most)}, at {where}, in {len(shown)} of {total} settings"


def _highest(grid: Grid, best: Sequence[Contrast]) -> list[str]:
    """The highest of each column where it is shown to be above another, and of how many columns it is not."""
    axis, sentences = grid.rows[0], []
    columns: dict[str, list[Contrast]] = {}
    for contrast in best:
        columns.setdefault(contrast.at, []).append(contrast)
    apart = [own for own in columns.values() if any(contrast.sign > 0 for contrast in own)]
    for own in apart[:FEW]:
        where = f"At {own[0].at} " if own[0].at else ""
        alike = [_of(grid, contrast, axis, -1) for contrast in own if contrast.sign <= 0]
        rest = f"; not shown to be below it: {', '.join(alike)}" if alike else f", above all {len(own)} others"
        sentences.append(f"{where}{_of(grid, own[0], axis)} is highest{rest}.")
    if len(apart) > FEW:
        sentences.append(f"Of {len(apart) - FEW} more columns the tables below have the highest.")
    if not apart:
        sentences += ["In no column is the highest shown to be above another."] if columns else []
    elif left := len(columns) - len(apart):
        sentences.append(f"In {left} other column{'s' * (left > 1)} the highest is not shown to be above another.")
    return sentences


def _along(grid: Grid, axis: str, found: Sequence[Contrast]) -> list[str]:
    """From the first value of an axis to its last, or to each other one where they have no order."""
    first, *others = grid.axes[axis]
    ordered = all(value.partition("x")[0].replace(".", "", 1).isdecimal() for value in grid.axes[axis])
    return [
        sentence
        for value in (others[-1:] if ordered else others)
        if (sentence := _change(grid, axis, word(grid.axes, axis, first), word(grid.axes, axis, value), found))
    ]


def _change(grid: Grid, axis: str, first: str, last: str, found: Sequence[Contrast]) -> str:
    """Which rows lose or gain from one value to another, of which nothing is shown, and which have not both."""
    rows = grid.rows[0]
    by_row: dict[str, list[Contrast]] = {word(grid.axes, rows, value): [] for value in grid.axes[rows]}
    for contrast in found:
        if _of(grid, contrast, axis) == last:
            by_row[_of(grid, contrast, rows)].append(contrast)
    measured = {row: own for row, own in by_row.items() if own}
    if not measured:
        return ""
    parts = []
    for row, own in measured.items():
        for sign, verb in ((-1, "loses"), (1, "gains")):
            if changes := [contrast for contrast in own if contrast.sign == sign]:
                parts.append(f"{row} {verb} {_most(grid, changes, len(own), axis, rows)}")
    unshown = {row: own for row, own in measured.items() if not any(contrast.shown for contrast in own)}
    if unshown:
        would = _would([contrast for own in unshown.values() for contrast in own])
        parts.append(f"no change is shown of {', '.join(unshown)} ({would})")
    if missing := [row for row in by_row if row not in measured]:
        parts.append(f"{', '.join(missing)}: not both measured")
    return f"From {first} to {last}: {'; '.join(parts)}."


def _paper(found: Sequence[Contrast]) -> list[str]:
    published = [contrast for contrast in found if abs(contrast.paper.get("top1", 0.0)) >= LEAST]
    if not published:
        return []
    same = sum(contrast.sign * contrast.paper["top1"] > 0 for contrast in published)
    other = sum(contrast.sign * contrast.paper["top1"] < 0 for contrast in published)
    left = len(published) - same - other
    return [
        f"Of the {len(published)} differences that the paper's figures give, {same} are shown here with the same sign, "
        f"{other} with the other, and {left} are not shown."
    ]


def _would(found: Sequence[Contrast]) -> str:
    if any(contrast.shown is None for contrast in found):
        return "one seed, or one group of videos"
    if not (least := sorted(contrast.detectable for contrast in found if contrast.detectable is not None)):
        return "no effect of any size would have been"
    span = f"{least[0]:.0f}" if f"{least[0]:.0f}" == f"{least[-1]:.0f}" else f"{least[0]:.0f} to {least[-1]:.0f}"
    return f"effects above {span} points would have been"


def points(contrast: Contrast) -> str:
    """The size of a difference with its interval, without its sign: `35.1 points (29.3 to 41.0)`."""
    mean, low, high = contrast.figures["top1"]
    low, high = (low, high) if mean >= 0 else (-high, -low)
    return f"{abs(mean):.1f} points ({low:.1f} to {high:.1f})"
