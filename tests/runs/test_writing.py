"""What a run leaves on disk: its files, its name, and nothing where writing is cut short."""

import csv
import dataclasses
import errno
import itertools
import json
import os
import platform
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from conftest import Hears, files_in, no_network, run_json
from imitated import HISTORY, imitate

from pipeline.analysis.problems import find_problems_quickly
from pipeline.errors import PipelineError
from pipeline.heads.registry import HEADS
from pipeline.models.model import Model
from pipeline.report.page import write_report
from pipeline.runs.describing import describe_problems
from pipeline.runs.reading import read_run
from pipeline.runs.writing import add_problems, write_run
from pipeline.system.documents import to_plain


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_a_runs_folder_holds_all_that_came_of_it(place_with_pictures):
    place = place_with_pictures
    run = place.classify(place.data(), ["logistic", "dense"])
    assert run.folder == place.runs / "photos"
    assert files_in(run.folder) == [
        "confusion-dense.svg",
        "confusion-logistic.svg",
        "examples.json",
        "history-dense.svg",
        "models/dense/head.weights.h5",
        "models/dense/manifest.json",
        "models/logistic/head.skops",
        "models/logistic/manifest.json",
        "pictures.json",
        "precision-recall.svg",
        "predictions.csv",
        "problems.json",
        "report.html",
        "roc.svg",
        "run.json",
        "trained-on.bin",
    ]
    assert [path.name for path in place.runs.iterdir()] == ["photos"]


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
        assert head["test"] == to_plain(result.test)
        assert head["validation"] == to_plain(result.validation)
        assert head["seconds"] == pytest.approx(result.seconds, abs=1e-3)
        assert [tried["parameters"] for tried in head["candidates"]] == list(
            map(dict, HEADS[result.head].grid)
        )
    logistic, dense = document["heads"]
    assert logistic["history"] == {}
    assert len(dense["history"]["val_loss"]) >= dense["best_epoch"] > 0


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
    monkeypatch.setattr("pipeline.features.extractor.Extractor.plan", no_network)
    with pytest.raises(PipelineError, match=r"(?s)the run .*mine exists already.*another --name"):
        place.classify(data, name="mine")
    assert {file: (first.folder / file).read_bytes() for file in files_in(first.folder)} == before


def test_a_place_that_runs_cannot_be_written_to_is_refused_before_any_work(place, monkeypatch):
    place.runs.write_text("not a folder")
    monkeypatch.setattr("pipeline.features.extractor.Extractor.plan", no_network)
    for runs in (place.runs, place.runs / "deeper"):
        with pytest.raises(PipelineError, match=f"{place.runs} is not a folder") as error:
            place.classify(place.data(), runs=runs)
        assert "--runs" in str(error.value)
    assert place.runs.read_text() == "not a folder"


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


def test_a_name_given_that_another_takes_meanwhile_costs_no_run_its_results(place):
    data = place.data()

    def take(result):
        (place.runs / "mine").mkdir(parents=True)
        (place.runs / "mine" / "run.json").write_text("another's")

    run = place.classify(data, name="mine", listener=Hears(judged=take))
    assert run.folder == place.runs / "mine-2"
    told = "Another run took the name mine meanwhile, so this one is named mine-2."
    assert told in run.remarks
    assert told in run_json(run)["remarks"]
    assert told in repr(run)
    assert (place.runs / "mine" / "run.json").read_text() == "another's"


@pytest.mark.parametrize("name", ["same", None])
def test_runs_that_are_written_at_once_under_one_name_are_all_kept(place, name):
    run = place.classify(place.data(), name="first")
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda seed: write_run(run, place.runs, name, seed=seed), range(8)))
    assert len({own.folder for own in written}) == 8
    for seed, own in enumerate(written):
        assert run_json(own)["seed"] == seed
        assert (own.folder / "models" / "logistic" / "manifest.json").exists()
    first = name or "photos"
    expected = {"first", first, *(f"{first}-{number}" for number in range(2, 9))}
    assert {path.name for path in place.runs.iterdir()} == expected


STEPS = ("models.model.Model.save", "runs.writing.write_predictions", "runs.writing.describe_run")


@pytest.mark.parametrize(
    ("step", "stop"),
    [
        *itertools.product(STEPS, [KeyboardInterrupt, ValueError, MemoryError]),
        ("classification.experiment.write_report", KeyboardInterrupt),
    ],
)
def test_no_half_written_run_is_left_when_writing_is_cut_short(place, monkeypatch, stop, step):
    data = place.data()

    def cut(*args, **options):
        assert any(place.runs.iterdir())  # there is something to clear away
        raise stop

    monkeypatch.setattr(f"pipeline.{step}", cut)
    with pytest.raises(stop):
        place.classify(data)
    assert list(place.runs.iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_is_an_error_that_says_what_to_do(place, monkeypatch, step):
    data = place.data()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"pipeline.{step}", full)
    with pytest.raises(PipelineError, match=r"(?s)No space left on device.*--runs"):
        place.classify(data)
    assert list(place.runs.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_who_can_read_a_runs_folder_is_for_the_umask_to_say(place, umask, mode):
    before = os.umask(umask)
    try:
        run = place.classify(place.data())
    finally:
        os.umask(before)
    assert run.folder.stat().st_mode & 0o777 == mode


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


def test_a_run_can_be_written_where_a_package_is_not_installed(place, monkeypatch):
    def version(name):
        if name == "numpy":
            return "1.2.3"
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    versions = run_json(place.classify(place.data()))["versions"]
    assert set(versions) == {"python", "numpy"}


def test_figures_that_are_not_finite_never_get_into_json(tmp_path):
    history = {**HISTORY, "loss": [0.9, float("nan"), float("inf"), 0.5, 0.4, 0.3]}
    imitate(tmp_path / "mine", heads=("dense",), history=history)
    text = (tmp_path / "mine" / "run.json").read_text()
    assert not re.search("NaN|Infinity", text)
    [head] = read_run(tmp_path / "mine").heads
    assert head.history["loss"] == [0.9, None, None, 0.5, 0.4, 0.3]


# --- problems that are found later ---------------------------------------------------------


@pytest.fixture
def examined(place_with_pictures):
    """A run, its data set, and the problems of that."""
    data = place_with_pictures.data()
    run = place_with_pictures.classify(data, ["logistic"], name="mine")
    return run, data, problems_of(data)


def problems_of(data):
    rows = np.random.default_rng(0).random((120, 1, 1, 12), np.float32)
    return find_problems_quickly(data, rows, data.targets.labels)


def test_every_run_is_searched_for_problems_and_has_examples(examined):
    run, data, _ = examined
    record = read_run(run.folder)
    assert record.problems.digest == data.digest
    assert record.problems.learning_curve is None
    assert record.examples.head == "logistic"
    assert "What may be wrong with the data" in (run.folder / "report.html").read_text()


def test_problems_can_be_put_into_a_runs_folder(examined):
    run, _, problems = examined
    add_problems(run.folder, problems)
    assert read_run(run.folder).problems == describe_problems(problems)
    assert problems.summary()[0] in write_report(run.folder).read_text()


def test_a_run_no_longer_says_that_it_was_not_searched_when_problems_are_added(
    place_with_pictures, monkeypatch
):
    data = place_with_pictures.data()
    problems = problems_of(data)
    monkeypatch.setattr("pipeline.analysis.problems.QUICK", 119)
    run = place_with_pictures.classify(data, ["logistic"])
    _, *small = run.remarks
    assert small
    assert run_json(run)["remarks"] == list(run.remarks)
    add_problems(run.folder, problems)
    page = write_report(run.folder).read_text()
    assert "did not look for" not in page
    assert [page.count(note) for note in small] == [1] * len(small)  # among the problems
    assert run_json(run)["remarks"] == []
    assert not list(run.folder.glob(".*"))


def test_fields_that_are_not_known_here_stay_when_problems_are_added(examined):
    run, _, problems = examined
    document = {**run_json(run), "later": 1}
    (run.folder / "run.json").write_text(json.dumps(document))
    add_problems(run.folder, problems)
    assert run_json(run)["later"] == 1


def test_problems_of_other_images_are_refused(examined, place_with_pictures):
    run, *_ = examined
    before = (run.folder / "problems.json").read_bytes()
    with pytest.raises(PipelineError, match="made from other images"):
        add_problems(run.folder, problems_of(place_with_pictures.data(seed=1)))
    assert (run.folder / "problems.json").read_bytes() == before


@pytest.mark.parametrize("error", [ValueError("no chart"), MemoryError(), OSError(28, "full")])
def test_a_run_is_kept_whose_page_cannot_be_drawn(place, monkeypatch, error):
    with monkeypatch.context() as broken:
        broken.setattr("pipeline.report.page.write_charts", raising(error))
        run = place.classify(place.data(), ["logistic", "knn"])
    assert f"`pipeline report {run.folder}` writes it" in run.left_out["page"]
    assert "Left out of the run: page. " in repr(run)
    assert (run.folder / "models" / "knn" / "head.skops").exists()
    assert not (run.folder / "report.html").exists()
    assert run_json(run)["left_out"] == {}
    assert write_report(run.folder).exists()


def test_a_model_that_cannot_be_written_costs_no_other(place, monkeypatch):
    save = Model.save

    def save_some(model, folder):
        save(model, folder)
        if model.head == "knn":
            raise TypeError("cannot pickle a lock")

    monkeypatch.setattr(Model, "save", save_some)
    run = place.classify(place.data(), ["logistic", "knn"])
    assert run_json(run)["left_out"] == {"the model of knn": "TypeError: cannot pickle a lock"}
    assert [path.name for path in (run.folder / "models").iterdir()] == ["logistic"]
    assert "the model of knn" in (run.folder / "report.html").read_text()


def test_what_a_killed_writer_left_in_a_run_is_removed_with_the_next_page(tmp_path):
    folder = tmp_path / "runs" / "mine"
    imitate(folder)
    left = folder / ".pipeline-0.tmp"
    left.touch()
    os.utime(left, (1, 1))
    write_report(folder)
    assert not left.exists()


@pytest.mark.parametrize("year", [1970, 1980, 2107, 2200])
def test_a_clock_at_which_no_model_can_be_saved_is_an_error_before_the_work(
    place, monkeypatch, year
):
    """Small computers without a clock of their own begin in 1970."""

    class Clock(datetime):
        @classmethod
        def now(cls, zone=None):
            return cls(year, 1, 1, tzinfo=zone)

    monkeypatch.setattr("pipeline.runs.writing.datetime", Clock)
    monkeypatch.setattr(
        "pipeline.classification.experiment.Extractor.make", raising(AssertionError)
    )
    with pytest.raises(PipelineError, match=rf"in the year {year}, in which no model can be saved"):
        place.classify(place.data())
