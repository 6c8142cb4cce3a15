"""Curves of a training as small inline SVG, whose colours are the page's."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 40


class Line(NamedTuple):
    """A curve.

    Attributes:
        name: Of what.
        points: x and y; y may be nan where there is none.
    """

    name: str
    points: Sequence[tuple[float, float]]


def chart(
    lines: Sequence[Line], times: Sequence[tuple[float, float]] = (), percent: bool = False, unit: str = "step"
) -> str:
    """Curves over steps, with the time below; nothing where there is no point.

    Args:
        lines: Of the chart, at most 2.
        times: Steps and seconds since training began, both ascending.
        percent: Whether values are fractions to show in %.
        unit: Of x.
    """
    lines = [Line(line.name, [p for p in line.points if math.isfinite(p[1])]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    every = [point for line in lines for point in line.points]
    right = max(x for x, _ in every) or 1.0
    lows, highs = zip(*((y, y) for _, y in every), strict=True)
    low, high = (0.0, 1.0) if percent else (min(0.0, *lows), max(highs) or 1.0)
    marks = ticks(low, high, 4)
    high = max(high, marks[-1])

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    parts = []
    for mark in marks:
        text = f"{100 * mark:g} %" if percent else f"{mark:g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(mark):.1f}" y2="{down(mark):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{down(mark) + 3.5:.1f}" text-anchor="end">{text}</text>')
    for mark in (mark for mark in ticks(0, right, 3) if mark <= right):
        anchor = "middle" if across(mark) < WIDTH - 30 else "end"
        parts.append(f'<text x="{across(mark):.1f}" y="{HEIGHT - 24}" text-anchor="{anchor}">{_count(mark)}</text>')
        if times and mark:
            after = duration(at(times, mark))
            parts.append(f'<text x="{across(mark):.1f}" y="{HEIGHT - 11}" text-anchor="{anchor}">{after}</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{HEIGHT - 24}" text-anchor="end">{unit}</text>')
    for number, line in enumerate(lines):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="c{number}" points="{path}"/>')
        if len(line.points) < 40:
            parts += [
                f'<circle class="c{number}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="2"/>' for x, y in line.points
            ]
    label = escape(", ".join(line.name for line in lines))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from the first at or below `low` to the first at or above `high`, some `most` of them."""
    step = (high - low) / most or 1.0
    scale = 10 ** math.floor(math.log10(step))
    step = next(scale * part for part in (1, 2, 2.5, 5, 10) if scale * part >= step * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def at(times: Sequence[tuple[float, float]], step: float) -> float:
    """Seconds at a step, straight between those that are known."""
    before = (0.0, 0.0)
    for this in times:
        if step <= this[0]:
            share = (step - before[0]) / (this[0] - before[0]) if this[0] > before[0] else 1.0
            return before[1] + share * (this[1] - before[1])
        before = this
    return before[1] * step / before[0] if before[0] else 0.0


def duration(seconds: float) -> str:
    """A time in two units at most: 48 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def _count(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 10000 else f"{number:g}"
