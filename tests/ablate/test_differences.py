"""Differences between cells: intervals that cover, groups, seeds, many of them at once, and what is said of them."""

import numpy as np
import pytest
import yaml
from conftest import REPO

from video_gn.ablate import statistics, uncertainty
from video_gn.ablate.contrasts import Contrast, contrasts, highest, levels
from video_gn.ablate.grid_file import read_grid
from video_gn.ablate.report.verdict import verdict
from video_gn.ablate.uncertainty import POWER, SeedSpread, measure_contrasts
from video_gn.ablate.words import label, word

ABLATIONS = REPO / "configs" / "ablations"


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(REPO)


def make_grid(tmp_path, **entries):
    content = {"base": ["configs/demo.yaml"], "axes": {"norm": ["bn", "gn"]}} | entries
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_grid(tmp_path / "g.yaml")


def outcomes(grid, cells, groups=None):
    """Finished runs with given ranks: `cells` is {values: {seed: ranks}}."""
    found = {tuple(cell.values.values()): statistics.CellResult(cell) for cell in grid.cells}
    for values, seeds in cells.items():
        for seed, ranks in seeds.items():
            ranks = np.array(ranks)
            top1, top5 = (float(np.mean((ranks > 0) & (ranks <= best))) for best in (1, 5))
            run = statistics.Measured(None, {"tests": [{"top1": top1, "top5": top5, "clip_top1": top1}]})
            paths, labels = [f"video {i}" for i in range(len(ranks))], ["a"] * len(ranks)
            run.__dict__["videos"] = statistics.Videos(paths, labels, labels, ranks, list(groups or paths))
            found[values].runs[seed] = run
    return found


def measure(grid, cells, **kwargs):
    return measure_contrasts(grid, outcomes(grid, cells, **kwargs), contrasts(grid))


def width(contrast):
    _, low, high = contrast.figures["top1"]
    return high - low


def test_the_bootstrap_is_paired_and_has_the_width_that_theory_gives(tmp_path):
    grid = make_grid(tmp_path)
    rng = np.random.default_rng(1)
    bn = rng.choice([0, 1, 2, 6], 400, p=[0.1, 0.5, 0.2, 0.2])
    gn = np.where(rng.random(400) < 0.15, 1, bn)  # right on some more of the same videos
    (one,) = measure(grid, {("bn",): {0: bn}, ("gn",): {0: gn}})
    difference = (gn == 1).astype(float) - (bn == 1)
    mean, low, high = one.figures["top1"]
    half = 100 * 1.96 * difference.std() / np.sqrt(400)
    assert mean == pytest.approx(100 * difference.mean(), rel=1e-5)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert (high + low) / 2 == pytest.approx(mean, abs=0.15 * half)
    unpaired = 100 * 1.96 * np.sqrt(((gn == 1).var() + (bn == 1).var()) / 400)
    assert (high - low) / 2 < 0.7 * unpaired
    top5 = ((gn > 0) & (gn <= 5)).mean() - ((bn > 0) & (bn <= 5)).mean()
    assert one.figures["top5"][0] == pytest.approx(100 * top5, rel=1e-4)
    assert one.what == "GN − BN" and one.seeds == 1


def test_a_single_seed_shows_nothing_however_large_the_difference(tmp_path):
    grid = make_grid(tmp_path, axes={"norm": ["bn", "gn", "ln"]})
    right, wrong = [1] * 200, [3] * 200
    one = measure(grid, {("bn",): {0: wrong}, ("gn",): {0: right}})[0]
    assert one.figures["top1"] == (100, 100, 100) and one.shown is None and one.sign == 0 and one.p is None
    # Another cell's seeds say how much seeds differ, which widens the interval, but shows nothing either.
    noisy = {seed: [1] * (100 + 30 * seed) + [3] * (100 - 30 * seed) for seed in (-1, 0, 1)}
    some = [1] * 100 + [3] * 100
    one = measure(grid, {("bn",): {0: some}, ("gn",): {0: some}, ("ln",): noisy})[0]
    assert one.shown is None and width(one) > 40
    assert verdict(grid, [one], []) == ["With one seed nothing is shown: how much others would differ is not known."]


def test_the_seeds_share_is_pooled_over_cells_and_alike_on_the_scale_of_arcsines(tmp_path):
    """By hand: two cells of three seeds; the interval of a level is the videos' variance and the seeds' together."""
    grid = make_grid(tmp_path)
    tops = {"bn": (0.40, 0.50, 0.60), "gn": (0.90, 0.92, 0.97)}
    cells = outcomes(
        grid,
        {
            (norm,): {seed: [1] * int(1000 * top) + [2] * round(1000 * (1 - top)) for seed, top in enumerate(of)}
            for norm, of in tops.items()
        },
    )
    spread = SeedSpread.of(cells, "top1")
    angles = [np.arcsin(np.sqrt(of)) for of in tops.values()]
    variance, freedom = spread.calm
    assert freedom == 4 and variance == pytest.approx(np.mean([a.var(ddof=1) for a in angles]), rel=1e-6)
    half, one, high, own = (spread.at(("bn",), of, 1000)[0] for of in ([0.5], [1.0], [0.99], [0.2, 0.8]))
    assert half == pytest.approx(variance, rel=1e-3)  # 4 p (1 - p) = 1
    assert 0 < one < high < 0.05 * half and own == pytest.approx(0.18)  # its own is more
    (bn, gn) = measure_contrasts(grid, cells, levels(grid))
    videos = (np.stack([run.videos.right() for run in cells[("bn",)].runs.values()]).mean(0)).var() / 1000
    rng = np.random.default_rng(5)
    noise = rng.standard_t(4, 100_000) * np.sqrt(max(0.01, half) / 3)
    width = np.quantile(np.abs(rng.normal(0, np.sqrt(videos), 100_000) + noise), 0.95)
    assert bn.error == pytest.approx(100 * width / 1.96, rel=0.05) and gn.error < 0.7 * bn.error


def test_groups_are_drawn_whole(tmp_path):
    """20 groups of 10 equal videos say as much as 20 videos; without groups, as much as 200."""
    grid = make_grid(tmp_path)
    rng = np.random.default_rng(3)
    bn, gn = (np.repeat(rng.choice([1, 2], 20), 10) for _ in range(2))
    groups = [f"g{i // 10}" for i in range(200)]
    ranks = {("bn",): {0: bn}, ("gn",): {0: gn}}
    (apart,), (together,) = measure(grid, ranks), measure(grid, ranks, groups=groups)
    assert apart.figures["top1"][0] == together.figures["top1"][0]
    # sqrt(10), and for 20 groups Student's t of 19 (2.093 for 1.96) and sqrt(20 / 19)
    assert width(together) / width(apart) == pytest.approx(np.sqrt(10) * 1.068 * 1.026, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "groups", "of_group"),
    [(3, 30, 5), *(pytest.param(*case, marks=pytest.mark.long) for case in ((8, 30, 5), (5, 200, 1), (3, 4, 25)))],
    ids=["few seeds", "many seeds", "own seeds", "few groups"],
)
def test_intervals_of_equal_cells_hold_zero_as_often_as_they_say(seeds, groups, of_group, tmp_path, monkeypatch):
    """Grids of six equal cells, videos of different difficulty in groups that suit cells differently, uneven seeds."""
    monkeypatch.setattr(uncertainty, "DRAWS", 2000)
    grid = make_grid(tmp_path, axes={"norm": ["bn", "gn", "ln", "in", "brn", "mabn"]})
    rng, held, any_shown = np.random.default_rng(seeds), [], []
    names, videos = [f"g{i // of_group}" for i in range(groups * of_group)], groups * of_group
    for _ in range(100):
        difficulty = rng.normal(0, 1, groups)
        cells = {}
        for cell in grid.cells:
            suits = np.repeat(difficulty + rng.normal(0, 0.4, groups), of_group)
            cells[tuple(cell.values.values())] = {
                seed: np.where(rng.normal(0, 0.3, videos) + suits < 0.5 + rng.normal(0, 0.25), 1, 2)
                for seed in range(seeds)
            }
        found = measure(grid, cells, groups=names)
        held += [contrast.figures["top1"][1] <= 0 <= contrast.figures["top1"][2] for contrast in found]
        any_shown.append(any(contrast.shown for contrast in found))
    assert np.mean(held) >= 0.93 and np.mean(any_shown) <= 0.09


@pytest.mark.long
@pytest.mark.slow
def test_an_effect_of_the_size_that_would_be_shown_is_shown_so_often(tmp_path, monkeypatch):
    monkeypatch.setattr(uncertainty, "DRAWS", 2000)
    grid = make_grid(tmp_path)
    rng, shown, would = np.random.default_rng(0), [], []
    for _ in range(100):
        cells = {
            (norm,): {seed: rng.choice([1, 2], 300, p=[top, 1 - top]) for seed in range(3)}
            for norm, top in (("bn", 0.5), ("gn", 0.6))
        }
        (one,) = measure(grid, cells)
        shown.append(one.shown)
        would.append(one.detectable)
    # 10 points, against what is said to be shown with a probability of 0.8: about these 100 grids
    assert np.median(would) == pytest.approx(10, abs=3)
    assert np.mean(shown) == pytest.approx(POWER, abs=0.2)


def test_many_differences_are_held_to_holms_rule(tmp_path):
    """By hand: p of 0.01, 0.02, 0.03, 0.5 become 0.04, 0.06, 0.06, 0.5."""
    found = [Contrast("norm", "x", "", {}, {"top1": (1.0, 0.0, 2.0)}, p=p, error=1.0) for p in (0.03, 0.01, 0.5, 0.02)]
    uncertainty._adjust(found)
    assert [round(contrast.adjusted, 9) for contrast in found] == [0.06, 0.04, 0.5, 0.06]
    assert [contrast.shown for contrast in found] == [False, True, False, False]
    # Three are left: what would be shown is 2.394 (z of 0.05 / 3 / 2) + 0.842 standard errors.
    assert {round(contrast.detectable, 2) for contrast in found} == {3.24}


def test_only_seeds_that_all_cells_have_count(tmp_path):
    grid = make_grid(tmp_path)
    right, wrong = np.ones(200, int), np.full(200, 3)
    cells = {("bn",): {0: wrong, 1: right, 7: right}, ("gn",): {0: right, 1: right, 5: wrong}}
    (one,) = measure(grid, cells)
    assert one.figures["top1"][0] == 50 and one.seeds == 2 and not one.shown


def test_from_five_seeds_on_their_spread_is_their_own(tmp_path):
    grid = make_grid(tmp_path)
    bn = {seed: [1] * 100 for seed in range(10)}
    gn = {seed: [2 if seed < 3 else 1] * 100 for seed in range(10)}
    (one,) = measure(grid, {("bn",): bn, ("gn",): gn})
    # Videos add nothing, seeds are 0 or -100: a variance of 0.233, and Student's t of 9, 2.262.
    assert width(one) / 2 == pytest.approx(100 * 2.262 * np.sqrt(0.233 / 10), rel=0.05)
    assert not one.shown


def test_contrasts_of_table_8_and_the_papers_differences(tmp_path):
    grid = read_grid(ABLATIONS / "table8.yaml")
    ranks = {tuple(cell.values.values()): {0: [1, 2, 0, 9]} for cell in grid.cells}
    found = {(contrast.what, contrast.at): contrast for contrast in measure(grid, ranks)}
    expected = {
        ("GN − BN", "32 frames, 8 clips"): -0.3,
        ("GN − BN", "32 frames, 4 clips"): 0.7,
        ("GN − BN", "64 frames, 4 clips"): 1.2,
        ("64 frames − 32 frames", "BN, 4 clips"): 1.2,
        ("64 frames − 32 frames", "GN, 4 clips"): 1.7,
        ("4 clips − 8 clips", "BN, 32 frames"): -1.2,
        ("4 clips − 8 clips", "GN, 32 frames"): -0.2,
        ("(64 frames − 32 frames) of GN − the same of BN", "4 clips"): 0.5,
        ("(4 clips − 8 clips) of GN − the same of BN", "32 frames"): 1.0,
    }
    assert {key: round(one.paper["top1"], 6) for key, one in found.items()} == expected
    assert all(contrast.figures["top1"] == (0, 0, 0) for contrast in found.values())


def test_cells_that_were_tested_on_different_videos_are_not_compared(tmp_path):
    grid = make_grid(tmp_path)
    assert measure(grid, {("bn",): {0: [1, 1]}, ("gn",): {0: [1, 1, 1]}}) == []


def test_the_highest_of_each_column_against_the_others(tmp_path):
    """By the mean, of what is measured; of two, the differences have it."""
    grid = make_grid(tmp_path, axes={"norm": ["bn", "gn", "ln", "in"], "batch": [8, 1]})
    right, wrong = [1] * 50, [2] * 50
    ranks = {("bn", "8"): right + wrong, ("gn", "8"): right + right, ("ln", "8"): wrong + wrong}
    ranks |= {("bn", "1"): right + right, ("gn", "1"): wrong + wrong}
    cells = outcomes(grid, {cell: {0: one, 1: one} for cell, one in ranks.items()})
    found = measure_contrasts(grid, cells, highest(grid, cells))
    assert [(contrast.what, contrast.at, contrast.figures["top1"][0]) for contrast in found] == [
        ("GN − BN", "8 clips", 50),
        ("GN − LN", "8 clips", 100),
    ]
    assert found[0].shown and 38 < found[0].figures["top1"][1] < 50
    said = verdict(grid, measure_contrasts(grid, cells, contrasts(grid)), found)
    assert said[0].startswith("GN is above BN by 50.0 points (")
    assert ", at 8 clips, in 1 of 2 settings; below BN by 100.0 points (100.0 to 100.0), at 1 clip" in said[0]
    assert said[1].startswith("LN is below BN by 50.0 points (")
    assert said[2] == "At 8 clips GN is highest, above all 2 others."
    assert said[3] == (
        "From 8 clips to 1 clip: BN gains 50.0 points (39.8 to 60.2); GN loses 100.0 points (100.0 to 100.0); LN, IN: "
        "not both measured."
    )


def test_the_verdict_says_what_is_shown_where_and_what_would_have_been(tmp_path):
    paper = {"source": "x", "cells": [{"norm": n, "batch": b, "top1": t} for n, b, t in
                                      (("bn", 8, 70), ("bn", 1, 60), ("gn", 8, 71), ("gn", 1, 71))]}  # fmt: skip
    grid = make_grid(tmp_path, axes={"norm": ["bn", "gn"], "batch": [8, 1]}, paper=paper)
    rng = np.random.default_rng(0)
    tops = {("bn", "8"): 0.8, ("bn", "1"): 0.4, ("gn", "8"): 0.8, ("gn", "1"): 0.8}
    ranks = {v: {seed: rng.choice([1, 2], 400, p=[t, 1 - t]) for seed in range(3)} for v, t in tops.items()}
    cells = outcomes(grid, ranks)
    rows, along, published = verdict(grid, measure_contrasts(grid, cells, contrasts(grid)), [])
    assert rows.startswith("GN is above BN by ")
    assert ", at 1 clip, in 1 of 2 settings; not shown to differ from BN in 1 " in rows
    assert "effects above" in rows and rows.endswith("points would have been).")
    assert along.startswith("From 8 clips to 1 clip: BN loses ") and "no change is shown of GN (effects above" in along
    # 5 differences: GN - BN twice, 1 - 8 clips twice, of which GN's has no sign, and how these differ
    assert published == (
        "Of the 4 differences that the paper's figures give, 3 are shown here with the same sign, 0 with the other, "
        "and 1 are not shown."
    )


@pytest.mark.parametrize(
    ("axis", "value", "said"),
    [
        ("norm", "bn", "BN"), ("norm", "gn + ws", "GN + WS"), ("norm", "bn frozen", "BN frozen"),
        ("norm", "frozen_bn", "frozen BN"), ("norm", "evonorm_s0", "EvoNorm-S0"), ("batch", "8", "8 clips"),
        ("batch", "1", "1 clip"), ("clip", "16x4", "16 frames at interval 4"), ("clip", "8x8", "8 frames"),
        ("clip", "8x0", "1 frame repeated"), ("start", "scratch", "scratch"),
        ("model.net.num_groups", "8", "num_groups 8"),
    ],
)  # fmt: skip
def test_values_in_words(axis, value, said):
    assert word({"clip": ["8x8", "8x0", "16x4", "16x2"]}, axis, value) == said


def test_a_cell_in_words():
    assert label({"norm": ["bn"], "clip": ["8x8"], "batch": ["2"]}, ["bn", "8x8", None]) == "BN, 8 frames"


def test_one_group_of_videos_shows_nothing(tmp_path):
    grid = make_grid(tmp_path)
    ranks = {("bn",): {0: [2] * 57, 1: [2] * 57}, ("gn",): {0: [1] * 57, 1: [1] * 57}}
    (one,) = measure(grid, ranks, groups=["all"] * 57)
    assert one.figures["top1"][0] == 100 and one.shown is None
    low, high = one.figures["top1"][1:]
    assert low <= 100 <= high


def test_a_difference_far_from_zero_is_shown_among_any_number(tmp_path):
    """p is known beyond what 10,000 draws can count: 500 differences need a p of 0.0001."""
    grid = make_grid(tmp_path)
    rng = np.random.default_rng(0)
    cells = {(norm,): {seed: rng.choice([1, 2], 400, p=[top, 1 - top]) for seed in range(3)}
             for norm, top in (("bn", 0.2), ("gn", 0.8))}  # fmt: skip
    (one,) = measure(grid, cells)
    family = [one, *(Contrast("norm", "x", "", {}, one.figures, p=0.5, error=1.0) for _ in range(499))]
    uncertainty._adjust(family)
    assert one.p < 1e-6 and one.shown and not family[1].shown


def test_no_interval_is_beyond_what_can_be(tmp_path):
    """Of an accuracy 0 to 100 %, of a difference -100 to 100 points, however little is known."""
    grid = make_grid(tmp_path)
    ranks = {("bn",): {0: [1] * 9 + [2], 1: [1] * 10}, ("gn",): {0: [2] * 10, 1: [2] * 9 + [1]}}
    cells = outcomes(grid, {values: {seed: of * 2 for seed, of in own.items()} for values, own in ranks.items()})
    (bn, gn), (difference,) = (measure_contrasts(grid, cells, of(grid)) for of in (levels, contrasts))
    assert bn.figures["top1"][2] == 100 and 0 < bn.figures["top1"][1] < 95
    assert gn.figures["top1"][1] == 0 and 5 < gn.figures["top1"][2] < 100
    assert difference.figures["top1"][1] == -100


def test_an_effect_above_100_points_is_none(tmp_path):
    one = Contrast("norm", "x", "", {}, {"top1": (1.0, -90.0, 90.0)}, p=0.5, error=40.0)
    uncertainty._adjust([one])
    assert one.detectable is None


def test_the_verdict_has_every_axis_and_says_what_was_not_measured(tmp_path):
    axes = {"start": {"scratch": {}, "images": {"model.net.dropout": 0.1}}, "norm": ["bn", "gn"],
            "aug": {"plain": {}, "wide": {"data.clip.flip": True}, "more": {"data.clip.shrink": True}}}  # fmt: skip
    grid = make_grid(tmp_path, axes=axes, rows=["norm"], leave_out=[{"norm": "gn", "aug": "more"}])
    rng = np.random.default_rng(0)
    top = {"scratch": 0.3, "images": 0.6}
    cells = {
        values: {seed: rng.choice([1, 2], 400, p=[p, 1 - p]) for seed in range(3)}
        for cell in grid.cells
        if (values := tuple(cell.values.values())) and (p := top[values[0]] + 0.3 * (values[2] == "wide"))
    }
    said = verdict(grid, measure(grid, cells), [])
    assert said[0].startswith("GN is not shown to differ from BN in any setting (effects above ")
    assert said[1].startswith("From scratch to images: BN gains up to ") and "GN gains up to" in said[1]
    assert said[2].startswith("From plain to wide: BN gains up to ") and ", at " in said[2]
    assert said[3].startswith("From plain to more: no change is shown of BN (") and "GN: not both measured" in said[3]


def test_what_is_highest_but_below_another_is_not_called_above_it(tmp_path):
    """The mean of all seeds and that of common ones may differ."""
    grid = make_grid(tmp_path, axes={"norm": ["bn", "gn", "ln"]})
    cells = outcomes(grid, {(norm,): {0: [1, 2], 1: [1, rank]} for norm, rank in (("bn", 2), ("gn", 1), ("ln", 2))})
    below, above = highest(grid, cells)
    assert (below.what, above.what) == ("GN − BN", "GN − LN")
    below.figures, above.figures = {"top1": (-10.0, -12.0, -8.0)}, {"top1": (37.0, 30.0, 44.0)}
    below.adjusted = above.adjusted = 0.001
    assert verdict(grid, [below, above], [below, above])[-1] == "GN is highest; not shown to be below it: BN."


def test_the_verdict_is_of_all_columns(tmp_path):
    """Of the last of nine too; what is not shown has a sentence for all of it."""
    batches = [str(2**i) for i in range(9)]
    grid = make_grid(tmp_path, axes={"norm": ["bn", "gn", "ln", "in"], "batch": batches})
    rng = np.random.default_rng(0)
    cells = outcomes(grid, {
        (norm, batch): {seed: rng.choice([1, 2], 200, p=[p, 1 - p]) for seed in range(3)}
        for norm in grid.axes["norm"] for batch in batches
        if (p := 0.9 if (norm, batch) == ("ln", "256") else 0.5)
    })  # fmt: skip
    found = measure_contrasts(grid, cells, contrasts(grid))
    best = measure_contrasts(grid, cells, highest(grid, cells))
    first, second, third, fourth, *_ = verdict(grid, found, best)
    assert first.startswith("LN is above BN by ") and ", at 256 clips, in 1 of 9 settings; not shown to differ" in first
    assert second.startswith("GN, IN are not shown to differ from BN in any setting (effects above ")
    assert third == "At 256 clips LN is highest, above all 3 others."
    assert fourth == "In 8 other columns the highest is not shown to be above another."
    calm = [contrast for contrast in best if contrast.at != "256 clips"]
    assert "In no column is the highest shown to be above another." in verdict(grid, found, calm)


def test_a_cell_whose_seeds_differ_by_far_more_does_not_hide_what_others_show(tmp_path):
    """Eleven calm cells and one that is not: the pool is theirs, and the restless one has no less than that of all."""
    grid = make_grid(tmp_path, axes={"norm": ["bn", "gn", "ln"], "batch": [8, 4, 2, 1]})
    rng = np.random.default_rng(1)
    calm = {tuple(cell.values.values()): 0.8 + 0.01 * rng.normal(0, 1, 3) for cell in grid.cells}
    tops = calm | {("bn", "1"): np.array([0.3, 0.5, 0.75])}
    cells = outcomes(grid, {v: {i: [1] * round(1000 * top) + [2] * (1000 - round(1000 * top))
                                for i, top in enumerate(of)} for v, of in tops.items()})  # fmt: skip
    spread = SeedSpread.of(cells, "top1")
    assert spread.restless == {("bn", "1")} and spread.calm[1] == 22 and spread.all[1] == 24
    assert spread.calm[0] == pytest.approx(0.01**2 / (4 * 0.8 * 0.2), rel=0.5)
    assert spread.at(("bn", "1"), tops["bn", "1"], 1000)[0] >= np.var(tops["bn", "1"], ddof=1)
    everyone = outcomes(grid, {v: {i: [1] * round(1000 * top) + [2] * (1000 - round(1000 * top))
                                   for i, top in enumerate(of)} for v, of in calm.items()})  # fmt: skip
    assert not SeedSpread.of(everyone, "top1").restless
