"""How a run shows itself, and which of its heads differ by more than chance."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import run_json

from pipeline.data.dataset import Quarantined
from pipeline.evaluation.significance import disagreement, sign_flip_test
from pipeline.report.verdict import how_chosen
from pipeline.runs.reading import read_run
from pipeline.system.documents import to_plain


def test_a_run_shows_itself_as_a_table_in_python_and_in_a_notebook(place):
    run = place.classify(place.data(noise=0.6), ["logistic", "knn"])
    text, html = str(run), run._repr_html_()
    assert repr(run) == text
    assert text.startswith("30 test images, never seen in training\n")
    for result in run.results:
        star = " *" if result is run.best else ""
        test = result.test
        (a, b), (c, d) = test.confusion
        figures = (test.accuracy, a / (a + b), d / (c + d), test.log_loss)
        written = [f"{figure:.3f}" for figure in figures]
        [line] = [line for line in text.splitlines() if line.startswith(f"{result.head}{star} ")]
        assert [cell for cell in line.split() if cell in written] == written
        assert all(f"<td>{cell}</td>" in html for cell in (f"{result.head}{star}", *written[1:]))
    assert run.comparison.sentence in text
    assert "saved in " + str(run.folder) in text
    assert html.count("<tr") == 3


def test_a_run_names_files_that_were_skipped_and_what_may_be_wrong_with_the_data(
    place_with_pictures,
):
    data = place_with_pictures.data(noise=0.6)
    bad = (Quarantined(Path("a.jpg"), "truncated"), Quarantined(Path("b.jpg"), "0 bytes"))
    run = place_with_pictures.classify(dataclasses.replace(data, quarantined=bad), ["logistic"])
    assert "2 files skipped: a.jpg: truncated; ..." in str(run)
    assert run.problems.summary()
    assert all(sentence in str(run) for sentence in run.problems.summary())


def test_names_cannot_break_out_of_a_notebooks_table(place):
    data = place.data(classes=("a", "<script>b"), noise=0.6)
    run = place.classify(data, ["logistic"], threshold="f1")
    assert "called <script>b when" in str(run)
    assert "called &lt;script&gt;b when" in run._repr_html_()
    assert "<script>" not in run._repr_html_()


def test_the_best_two_heads_are_compared_on_the_same_test_images(place):
    data = place.data(noise=0.8)
    run = place.classify(data, ["knn", "logistic", "linear-svm"])
    best, second = sorted(run.results, key=lambda result: result.validation.log_loss)[:2]
    found = run.comparison
    assert (found.first, found.second) == (best.head, second.head)
    right = [
        one.probabilities[90:].argmax(axis=1) == data.targets.labels[90:] for one in (best, second)
    ]
    assert found.p == disagreement(*right).p
    assert found.points == pytest.approx(100 * (right[0].mean() - right[1].mean()))
    assert run_json(run)["comparison"] == to_plain(found)
    assert place.classify(data, ["knn"]).comparison is None


def test_with_groups_the_best_two_heads_are_compared_by_group(place):
    groups = tuple(f"patient {number // 5}" for number in range(120))
    data = dataclasses.replace(place.data(noise=0.8), groups=groups)
    run = place.classify(data, ["knn", "logistic"])
    best, second = run.ranked
    right = [one.predicted[90:] == data.targets.labels[90:] for one in (best, second)]
    assert run.comparison.p == sign_flip_test(*right, np.arange(30) // 5)
    assert "sign-flip test by group" in run_json(run)["comparison"]["sentence"]
    assert run.comparison.sentence in how_chosen(read_run(run.folder))
