"""Figures of the page of a test whose videos may be of several classes: scikit-learn's, and hand arithmetic."""

import json

import numpy as np
import pytest
from sklearn import metrics
from test_page import scored_several

from video_gn.files.tables import read_table
from video_gn.train.outcomes import VideoScores
from video_gn.train.page.gallery import choose
from video_gn.train.page.several import _of_class
from video_gn.train.page.write import figures_of, say_worst, write_figures

NAMES = [f"{i},\"'" for i in range(6)]


def test_its_numbers_are_scikit_learns_and_those_of_the_tables(tmp_path, rng):
    found = scored_several(NAMES, 120, rng)
    figures = figures_of(found)
    scores = np.nan_to_num(found.scores, nan=-1)
    expected = metrics.average_precision_score(found.labels, scores, average=None)
    assert figures.average_precision[:, 0] == pytest.approx(expected, abs=1e-12)
    assert (
        figures.map[0] == pytest.approx(expected.mean(), abs=1e-12) and figures.map[1] < figures.map[0] < figures.map[2]
    )
    said = scores >= 0.5
    precision, recall, f1, count = metrics.precision_recall_fscore_support(found.labels, said)
    assert figures.precision[:, 0] == pytest.approx(precision) and figures.recall[:, 0] == pytest.approx(recall)
    assert figures.f1[:, 0] == pytest.approx(f1) and figures.macro_f1[0] == pytest.approx(f1.mean())
    assert figures.videos.tolist() == count.tolist()
    # Of the unreadable video nothing is predicted, which is never right.
    assert figures.all_right[0] == ((found.labels == said).all(1) & (scores[:, 0] >= 0)).mean()
    write_figures(tmp_path, 0, found, figures)
    by_class = read_table(tmp_path / "test-0-classes.csv")
    assert [float(row["average_precision"]) for row in by_class] == pytest.approx(expected, rel=1e-5)
    whole = json.loads((tmp_path / "test-0.json").read_text())
    assert whole["map"]["value"] == figures.map[0] and "confusions" not in whole
    assert not (tmp_path / "test-0-confusion.csv").exists()
    lowest = int(expected.argmin())
    assert (
        f"{100 * expected[lowest]:.2f} %" in say_worst(found, figures)[1]
        and NAMES[lowest] in say_worst(found, figures)[1]
    )


def test_a_drawn_video_counts_as_often_as_it_is_drawn(rng):
    scores, true = rng.random(60).round(1), rng.integers(0, 2, 60)
    times = rng.multinomial(60, np.full(60, 1 / 60), 5)
    drawn = [np.repeat(np.arange(60), count) for count in times]
    expected = [metrics.average_precision_score(true[rows], scores[rows]) for rows in drawn]
    assert _of_class(scores, true, times) == pytest.approx(expected, abs=1e-12)


def test_a_class_without_videos_has_no_average_precision(rng):
    found = scored_several(NAMES, 50, rng)
    found.labels[:, 2] = 0
    figures = figures_of(found)
    assert np.isnan(figures.average_precision[2]).all()
    assert figures.map[0] == pytest.approx(np.nanmean(figures.average_precision[:, 0]))


def test_the_gallery_begins_with_the_surest_errors(rng):
    """Of 200 videos with sure scores, three are labelled with a class too many or one too few."""
    labels = (rng.random((200, 8)) < 0.3).astype(np.uint8)
    scores = np.where(labels, rng.uniform(0.6, 1, labels.shape), rng.uniform(0, 0.45, labels.shape)).astype(np.float32)
    scores[[7, 70], 0] = np.where(labels[[7, 70], 0], 0.4, 0.6)  # errors that are not sure
    given = labels.copy()
    for row, column in ((5, 1), (60, 2), (199, 3)):
        scores[row, column] = 0.97 * labels[row, column] + 0.01
        given[row, column] ^= 1
    found = VideoScores([f"{i}.mp4" for i in range(200)], given, [*NAMES, "x", "y"], [(np.arange(200), scores)], {})
    chosen = choose(found)
    assert set(chosen["errors"][:3]) == {5, 60, 199} and set(chosen["errors"][3:]) == {7, 70}
    assert all(found.right[row] for row in (*chosen["unsure"], *chosen["right"]))
    least = np.abs(scores - 0.5).min(1)
    assert chosen["unsure"][0] == min(set(range(200)) - set(chosen["errors"]), key=lambda row: least[row])
