"""The gallery of mistakes."""

import base64
import io

import pytest
from imitated import imitate
from pages import painted, report
from PIL import Image

from pipeline.analysis.examples import MISTAKES
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


def test_no_more_mistakes_are_shown_than_there_is_room_for(folder):
    imitate(folder, counts=(40, 20, 400), skill=0.1)
    section = report(folder).section("mistakes")
    assert len(list(section.all("figure"))) == MISTAKES
    assert len(list(section.one("details").all("figure"))) == MISTAKES - 12


def test_a_head_without_mistakes_has_none_to_show(folder):
    imitate(folder, heads=("logistic",), skill=20)
    section = report(folder).section("mistakes")
    assert section.text.endswith("logistic predicts all 60 test images correctly.")
