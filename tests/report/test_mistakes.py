"""The gallery of mistakes."""

import base64
import io
import json
import re

import numpy as np
import pytest
from imitated import change, imitate
from pages import painted, report
from PIL import Image

from pipeline.analysis.examples import MISTAKES
from pipeline.report import mistakes, thumbnails
from pipeline.report.page import write_report
from pipeline.report.pictures import SIDE


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


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
    items = [item for item in section.all("li") if list(item.all("figcaption"))]
    assert len(items) == len(expected) > 10
    for item, (minus_probability, place) in zip(items, expected):
        label = data.targets.labels[place]
        truth, seen = data.classes[label], data.classes[1 - label]
        assert item.one("figcaption").text == (
            f"true {truth} predicted {seen} probability {-minus_probability:.3f} {place}.png"
        )
        kind, data_uri = item.one("img").attributes["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data_uri))) as picture:
            assert picture.format == "JPEG"
            assert max(picture.size) <= SIDE
    assert f"The files are in {tmp_path}/" in section.text


def test_maps_and_pictures_are_drawn_once_for_each_time_that_the_page_shows_them(
    folder, tmp_path, monkeypatch
):
    imitate(folder, paths=painted(tmp_path), skill=0.3, looked_into=True)
    drawn = []
    uri = thumbnails.data_uri
    for module in (thumbnails, mistakes):
        monkeypatch.setattr(module, "data_uri", lambda *of: drawn.append(uri(*of)) or drawn[-1])
    page = write_report(folder).read_text()
    assert len(drawn) == page.count("data:image/") > 20
    assert sum(one.startswith("data:image/png") for one in drawn) > 5


def test_a_map_with_nothing_for_a_class_says_so(folder, tmp_path):
    imitate(folder, paths=painted(tmp_path), skill=0.3, looked_into=True)
    file = folder / "examples.json"
    document = json.loads(file.read_text())
    for example in document["images"]:
        example["map"] = (-1 - np.abs(example["map"])).tolist()
    file.write_text(json.dumps(document))
    page = write_report(folder).read_text()
    assert "Nothing in it is evidence for" in page
    assert "Most of the evidence" not in page


def test_no_more_mistakes_are_shown_than_there_is_room_for(folder):
    imitate(folder, counts=(40, 20, 400), skill=0.1)
    section = report(folder).section("mistakes")
    assert len(list(section.all("figure"))) == MISTAKES
    assert len(list(section.one("details").all("figure"))) == MISTAKES - 12


def test_a_head_without_mistakes_has_none_to_show(folder):
    imitate(folder, heads=("logistic",), skill=20)
    section = report(folder).section("mistakes")
    assert section.text.endswith("logistic predicts all 60 test images correctly.")


def test_with_a_threshold_a_mistake_has_the_probability_of_what_it_is_called(folder):
    run = imitate(folder, classes=("good", "bad"), heads=("logistic",))
    document = json.loads((folder / "run.json").read_text())
    [head] = document["heads"]
    threshold = {"positive": 1, "value": 0.01, "aim": "recall=0.95", "reached": True}
    data, p = run.dataset, run.results[0].probabilities
    called = np.where(p[:, 1] >= 0.01, 1, 0)
    test = data.where("test")
    head["threshold"] = threshold
    head["test"]["confusion"] = [
        [int(np.sum((data.targets.labels[test] == t) & (called[test] == c))) for c in (0, 1)]
        for t in (0, 1)
    ]
    change(folder, heads=[head])
    lines = (folder / "predictions.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    for row in rows[1:]:
        row[4] = "bad" if float(row[6]) >= 0.01 else "good"
    (folder / "predictions.csv").write_text("\n".join(map(",".join, rows)))
    wrong = [place for place in test if called[place] != data.targets.labels[place]]
    expected = sorted((p[place, called[place]] for place in wrong), reverse=True)
    assert expected[-1] < 0.5
    section = report(folder).section("mistakes")
    shown = re.findall(r"predicted (?:good|bad) probability ([\d.]+)", section.text)
    assert shown == [f"{value:.3f}" for value in expected[: len(shown)]]
    assert len(shown) == min(len(wrong), MISTAKES)
