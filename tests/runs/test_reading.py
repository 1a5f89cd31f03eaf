"""A run's folder read back: what older versions wrote, and what is damaged."""

import json
import os
import shutil

import pytest
from damaged import damage, make_other
from imitated import HISTORY, change, imitate

from pipeline.errors import PipelineError
from pipeline.runs.reading import read_run
from pipeline.system.documents import to_json

DOCUMENTS = ("run", "problems", "examples")
FILES = [*(f"{name}.json" for name in (*DOCUMENTS, "pictures")), "predictions.csv"]
TORTURE = os.environ.get("TORTURE", "") not in ("", "0")


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    imitate(folder, heads=("logistic", "dense"), history=HISTORY, skill=0.5, looked_into=True)
    picture = {"path": "1.png", "digest": "0" * 64, "jpeg": "/9g="}
    (folder / "pictures.json").write_text(json.dumps({"schema": 1, "pictures": [picture]}))
    return folder


@pytest.fixture
def folder(complete, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(complete, tmp_path / "mine")


def document(folder, name="run"):
    return json.loads((folder / f"{name}.json").read_text())


def test_what_was_written_is_read(folder):
    record, fields = read_run(folder), document(folder)
    assert (record.name, record.best.name) == ("mine", fields["best"])
    assert record.classes == ("blue", "red")
    for head in record.heads:
        [own] = [own for own in fields["heads"] if own["head"] == head.name]
        assert head.test.accuracy == own["test"]["accuracy"]
        assert head.history == HISTORY
        assert head.unfrozen_after == (3,)
    assert record.problems.summary == document(folder, "problems")["summary"]
    assert record.examples.size == 64
    assert len(record.predictions["dense"].paths) == 60


def test_a_run_of_the_first_version_is_read(folder):
    fields = document(folder)
    for name in ("protocol", "comparison", "unfinished", "failed", "left_out", "reference"):
        del fields[name]
    del fields["remarks"]
    for head in fields["heads"]:
        del head["unfrozen_after"], head["threshold"], head["fold_accuracies"]
        for metrics in (head["test"], head["validation"]):
            for name in ("macro_f1", "average_precision", "brier", "intervals"):
                del metrics[name]
            del metrics["interval_method"]
    (folder / "run.json").write_text(json.dumps(fields))
    record = read_run(folder)
    assert record.protocol.cv is None
    assert record.best.threshold is None
    assert record.best.test.average_precision is None


def test_curves_that_were_once_written_with_nan_are_read(folder):
    fields = document(folder)
    fields["heads"][1]["history"]["loss"] = [float("nan"), float("inf"), 0.5]
    (folder / "run.json").write_text(json.dumps(fields))
    assert read_run(folder).heads[1].history["loss"] == [None, None, 0.5]


@pytest.mark.parametrize("name", ["problems", "examples"])
def test_the_optional_documents_may_be_missing(folder, name):
    (folder / f"{name}.json").unlink()
    assert getattr(read_run(folder), name) is None


def test_without_run_json_there_is_no_run(tmp_path):
    with pytest.raises(PipelineError, match="there is no run in"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_of_a_newer_version_says_to_update(folder, name):
    fields = {**document(folder, name), "schema": 99}
    (folder / f"{name}.json").write_text(json.dumps(fields))
    with pytest.raises(PipelineError, match=r"(?s)schema version 99.*update"):
        read_run(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"schema": 1}', '{"schema": "1"}', '{"schema": true}', "[" * 10**5],
)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_is_something_else_is_named(folder, name, content):
    (folder / f"{name}.json").write_text(content)
    with pytest.raises(PipelineError, match=rf"{name}\.json cannot be understood"):
        read_run(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_a_run_is_one_error_that_names_it_or_can_be_shown(folder, file):
    from pipeline.report.page import write_report

    whole, refused = (folder / file).read_bytes(), 0
    for seed in range(1000 if TORTURE else 60):
        (folder / file).write_bytes(damage(whole, seed))
        try:
            write_report(folder)
        except PipelineError as error:
            assert str(folder / file) in error.found  # noqa: PT017
            refused += 1
    assert refused > 5 or file == "predictions.csv"  # the page is then made without it


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "link", "socket"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_not_a_regular_file_is_not_read(folder, file, kind):
    from pipeline.report.page import write_report

    (folder / file).unlink()
    make_other(folder / file, kind)
    if file == "predictions.csv":
        assert "predictions.csv cannot be read" in read_run(folder).problem
        return
    with pytest.raises(PipelineError, match=rf"{file}.* cannot be read"):
        write_report(folder)


@pytest.mark.parametrize("depth", [90, 500, 980, 5000])
def test_a_run_that_is_nested_deep_is_one_error_wherever_it_is_read(folder, depth):
    """Python's own limit is met at another depth by each of those that go through it."""
    fields = document(folder)
    fields["heads"][0]["parameters"]["more"] = 1
    deep = "[" * depth + "]" * depth
    (folder / "run.json").write_text(json.dumps(fields).replace('"more": 1', f'"more": {deep}'))
    if depth < 100:
        assert to_json(read_run(folder).document)
    else:
        with pytest.raises(PipelineError, match="cannot be understood"):
            read_run(folder)


@pytest.mark.parametrize("key", ["heads", "best", "dataset", "recipe", "versions", "created"])
def test_a_run_json_that_lacks_something_is_refused(folder, key):
    fields = document(folder)
    del fields[key]
    (folder / "run.json").write_text(json.dumps(fields))
    with pytest.raises(PipelineError, match="cannot be understood"):
        read_run(folder)


@pytest.mark.parametrize(
    "confusion", [[], [[1]], [[1, 2], [3]], [[0, 0], [0, 0]], [[-1, 2], [3, 4]], [[0.5, 1], [1, 1]]]
)
def test_a_confusion_matrix_that_does_not_fit_the_classes_is_refused(folder, confusion):
    heads = document(folder)["heads"]
    heads[0]["test"]["confusion"] = confusion
    change(folder, heads=heads)
    with pytest.raises(PipelineError, match="cannot be understood"):
        read_run(folder)


@pytest.mark.parametrize("values", [[], [1.0], [[float("nan")]], [[1.0] * 100], [[1, 2], [3]]])
def test_a_map_that_is_not_a_table_within_the_picture_is_refused(folder, values):
    fields = document(folder, "examples")
    fields["images"][0]["map"] = values
    (folder / "examples.json").write_text(json.dumps(fields))
    with pytest.raises(PipelineError, match=r"examples\.json cannot be understood"):
        read_run(folder)
