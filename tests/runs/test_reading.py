"""A run's folder read back: what older versions wrote, and what is damaged."""

import json
import random
import shutil

import pytest
from imitated import HISTORY, change, imitate

from pipeline.errors import PipelineError
from pipeline.runs.reading import read_run

DOCUMENTS = ("run", "problems", "examples")


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    imitate(folder, heads=("logistic", "dense"), history=HISTORY, skill=0.5, looked_into=True)
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


def changed(value, chance):
    """Give plain values with one of them replaced."""
    if isinstance(value, dict | list) and value and chance.random() < 0.8:
        place = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        copy[place] = changed(value[place], chance)
        return copy
    others = [None, 7, -1, 1e400, 10**400, "x", [], {}, [[]], True, "\udcff", float("nan")]
    return chance.choice(others)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_other_values_anywhere_are_refused_or_can_be_shown(folder, name):
    from pipeline.report.page import write_report

    whole = document(folder, name)
    refused = 0
    for seed in range(30):
        fields = changed(whole, random.Random(seed))
        (folder / f"{name}.json").write_text(json.dumps(fields))
        try:
            write_report(folder)
        except PipelineError:
            refused += 1
    assert refused > 5


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_flipped_bit_is_refused_or_can_be_shown(folder, name):
    from pipeline.report.page import write_report

    whole = (folder / f"{name}.json").read_bytes()
    for seed in range(30):
        chance = random.Random(seed)
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (folder / f"{name}.json").write_bytes(content)
        try:
            write_report(folder)
        except PipelineError:
            continue


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
