"""How sure the differences between cells are: intervals, many differences at once, and what could have been shown.

Two things are random. Which videos are tested: groups of videos (those of one recording; without groups each video) are
drawn with replacement, the same ones for all cells. How a seed trains: with `OWN_SEEDS` seeds or more, they are drawn
too, the same ones for all cells (Efron 1979; both drawn as in Owen 2007, *The pigeonhole bootstrap*, which errs on the
wide side). Fewer say little about their own spread: 3 drawn of 3 understate it. It is then that of all cells together:
the variance over seeds of arcsin(sqrt(top-1)), on which scale it is alike at all accuracies, pooled, and a draw of
Student's t with as many degrees of freedom as it has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from video_gn.ablate.contrasts import LEVEL, Contrast
from video_gn.ablate.grid import Grid
from video_gn.ablate.statistics import Cells, Values

DRAWS = 10_000  # of the bootstrap
CHUNK = 500  # draws at a time
OWN_SEEDS = 5  # from which the spread of a cell's seeds is its own
POWER = 0.8
BEST = {"top1": 1, "top5": 5}  # ranks that count as right


@dataclass(frozen=True)
class SeedSpread:
    """How much seeds differ, over all cells: the variance of arcsin(sqrt(accuracy)) and its degrees of freedom."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, cells: Cells, name: str) -> "SeedSpread | None":
        """Of all cells with two seeds or more; None if there is none."""
        seeds = [[run.test[name] for run in cell.runs.values()] for cell in cells.values() if len(cell.runs) > 1]
        if not seeds:
            return None
        freedom = sum(len(values) - 1 for values in seeds)
        squares = sum(((angles := np.arcsin(np.sqrt(values))) - angles.mean()) @ (angles - angles.mean())
                      for values in seeds)  # fmt: skip
        return cls(float(squares) / freedom, freedom)

    def at(self, accuracy: float, videos: int) -> float:
        """The variance of an accuracy that is near the given one, of so many videos."""
        inside = (accuracy * videos + 0.5) / (videos + 1)  # at 0 and 1 it is not nothing
        return 4 * inside * (1 - inside) * self.variance


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
            weight * cells[v].runs[seed].videos.right(best).astype(np.float32) for v, weight in contrast.weights.items()
        )
        for seed in seeds
    ]
    return np.stack(sums)  # type: ignore[arg-type]


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
    rows = np.concatenate([one for _, sums in found for one in sums.values()])  # [contrasts x figures x seeds, videos]
    by_video = _draw_groups(rows, groups)
    row = 0
    for contrast, sums in found:
        for name, one in sums.items():
            of_seeds = by_video[:, row : row + len(one)]
            row += len(one)
            draws, known = _draw_seeds(of_seeds, contrast, cells, spreads[name], name)
            mean = float(one.mean())
            low, high = np.percentile(draws, [2.5, 97.5])
            contrast.figures[name] = (100 * mean, 100 * float(low), 100 * float(high))
            if name == "top1":
                contrast.error = 100 * float(draws.std())
                beyond = min((draws <= 0).mean(), (draws >= 0).mean())
                contrast.p = min(1.0, max(2 * float(beyond), 2 / DRAWS)) if known else None


def _draw_groups(rows: np.ndarray, groups: tuple[str, ...]) -> np.ndarray:
    """Means of each row over the videos of the groups that a draw has, `[draws, rows]`."""
    numbers = np.unique(groups, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    sums = np.stack([np.bincount(numbers, row, count) for row in rows])
    sizes = np.bincount(numbers, minlength=count)
    rng = np.random.default_rng(0)
    means = []
    for begin in range(0, DRAWS, CHUNK):
        drawn = rng.multinomial(count, np.full(count, 1 / count), min(CHUNK, DRAWS - begin)).astype(np.float64)
        means.append(drawn @ sums.T / (drawn @ sizes)[:, None])
    return np.concatenate(means)


def _draw_seeds(
    of_seeds: np.ndarray, contrast: Contrast, cells: Cells, spread: SeedSpread | None, name: str
) -> tuple[np.ndarray, bool]:
    """The contrast of each draw, and whether how much seeds differ is in it."""
    count, rng = of_seeds.shape[1], np.random.default_rng(1)
    if count >= OWN_SEEDS:
        weights = rng.multinomial(count, np.full(count, 1 / count), DRAWS) / count
        return (of_seeds * weights).sum(1), True
    if spread is None:
        return of_seeds.mean(1), False
    videos = len(next(iter(cells[next(iter(contrast.weights))].runs.values())).videos.paths)
    variances = [w**2 * spread.at(_accuracy(cells, v, name), videos) for v, w in contrast.weights.items()]
    noise = rng.standard_t(spread.freedom, DRAWS) * np.sqrt(sum(variances) / count)
    return of_seeds.mean(1) + noise, count > 1


def _accuracy(cells: Cells, values: Values, name: str) -> float:
    return float(np.mean([run.test[name] for run in cells[values].runs.values()]))


def _adjust(family: Sequence[Contrast]) -> None:
    """Holm's step-down: the i-th smallest p of m counts m - i + 1 times, and no less than those before it."""
    least = 0.0
    order = sorted(family, key=lambda contrast: contrast.p or 0.0)
    for place, contrast in enumerate(order):
        least = contrast.adjusted = max(least, min(1.0, (len(order) - place) * (contrast.p or 0.0)))
    left = max(1, sum(not contrast.shown for contrast in family))  # the first that is not shown counted so often
    factor = NormalDist().inv_cdf(1 - LEVEL / (2 * left)) + NormalDist().inv_cdf(POWER)
    for contrast in family:
        contrast.detectable = factor * contrast.error
