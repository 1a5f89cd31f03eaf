"""The page of a run: what is on it, and that nothing else can get onto it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from conftest import files_in
from imitated import HISTORY, change, imitate, put_markup, sorted_by_validation
from pages import Page, nothing_leaves, painted, report, rows_of, speaks

from pipeline.data.dataset import Quarantined
from pipeline.errors import PipelineError
from pipeline.evaluation.intervals import wilson_interval
from pipeline.report import sections
from pipeline.report.page import write_comparison, write_report
from pipeline.report.sections import Section

HOSTILE = (
    "<script>alert('class')</script>",
    '" onload="alert(1)" x="',
    "\udcff & \x00\n\u202e{{ 7 * 7 }}</style></title><img src=http://example.org/x>",
)


FIRST, LAST = "\N{FIRST STRONG ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


# --- what is on it ------------------------------------------------------------


def test_a_page_refers_to_nothing_outside_and_says_in_words_what_it_shows(folder, tmp_path):
    imitate(folder, paths=painted(tmp_path), history=HISTORY, skill=0.5)
    found = report(folder)
    nothing_leaves(found)
    figures = speaks(found)
    assert len(figures) > 1 + 2 + 2 + 4  # and the gallery's
    headings = [heading.text for heading in found.root.one("main").all("h2")]
    assert headings[0] == "Classifiers"
    assert headings[-1] == "Settings and versions"
    links = [link.attributes["href"][1:] for link in found.root.one("nav").all("a")]
    assert links == [section.attributes["id"] for section in found.root.all("section")]


def written(figures, key):
    low, high = figures["intervals"][key]
    return f"{figures[key]:.3f} {low:.3f} to {high:.3f}"


def share_of(hits, count):
    low, high = wilson_interval(hits / count, count)
    return f"{hits / count:.3f} {low:.3f} to {high:.3f}"


@pytest.mark.parametrize("classes", [("blue", "red"), ("blue", "green", "red")])
def test_the_figures_are_those_of_run_json(folder, classes):
    run = imitate(folder, classes=classes, heads=("logistic", "knn", "dense"))
    document = json.loads((folder / "run.json").read_text())
    table = report(folder).section("heads").one("table")
    titles = [cell.text for cell in table.one("thead").all("th")]
    by_name = {head["head"]: head for head in document["heads"]}
    ranked = [result.head for result in sorted_by_validation(run)]
    rows = rows_of(table)
    assert [row[0] for row in rows] == [f"{ranked[0]} best on validation", *ranked[1:]]
    assert ranked[0] == document["best"]
    for name, row in zip(ranked, rows):
        test, held_out = by_name[name]["test"], by_name[name]["validation"]
        confusion = test["confusion"]
        of_classes = {
            "balanced accuracy": written(test, "balanced_accuracy"),
            "macro F1": written(test, "macro_f1"),
        }
        if len(classes) == 2:  # the positive one is red
            of_classes = {
                "recall of red": share_of(confusion[1][1], sum(confusion[1])),
                "precision of red": share_of(confusion[1][1], confusion[0][1] + confusion[1][1]),
            }
        expected = {
            "accuracy": written(test, "accuracy"),
            **of_classes,
            "ROC AUC": written(test, "roc_auc"),
            "average precision": written(test, "average_precision"),
            "log loss": written(test, "log_loss"),
            "Brier score": written(test, "brier"),
            "log loss on validation": written(held_out, "log_loss"),
            "seconds": f"{by_name[name]['seconds']:.1f}",
        }
        assert dict(zip(titles[1:], row[1:])) == expected
    for cell in table.all("td", class_="number"):
        if "to" not in cell.text:
            value = float(cell.attributes["data-value"])
            assert float(cell.text) == pytest.approx(value, abs=0.051)


def test_the_settings_and_versions_are_those_of_run_json(folder):
    imitate(folder, seed=7)
    document = json.loads((folder / "run.json").read_text())
    section = report(folder).section("settings")
    names, texts = section.all("dt"), section.all("dd")
    shown = {name.text: text.text for name, text in zip(names, texts, strict=True)}
    assert shown["seed"] == "7"
    assert shown["created"] == document["created"]
    assert shown["digest of the data"] == document["dataset"]["digest"]
    assert shown["fingerprint"] == document["recipe"]["fingerprint"]
    assert shown["numpy"] == document["versions"]["numpy"]
    assert shown["shape"] == " x ".join(map(str, document["recipe"]["shape"]))
    assert "C 10: 0.600" in section.text


def test_the_first_screen_says_how_good_on_what_and_by_which_classifier(folder):
    run = imitate(folder, counts=(40, 20, 100), skill=0.8)
    best, other = sorted_by_validation(run)
    test, found = best.test, report(folder)
    header = found.root.one("header")
    assert header.one("p", class_="large").text == (
        f"{100 * test.accuracy:.1f} % correct on 100 test images"
    )
    assert (
        f"expect {100 * test.accuracy_low:.1f} % to {100 * test.accuracy_high:.1f} % (the 95 % "
        "interval, which holds 19 times in 20). No classifier was trained on these images. Always "
        "guessing one class gives 50.0 %."
    ) in header.text
    assert f"Classifier: {best.head}, the best of 2 that were tried." in header.text
    assert "better than guessing" not in header.text
    text = found.section("heads").text
    assert f"{best.head} has the lowest log loss on validation of 2 classifiers" in text
    assert f"The runner-up, {other.head}, has {100 * other.test.accuracy:.1f} %" in text


def test_the_first_screen_shows_the_recall_of_each_class_and_what_goes_wrong(folder, tmp_path):
    run = imitate(folder, heads=("logistic",), paths=painted(tmp_path), skill=0.5)
    confusion = run.best.test.confusion
    header = report(folder).root.one("header")
    items = list(header.one("ul", class_="recalls").all("li"))
    expected = sorted(
        (row[place] / sum(row), name, f"{row[place]} of {sum(row)}")
        for place, (name, row) in enumerate(zip(("blue", "red"), confusion))
    )
    for item, (share, name, count) in zip(items, expected, strict=True):
        assert item.text.startswith(f"{name} {100 * share:.0f} % {count}, 95 % interval ")
    most = max((confusion[0][1], "blue", "red"), (confusion[1][0], "red", "blue"))
    assert f"{most[0]} of 30 {most[1]} are predicted as {most[2]}." in header.text
    strip = header.one("ul", class_="strip")
    assert len(list(strip.all("img"))) == 6
    assert [f"is {most[1]} predicted {most[2]}" in item.text for item in strip.all("li")][:3] == (
        [True] * 3
    )
    steps = [code.text for code in header.all("code")]
    assert 2 <= len(steps) <= 3
    assert all(step.startswith("pipeline ") for step in steps)


def test_of_many_classes_the_first_screen_shows_the_lowest_recalls(folder):
    run = imitate(folder, classes=tuple(f"c{n:03}" for n in range(120)), counts=(240, 120, 600))
    header = report(folder).root.one("header")
    assert "the 8 lowest of 120" in header.text
    worst = min(row[place] / sum(row) for place, row in enumerate(run.best.test.confusion))
    first, *others = header.one("ul", class_="recalls").all("li")
    assert f"{100 * worst:.0f} %" in first.text
    assert len(others) == 7
    test = run.best.test
    middle = np.median([test.recall(place).value for place in range(120)])
    assert f"Half of the classes have {100 * middle:.1f} % or more." in header.text
    [matrix] = report(folder).section("confusion").all("figure", class_="wide")
    drawn = matrix.one("svg")
    assert float(drawn.attributes["width"]) > 4 * 120


@pytest.mark.parametrize(
    ("sentence", "commands"),
    [
        ("`pipeline problems DATA --run RUN` does.", ["pipeline problems DATA --run RUN"]),
        ("It takes 5 %: `a <b>` or `c`.", ["a <b>", "c"]),
        ("no command", []),
        ("the class `x has one", []),
    ],
)
def test_commands_in_a_sentence_are_set_as_such(folder, sentence, commands):
    imitate(folder)
    change(folder, remarks=[sentence])
    section = report(folder).section("heads")
    assert [code.text for code in section.all("code")] == commands
    words = sentence.replace("`", "") if commands else sentence
    assert words.replace(" ", "") in section.text.replace(" ", "")


@pytest.mark.parametrize("tested", [1, 4, 19, 20])
def test_a_figure_from_few_images_is_called_too_little_to_judge_by(folder, tested):
    imitate(folder, counts=(40, 20, tested))
    header = report(folder).root.one("header").text
    assert f"{tested} test image" in header
    assert ("too few to judge by" in header) == (tested < 20)
    assert ("red no test images, so nothing is known" in header) == (tested == 1)


def test_the_aim_is_told_on_the_first_screen_and_marked_on_the_curves(folder):
    run = imitate(folder, heads=("logistic",), counts=(40, 20, 300), skill=0.5)
    document = json.loads((folder / "run.json").read_text())
    [head] = document["heads"]
    threshold = {"positive": 0, "value": 0.5, "aim": "recall=0.95", "reached": True}
    change(folder, heads=[{**head, "threshold": threshold}])
    found = report(folder)
    assert "Aim missed on test: recall 0.95 (95 % of blue found)." in found.root.one("header").text
    roc, precision, calibration = found.section("curves").all("figure")
    assert "Positive is the class blue. The dot is the threshold." in roc.text
    for figure in (roc, precision):
        assert len(list(figure.one("svg", role="img").all("circle"))) == 1
    assert "of blue" in calibration.text
    [titles] = [
        [cell.text for cell in table.one("thead").all("th")]
        for table in found.section("heads").all("table")
    ]
    assert titles[1:4] == ["accuracy", "recall of blue", "precision of blue"]
    test = run.best.test
    recall = test.recall(0).value
    assert rows_of(found.section("heads").one("table"))[0][2].startswith(f"{recall:.3f} ")
    assert found.root.text.count("Aim missed on test") == 1  # a value stands once


@pytest.mark.parametrize(
    ("aim", "large", "guess", "told"),
    [
        (
            "recall=0.95",
            (
                "{recall} of blue found ({hits} of 150), with {alarms} false alarms among 150 red, "
                "on 300 test images"
            ),
            "Calling any {calls} of the 300 images blue would find {called}.",
            "(95 % of blue found). Of {calls} images called blue, {hits} are ({precision}, ",
        ),
        (
            "precision=0.95",
            "{precision} of the images called blue are blue ({hits} of {calls}) on 300 test images",
            "Of images called so at random, 50.0 % would be.",
            "(95 % of the images called blue are so). {hits} of 150 blue are found ({recall}, ",
        ),
        (
            "f1",
            "{accuracy} correct on 300 test images",
            "Always guessing one class gives 50.0 %.",
            "{hits} of 150 blue found (recall ",
        ),
    ],
)
def test_the_large_figure_is_the_one_that_the_aim_is_about(folder, aim, large, guess, told):
    run = imitate(folder, heads=("logistic",), counts=(40, 20, 300), skill=0.5)
    document = json.loads((folder / "run.json").read_text())
    [head] = document["heads"]
    threshold = {"positive": 0, "value": 0.5, "aim": aim, "reached": True}
    change(folder, heads=[{**head, "threshold": threshold}])
    (hits, _), (alarms, _) = run.best.test.confusion
    words = {
        "recall": f"{100 * hits / 150:.1f} %",
        "precision": f"{100 * hits / (hits + alarms):.1f} %",
        "accuracy": f"{100 * run.best.test.accuracy:.1f} %",
        "called": f"{100 * (hits + alarms) / 300:.1f} %",
        "calls": hits + alarms,
        "hits": hits,
        "alarms": alarms,
    }
    found = report(folder)
    header = found.root.one("header")
    assert header.one("p", class_="large").text == large.format(**words)
    assert guess.format(**words) in header.text
    assert told.format(**words) in header.text
    [chart] = found.section("heads").all("figure")
    least = aim.partition("=")[2]
    title = f"{aim.partition('=')[0].capitalize()} of blue" if least else "Accuracy"
    assert chart.one("h3").text == title
    assert (f"the aim: {aim.replace('=', ' ')}" in chart.text) == bool(least)


@pytest.mark.parametrize(
    ("name", "isolated"),
    [
        ("عَلَم", f"{FIRST}عَلَم{LAST}"),
        ("כלב קטן", f"{FIRST}כלב קטן{LAST}"),
        ("音楽", "音楽"),
        ("औज़ार", "औज़ार"),
        ("5 %", "5\N{NO-BREAK SPACE}%"),
    ],
)
def test_names_in_any_script_change_no_figure_beside_them(folder, name, isolated):
    """Between figures, Arabic would be read as in "10 % 83 name of 12"."""
    gone = (Path(f"/gone/{name}.png"),) * 120
    imitate(folder, classes=("blue", name), paths=gone, skill=0.3)
    found = report(folder)
    nothing_leaves(found)
    [item] = [
        li for li in found.root.one("ul", class_="recalls").all("li") if "blue" not in li.text
    ]
    assert item.one("span").own_text == [isolated]
    path, *_ = found.section("mistakes").all("p", class_="path")
    assert path.own_text == [name + ".png"]  # as it is, to be copied


@pytest.mark.parametrize(
    ("second", "words"), [(0, "the difference is within noise"), (1, "is more than noise")]
)
def test_a_difference_that_chance_explains_is_called_noise(folder, second, words):
    heads = ("logistic", "knn") if second == 0 else ("logistic", *"abcdefghij")
    run = imitate(folder, heads=heads, counts=(40, 60, 300), skill=1.0)
    if second:  # hold the best against the worst
        worst = sorted_by_validation(run)[-1]
        document = json.loads((folder / "run.json").read_text())
        kept = {"logistic", worst.head}
        change(folder, heads=[head for head in document["heads"] if head["head"] in kept])
        lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
        chosen = [line for line in lines if line.split(",")[3] in {"head", *kept}]
        (folder / "predictions.csv").write_text("".join(chosen))
    assert words in report(folder).section("heads").text


def test_a_cross_validated_page_speaks_neither_of_test_images_nor_of_validation(folder):
    imitate(folder, looked_into=True)
    change(folder, protocol={"cv": 5})
    found = report(folder)
    text = found.root.text
    assert "Figures on the cross-validated images" in found.section("heads").text
    assert "log loss on inner folds" in text
    assert "correct in 5-fold cross-validation (60 images)" in text
    problems = found.section("problems")
    text = text.replace(problems.text, "")  # its sentences were written for splits
    assert "test images" not in text
    assert "Every image was tested by a classifier that was trained without it." in text
    counts = found.section("data").one("table")
    assert [cell.text for cell in counts.one("thead").all("th")] == ["class", "images"]
    assert rows_of(counts)[0] == ["blue", "30"]
    for table in problems.all("table"):
        assert not {"split", "splits"} & {cell.text for cell in table.one("thead").all("th")}
    assert "in test" not in problems.text
    assert "on validation" not in text
    assert "on 60 cross-validated images" in str(found.source)
    assert "60 cross-validated images are too few for its bins" in text


def test_a_page_of_a_search_says_that_heads_were_chosen_in_cross_validation(folder):
    imitate(folder)
    change(folder, protocol={"cv": None, "search": True})
    text = report(folder).root.text
    assert "best in cross-validation" in text
    assert "Candidates, with log loss in cross-validation" in text
    assert "on validation" not in text


@pytest.mark.parametrize(
    ("confusion", "said"),
    [
        ([[15, 15], [15, 15]], "This is no better than guessing."),
        ([[18, 12], [12, 18]], "This is not clearly better than guessing."),
        ([[40, 10], [5, 5]], "Always guessing the most common class, blue, gives 83.3 %."),
    ],
)
def test_an_accuracy_that_guessing_may_reach_is_said_to_be_so(folder, confusion, said):
    imitate(folder, heads=("logistic",), skill=0.0)
    [head] = json.loads((folder / "run.json").read_text())["heads"]
    right = sum(row[place] for place, row in enumerate(confusion)) / 60
    test = {**head["test"], "confusion": confusion, "accuracy": right, "accuracy_low": 0.4}
    change(folder, heads=[{**head, "test": test}])
    found = report(folder)
    assert said in found.root.one("header").text
    assert "predict" not in [code.text.split()[1] for code in found.root.one("header").all("code")]
    assert "runner-up" not in found.root.text


def test_heads_that_failed_are_named_with_the_reason(folder):
    imitate(folder)
    file = folder / "run.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "failed": {"bad:Fails": "it <raised> this"}}))
    assert "bad:Fails could not be fitted: it <raised> this" in report(folder).section("heads").text


def test_a_run_that_learned_from_validation_has_no_figures_on_it(folder):
    imitate(folder, heads=("finetuned",), history=HISTORY, validated=False)
    found = report(folder)
    assert "finetuned was trained on the validation images too" in found.section("heads").text
    [row] = rows_of(found.section("heads").one("table"))
    assert row[0] == "finetuned"
    assert row[8] == "-"
    speaks(found)


def test_the_confusion_matrix_is_drawn_and_told_in_its_counts(folder):
    run = imitate(folder, heads=("logistic",))
    (a, b), (c, d) = run.results[0].test.confusion
    figure = report(folder).section("confusion").one("figure")
    words = f"Of {a + b} blue: {a} predicted blue, {b} predicted red. Of {c + d} red: "
    assert figure.one("figcaption").text.startswith(words)
    drawing = figure.one("svg")
    assert words in drawing.attributes["aria-label"]
    numbers = [cell.text for cell in drawing.all("text")]
    shares = [100 * a / (a + b), 100 * b / (a + b), 100 * c / (c + d), 100 * d / (c + d)]
    assert numbers[:4] == [f"{round(share)} %" for share in shares]


def test_only_the_best_heads_matrix_is_unfolded(folder):
    imitate(folder, heads=("logistic", "knn", "dense"))
    section = report(folder).section("confusion")
    assert len(list(section.all("figure"))) == 3
    assert len(list(section.one("details").all("figure"))) == 2


def test_curves_carry_the_areas_that_run_json_holds(folder):
    heads = ("logistic", "knn", "dense")
    run = imitate(folder, classes=("blue", "green", "red"), counts=(40, 20, 300), heads=heads)
    roc, precision, calibration = report(folder).section("curves").all("figure")
    for result in sorted_by_validation(run)[:2]:
        assert f"{result.head} {result.test.roc_auc:.3f}" in roc.one("figcaption").text
    assert "each against all others" in precision.one("figcaption").text
    assert "observed" in calibration.one("svg", role="img").attributes["aria-label"]


def test_training_is_drawn_through_the_measured_points(folder):
    imitate(folder, heads=("dense",), history=HISTORY)
    loss, accuracy = report(folder).section("training").all("figure")
    circles = list(loss.one("svg", role="img").all("circle"))
    assert len(circles) == 12
    lines = [p.attributes["d"] for p in loss.one("svg", role="img").all("path", class_="line")]
    assert len(lines) == 2
    for circle in circles:
        point = f"{float(circle.attributes['cx']):g} {float(circle.attributes['cy']):g}"
        assert any(point in line for line in lines)
    spoken = loss.one("svg", role="img").attributes["aria-label"]
    assert "on training from 0.900 to 0.360" in spoken
    assert "weights kept: epoch 4" in spoken
    assert "layers unfrozen after epoch 3" in spoken
    assert "weights kept: epoch 4" in accuracy.one("figcaption").text


def test_a_loss_that_is_no_number_leaves_a_gap_in_its_curve(folder):
    broken = {**HISTORY, "loss": [0.9, float("nan"), float("inf"), 0.5, 0.4, 0.3]}
    imitate(folder, heads=("dense",), history=broken)
    loss = next(report(folder).section("training").all("svg", role="img"))
    assert len(list(loss.all("circle"))) == 10
    drawn = " ".join(path.attributes["d"] for path in loss.all("path"))
    assert not re.search(r"nan|inf", drawn)


def test_a_run_without_learning_curves_has_no_such_section(folder):
    imitate(folder)
    assert not list(report(folder).root.all("section", id="training"))


# --- names that are not to be trusted ---


def test_names_are_shown_and_never_obeyed(folder, tmp_path):
    bad = Quarantined(Path("/x/<img src=x onerror=alert(1)>"), "<b>0 bytes</b>")
    paths = tuple(Path(f"/x/{number}<script>'\"\udce9\n.png") for number in range(120))
    names = ("</script><script>alert(1)</script>", "knn")
    run = imitate(
        folder, classes=HOSTILE, heads=names, paths=paths, quarantined=(bad,), history=HISTORY
    )
    change(folder, versions={"<i>numpy</i>": "javascript:alert(1)"})
    benign = imitate(folder.parent / "benign", classes=("a", "b", "c"), history=HISTORY)
    other = write_comparison([folder, benign.folder], tmp_path / "compare.html")
    for found in (report(folder), Page(other)):
        nothing_leaves(found)
        speaks(found)
        raw = found.source
        assert not any(ord(char) < 32 and char != "\n" for char in raw)
        assert "\u202e" not in raw
    found = report(folder)
    assert "\\udcff & \\x00\\n\\u202e{{ 7 * 7 }}</style>" in found.section("data").text
    assert "<script>alert('class')</script>" in found.section("data").text
    assert "<img src=x onerror=alert(1)> : <b>0 bytes</b>" in found.section("data").text
    assert names[0] in found.section("heads").one("table").text
    assert "<script>'\"\\udce9\\n.png" in found.section("mistakes").text
    assert run.dataset.classes == HOSTILE


def test_a_jinja_expression_in_a_name_is_text(folder):
    imitate(folder, classes=("{{ 7 * 7 }}", "{% raw %}"))
    assert "{{ 7 * 7 }}" in report(folder).section("data").text


# --- sizes ---


def test_a_hundred_classes_make_a_page_of_bounded_size(folder):
    names = tuple(f"class number {number}" for number in range(100))
    imitate(folder, classes=names, counts=(100, 100, 1000), heads=tuple("abcdefghijk"))
    found = report(folder)
    assert len(found.source) < 1_000_000
    assert len(list(found.section("confusion").all("figure"))) == 1
    assert "those of the 10 others are in run.json" in found.section("confusion").text
    speaks(found)


def test_ten_thousand_predictions_make_a_page_of_bounded_size(folder):
    imitate(folder, counts=(10, 10, 10_000), heads=("logistic", "knn", "dense"), skill=0.5)
    assert len(report(folder).source) < 1_000_000


def test_a_class_without_test_images_leaves_its_figures_undefined(folder):
    run = imitate(folder, classes=("a", "b", "c"), counts=(30, 20, 2), heads=("logistic",))
    assert run.results[0].test.roc_auc is None
    found = report(folder)
    assert "-" in rows_of(found.section("heads").one("table"))[0]
    speaks(found)


def test_thousands_of_skipped_files_are_counted(folder):
    bad = tuple(Quarantined(Path(f"{number}.jpg"), "0 bytes") for number in range(5000))
    imitate(folder, quarantined=bad)
    section = report(folder).section("data")
    assert "5,000 files skipped" in section.text
    assert "and 4,800 more, in run.json" in section.text
    assert len(list(section.one("ul").all("li"))) == 201


# --- writing it ---


def test_every_run_gets_its_page_under_its_own_name(place, tmp_path):
    run = place.classify(place.data(), ["logistic", "knn"], name="cells")
    file = run.folder / "report.html"
    assert "<title>cells: run on photos" in file.read_text()
    before = file.read_bytes()
    assert write_report(run.folder) == file
    assert file.read_bytes() == before  # made again from the folder, it is the same
    assert file.stat().st_mode & 0o777 == 0o644
    assert not [name for name in files_in(run.folder) if name.startswith(".")]


def test_the_cost_of_int8_is_told_where_it_is_known(folder):
    run = imitate(folder, heads=("logistic",))
    test = json.loads((folder / "run.json").read_text())["heads"][0]["test"]
    exact = {"head": "logistic", "precision": "float32", "test": {**test, "accuracy": 0.875}}
    change(folder, reference=[exact])
    accuracy = run.results[0].test.accuracy
    text = report(folder).section("heads").text
    assert f"Accuracy of logistic: {accuracy:.3f} in int8, 0.875 in float32." in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "cannot be read (No such file or directory)"),
        (lambda file: file.write_text("path,split\n"), "has other columns"),
        (lambda file: file.write_text(file.read_text()[:-300]), "predictions.csv"),
        (lambda file: file.write_text(file.read_text().replace("blue", "green")), "other columns"),
        (lambda file: file.write_text(re.sub(r",0\.\d+\n", ",x\n", file.read_text())), "damaged"),
        (lambda file: file.write_bytes(file.read_bytes().replace(b",blue,kn", b",no,kn")), "dama"),
        (
            lambda file: file.write_bytes(file.read_bytes().replace(b"/90.png", b"/x.png", 1)),
            "dama",
        ),
    ],
)
def test_without_usable_predictions_the_page_says_so_and_shows_the_rest(folder, spoil, message):
    imitate(folder)
    spoil(folder / "predictions.csv")
    found = report(folder)
    for key in ("curves", "mistakes"):
        assert message in found.section(key).one("p", class_="notice").text
    assert "cannot be compared with the runner-up" in found.section("heads").text
    assert len(list(found.section("confusion").all("figure"))) == 2
    nothing_leaves(found)


def test_predictions_of_another_run_are_not_taken_for_this_ones(folder):
    imitate(folder)
    other = imitate(folder.parent / "other", seed=1)
    (other.folder / "predictions.csv").rename(folder / "predictions.csv")
    assert "does not belong to this run.json" in report(folder).section("curves").text


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_the_old_one(folder, monkeypatch):
    imitate(folder)
    before = write_report(folder).read_bytes()

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PipelineError, match=r"cannot write .*mine.*: Permission denied"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not [name for name in files_in(folder) if name.startswith(".")]


def test_a_page_has_the_sections_of_the_table_that_have_something_to_show(folder, monkeypatch):
    *_, data, _ = sections.SECTIONS
    none = Section("none", "Nothing", lambda record: None)
    monkeypatch.setattr(sections, "SECTIONS", (none, data))
    imitate(folder)
    page = report(folder)
    assert [heading.text for heading in page.root.one("main").all("h2")] == ["Data"]
    assert page.root.one("nav").text == "Data"


def test_the_command_report_writes_the_page_and_names_it(folder, monkeypatch):
    imitate(folder)
    monkeypatch.chdir(folder.parent.parent)
    done = run_command("report", "runs/mine")
    assert done.exit_code == 0
    assert "runs/mine/report.html" in done.stdout
    assert (folder / "report.html").exists()


@pytest.mark.parametrize("arguments", [("report", "nowhere"), ("compare", "a", "b")])
def test_the_commands_say_in_one_message_that_there_is_no_run(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    done = run_command(*arguments)
    assert done.exit_code == 1
    assert "there is no run in" in done.output
    assert "Traceback" not in done.output


def test_writing_a_page_imports_nothing_that_takes_long(folder):
    imitate(folder, heads=("dense",), history=HISTORY, looked_into=True)
    script = (
        "import sys; from pipeline.report.page import write_report; write_report(sys.argv[1]);"
        "print(*{'scipy', 'sklearn', 'tensorflow', 'keras', 'h5py'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["run", "problems", "examples", "pictures"])
def test_a_run_whose_every_text_is_hostile_makes_a_page_that_only_shows_it(folder, tmp_path, name):
    paths = painted(tmp_path)
    imitate(folder, paths=paths, history=HISTORY, skill=0.4, looked_into=True)
    put_markup(folder / f"{name}.json")
    found = Page(write_report(folder, without_pictures=True))
    nothing_leaves(found)
    speaks(found)
    assert "<svg/onload=alert(1)>" in found.root.text
    for drawing in folder.glob("*.svg"):
        assert "<svg/onload" not in drawing.read_text()
