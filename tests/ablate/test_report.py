"""Pages, figures and tables of a report."""

import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest
import yaml
from ablate_runs import write_run
from conftest import REPO

from video_gn.ablate import plan
from video_gn.ablate.figures import curves, style
from video_gn.ablate.figures.accuracy import along
from video_gn.ablate.grid_file import read_grid
from video_gn.ablate.page import (
    Details,
    Figure,
    Heading,
    Link,
    Points,
    Table,
    Text,
    figures_of,
    to_html,
    to_markdown,
    to_text,
)
from video_gn.ablate.report.made import unfinished
from video_gn.ablate.report.write import write_report
from video_gn.files.tables import read_table


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(REPO)


def test_a_page_as_markdown_and_html():
    blocks = [
        Heading("A <b>", 1),
        Points(["p & q"]),
        Heading("B c"),
        Text("x & y"),
        Text("run it", code=True),
        Table(["n", "v", "w"], [["a|b", "<1", "0.5 ± 1"], [Link("run 1", "cells/a b/report.html"), "", "-"]]),
        Details("more <", [Figure("f", "<svg/>", "c")]),
    ]
    assert to_markdown(blocks, "figures") == (
        "# A &lt;b>\n\n- p &amp; q\n\n## B c\n\nx & y\n\n    run it\n\n"
        "| n | v | w |\n| --- | ---: | ---: |\n| a\\|b | &lt;1 | 0.5 ± 1 |\n| run 1 |  | \\- |\n\n"
        "<details><summary>more &lt;</summary>\n\n![c](figures/f.svg)\n\n*c*\n\n</details>\n"
    ).replace("p &amp; q", "p & q")
    page = to_html(blocks, "t")
    assert "<h1>A &lt;b&gt;</h1>" in page and '<td class="text">&lt;1</td>' in page and "<pre>run it</pre>" in page
    assert '<a href="#b-c">B c</a>' in page and '<h2 id="b-c">' in page and "<td>0.5 ± 1</td>" in page
    assert '<a href="cells/a%20b/report.html">run 1</a>' in page and "<details><summary>more &lt;</summary>" in page
    assert "data:image/svg+xml;base64,PHN2Zy8+" in page and "script-src 'sha256-" in page
    assert [figure.name for figure in figures_of(blocks)] == ["f"]
    assert to_text(blocks[5]).splitlines()[2] == "run 1      -"


def test_columns_without_anything_go():
    table = Table(["n", "a", "b", "c"], [["", "", "-", "1"], ["", "", "", "-"]]).filled
    assert table.head == ["n", "c"] and table.rows == [["", "1"], ["", "-"]]


def test_curves_pass_over_epochs_without_validation():
    history = [{"epoch": float(i), "val/top1": 0.5 if i % 3 == 2 else float("nan")} for i in range(6)]
    cell = SimpleNamespace(runs={0: SimpleNamespace(history=history)})
    x, errors = curves._line(cell, "val/top1", "epochs")
    assert x.tolist() == [3, 6] and errors.tolist() == [[50, 50]]


def test_limits_fit_the_data_and_chance_only_where_it_is_near():
    assert style.limits([50, 60]) == pytest.approx((49.4, 60.6)) and style.limits([0, 100]) == (0, 106)
    assert style.near([40.0, 50.0], 0.1) == [40, 50] and style.near([20.0, 50.0], 0.1) == [20, 50, 10]


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """The report of norm x clip x batch with two seeds, on 60 videos of three classes in 20 groups."""
    tmp_path, rng = tmp_path_factory.mktemp("ablation"), np.random.default_rng(0)
    axes = {"norm": ["bn", "gn"], "clip": ["8x8", "16x4"], "batch": [8, 2, 1]}
    content = {"base": ["configs/demo.yaml"], "axes": axes, "seeds": [0, 1], "title": "T",
               "ceiling": [{"clip": "8x8", "top1": 80, "spread": 2}]}  # fmt: skip
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with contextlib.chdir(REPO):
        grid = read_grid(tmp_path / "g.yaml")
        runs = plan.make_plan(grid, tmp_path / "out")
    for run in runs:
        top = 0.2 if run.cell.values["norm"] == "bn" and run.cell.values["batch"] == "1" else 0.7
        write_run(run.folder, range(60), rng.choice([1, 2], 60, p=[top, 1 - top]), classes=("a", "b", "c"), group=3)
    return grid, runs, tmp_path / "out", write_report(grid, runs, tmp_path / "out", ["g"])


def test_a_norm_has_its_colour_in_every_figure(ablation):
    grid, _, out, _ = ablation
    bn, gn = (style.colour(grid, norm) for norm in ("bn", "gn"))
    others = {colour.lower() for colour in style.COLOURS} - {bn.lower(), gn.lower(), "#000000"}  # text is black
    for path in (out / "figures").glob("*.svg"):
        used = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}", path.read_text())}
        if path.stem not in ("classes", "confusions"):
            assert {bn.lower(), gn.lower()} <= used and not others & used, path.stem
    text = (out / "figures" / "accuracy_batch.svg").read_text()
    assert "BN, 8 frames" in text and "GN, 16 frames" in text and "clips per device" in text and "ceiling" in text
    assert "top5" not in "".join(path.stem for path in (out / "figures").glob("*.svg"))  # of three classes


def test_what_the_report_says(ablation):
    *_, out, text = ablation
    report, data = (out / "results.md").read_text(), json.loads((out / "results.json").read_text())
    assert "60 test videos of 20 groups, 3 classes (chance: 33.3 %)" in report
    assert report.index("GN is above BN by") < report.index("## Result") < report.index("## Differences")
    assert "GN is above BN by" in text and data["verdict"][0].startswith("GN is above BN by")
    assert all(row["p_holm"] >= row["p"] for row in data["differences"])
    assert "per GPU" not in report
    page = (out / "results.html").read_text()
    assert len(page) < 1_000_000 and 'name="viewport"' in page and page.count('class="scroll"') >= 4


def test_figures_as_tables(ablation):
    _, runs, out, _ = ablation
    tables = {name: read_table(out / f"{name}.csv") for name in ("runs", "differences", "videos")}
    assert len(tables["runs"]) == len(runs) == 24 and len(tables["videos"]) == 60
    for row in tables["runs"]:
        column = f"{row['norm']}_{row['clip']}_b{row['batch']}_s{row['seed']}"
        right = np.mean([video[column] == "1" for video in tables["videos"]])
        assert float(row["top1"]) == pytest.approx(right)
    assert {video["group"] for video in tables["videos"]} == {f"g{i}" for i in range(20)}
    report = json.loads((out / "results.json").read_text())["differences"]
    found = [row for row in tables["differences"] if row["kind"] != "highest"]
    assert [float(row["top1_mean"]) for row in found] == pytest.approx(
        [row["top1_mean_low_high"][0] for row in report], abs=1e-4
    )


def test_what_diverged_is_named_with_its_step(ablation, tmp_path):
    _, (run, *others), *_ = ablation
    run = replace(run, folder=Path(shutil.copytree(run.folder, tmp_path / run.name)))
    (run.folder / "results.json").write_text(json.dumps({"diverged": {"step": 17, "epoch": 1, "reason": "nan"}}))
    (run.folder / "ablation.json").write_text(json.dumps({"status": "failed", "error": "training diverged"}))
    found = to_text(next(block for block in unfinished([run, *others]) if isinstance(block, Table)))
    assert re.search(rf"{run.name} +diverged at step 17, epoch 2 +training diverged", found)


def test_what_is_written_in_a_figure_is_not_rounded():
    with style.drawn(2, 2) as figure:
        figure.subplots().set_xticks([0.0001, 0.005], ["0.0001", "0.005"])
        text = style.svg(figure)
    assert ">0.0001<" in text and ">0.005<" in text and not re.search(r'd="[^"]*\.\d{3}', text)


def test_no_line_along_an_axis_of_words_or_equal_numbers(tmp_path):
    for clips in (["8x8", "8x0"], ["8x8", "8x4"]):
        (tmp_path / "g.yaml").write_text(yaml.safe_dump({"base": ["configs/demo.yaml"], "axes": {"clip": clips}}))
        assert along(read_grid(tmp_path / "g.yaml"), {}, "clip", []) is None


def test_ceilings_are_drawn_where_they_hold(ablation):
    grid, *_ = ablation
    panel = matplotlib.figure.Figure().subplots()
    panel.set_ylim(0, 100)
    style.draw_bounds(panel, grid, {}, [("bn", "16x4", "8")])
    assert not panel.lines
    style.draw_bounds(panel, grid, {}, [("bn", "8x8", "8")], error=True)
    assert panel.lines[0].get_ydata()[0] == 20
