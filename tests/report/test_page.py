"""The page of a run, and of several: what is on it, and that nothing else can get onto it."""

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import files_in, paint
from imitated import HISTORY, change, imitate, sorted_by_validation
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import main as cli
from pipeline.data.dataset import Quarantined
from pipeline.errors import PipelineError
from pipeline.evaluation.significance import corrected_t_test
from pipeline.report import charts, page
from pipeline.report.mistakes import MISTAKES
from pipeline.report.page import write_comparison, write_report
from pipeline.report.sections import Section
from pipeline.report.thumbnails import SIDE

VOID = {"meta", "link", "img", "input", "br"}
SVG = {"path", "circle", "text", "g", "svg"}
HOSTILE = (
    "<script>alert('class')</script>",
    '" onload="alert(1)" x="',
    "\udcff & \x00\n\u202e{{ 7 * 7 }}</style></title><img src=http://example.org/x>",
)


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children, self.own_text = [], []

    def all(self, tag=None, **attributes):
        """Find all elements within, by tag and attributes (class_: one of the classes)."""
        for child in self.children:
            if (tag is None or child.tag == tag) and all(
                value in child.attributes.get(name.rstrip("_"), "").split()
                if name == "class_"
                else child.attributes.get(name) == value
                for name, value in attributes.items()
            ):
                yield child
            yield from child.all(tag, **attributes)

    def one(self, tag=None, **attributes):
        [found] = self.all(tag, **attributes)
        return found

    @property
    def text(self):
        parts = (part if isinstance(part, str) else part.text for part in self.own_text)
        return " ".join(" ".join(parts).replace("\xa0", " ").split())


class Page(HTMLParser):
    """A page as a tree; it is an error if elements are not properly nested."""

    def __init__(self, file):
        super().__init__()
        self.source = file.read_bytes().decode("utf-8")
        self.root = self.here = Element("", {}, None)
        self.feed(self.source)
        self.close()
        assert self.here is self.root, f"<{self.here.tag}> is never closed"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        new = Element(tag, {name: value or "" for name, value in attributes}, self.here)
        self.here.children.append(new)
        self.here.own_text.append(new)
        if tag not in VOID:
            self.here = new

    def handle_startendtag(self, tag, attributes):
        assert tag in SVG, tag
        self.handle_starttag(tag, attributes)
        self.here = self.here.parent

    def handle_endtag(self, tag):
        assert tag == self.here.tag, f"</{tag}> where <{self.here.tag}> is open"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.own_text.append(data)

    def section(self, key):
        return self.root.one("section", id=key)

    @property
    def verdict(self):
        return [line.text for line in self.root.one("header").all("p")]


def report(folder):
    return Page(write_report(folder))


def rows_of(table):
    return [[cell.text for cell in row.children] for row in next(table.all("tbody")).all("tr")]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


def painted(tmp_path):
    files = (tmp_path / f"{number}.png" for number in range(120))
    return tuple(paint(file, (90, 90, 200), seed) for seed, file in enumerate(files))


def nothing_leaves(found):
    """Hold that a page refers to nothing but itself, and runs only its own script."""
    for element in found.root.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            assert name != "style", element.tag
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert value.startswith(("data:", "#")), value[:80]
    tags = {element.tag for element in found.root.all()}
    assert not tags & {"iframe", "object", "embed", "form", "base", "foreignobject", "use", "image"}
    [style], [script] = found.root.all("style"), found.root.all("script")
    css, js = style.own_text[0], script.own_text[0]
    assert not re.search(r"url\(|@import|expression", css)
    assert not re.search(r"https?:|fetch|XMLHttp|import|innerHTML|eval", js)
    policy = found.root.one("meta", **{"http-equiv": "Content-Security-Policy"})
    rules = dict(rule.split(" ", 1) for rule in policy.attributes["content"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, text in (("style", css), ("script", js)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def speaks(found):
    """Hold that whatever is to be seen is also said in words."""
    assert found.root.one("html").attributes["lang"] == "en"
    for picture in found.root.all("img"):
        assert picture.attributes["alt"].strip()
    figures = list(found.root.all("figure"))
    for figure in figures:
        assert figure.one("figcaption").text
    for drawing in found.root.all("svg"):
        hidden = drawing.attributes.get("aria-hidden") == "true"
        assert hidden or (
            drawing.attributes["role"] == "img" and len(drawing.attributes["aria-label"]) > 20
        )
    ids = [element.attributes["id"] for element in found.root.all() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for element in found.root.all():
        assert element.attributes.get("aria-labelledby", ids[0]) in ids
    return figures


# --- what is on it ------------------------------------------------------------------------


def test_a_page_refers_to_nothing_outside_and_says_in_words_what_it_shows(folder, tmp_path):
    imitate(folder, paths=painted(tmp_path), history=HISTORY, skill=0.5)
    found = report(folder)
    nothing_leaves(found)
    figures = speaks(found)
    assert len(figures) > 1 + 2 + 3 + 4  # and the gallery's
    headings = [heading.text for heading in found.root.all("h2")]
    assert headings[0] == "Heads"
    assert headings[-1] == "Settings and versions"
    links = [link.attributes["href"][1:] for link in found.root.one("nav").all("a")]
    assert links == [section.attributes["id"] for section in found.root.all("section")]


def written(figures, key):
    low, high = figures["intervals"][key]
    return f"{figures[key]:.3f} {low:.3f} to {high:.3f}"


def test_the_figures_are_those_of_run_json(folder):
    run = imitate(folder, heads=("logistic", "knn", "dense"))
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
        expected = {
            "accuracy": written(test, "accuracy"),
            "balanced accuracy": written(test, "balanced_accuracy"),
            "macro F1": written(test, "macro_f1"),
            "ROC AUC": written(test, "roc_auc"),
            "average precision": written(test, "average_precision"),
            "log loss": written(test, "log_loss"),
            "Brier score": written(test, "brier"),
            "accuracy on validation": written(held_out, "accuracy"),
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


def test_the_verdict_names_the_best_on_validation_its_interval_and_guessing(folder):
    run = imitate(folder, counts=(40, 20, 100), skill=0.8)
    best, other = sorted_by_validation(run)
    test = best.test
    first, chosen, against = found = report(folder).verdict[:3]
    assert first == (
        f"{best.head} gets {100 * test.accuracy:.1f} % of 100 test images right (95 % interval "
        f"{100 * test.accuracy_low:.1f} % to {100 * test.accuracy_high:.1f} %); always guessing "
        "the commonest class, blue, gets 50.0 %."
    )
    assert "lowest log loss on validation" in chosen
    assert f"The runner-up, {other.head}, gets {100 * other.test.accuracy:.1f} %" in against
    assert "not clearly better" not in " ".join(found)


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
    assert words in report(folder).verdict[2]


def test_a_cross_validated_page_speaks_neither_of_test_images_nor_of_validation(folder):
    imitate(folder)
    change(folder, protocol={"cv": 5})
    found = report(folder)
    text = found.root.text
    assert "Figures on the cross-validated images" in found.section("heads").text
    assert "accuracy on inner folds" in text
    assert "test images" not in text
    assert "on validation" not in text
    assert "on 60 cross-validated images" in str(found.source)


def test_a_page_of_a_search_says_that_heads_were_chosen_in_cross_validation(folder):
    imitate(folder)
    change(folder, protocol={"cv": None, "search": True})
    text = report(folder).root.text
    assert "best in cross-validation" in text
    assert "Tried, with log loss in cross-validation" in text
    assert "on validation" not in text


def test_a_head_that_only_guesses_is_not_praised(folder):
    imitate(folder, heads=("logistic",), skill=0.0)
    verdict = report(folder).verdict
    assert verdict[1] == "That is not clearly better than guessing."
    assert len(verdict) == 2  # there is no runner-up to speak of


def test_heads_that_failed_are_named_with_the_reason(folder):
    imitate(folder)
    file = folder / "run.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "failed": {"bad:Fails": "it <raised> this"}}))
    assert "bad:Fails could not be had: it <raised> this" in report(folder).section("heads").text


def test_a_run_that_learned_from_validation_has_no_figures_on_it(folder):
    imitate(folder, heads=("finetuned",), history=HISTORY, validated=False)
    found = report(folder)
    assert found.verdict[1].startswith("finetuned was trained on the validation images too")
    [row] = rows_of(found.section("heads").one("table"))
    assert row[0] == "finetuned"
    assert row[8:10] == ["-", "-"]
    speaks(found)


def test_the_confusion_matrix_is_drawn_and_told_in_its_counts(folder):
    run = imitate(folder, heads=("logistic",))
    (a, b), (c, d) = run.results[0].test.confusion
    figure = report(folder).section("confusion").one("figure")
    words = f"Of {a + b} blue, {a} are seen as blue, {b} are seen as red. Of {c + d} red, "
    assert figure.one("figcaption").text.startswith(words)
    drawing = figure.one("svg")
    assert words in drawing.attributes["aria-label"]
    numbers = [cell.text for cell in drawing.all("text")]
    assert numbers[:4] == [str(count) for count in (a, b, c, d)]


def test_curves_carry_the_areas_that_run_json_holds(folder):
    run = imitate(folder, classes=("blue", "green", "red"))
    roc, precision, calibration = report(folder).section("curves").all("figure")
    for result in run.results:
        assert f"{result.head} {result.test.roc_auc:.3f}" in roc.one("figcaption").text
    assert "each against all others" in precision.one("figcaption").text
    assert "came true" in calibration.one("svg", role="img").attributes["aria-label"]


def test_training_is_shown_as_measured_and_smoothed(folder):
    imitate(folder, heads=("dense",), history=HISTORY)
    loss, accuracy = report(folder).section("training").all("figure")
    assert len(list(loss.one("svg", role="img").all("circle"))) == 12
    assert len(list(loss.one("svg", role="img").all("path", class_="line"))) == 2
    spoken = loss.one("svg", role="img").attributes["aria-label"]
    assert "on training from 0.900 to 0.360" in spoken
    assert "the weights of epoch 4 were kept" in spoken
    assert "unfrozen after epoch 3" in spoken
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


# --- mistakes -----------------------------------------------------------------------------


def test_the_surest_mistakes_come_first_with_their_pictures_and_probabilities(folder, tmp_path):
    run = imitate(folder, heads=("logistic",), paths=painted(tmp_path), skill=0.3)
    data, probabilities = run.dataset, run.results[0].probabilities
    expected = sorted(
        (
            (-probabilities[place].max(), place)
            for place in data.where("test")
            if probabilities[place].argmax() != data.targets.labels[place]
        ),
    )[:MISTAKES]
    section = report(folder).section("mistakes")
    items = list(section.one("ul").all("li"))
    assert len(items) == len(expected) > 10
    for item, (minus_probability, place) in zip(items, expected):
        label = data.targets.labels[place]
        assert item.attributes["data-key"] == str(label)
        truth, seen = data.classes[label], data.classes[1 - label]
        assert item.one("figcaption").text == (
            f"is {truth} seen as {seen} probability {-minus_probability:.3f} {place}.png"
        )
        kind, data_uri = item.one("img").attributes["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data_uri))) as picture:
            assert picture.format == "JPEG"
            assert max(picture.size) <= SIDE
    assert f"The files are in {tmp_path}/" in section.text
    counts = [option.text for option in section.all("option")]
    assert counts[0] == f"all ({len(items)})"
    assert len(counts) == 3


def test_no_more_mistakes_are_shown_than_there_is_room_for(folder):
    imitate(folder, counts=(40, 20, 400), skill=0.1)
    assert len(list(report(folder).section("mistakes").one("ul").all("li"))) == MISTAKES


def test_pictures_that_are_gone_or_broken_are_said_to_be(folder, tmp_path):
    imitate(folder, heads=("logistic",), paths=painted(tmp_path), skill=0.3)
    items = list(report(folder).section("mistakes").one("ul").all("li"))
    names = [item.one("p", class_="path").text for item in items]
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_text("no picture")
    section = report(folder).section("mistakes")
    assert f"2 of {len(items)} pictures cannot be shown" in section.one("p", class_="notice").text
    first, second, third = list(section.one("ul").all("li"))[:3]
    assert "No such file" in first.text
    assert "not a known image format" in second.text
    assert list(third.all("img"))
    speaks(report(folder))


def test_a_path_that_leads_to_no_regular_file_is_not_read(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    imitate(folder, paths=(tmp_path / "pipe",) * 120, skill=0.3)
    assert "not a regular file" in report(folder).section("mistakes").text


def test_a_head_without_mistakes_has_none_to_show(folder):
    imitate(folder, heads=("logistic",), skill=20)
    section = report(folder).section("mistakes")
    assert section.text.endswith("logistic gets all 60 test images right.")


# --- names that are not to be trusted ------------------------------------------------------


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


# --- sizes --------------------------------------------------------------------------------


def test_a_hundred_classes_make_a_page_of_bounded_size(folder):
    names = tuple(f"class number {number}" for number in range(100))
    imitate(folder, classes=names, counts=(100, 100, 1000), heads=tuple("abcdefghijk"))
    found = report(folder)
    assert len(found.source) < 1_000_000
    assert len(list(found.section("confusion").all("figure"))) == 1
    assert "those of the 10 others" in found.section("confusion").text
    assert "The 8 best on validation are drawn" in found.section("curves").text
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


def test_thousands_of_files_that_took_no_part_are_counted(folder):
    bad = tuple(Quarantined(Path(f"{number}.jpg"), "0 bytes") for number in range(5000))
    imitate(folder, quarantined=bad)
    section = report(folder).section("data")
    assert "5,000 files took no part" in section.text
    assert "and 4,800 more, in run.json" in section.text
    assert len(list(section.one("ul").all("li"))) == 201


# --- writing it ---------------------------------------------------------------------------


def test_every_run_gets_its_page_under_its_own_name(place, tmp_path):
    run = place.classify(place.data(), ["logistic", "knn"], name="cells")
    file = run.folder / "report.html"
    assert "<title>cells: run on photos" in file.read_text()
    before = file.read_bytes()
    assert write_report(run.folder) == file
    assert file.read_bytes() == before  # made again from the folder, it is the same
    assert file.stat().st_mode & 0o777 == 0o644
    assert not [name for name in files_in(run.folder) if name.startswith(".")]


def test_a_page_can_be_made_from_what_an_older_run_left(folder):
    imitate(folder)
    document = json.loads((folder / "run.json").read_text())
    for head in document["heads"]:
        del head["unfrozen_after"]
    del document["reference"], document["remarks"]
    (folder / "run.json").write_text(json.dumps(document))
    speaks(report(folder))


def test_the_cost_of_int8_is_told_where_it_is_known(folder):
    run = imitate(folder, heads=("logistic",))
    exact = {"head": "logistic", "precision": "float32", "test": {"accuracy": 0.875}}
    change(folder, reference=[exact])
    accuracy = run.results[0].test.accuracy
    text = report(folder).section("heads").text
    assert f"logistic: {accuracy:.3f} in int8, 0.875 in float32." in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "cannot be read (No such file or directory)"),
        (lambda file: file.write_text("path,split\n"), "has other columns"),
        (lambda file: file.write_text(file.read_text()[:-300]), "predictions.csv"),
        (lambda file: file.write_text(file.read_text().replace("blue", "green")), "other columns"),
        (lambda file: file.write_text(re.sub(r",0\.\d+\n", ",x\n", file.read_text())), "damaged"),
        (lambda file: file.write_bytes(file.read_bytes().replace(b",blue,kn", b",no,kn")), "dama"),
    ],
)
def test_without_usable_predictions_the_page_says_so_and_shows_the_rest(folder, spoil, message):
    imitate(folder)
    spoil(folder / "predictions.csv")
    found = report(folder)
    for key in ("curves", "mistakes"):
        assert message in found.section(key).one("p", class_="notice").text
    assert "cannot be told" in found.verdict[2]
    assert len(list(found.section("confusion").all("figure"))) == 2
    nothing_leaves(found)


def test_predictions_of_another_run_are_not_taken_for_this_ones(folder):
    imitate(folder)
    other = imitate(folder.parent / "other", seed=1)
    (other.folder / "predictions.csv").rename(folder / "predictions.csv")
    assert "does not belong to this run.json" in report(folder).section("curves").text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no run"),
        ("{", "cannot be understood"),
        ("[]", "cannot be understood"),
        ('{"schema": 99}', "schema version 99"),
        ('{"schema": 1, "dataset": {"classes": ["a", "b"]}, "heads": []}', "cannot be understood"),
    ],
)
def test_what_is_no_run_is_an_error_that_says_so(folder, content, message):
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "run.json").write_text(content)
    with pytest.raises(PipelineError, match=message):
        write_report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("key", ["heads", "best", "dataset", "recipe", "versions", "created"])
def test_a_run_json_that_lacks_something_is_an_error(folder, key):
    imitate(folder)
    change(folder, **{key: None})
    document = json.loads((folder / "run.json").read_text())
    del document[key]
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(PipelineError, match="cannot be understood"):
        write_report(folder)


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_the_old_one(folder, monkeypatch):
    imitate(folder)
    before = write_report(folder).read_bytes()

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PipelineError, match=r"cannot write .*report\.html: Permission denied"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert files_in(folder) == ["predictions.csv", "report.html", "run.json"]


def test_a_section_is_added_by_a_function_and_a_template(folder, tmp_path, monkeypatch):
    templates = tmp_path / "templates"
    templates.mkdir()
    for file in page._TEMPLATES.iterdir():
        (templates / file.name).write_text(file.read_text())
    (templates / "twins.html.j2").write_text("<p>{{ count }} of {{ name }}</p>")
    more = (
        Section("twins", "Twins", lambda record: {"count": 2, "name": f"<{record.name}>"}),
        Section("none", "Nothing", lambda record: None),
    )
    monkeypatch.setattr(page, "_TEMPLATES", templates)
    monkeypatch.setattr(page.sections, "SECTIONS", page.sections.SECTIONS + more)
    imitate(folder)
    found = report(folder)
    assert found.section("twins").text == "Twins 2 of <mine>"
    assert found.root.one("nav").text.endswith("Twins")
    nothing_leaves(found)


# --- several runs -------------------------------------------------------------------------


def compared(*folders):
    return Page(write_comparison(folders, folders[0].parent / "compare.html"))


def test_runs_on_the_same_images_are_held_against_each_other(tmp_path):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    weak = imitate(tmp_path / "weak", paths=paths, skill=0.3)
    strong = imitate(tmp_path / "strong", paths=paths, skill=2, seed=1, heads=("dense",))
    found = compared(weak.folder, strong.folder)
    nothing_leaves(found)
    speaks(found)
    first, chosen, against = found.verdict[:3]
    assert first.startswith("strong (dense) gets ")
    assert "2 runs on the same images" in chosen
    assert "The runner-up, weak (" in against
    assert "is more than noise" in against
    rows = rows_of(found.section("heads").one("table"))
    assert sorted(row[0].split()[0] for row in rows) == ["strong", "weak", "weak"]
    assert {row[2].split()[0] for row in rows} == {
        f"{result.test.accuracy:.3f}" for run in (weak, strong) for result in run.results
    }
    table = found.section("differences").one("table")
    different = {name: values for name, *values in rows_of(table)}
    assert different["seed"] == ["0", "1"]
    assert different["best head"][1] == "dense"
    assert "features: layer" not in different
    assert "block5_pool" in found.section("differences").one("dl").text


def test_runs_on_other_images_are_not_ranked(tmp_path):
    one, other = imitate(tmp_path / "one"), imitate(tmp_path / "other", data_seed=1)
    found = compared(one.folder, other.folder)
    assert found.verdict[0].startswith("These runs were not judged on the same images")
    assert "gets" not in found.verdict[0]
    assert not list(found.root.all("section", id="curves"))
    names = [row[0] for row in rows_of(found.section("differences").one("table"))]
    assert "digest of the data" in names


def test_the_same_images_under_other_names_cannot_be_paired_and_that_is_said(tmp_path):
    one, other = imitate(tmp_path / "one"), imitate(tmp_path / "other", seed=1)
    found = compared(one.folder, other.folder)
    assert "cannot be told" in found.verdict[2]
    (one.folder / "predictions.csv").unlink()
    found = compared(one.folder, other.folder)
    assert "one: predictions.csv cannot be read" in found.section("curves").text


def test_a_run_that_learned_from_validation_is_not_chosen_by_it(tmp_path):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    fair = imitate(tmp_path / "fair", paths=paths, skill=0.5)
    other = imitate(tmp_path / "other", paths=paths, skill=2, heads=("tuned",), validated=False)
    found = compared(other.folder, fair.folder)
    assert found.verdict[0].startswith("fair (")
    assert "The runner-up, other (tuned), gets" in found.verdict[2]
    assert "other (tuned) was trained on the validation images too" in found.verdict[3]
    more = imitate(tmp_path / "more", paths=paths, heads=("tuned",), validated=False)
    assert compared(other.folder, more.folder).verdict[0].startswith("None of these runs can be")


@pytest.mark.parametrize("protocol", [{"search": True}, {"cv": 5}])
def test_runs_that_chose_in_different_ways_are_not_ranked(tmp_path, protocol):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    one = imitate(tmp_path / "one", paths=paths)
    other = imitate(tmp_path / "other", paths=paths, seed=1)
    change(other.folder, protocol=protocol)
    found = compared(one.folder, other.folder)
    assert found.verdict[0].startswith("No best can be named: log losses ")
    assert "runner-up" not in " ".join(found.verdict)
    assert [one.split()[0] for one in sorted(found.verdict[1:])] == ["one", "other"]
    [(key, _)] = protocol.items()
    names = [row[0] for row in rows_of(found.section("differences").one("table"))]
    assert f"protocol: {key}" in names


def test_thresholds_are_told_where_runs_and_heads_are_compared(tmp_path):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    one, other = imitate(tmp_path / "one", paths=paths), imitate(tmp_path / "other", paths=paths)
    threshold = {"positive": 1, "value": 0.25, "aim": "recall=0.9", "reached": True}
    for run in (one, other):
        heads = json.loads((run.folder / "run.json").read_text())["heads"]
        assert len(heads) > 1
        change(run.folder, heads=[{**head, "threshold": threshold} for head in heads])
    name = one.dataset.classes[1]
    rule = f"called {name} when P({name}) >= 0.250, chosen for recall 0.9; on test "
    told = [said for said in compared(one.folder, other.folder).verdict if rule in said]
    assert len(told) == 1
    text = report(one.folder).section("heads").text
    assert text.count(rule) == len(heads) - 1  # the best one's is in the verdict


def test_runs_that_chose_on_other_numbers_of_images_are_not_ranked(tmp_path):
    one, other = imitate(tmp_path / "one"), imitate(tmp_path / "other", seed=1)
    heads = json.loads((other.folder / "run.json").read_text())["heads"]
    for head in heads:
        head["validation"]["n"] = 30
    change(other.folder, heads=heads)
    assert compared(one.folder, other.folder).verdict[0].startswith("No best can be named")


def test_cross_validated_runs_are_ranked_and_their_images_not_called_test_images(tmp_path):
    runs = [imitate(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "other"))]
    for run in runs:
        change(run.folder, protocol={"cv": 5})
    found = compared(*(run.folder for run in runs))
    assert "cross-validated images right" in found.verdict[0]
    assert "lowest log loss on inner folds" in found.verdict[1]
    assert "test images" not in found.section("heads").text + " ".join(found.verdict)


@pytest.mark.parametrize(
    ("better_by", "verdict"),
    [((0.1, 0.0, 0.1, -0.1, 0.1), "within noise"), ((0.1, 0.11, 0.1, 0.1, 0.1), "more than noise")],
)
def test_cross_validated_runs_are_compared_by_their_folds(tmp_path, better_by, verdict):
    paths = tuple(Path(f"{number}.png") for number in range(120))
    weak = imitate(tmp_path / "weak", paths=paths, skill=0.3)
    strong = imitate(tmp_path / "strong", paths=paths, skill=2, seed=1, heads=("dense",))
    for run, accuracies in ((weak, [0.5] * 5), (strong, [0.5 + more for more in better_by])):
        heads = json.loads((run.folder / "run.json").read_text())["heads"]
        for head in heads:
            head["fold_accuracies"] = accuracies
        change(run.folder, protocol={"cv": 5}, heads=heads)
    against = compared(weak.folder, strong.folder).verdict[2]
    p = corrected_t_test(better_by, folds=5)
    assert f"is {verdict} (corrected resampled t test, p" in against
    assert (p >= 0.05) == (verdict == "within noise")


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    one = imitate(tmp_path / "a" / "photos")
    other = imitate(tmp_path / "b" / "photos", seed=1)
    names = [
        row[0] for row in rows_of(compared(one.folder, other.folder).section("heads").one("table"))
    ]
    assert {name.split()[0] for name in names} == {str(one.folder), str(other.folder)}


def test_one_run_alone_cannot_be_compared(folder, tmp_path):
    imitate(folder)
    with pytest.raises(PipelineError, match="one run to compare"):
        write_comparison([folder], tmp_path / "compare.html")
    with pytest.raises(PipelineError, match="a run is named more than once"):
        write_comparison([folder, folder / "models" / ".."], tmp_path / "compare.html")
    assert not (tmp_path / "compare.html").exists()


# --- commands -----------------------------------------------------------------------------


def run_command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_command_report_writes_the_page_and_names_it(folder, monkeypatch):
    imitate(folder)
    monkeypatch.chdir(folder.parent.parent)
    done = run_command("report", "runs/mine")
    assert done.exit_code == 0
    assert "runs/mine/report.html" in done.stdout
    assert (folder / "report.html").exists()


def test_the_command_compare_writes_the_page_and_names_it(folder, monkeypatch):
    imitate(folder)
    imitate(folder.parent / "other", seed=1)
    monkeypatch.chdir(folder.parent.parent)
    done = run_command("compare", "runs/mine", "runs/other", "--out", "both.html")
    assert done.exit_code == 0
    assert "2 runs side by side: both.html" in done.stdout
    assert "mine" in Page(Path("both.html")).section("heads").text


@pytest.mark.parametrize("arguments", [("report", "nowhere"), ("compare", "a", "b")])
def test_the_commands_say_in_one_message_that_there_is_no_run(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    done = run_command(*arguments)
    assert done.exit_code == 1
    assert "there is no run in" in done.output
    assert "Traceback" not in done.output


# --- axes ---------------------------------------------------------------------------------


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
