"""What a run leaves on disk: its files, its name, and nothing where writing is cut short."""

import csv
import dataclasses
import errno
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Hears, files_in, no_network, run_json
from PIL import Image

from pipeline.classification import experiment as classification
from pipeline.errors import PipelineError
from pipeline.evaluation.significance import disagreement, sign_flip_test
from pipeline.heads.registry import HEADS
from pipeline.report.verdict import verdict
from pipeline.runs import run as run_module
from pipeline.runs.reading import read_run


def test_a_runs_folder_holds_all_that_came_of_it(place_with_pictures):
    place = place_with_pictures
    run = place.classify(place.data(), ["logistic", "dense"])
    assert run.folder == place.runs / "photos"
    assert files_in(run.folder) == [
        "confusion-dense.png",
        "confusion-logistic.png",
        "examples.json",
        "history-dense.png",
        "models/dense/head.weights.h5",
        "models/dense/manifest.json",
        "models/logistic/head.skops",
        "models/logistic/manifest.json",
        "predictions.csv",
        "problems.json",
        "report.html",
        "run.json",
    ]
    assert [path.name for path in place.runs.iterdir()] == ["photos"]
    for file in run.folder.glob("*.png"):
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 5


def test_the_settings_versions_digests_and_figures_are_in_run_json(place):
    data = place.data()
    run = place.classify(data, ["logistic", "dense"], seed=5)
    document = run_json(run)
    assert document["schema"] == 1
    assert document["seed"] == 5
    assert document["dataset"]["name"] == "photos"
    assert document["dataset"]["classes"] == ["blue", "red"]
    assert document["dataset"]["digest"] == data.digest
    assert document["dataset"]["images"] == {
        "train": {"blue": 30, "red": 30},
        "validation": {"blue": 15, "red": 15},
        "test": {"blue": 15, "red": 15},
    }
    recipe = document["recipe"]
    assert recipe.pop("fingerprint") == place.recipe.fingerprint
    assert {**recipe, "shape": tuple(recipe["shape"])} == dataclasses.asdict(place.recipe)
    assert document["versions"]["python"] == platform.python_version()
    assert {"keras", "numpy", "scikit-learn"} < set(document["versions"])
    assert {"tensorflow", "tensorflow-cpu"} & set(document["versions"])
    for result, head in zip(run.results, document["heads"], strict=True):
        assert head["head"] == result.head
        assert head["parameters"] == result.parameters
        assert head["test"] == result.test.to_dict()
        assert head["validation"] == result.validation.to_dict()
        assert head["seconds"] == pytest.approx(result.seconds, abs=1e-3)
        assert [tried["parameters"] for tried in head["candidates"]] == list(
            map(dict, HEADS[result.head].grid)
        )
    logistic, dense = document["heads"]
    assert logistic["history"] == {}
    assert len(dense["history"]["val_loss"]) >= dense["best_epoch"] > 0


def test_a_run_can_be_written_where_a_package_is_not_installed(place, monkeypatch):
    monkeypatch.setattr(run_module, "_PACKAGES", ("numpy", "no-such-package"))
    versions = run_json(place.classify(place.data()))["versions"]
    assert set(versions) == {"python", "numpy"}


def test_predictions_csv_has_a_line_for_each_image_and_head(place):
    data = place.data()
    run = place.classify(data, ["logistic", "knn"])
    with (run.folder / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(data)
    for result, block in zip(run.results, (lines[:120], lines[120:]), strict=True):
        assert {line["head"] for line in block} == {result.head}
        assert [line["path"] for line in block] == [str(path) for path in data.paths]
        assert [line["split"] for line in block] == data.splits.tolist()
        assert [line["label"] for line in block] == [data.classes[i] for i in data.targets.labels]
        written = [[float(line[f"probability of {c}"]) for c in data.classes] for line in block]
        assert np.array_equal(written, result.probabilities)
        for line in block:
            likeliest = max(data.classes, key=lambda c: float(line[f"probability of {c}"]))
            assert line["predicted"] == likeliest


AWKWARD = os.fsdecode(b'caf\xe9, "x"\nnew.png')


def test_awkward_file_and_class_names_are_written_so_that_they_can_be_read_back(
    place_with_pictures,
):
    place = place_with_pictures
    data = place.data(classes=('a,b "c"', "$x$\n\udcff"))
    data = dataclasses.replace(data, paths=(Path(AWKWARD), *data.paths[1:]))
    run = place.classify(data)
    with (run.folder / "predictions.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        lines = list(csv.DictReader(file))
    assert lines[0]["path"] == AWKWARD
    assert {line["label"] for line in lines} == set(data.classes)
    assert run_json(run)["dataset"]["classes"] == list(data.classes)


def test_runs_without_a_name_are_numbered(place):
    data = place.data()
    names = [place.classify(data).folder.name for _ in range(3)]
    assert names == ["photos", "photos-2", "photos-3"]
    shutil.rmtree(place.runs / "photos-2")
    assert place.classify(data).folder.name == "photos-2"


def test_a_name_that_is_taken_is_refused_before_any_work_and_the_run_there_stays(
    place, monkeypatch
):
    data = place.data()
    first = place.classify(data, name="mine")
    assert first.folder == place.runs / "mine"
    before = {file: (first.folder / file).read_bytes() for file in files_in(first.folder)}
    monkeypatch.setattr(classification, "extract", no_network)
    with pytest.raises(PipelineError, match=r"(?s)there is a run .*mine already.*another --name"):
        place.classify(data, name="mine")
    assert {file: (first.folder / file).read_bytes() for file in files_in(first.folder)} == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", "../x", "a/"])
def test_a_name_that_is_no_plain_folder_name_is_refused(place, name):
    data = place.data()
    with pytest.raises(PipelineError, match="cannot be a run's name"):
        place.classify(data, name=name)
    assert not place.runs.exists()


def test_a_name_that_another_process_takes_meanwhile_costs_no_run_its_results(place):
    data = place.data()

    def take(result):
        (place.runs / "photos").mkdir(parents=True)
        (place.runs / "photos" / "run.json").write_text("another's")

    run = place.classify(data, listener=Hears(judged=take))
    assert run.folder == place.runs / "photos-2"
    assert run_json(run)["best"] == "logistic"
    assert (place.runs / "photos" / "run.json").read_text() == "another's"


def test_a_name_taken_at_the_very_last_moment_is_passed_over(place, monkeypatch):
    data = place.data()
    rename = Path.rename

    def late(path, target):
        if target.name == "photos" and not target.exists():
            target.mkdir()
            (target / "run.json").write_text("another's")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    run = place.classify(data)
    assert run.folder.name == "photos-2"
    assert (place.runs / "photos" / "run.json").read_text() == "another's"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, MemoryError])
@pytest.mark.parametrize("where", ["draw_confusion", "_write_predictions", "_describe"])
def test_no_half_written_run_is_left_when_writing_is_cut_short(place, monkeypatch, stop, where):
    data = place.data()
    owner = run_module.report if where == "draw_confusion" else run_module

    def cut(*args):
        assert any(place.runs.iterdir())  # there is something to clear away
        raise stop

    monkeypatch.setattr(owner, where, cut)
    with pytest.raises(stop):
        place.classify(data)
    assert list(place.runs.iterdir()) == []


def test_a_full_disk_is_an_error_that_says_what_to_do(place, monkeypatch):
    data = place.data()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_module, "_write_predictions", full)
    with pytest.raises(PipelineError, match=r"(?s)No space left on device.*--runs"):
        place.classify(data)
    assert list(place.runs.iterdir()) == []


def test_a_file_in_the_place_of_the_runs_folder_is_an_error(place):
    data = place.data()
    place.runs.write_text("a file")
    with pytest.raises(PipelineError, match=r"(?s)cannot write the run.*--runs"):
        place.classify(data)
    assert place.runs.read_text() == "a file"


def test_a_runs_folder_can_be_read_by_others(place):
    run = place.classify(place.data())
    assert run.folder.stat().st_mode & 0o777 == 0o755


# --- how it shows itself ------------------------------------------------------------------


def test_a_run_shows_itself_as_a_table_in_python_and_in_a_notebook(place):
    run = place.classify(place.data(noise=0.6), ["logistic", "knn"])
    text, html = str(run), run._repr_html_()
    assert repr(run) == text
    assert text.startswith("30 test images, never seen in training\n")
    for result in run.results:
        star = " *" if result is run.best else ""
        test = result.test
        figures = (test.accuracy, test.balanced_accuracy, test.roc_auc, test.log_loss, test.brier)
        written = [f"{figure:.3f}" for figure in figures]
        [line] = [line for line in text.splitlines() if line.startswith(f"{result.head}{star} ")]
        assert [cell for cell in line.split() if cell in written] == written
        assert all(f"<td>{cell}</td>" in html for cell in (f"{result.head}{star}", *written))
    assert run.comparison.sentence in text
    assert "Kept in " + str(run.folder) in text
    assert html.count("<tr") == 3


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
    assert run_json(run)["comparison"] == found.to_dict()
    assert place.classify(data, ["knn"]).comparison is None


def test_with_groups_the_best_two_heads_are_compared_by_group(place):
    groups = tuple(f"patient {number // 5}" for number in range(120))
    data = dataclasses.replace(place.data(noise=0.8), groups=groups)
    run = place.classify(data, ["knn", "logistic"])
    best, second = run.ranked
    right = [one.predicted[90:] == data.targets.labels[90:] for one in (best, second)]
    assert run.comparison.p == sign_flip_test(*right, np.arange(30) // 5)
    assert "sign-flip test by group" in run_json(run)["comparison"]["sentence"]
    assert run.comparison.sentence in verdict(read_run(run.folder))


def test_intervals_and_how_they_were_computed_are_in_run_json(place):
    run = place.classify(place.data(noise=0.6))
    test = run_json(run)["heads"][0]["test"]
    assert test["interval_method"].startswith("Wilson for the accuracy, else percentile bootstrap")
    assert set(test["intervals"]) == {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "roc_auc",
        "average_precision",
        "log_loss",
        "brier",
    }
    for name, (low, high) in test["intervals"].items():
        assert low <= test[name] <= high, name
