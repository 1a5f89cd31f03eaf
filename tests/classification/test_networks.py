"""Which network suits a data set: all on this machine are compared on the same images."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import CountingBackbone, paint_classes

from pipeline.backbones.backbone import Backbone
from pipeline.classification import networks as comparing
from pipeline.classification.networks import (
    Suited,
    advise,
    cheapest_of_the_best,
    compare_backbones,
)
from pipeline.data.loading import load_dataset
from pipeline.errors import DataError, WeightsError
from pipeline.evaluation.metrics import evaluate
from pipeline.features import computing


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


class NothingAlike(CountingBackbone):
    """Rows at random, the same for the same pixels."""

    def _rows(self, pixels, height, width, channels):
        generators = map(np.random.default_rng, pixels.sum(axis=(1, 2, 3)))
        rows = np.stack([rng.exponential(size=channels) for rng in generators])
        return np.tile(rows[:, None, None], (1, height, width, 1)).astype(np.float32)


@pytest.fixture
def loaded(monkeypatch):
    """Use one network only, with a stand-in in its place; list those that were loaded."""
    made = []

    def load(recipe, weights, beside=()):
        made.append(NothingAlike(recipe, beside))
        return made[-1]

    monkeypatch.setattr(Backbone, "is_here", property(lambda self: "lite0" in self.name))
    for module in (comparing, computing):
        monkeypatch.setattr(module, "load_backbone", load)
    return made


def paint_two(folder, blue, red):
    paint_classes(folder, blue)
    for file in sorted((folder / "red").iterdir())[red:]:
        file.unlink()
    return folder


@pytest.mark.parametrize("count", [4, 5])
def test_a_small_class_is_judged_in_as_many_folds_as_it_has_images_for(tmp_path, loaded, count):
    photos = paint_two(tmp_path / "photos", blue=8, red=count)
    compared = compare_backbones(photos, cache=tmp_path / "cache")
    assert {each.metrics.n for each in compared} == {8 + count}


def test_a_class_with_near_duplicates_is_judged_in_fewer_folds(tmp_path, loaded):
    photos = paint_two(tmp_path / "photos", blue=8, red=4)
    for file in [*(photos / "red").iterdir()]:  # the same pixels in another file
        file.with_stem(f"{file.stem}-copy").write_bytes(file.read_bytes() + b" ")
    compared = compare_backbones(photos, cache=tmp_path / "cache")
    assert {each.metrics.n for each in compared} == {16}


@pytest.mark.parametrize(
    ("count", "groups", "to_do"),
    [
        (3, (), r"(?s)the class red has 3 images, too few.*4 or more.*To do: add images of that "),
        (8, ("x",) * 8 + ("y",) * 8, r"(?s)the class blue has 1 image.*4 or more; a group"),
    ],
)
def test_too_few_images_for_any_folds_are_refused_before_the_work(
    tmp_path, loaded, count, groups, to_do
):
    photos = paint_two(tmp_path / "photos", blue=8, red=count)
    data = replace(load_dataset(photos), groups=groups)
    with pytest.raises(DataError, match=to_do) as refused:
        compare_backbones(data, cache=tmp_path / "cache")
    assert "folds" not in refused.value.fix
    assert not loaded


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


@pytest.mark.parametrize(("right", "guesses"), [(50, True), (40, True), (55, True), (65, False)])
def test_no_network_is_proposed_where_all_of_them_guess(right, guesses):
    compared = [suited("dear", 150, right, 10.0), suited("cheap", 64, right - 5, 100.0)]
    assert (cheapest_of_the_best(compared) is None) == guesses
    said = re.search(
        r"^None of these is clearly better than always naming the most common class \(0.500\).* "
        "add images, or correct labels",
        advise(compared),
    )
    assert bool(said) == guesses
