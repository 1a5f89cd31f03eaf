"""Which network suits a data set: all on this machine are compared on the same images."""

import re

import numpy as np
import pytest
from conftest import paint_classes

from pipeline.backbones.backbone import Backbone
from pipeline.classification.networks import Suited, advise, compare_backbones
from pipeline.errors import WeightsError
from pipeline.evaluation.metrics import evaluate


def test_both_kinds_of_rows_of_each_network_on_this_machine_are_compared(tmp_path):
    photos = paint_classes(tmp_path / "photos", 12)
    suited = compare_backbones(photos, cache=tmp_path / "cache")
    assert {(each.backbone, each.size, each.pool) for each in suited} == {
        ("vgg16", 150, "flatten"),
        ("vgg16", 150, "layers"),
        ("vgg16", 200, "flatten"),
        ("vgg16", 200, "layers"),
        ("efficientnet-lite0", 224, "average"),  # flattened it would have 62,720 values
        ("efficientnet-lite0", 224, "layers"),
        ("efficientnet-lite0", 300, "average"),
        ("efficientnet-lite0", 300, "layers"),
    }
    accuracies = [each.metrics.accuracy for each in suited]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 0.9  # red and blue
    assert all(each.metrics.n == 24 for each in suited)
    assert all(each.images_per_second > 0 for each in suited)
    again = compare_backbones(photos, cache=tmp_path / "cache")
    assert [each.metrics.accuracy for each in again] == accuracies


def test_an_image_that_cannot_be_read_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Backbone, "is_here", property(lambda self: "lite0" in self.name))
    photos = paint_classes(tmp_path / "photos", 12)
    broken = min(photos.rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    suited = compare_backbones(photos, cache=tmp_path / "cache")
    assert {each.metrics.n for each in suited} == {23}
    assert all([bad.path for bad in each.skipped] == [broken] for each in suited)


def test_without_any_weights_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Backbone, "is_here", False)
    with pytest.raises(WeightsError, match="no network's weights are on this machine"):
        compare_backbones(paint_classes(tmp_path / "photos", 6), cache=tmp_path / "cache")


def suited(backbone, size, right, rate):
    labels = np.arange(100) % 2
    called = np.where(np.arange(100) < right, labels, 1 - labels)
    return Suited(backbone, size, "layers", evaluate(labels, np.eye(2)[called], called), rate)


@pytest.mark.parametrize(
    ("others", "advice"),
    [
        (
            [("dear", 150, 90, 10.0), ("cheap", 64, 89, 100.0)],
            "^cheap at 64 pixels is within a point of dear at 150 pixels.* 10% of its CPU time",
        ),
        (
            [("same", 224, 90, 50.0), ("same", 150, 89, 100.0)],
            "^same at 150 pixels is within a point of same at 224 pixels.* 50% of its CPU time",
        ),
        ([("dear", 64, 90, 10.0), ("cheap", 64, 80, 100.0)], "^dear at 64 pixels is the most "),
        ([("cheap", 64, 90, 100.0), ("dear", 64, 90, 10.0)], "^cheap at 64 pixels is the most "),
    ],
)
def test_it_advises_the_cheapest_of_those_that_are_nearly_the_best(others, advice):
    assert re.search(advice, advise([suited(*each) for each in others]))
