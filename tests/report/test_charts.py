"""Axes, and charts as files."""

from xml.etree import ElementTree

import pytest
from imitated import HISTORY, imitate
from pages import report

from pipeline.report import charts
from pipeline.report.page import write_report

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.66, 0.87, ["0.70", "0.75", "0.80", "0.85"]),
        (0.31, 1.36, ["0.50", "0.75", "1.00", "1.25"]),
        (1e-5, 9e-5, ["0.00002", "0.00004", "0.00006", "0.00008"]),
    ],
)
def test_an_axis_has_round_numbers_within_its_range(low, high, texts):
    assert [text for _, text in charts.ticks(low, high, 5)] == texts


@pytest.mark.parametrize(("epochs", "first"), [(2, "1"), (6, "1"), (30, "5"), (200, "50")])
def test_an_axis_of_epochs_has_whole_numbers(epochs, first):
    texts = [text for _, text in charts.ticks(1, epochs, whole=True)]
    assert texts[0] == first
    assert all(text.isdigit() for text in texts)
    assert 2 <= len(texts) <= 9


# --- files --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


def texts(file):
    root = ElementTree.parse(file).getroot()
    assert root.tag == f"{SVG}svg"
    return [text.text for text in root.iter(f"{SVG}text")]


def test_each_chart_is_also_a_file_that_stands_alone(folder):
    imitate(folder, heads=("dense", "module:factory"), history=HISTORY, counts=(40, 20, 300))
    write_report(folder)
    files = {file.name: file for file in folder.glob("*.svg")}
    assert set(files) == {
        "calibration.svg",
        "confusion-dense.svg",
        "confusion-module--factory.svg",
        "history-dense.svg",
        "history-module--factory.svg",
        "precision-recall.svg",
        "roc.svg",
    }
    for file in files.values():
        content = file.read_text()
        assert texts(file)
        assert "var(" not in content  # drawing programs do not know it
        assert not {"href=", "url(", "<script", "@import", "&nbsp;"} & set(content.split())


def test_a_confusion_matrix_in_a_file_has_its_counts_and_the_classes(folder):
    run = imitate(folder, heads=("logistic",))
    write_report(folder)
    (a, b), (c, d) = run.results[0].test.confusion
    found = texts(folder / "confusion-logistic.svg")
    assert found[0] == "logistic"
    shares = (a / (a + b), b / (a + b), c / (c + d), d / (c + d))
    assert found[1:5] == [f"{round(100 * share)}\xa0%" for share in shares]
    assert f"Of {a + b} blue: {a} predicted blue" in " ".join(found)
    assert {"blue", "red", "true", "predicted"} <= set(found)


def test_learning_curves_in_a_file_have_both_figures_and_the_epoch_that_was_kept(folder):
    imitate(folder, heads=("dense",), history=HISTORY)
    write_report(folder)
    found = texts(folder / "history-dense.svg")
    assert {"dense: loss", "dense: accuracy", "weights kept: epoch 4"} <= set(found)
    assert found.count("layers unfrozen after epoch 3") == 2


@pytest.mark.parametrize(
    "name", ["$a$", "<b>&amp;", '" x="', "太陽電池", "a\nb", "\udcff", "x" * 300, "\x00", "]]>"]
)
def test_any_class_name_can_be_drawn(folder, name):
    imitate(folder, classes=(name, "dog"), heads=("logistic",))
    write_report(folder)
    assert "dog" in texts(folder / "confusion-logistic.svg")


@pytest.mark.parametrize("name", ["../../evil", "/etc/x", "a" * 300, "太" * 100, "a\nb", "..", "*"])
def test_a_heads_name_cannot_lead_out_of_the_folder(folder, name):
    imitate(folder, heads=(name,))
    outside = (folder.parent, folder.parent.parent)
    before = [sorted(place.iterdir()) for place in outside]
    write_report(folder)
    assert [sorted(place.iterdir()) for place in outside] == before
    assert len(list(folder.glob("confusion-*.svg"))) == 1


def test_a_hundred_classes_fit_into_a_file_of_bounded_size(folder):
    names = tuple(f"class number {number}" for number in range(100))
    imitate(folder, classes=names, counts=(100, 100, 1000), heads=("logistic",))
    report(folder)
    assert (folder / "confusion-logistic.svg").stat().st_size < 200_000
