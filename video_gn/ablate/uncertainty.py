"""How sure the differences between cells are: intervals, many differences at once, and what could have been shown.

Two things are random. Which videos are tested: groups of videos (those of one recording; without groups each video) are
drawn with replacement, the same ones for all cells (Efron 1979). So few groups as a small set has are drawn too alike;
deviations are widened by sqrt(G / (G - 1)) and by Student's t for G groups over the normal quantile.

How a seed trains: to each draw a deviate of Student's t is added, with the variance that seeds have. With `OWN_SEEDS`
seeds or more it is that of the contrast over its seeds. Fewer say little by themselves, and it is that of all cells
together: the variance over seeds of arcsin(sqrt(top-1)), on which scale it is alike at all accuracies, pooled. Cells
whose seeds differ by far more than those of the others (F test, 1 %) are left out of that pool, and have that of all
cells; and a cell whose seeds differ by more than its pool says has its own. Seeds are not drawn: n of n drawn have
(n - 1) / n of the variance, and never lie outside of what was seen. The part of a video's own chance is in both, so
that intervals err on the wide side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from video_gn.ablate.contrasts import LEVEL, Contrast
from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import Cells, Values

DRAWS = 10_000  # of the bootstrap
CHUNK = 500  # draws at a time
ENOUGH = 10  # draws beyond zero by which a tail is counted
OWN_SEEDS = 5  # from which the spread of a cell's seeds is its own
POWER = 0.8
BEST = {"top1": 1, "top5": 5}  # ranks that count as right
NORMAL = NormalDist()


@dataclass(frozen=True)
class SeedSpread:
    """How much seeds differ: variances of arcsin(sqrt(accuracy)) over a cell's seeds, pooled, with degrees of freedom.

    Attributes:
        calm: Of the cells without those whose seeds differ by far more.
        all: Of all cells.
        restless: Those cells.
    """

    calm: tuple[float, int]
    all: tuple[float, int]
    restless: frozenset[Values] = frozenset()

    @classmethod
    def of(cls, cells: Cells, name: str) -> "SeedSpread | None":
        """Of all cells with two seeds or more; None if there is none."""
        angles = {
            values: np.arcsin(np.sqrt([run.test[name] for run in cell.runs.values()]))
            for values, cell in cells.items()
            if len(cell.runs) > 1
        }
        parts = {values: (float(of.var(ddof=1)), len(of) - 1) for values, of in angles.items()}
        if not parts:
            return None
        kept = dict(parts)
        while len(kept) > 2:
            most = max(kept, key=lambda values: kept[values][0])
            rest = _pooled([part for values, part in kept.items() if values != most])
            if kept[most][0] <= rest[0] * _f_quantile(kept[most][1], rest[1], len(parts)):
                break
            del kept[most]
        return cls(_pooled(list(kept.values())), _pooled(list(parts.values())), frozenset(parts.keys() - kept.keys()))

    def at(self, values: Values, accuracies: Sequence[float], videos: int) -> tuple[float, int]:
        """The variance of the accuracy of a cell whose seeds have these, on so many videos, and its freedom.

        It is no less than the cell's own.
        """
        variance, freedom = self.all if values in self.restless else self.calm
        inside = (float(np.mean(accuracies)) * videos + 0.5) / (videos + 1)  # at 0 and 1 it is not nothing
        own = float(np.var(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
        return max(own, 4 * inside * (1 - inside) * variance), freedom


def _pooled(parts: Sequence[tuple[float, int]]) -> tuple[float, int]:
    freedom = sum(own for _, own in parts)
    return sum(variance * own for variance, own in parts) / freedom, freedom


@cache
def _f_quantile(first: int, second: int, cells: int) -> float:
    """What the largest of so many equal variances exceeds in one of a hundred grids, by a million draws of F."""
    return float(np.quantile(np.random.default_rng(3).f(first, second, 1_000_000), 1 - 0.01 / cells))


def measure_contrasts(grid: Grid, cells: Cells, wanted: Iterable[Contrast]) -> list[Contrast]:
    """Those contrasts whose cells have seeds in common and were tested on the same videos, with all their figures.

    They are one family: what is shown of any of them is shown with an error of 5 % over all.
    """
    spreads = {name: SeedSpread.of(cells, name) for name in BEST}
    found = []
    for contrast in wanted:
        runs = {values: cells[values].runs for values in contrast.weights}
        seeds = sorted(set.intersection(*(set(of_cell) for of_cell in runs.values())))
        videos = {tuple(of_cell[seed].videos.names) for of_cell in runs.values() for seed in seeds}
        if not seeds or len(videos) != 1 or not next(iter(videos)):
            continue
        contrast.seeds = len(seeds)
        _report_paper(contrast, grid)
        found.append((contrast, {name: _right(contrast, cells, seeds, best) for name, best in BEST.items()}))
    groups = {id(contrast): _groups(contrast, cells) for contrast, _ in found}
    for own in set(groups.values()):
        _bootstrap([one for one in found if groups[id(one[0])] == own], cells, spreads, own)
    measured = [contrast for contrast, _ in found]
    _adjust([contrast for contrast in measured if contrast.p is not None])
    return measured


def _report_paper(contrast: Contrast, grid: Grid) -> None:
    figures = grid.paper.figures if grid.paper else {}
    for name in BEST:
        reported = [w * figures[v][name] for v, w in contrast.weights.items() if name in figures.get(v, {})]
        if len(reported) == len(contrast.weights):
            contrast.paper[name] = sum(reported)


def _right(contrast: Contrast, cells: Cells, seeds: Sequence[int], best: int) -> np.ndarray:
    """The contrast of each seed and video, `[S, N]`."""
    sums = [
        sum(
            weight * cells[v].runs[seed].videos.right(best).astype(np.float64) for v, weight in contrast.weights.items()
        )
        for seed in seeds
    ]
    return np.stack(sums)


def _groups(contrast: Contrast, cells: Cells) -> tuple[str, ...]:
    """The group of each video, by any of the runs: all were tested on the same ones."""
    runs = next(cells[values].runs for values in contrast.weights)
    return tuple(next(iter(runs.values())).videos.groups)


def _bootstrap(
    found: Sequence[tuple[Contrast, dict[str, np.ndarray]]],
    cells: Cells,
    spreads: dict[str, SeedSpread | None],
    groups: tuple[str, ...],
) -> None:
    """Fills in `figures`, `error` and `p`. Draws are the same for all contrasts with these groups."""
    rows = np.stack([one.mean(0) for _, sums in found for one in sums.values()])  # [contrasts x figures, videos]
    deviations, several = _draw_groups(rows, groups)
    for row, (contrast, name, one) in enumerate(
        (contrast, n, one) for contrast, sums in found for n, one in sums.items()
    ):
        mean = float(rows[row].mean())
        noise = _draw_seeds(one.mean(1), contrast, cells, spreads[name], name)
        draws = mean + deviations[:, row] + (0.0 if noise is None else noise)
        low, high = (float(end) for end in np.percentile(draws, [2.5, 97.5]))
        least, most = (sum(w for w in contrast.weights.values() if sign * w > 0) for sign in (-1, 1))  # that can be
        contrast.figures[name] = (100 * mean, 100 * max(min(low, mean), least), 100 * min(max(high, mean), most))
        if name == "top1":
            contrast.error = 100 * (high - low) / (2 * NORMAL.inv_cdf(0.975))
            contrast.p = (
                _p(mean, draws, contrast.error / 100) if several and noise is not None and len(one) > 1 else None
            )


def _p(mean: float, draws: np.ndarray, error: float) -> float:
    """Two-sided; by the normal distribution where hardly a draw is beyond zero."""
    beyond = int(min((draws <= 0).sum(), (draws >= 0).sum()))
    if beyond >= ENOUGH:
        return min(1.0, 2 * beyond / len(draws))
    tail = 2 * NORMAL.cdf(-abs(mean) / error) if error else 0.0
    return min(tail, 2 * ENOUGH / len(draws))


def _draw_groups(rows: np.ndarray, groups: tuple[str, ...]) -> tuple[np.ndarray, bool]:
    """How far the mean of each row is from its own over the groups of each draw, `[draws, rows]`.

    Also whether there are several groups: one says nothing of others.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    if count == 1:
        return np.zeros((DRAWS, len(rows))), False
    sums = np.stack([np.bincount(numbers, row, count) for row in rows])
    sizes = np.bincount(numbers, minlength=count)
    rng = np.random.default_rng(0)
    means = []
    for begin in range(0, DRAWS, CHUNK):
        drawn = rng.multinomial(count, np.full(count, 1 / count), min(CHUNK, DRAWS - begin)).astype(np.float64)
        means.append(drawn @ sums.T / (drawn @ sizes)[:, None])
    wider = _t_quantile(count - 1) / NORMAL.inv_cdf(0.975) * (count / (count - 1)) ** 0.5
    return (np.concatenate(means) - rows.mean(1)) * wider, True


@cache
def _t_quantile(freedom: int) -> float:
    """Of 95 % of the absolute values of Student's t, by a million of them."""
    return float(np.quantile(np.abs(np.random.default_rng(2).standard_t(freedom, 1_000_000)), 0.95))


def _draw_seeds(
    of_seeds: np.ndarray, contrast: Contrast, cells: Cells, spread: SeedSpread | None, name: str
) -> np.ndarray | None:
    """How far other seeds would be from the mean of these, `[draws]`; None where nothing tells it."""
    count = len(of_seeds)
    if count >= OWN_SEEDS:
        freedom, variance = count - 1, float(of_seeds.var(ddof=1)) / count
    elif spread is None:
        return None
    else:
        tops = {v: [run.test[name] for run in cells[v].runs.values()] for v in contrast.weights}
        videos = len(next(iter(cells[next(iter(contrast.weights))].runs.values())).videos.paths)
        parts = [(w**2 * variance, own) for v, w in contrast.weights.items()
                 for variance, own in [spread.at(v, tops[v], videos)]]  # fmt: skip
        freedom, variance = min(own for _, own in parts), sum(part for part, _ in parts) / count
    return np.random.default_rng(1).standard_t(freedom, DRAWS) * variance**0.5


def _adjust(family: Sequence[Contrast]) -> None:
    """Holm's step-down: the i-th smallest p of m counts m - i + 1 times, and no less than those before it."""
    least = 0.0
    order = sorted(family, key=lambda contrast: contrast.p or 0.0)
    for place, contrast in enumerate(order):
        least = contrast.adjusted = max(least, min(1.0, (len(order) - place) * (contrast.p or 0.0)))
    left = max(1, sum(not contrast.shown for contrast in family))  # the first that is not shown counted so often
    factor = NORMAL.inv_cdf(1 - LEVEL / (2 * left)) + NORMAL.inv_cdf(POWER)
    for contrast in family:
        contrast.detectable = size if (size := factor * contrast.error) <= 100 else None
