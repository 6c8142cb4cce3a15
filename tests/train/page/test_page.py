"""The page of a test: in a browser, of tests in a row, of videos that cannot be read, and of names that are code."""

import json
import shlex
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import CHROMIUM, browser
from command_lines import tiny
from sklearn import metrics

from video_gn.data.glimpse import glimpses
from video_gn.data.motion12 import Motion
from video_gn.data.video_list import VideoList
from video_gn.files.tables import read_table
from video_gn.train import cli
from video_gn.train.outcomes import VideoScores
from video_gn.train.page import gallery
from video_gn.train.page.build import About, build
from video_gn.train.page.gallery import choose, pictures
from video_gn.train.page.write import _commands, figures_of, say_worst, write_figures, write_page

EVIL = [
    "<script>document.title='evil'</script>", "'quoted' & \"twice\", with commas",
    "</style><img src=x onerror=alert(1)>",
    "Putting_something_into_something_else_without_any_space_at_a", "=1+1", "{{ 7 * 7 }}",
]  # fmt: skip
HISTORY = [
    {
        "epoch": str(i),
        "train/epoch_loss": f"{2 / (i + 1)}",
        "train/epoch_top1": f"{i / 5}",
        "val/loss": "",
        "val/top1": "0.5",
    }
    for i in range(4)
]
SPEED = [
    {"epoch": str(i), "steps": str(9 * i + 9), "seconds": f"{60 * i}", "clips_per_s": "8", "lr": "0.1"}
    for i in range(4)
]
QUIET = ["--trainer.enable_progress_bar=false", "--data.loading.num_workers=0"]
RESULT = {"date": "2026-11-27T00:00:00", "protocol": "gn-10clip", "views": "10 clips", "checkpoint": "last.ckpt",
          "bn_statistics": None}  # fmt: skip


def scored(names, videos, rng, paths=None, bad=0):
    """Stand-in scores, mostly right; the last videos cannot be read."""
    labels = rng.integers(0, len(names), videos)
    scores = rng.dirichlet(np.full(len(names), 0.5), videos).astype(np.float32)
    scores[np.arange(videos), labels] += 0.7
    paths = paths or [f"/data/val/{i}.mp4" for i in range(videos)]
    failures = {path: "damaged: <b>no</b>" for path in paths[videos - bad :]}
    return VideoScores(
        paths,
        labels,
        names,
        [(np.arange(videos - bad), (scores / scores.sum(1, keepdims=True))[: videos - bad])],
        failures,
    )


def scored_several(names, videos, rng, paths=None):
    """As `scored`, of several classes or none, mostly right; nearly the last video cannot be read."""
    labels = (rng.random((videos, len(names))) < 0.3).astype(np.uint8)
    scores = (0.6 * rng.random(labels.shape) + 0.4 * labels).round(2).astype(np.float32)
    paths, kept = paths or [f"/data/val/{i}.mp4" for i in range(videos)], np.delete(np.arange(videos), -2)
    return VideoScores(paths, labels, names, [(kept, scores[kept])], {paths[-2]: "damaged"})


def about(names):
    split = {
        "videos": 9, "by_class": [9] * len(names), "known_bad": 1, "known_damaged": 0, "looked_at": 9, "unreadable": 1,
        "sizes": [[1920, 1080, 9]], "portrait": 0, "frames": [9.0, 20.0, 31.0], "fps": [30.0] * 3, "seconds": [1.0] * 3,
    }  # fmt: skip
    data = {"train": split | {"groups": 3, "groups_by_class": [1] * len(names)}, "test": split}
    commands = [("Again:", "video-gn test --ckpt_path 'a b'")]
    return About("run <1>", "/data", 0, RESULT, {"model": {"net": {"arch": "<i>"}}}, data, commands, HISTORY, SPEED)


def page_of(found, videos, names):
    chosen = choose(found)
    rows = [row for kind in chosen.values() for row in kind]
    return build(found, figures_of(found), chosen, pictures(glimpses(videos, rows), rows), about(names))


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium: apt-get install chromium")
def test_in_a_browser(motion_folder, tmp_path, rng):
    """On a phone and on a desk, light and dark: nothing runs over, nothing is asked of a network, names are text."""
    paths = sorted(map(str, (motion_folder / "val").rglob("*.mp4")))
    few = scored(EVIL, len(paths), rng, paths, bad=2)
    many = [f"class {i} with a name of some words" for i in range(400)]
    several = scored_several(EVIL, len(paths), rng, paths)
    pages = {"few": (few, EVIL), "many": (scored(many, len(paths), rng, paths), many), "several": (several, EVIL)}
    for name, (found, names) in pages.items():
        (tmp_path / f"{name}.html").write_text(page_of(found, VideoList(paths, found.labels), names))
    with browser(tmp_path / "profile") as tab:
        for name in pages:
            for width in (390, 1200):
                tab.open(tmp_path / f"{name}.html", width, dark=width == 1200)
                assert tab.ask("[document.documentElement.scrollWidth, innerWidth]") == [width, width], (name, width)
                wider = (
                    "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
                    "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
                )
                assert tab.ask(wider) == []
                colour = tab.ask("getComputedStyle(document.body).backgroundColor")
                assert colour == ("rgb(20, 24, 28)" if width == 1200 else "rgb(255, 255, 255)")
            loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length"
            assert tab.ask(loaded) >= 20
            tab.open(tmp_path / f"{name}.html", 390, dark=True)
            assert tab.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
        tab.open(tmp_path / "few.html", 390, dark=False)
        shown = tab.ask("[...document.querySelectorAll('.classes tbody .name')].map(e => e.textContent)")
        assert sorted(shown) == sorted(EVIL) and tab.ask("document.title") == "run <1>: test 0"
        assert tab.ask("document.scripts.length + document.querySelectorAll('img[onerror]').length") == 0
        assert "damaged: <b>no</b>" in tab.ask("document.getElementById('unreadable').textContent")
        assert not tab.complaints


@pytest.mark.slow
def test_5000_videos(motion_folder, rng):
    """Of 40 classes: under 20 MB, and under a minute beside the test itself."""
    paths = sorted(map(str, (motion_folder / "val").rglob("*.mp4")))
    paths = [paths[i % len(paths)] for i in range(5000)]
    names, begin = [f"class {i}" for i in range(40)], time.monotonic()
    right = scored(names, len(paths), rng, paths)
    labels = np.where(rng.random(5000) < 0.2, rng.integers(0, 40, 5000), right.labels)
    found = VideoScores(paths, labels, names, [(np.arange(5000), right.scores)], {})
    page = page_of(found, VideoList(paths, labels), names)
    assert time.monotonic() - begin < 60 and len(page.encode()) < 20e6
    assert page.count("data:image/webp") == gallery.ERRORS + gallery.UNSURE + gallery.RIGHT


def test_its_numbers_are_those_of_the_tables(tmp_path, rng):
    names = [f"{i},\"'" for i in range(7)]
    found = scored(names, 300, rng, bad=3)
    figures = figures_of(found)
    write_figures(tmp_path, 2, found, figures)
    found.write(tmp_path / "test-2.csv")
    rows = read_table(tmp_path / "test-2.csv")
    true, said = [row["label"] for row in rows], [row["predicted"] for row in rows]
    recall = metrics.recall_score(true, said, labels=names, average=None)
    by_class = read_table(tmp_path / "test-2-classes.csv")
    assert [row["class"] for row in by_class] == names
    assert [float(row["recall"]) for row in by_class] == pytest.approx(list(recall), rel=1e-5)
    matrix = [list(row.values()) for row in read_table(tmp_path / "test-2-confusion.csv")]
    assert [[int(cell) for cell in row[1:]] for row in matrix] == metrics.confusion_matrix(
        true, said, labels=[*names, ""]
    )[:7].tolist()
    whole = json.loads((tmp_path / "test-2.json").read_text())
    assert whole["top1"]["value"] == metrics.accuracy_score(true, said) and whole["without_prediction"] == 3
    worst = min(range(7), key=lambda i: recall[i])
    assert (
        names[worst] in say_worst(found, figures)[1] and f"{100 * recall[worst]:.2f} %" in say_worst(found, figures)[1]
    )
    assert say_worst(scored(["a", "b"], 30, rng), figures) == []


def test_the_gallery_begins_with_the_surest_errors(rng):
    """Three labels of 200 are wrong: the network is surest there."""
    found = scored([f"class {i}" for i in range(12)], 200, rng)
    planted = [5, 60, 199]
    labels = found.labels.copy()
    labels[planted] = (labels[planted] + 1) % 12
    chosen = choose(VideoScores(found.paths, labels, found.class_names, [(np.arange(200), found.scores)], {}))
    assert set(planted) <= set(chosen["errors"][:10])
    everything = [row for rows in chosen.values() for row in rows]
    assert len(set(everything)) == len(everything) and len(chosen["right"]) == gallery.RIGHT
    assert chosen == choose(VideoScores(found.paths, labels, found.class_names, [(np.arange(200), found.scores)], {}))


def test_a_bad_video_ends_no_page(motion_folder, tmp_path, monkeypatch):
    good = str(next(motion_folder.rglob("*.mp4")))
    (tmp_path / "bad.mp4").write_text("no video")
    videos = VideoList([good, str(tmp_path / "bad.mp4"), str(tmp_path / "gone.mp4"), good], [0] * 4)
    shown = pictures(glimpses(videos, [3, 1, 2, 0]), [3, 1, 2, 0])
    assert shown[0].picture == shown[3].picture and shown[0].picture.startswith("data:image/webp;base64,UklGR")
    assert "not a video file" in shown[1].reason and "no such file" in shown[2].reason and not shown[2].picture
    monkeypatch.setattr(gallery, "SECONDS", 0.0)
    late = pictures(glimpses(videos, [0, 3]), [0, 3])
    assert late[0].picture and not late[3].picture and "no time" in late[3].reason


def test_pages_of_several_tests(tmp_path):
    """The newest is report.html; what was there before, ours or not, stays."""
    pages = [f'<meta name="video-gn-test" content="{number}">' for number in range(3)]
    (tmp_path / "report.html").write_text("my own")
    assert write_page(tmp_path, 0, pages[0]).name == "report.html"
    assert write_page(tmp_path, 2, pages[2]).name == "report.html"
    assert write_page(tmp_path, 1, pages[1]).name == "report-1.html"
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {
        "report-before.html": "my own",
        "report-0.html": pages[0],
        "report-1.html": pages[1],
        "report.html": pages[2],
    }
    (tmp_path / "report.html").write_text("my own too")
    assert write_page(tmp_path, 3, "newest").name == "report.html"
    assert (tmp_path / "report-before-1.html").read_text() == "my own too"
    assert (tmp_path / "report-before.html").read_text() == "my own"


@pytest.mark.parametrize(("test", "motion", "said"), [
    ("auto", None, False), ("test.csv", None, True), ("val.csv", Motion(), False),  # of which no list is taken
])  # fmt: skip
def test_the_command_to_test_again_names_what_the_checkpoint_does_not_know(test, motion, said, tmp_path):
    data = SimpleNamespace(root="data", test=test, val="val.csv", motion=motion, backend="decord")
    result = {"checkpoint": "runs/a/checkpoints/last.ckpt", "protocol": "center-1clip"}
    ((_, command),) = _commands(tmp_path, result, data)
    words = shlex.split(command)
    assert words[:4] == ["video-gn", "test", "--ckpt_path", "runs/a/checkpoints/last.ckpt"]
    assert (f"--data.test {test}" in command) == said == ("--data.test" in words)


def test_after_fit_and_of_a_checkpoint_alone(pictures, tmp_path, monkeypatch, capsys):
    """Images have a page too; a checkpoint without its run has one where its results are."""
    assert cli.main(tiny(pictures, tmp_path / "run", test_after_fit="true")) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/webp") == 8 and "Learning rate" in page and "fit -c" in page
    assert f"video by video: {tmp_path}/run/report.html" in capsys.readouterr().out
    last, results = (tmp_path / "run" / name for name in ("checkpoints/last.ckpt", "results.json"))
    results.write_text(results.read_text().replace('"name": "', '"name": "mine_'))
    shutil.copy(last, tmp_path / "alone.ckpt")
    monkeypatch.chdir(tmp_path)
    for path in (str(last), "alone.ckpt"):
        assert cli.main(["test", "--ckpt_path", path, "--data.root", str(pictures), *QUIET]) == 0
    assert "\nmine_flat_small" in capsys.readouterr().out
    assert "<title>mine_" in (tmp_path / "run" / "report.html").read_text()  # a later one has the run's name too
    (page,) = Path("runs", "tested").rglob("report.html")
    assert "Learning rate" not in page.read_text() and "--data.evaluation.protocol" not in page.read_text()
