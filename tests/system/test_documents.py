"""JSON that is written and read."""

import json

import numpy as np
import pytest

from pipeline.system.documents import (
    DamagedError,
    Document,
    NewerError,
    parse,
    read_document,
    to_json,
)


class Note(Document, frozen=True, kw_only=True):
    schema: int = 3
    text: str
    numbers: tuple[float, ...] = ()


def test_what_is_written_is_read():
    note = Note(text="caf\udce9 \n 太", numbers=(1, 2.5))
    assert read_document(to_json(note), Note) == note
    assert json.loads(to_json(note)) == {"schema": 3, "text": note.text, "numbers": [1, 2.5]}


def test_values_of_numpy_are_written_as_numbers():
    values = {"a": np.float32(0.5), "b": [np.int64(2)], "c": np.arange(3), "d": np.bool_(1)}
    assert json.loads(to_json(values)) == {"a": 0.5, "b": [2], "c": [0, 1, 2], "d": True}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_numbers_that_are_not_finite_are_written_as_null(value):
    assert to_json({"a": [value]}) == '{\n  "a": [\n    null\n  ]\n}\n'


def test_a_missing_field_has_its_default_and_an_unknown_one_is_ignored():
    assert read_document('{"schema": 1, "text": "a", "later": 3}', Note).numbers == ()


def test_a_newer_schema_version_is_told_apart():
    with pytest.raises(NewerError) as error:
        read_document('{"schema": 4}', Note)
    assert (error.value.version, error.value.known) == (4, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "not JSON"),
        ("{", "not JSON"),
        ("[" * 10**5, "not JSON"),
        ("1" * 5000, "not JSON"),
        ("[" * 500 + "]" * 500, "nested more than 100 deep"),
        ('{"schema": 1, "text": "a", "more": ' + '{"a":' * 200 + "1" + "}" * 201, "nested"),
        ('{"schema": 1, "text": "a", "text": "b"}', "'text' twice"),
        ("", "not JSON"),
        ("3", "no schema version"),
        ('"text"', "no schema version"),
        ("[]", "no schema version"),
        ('{"schema": 1.0}', "no schema version"),
        ('{"schema": 1}', "`text`"),
        ('{"schema": 1, "text": 3}', "got `int`"),
        ('{"schema": 1, "text": "a", "numbers": [NaN]}', "got `null`"),
        ('{"schema": 1, "text": "a", "numbers": [1e999]}', "got `null`"),
        ('{"schema": 1, "text": "a", "numbers": [1' + "0" * 400 + "]}", "out of range"),
        ('{"schema": 1, "text": "a", "\\udcff": 1}', "surrogates"),
    ],
)
def test_what_is_something_else_is_damaged(content, message):
    with pytest.raises(DamagedError, match=message):
        read_document(content, Note)


def test_any_json_can_be_parsed():
    assert parse('{"a": [NaN, Infinity, 1e999, 1.5]}') == {"a": [None, None, None, 1.5]}
