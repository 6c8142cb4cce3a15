"""Cross-validation in an ablation: each cell by the union of its test folds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from ablate_runs import write_run
from conftest import REPO

from video_gn.ablate import plan
from video_gn.ablate.contrasts import contrasts
from video_gn.ablate.folds import collect, pool_folds
from video_gn.ablate.grid_file import read_grid
from video_gn.ablate.plan import RATE
from video_gn.ablate.report import made
from video_gn.ablate.report.write import write_report
from video_gn.ablate.uncertainty import measure_contrasts

FOLDS = 3


@pytest.fixture
def ablation(tmp_path, monkeypatch, rng):
    """Two norms over three folds of 50 videos, with two seeds; ranks as they were drawn, by norm, seed and video."""
    monkeypatch.chdir(REPO)
    axes = {"norm": ["bn", "gn"], "data.fold": list(range(FOLDS))}
    content = {"base": ["configs/own.yaml"], "axes": axes, "settings": {"data.folds": FOLDS}, "seeds": [0, 1]}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    grid = read_grid(tmp_path / "g.yaml")
    runs = plan.make_plan(grid, tmp_path / "out")
    ranks = {(norm, seed): rng.integers(1, 4, 50) for norm in ("bn", "gn") for seed in (0, 1)}
    for run in runs:
        norm, fold = run.cell.values["norm"], int(run.cell.values["data.fold"])
        mine = [i for i in range(50) if (i * 7 + run.seed) % FOLDS == fold]  # a seed has folds of its own
        write_run(run.folder, mine, ranks[norm, run.seed])
    return grid, runs, ranks


def test_each_video_counts_once(ablation, tmp_path):
    grid, runs, ranks = ablation
    assert len(runs) == 12
    pooled, of_cells = pool_folds(grid, runs)
    assert pooled.axes == {"norm": ("bn", "gn")} and len(pooled.cells) == 2
    cells = collect(pooled, of_cells)
    for (norm, seed), drawn in ranks.items():
        run = cells[(norm,)].runs[seed]
        assert run.test["top1"] == pytest.approx(np.mean(drawn == 1)) and run.test["videos"] == 50
        order = sorted(range(50), key=lambda i: f"v{i}.mp4")
        assert run.videos.paths == [f"v{i}.mp4" for i in order] and run.videos.labels == ["a"] * 50
        assert run.videos.ranks.tolist() == [drawn[i] for i in order]
        assert run.history[0]["val/top1"] == pytest.approx(50 / 100 / FOLDS)
        assert run.val_median("top1") == pytest.approx(50 / FOLDS)
    (contrast,) = measure_contrasts(pooled, cells, contrasts(pooled))
    expected = 100 * np.mean([np.mean(ranks["gn", seed] == 1) - np.mean(ranks["bn", seed] == 1) for seed in (0, 1)])
    assert contrast.figures["top1"][0] == pytest.approx(expected, abs=1e-4) and contrast.seeds == 2
    text = write_report(grid, runs, tmp_path / "report", ["g"])
    mean = 100 * np.mean([np.mean(ranks["bn", seed] == 1) for seed in (0, 1)])
    assert f"{mean:.1f} ±" in text
    assert "tested over 3 folds" in (tmp_path / "report" / "results.md").read_text()
    data = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [cell["top1"]["count"] for cell in data["cells"]] == [2, 2]
    assert [run["seconds"] for cell in data["cells"] for run in cell["runs"]] == [FOLDS * 1.0] * 4
    assert "12 of 12 runs finished" in (tmp_path / "report" / "results.md").read_text()


def test_the_rates_of_all_folds_are_said(ablation):
    grid, runs, _ = ablation
    rates = {"0": 0.1, "1": 0.4, "2": 0.4}
    runs = [replace(run, config={**run.config, RATE: rates[run.cell.values["data.fold"]]}) for run in runs]
    table = made._plan(*pool_folds(grid, runs))
    clips = runs[0].clips_per_step
    assert {row[3] for row in table.rows} == {f"{0.1 * clips / 64:g}, {0.4 * clips / 64:g}"}


def test_a_pooled_test_has_figures_of_all_folds_alone(ablation):
    """Loss over the videos that it is a mean of, every list of bad videos, and nothing of the first fold's own."""
    grid, runs, _ = ablation
    mine = [run for run in runs if run.cell.values["norm"] == "bn" and run.seed == 0]
    losses, readable = [1.0, 2.0, 4.0], []
    for i, (run, loss) in enumerate(zip(mine, losses, strict=True)):
        results = json.loads((run.folder / "results.json").read_text())
        bad = {"unreadable": float(i), "unreadable_videos": {f"bad{i}.mp4": "why"} if i else {}, "not_finite": 1.0}
        results["tests"][0] |= {"loss": loss, "macro_f1": 0.5, "checkpoint": "fold 0's"} | bad
        results["fit"]["val"] = {"top1": 0.5}
        readable.append(results["tests"][0]["videos"] - i - 1)
        (run.folder / "results.json").write_text(json.dumps(results))
    run = collect(*pool_folds(grid, runs))[("bn",)].runs[0]
    assert run.test["loss"] == pytest.approx(np.average(losses, weights=readable))
    assert run.test["unreadable_videos"] == {"bad1.mp4": "why", "bad2.mp4": "why"} and run.test["unreadable"] == 3
    assert not {"macro_f1", "checkpoint"} & run.test.keys() and "val" not in run.results["fit"]


def test_a_fold_that_is_missing(ablation):
    """Two thirds of the videos are no figure of all."""
    grid, runs, _ = ablation
    (runs[0].folder / "results.json").unlink()
    cells = collect(*pool_folds(grid, runs))
    assert sorted(cells[("bn",)].runs) == [1] and sorted(cells[("gn",)].runs) == [0, 1]


def test_folds_alone_and_no_folds(tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    content = {"base": ["configs/own.yaml"], "axes": {"fold": {"first": {"data.fold": 0}, "second": {"data.fold": 1}}}}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content | {"settings": {"data.folds": 2}}))
    grid = read_grid(tmp_path / "g.yaml")
    pooled, _ = pool_folds(grid, [])
    assert pooled.axes == {"test": ("all 2 folds",)} and pooled.rows == ("test",) and len(pooled.cells) == 1
    demo = read_grid(REPO / "configs/ablations/motion.yaml")
    assert pool_folds(demo, [])[0] is demo
