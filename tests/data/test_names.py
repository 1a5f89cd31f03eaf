"""Names of classes and groups: joined where they are the same text, said where they look alike."""

import dataclasses
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from conftest import run_json

from pipeline.cli.listening import TerminalListener
from pipeline.data.dataset import Dataset
from pipeline.data.loading import load_dataset
from pipeline.data.names import remarks_on
from pipeline.data.splits import Shares
from pipeline.data.targets import Targets
from pipeline.errors import DataError

NFC, NFD = "caf\u00e9", "cafe\u0301"
ALL_TO_TRAIN_ON = Shares(validation=0, test=0)


def put(root, names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return root


def as_folder(root, labels):
    return put(root, (f"{label}/{number}.png" for number, label in enumerate(labels)))


def as_splits(root, labels):
    names = [f"{number}.png" for number in range(len(labels))]
    train = [f"train/{label}/{name}" for label, name in zip(labels, names, strict=True)]
    return put(root, [*train, f"test/{labels[1]}/t.png", "test/bar/t.png"])


def as_csv(root, labels):
    put(root, (f"{number}.png" for number in range(len(labels))))
    lines = (f"{number}.png,{label}\n" for number, label in enumerate(labels))
    (root / "list.csv").write_text("path,label\n" + "".join(lines), encoding="utf-8")
    return root / "list.csv"


@pytest.mark.parametrize("laid_out", [as_folder, as_splits, as_csv])
def test_one_name_in_two_forms_of_unicode_is_one_class_and_that_is_said(tmp_path, laid_out):
    source = laid_out(tmp_path, [NFC, NFD, "bar"] * 4)
    dataset = load_dataset(source, shares=ALL_TO_TRAIN_ON)
    assert dataset.classes == ("bar", NFC)
    [remark] = dataset.remarks
    assert remark.startswith(f"The class {NFC} is written in two ways that look the same")
    assert all(path.is_file() for path in dataset.paths)  # each file keeps its own path


@pytest.mark.parametrize("laid_out", [as_folder, as_splits, as_csv])
@pytest.mark.parametrize("name", ["NA", "None"])
def test_a_class_that_may_be_a_name_or_a_missing_value_is_taken_and_said(tmp_path, laid_out, name):
    dataset = load_dataset(laid_out(tmp_path, [name, "bar"] * 6), shares=ALL_TO_TRAIN_ON)
    assert name in dataset.classes
    assert dataset.remarks == (f"The class {name} is named like a missing value.",)


@pytest.mark.parametrize("laid_out", [as_folder, as_splits, as_csv])
@pytest.mark.parametrize("name", ["NaN", "nan", "NULL", "<NA>"])
def test_a_class_that_is_a_missing_value_is_refused(tmp_path, laid_out, name):
    with pytest.raises(DataError, match=name) as caught:
        load_dataset(laid_out(tmp_path, [name, "bar"] * 6), shares=ALL_TO_TRAIN_ON)
    assert "missing value" in caught.value.found


def by_hand(classes, groups=()):
    count = 2 * len(classes)
    return Dataset(
        name="by hand",
        paths=[Path(f"{number}.png") for number in range(count)],
        digests=[bytes([number] * 32) for number in range(count)],
        targets=Targets(np.arange(count) % len(classes), classes),
        splits=np.full(count, "train"),
        groups=groups,
    )


def test_labels_given_in_python_are_joined_too():
    dataset = by_hand((NFC, NFD, "bar"))
    assert dataset.classes == ("bar", NFC)
    assert [dataset.targets.name(place) for place in range(3)] == [NFC, NFC, "bar"]
    [remark] = dataset.remarks
    assert "look the same" in remark
    assert dataset.take([0, 1]).remarks == dataset.remarks  # said once


def test_groups_are_joined_before_splits_are_drawn(tmp_path):
    names = [f"{number}.png" for number in range(60)]
    put(tmp_path, names)
    lines = (f"{name},{'ab'[n % 2]},{(NFC, NFD)[n % 2]}{n // 6}\n" for n, name in enumerate(names))
    (tmp_path / "x.csv").write_text("path,label,group\n" + "".join(lines), encoding="utf-8")
    dataset = load_dataset(tmp_path / "x.csv")
    assert len(set(dataset.groups)) == 10
    for group in set(dataset.groups):
        assert len({s for s, own in zip(dataset.splits, dataset.groups) if own == group}) == 1
    [remark] = dataset.remarks
    assert remark.startswith("The groups ")


def test_groups_given_in_python_are_joined_too():
    dataset = by_hand(("a", "b"), (NFC, NFD, "x", "x"))
    assert dataset.groups == (NFC, NFC, "x", "x")
    assert "The group" in dataset.remarks[0]


def test_joined_names_are_the_same_data_set_as_one_spelling():
    once = dataclasses.replace(by_hand((NFC, "bar")), name="once")
    assert by_hand((NFD, "bar")).digest == once.digest


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("cat", "dog"), []),
        (("Dog", "dog"), ["'Dog', 'dog'"]),
        (("dog", "dog "), ["'dog', 'dog '"]),
        (("dog", "\ufeffdog"), ["'dog', '\\ufeffdog'"]),
        (("a b", "a\u00a0b"), ["'a b', 'a\\xa0b'"]),
        (("Straße", "STRASSE"), ["'STRASSE', 'Straße'"]),
        (("ﬁsh", "fish"), ["'fish', 'ﬁsh'"]),
        (("1", "01"), []),
        (("nan", "cat"), ["The class nan is named like a missing value"]),
        (("None", "NA"), ["The classes NA, None are named like a missing value"]),
        (("none", "cat"), []),  # no defect, say
        ((NFC, NFD, NFC.upper()), ["look the same", f"{NFC.upper()!r}, {NFC!r}"]),
    ],
)
def test_names_that_look_alike_are_said_and_kept_apart(names, said):
    remarks = list(remarks_on("class", names))
    assert len(remarks) == len(said)
    assert all(part in remark for part, remark in zip(said, remarks, strict=True))


def test_many_names_are_not_all_listed():
    names = [f"{accent}{number}" for number in range(99) for accent in (NFC, NFD)]
    [remark] = remarks_on("class", names)
    assert "and 96 more" in remark
    assert unicodedata.is_normalized("NFC", remark)


def test_what_is_to_be_said_of_the_data_is_in_the_run_its_report_and_on_the_terminal(place, capsys):
    data = dataclasses.replace(place.data(), remarks=("Two classes look alike.",))
    run = place.classify(data, listener=TerminalListener())
    assert run_json(run)["remarks"][0] == "Two classes look alike."
    assert "Two classes look alike." in (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Two classes look alike." in repr(run)
    assert "Two classes look alike." in capsys.readouterr().err


def test_status_says_it_too(tmp_path):
    source = as_folder(tmp_path / "data", [NFC, NFD, "bar"] * 4)
    done = run_command("status", source, "--json")
    assert json.loads(done.stdout)["reused"] == 0
    assert "look the same" in done.stderr
