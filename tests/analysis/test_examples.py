"""Test images looked at one by one: the right ones are chosen, and what is said of them is so."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.examples import MISTAKES, find_examples
from pipeline.backbones.registry import make_recipe
from pipeline.data.dataset import Dataset
from pipeline.heads.registry import get_head
from pipeline.models.model import Model
from pipeline.runs.describing import describe_examples

RECIPE = dataclasses.replace(make_recipe(size=64, precision="float32"), shape=(2, 2, 6))


@pytest.fixture(scope="module")
def fitted():
    """A data set with overlapping classes, its rows, and a head fitted to what is not test."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    rows = rng.exponential(size=(300, *RECIPE.shape)).astype(np.float32)
    rows[np.arange(300), 0, 1, labels] += 2
    dataset = Dataset(
        "photos",
        tuple(Path(f"{number}.png") for number in range(300)),
        tuple(b"%032d" % number for number in range(300)),
        labels,
        np.repeat(["train", "validation", "test"], [100, 50, 150]),
        ("cat", "cow", "dog"),
    )
    estimator = get_head("logistic").build(0).fit(rows[:150].reshape(150, -1), labels[:150])
    model = Model(RECIPE, "logistic", dataset.classes, estimator)
    return model, dataset, rows


def look(model, dataset, rows, **settings):
    p = model.probabilities(rows)
    blocks = [(rows[some], some) for some in np.array_split(np.arange(300), 7)]
    return find_examples(model, dataset, p, rows.__getitem__, settings.get("features", blocks)), p


def test_the_surest_mistakes_come_first_then_two_right_ones_of_each_class(fitted):
    found, p = look(*fitted)
    dataset = fitted[1]
    sure, right = p.max(axis=1), p.argmax(axis=1) == dataset.targets.labels
    wrong = [place for place in np.argsort(-sure) if place >= 150 and not right[place]]
    assert len(wrong) > MISTAKES
    assert found.places[:MISTAKES].tolist() == wrong[:MISTAKES]
    rest = found.places[MISTAKES:]
    assert dataset.targets.labels[rest].tolist() == [0, 0, 1, 1, 2, 2]
    for label in range(3):
        of_class = (dataset.targets.labels == label) & right & (np.arange(300) >= 150)
        assert set(rest[2 * label : 2 * label + 2]) == set(
            np.argsort(np.where(of_class, -sure, 0))[:2]
        )


def test_what_a_fold_called_an_image_decides_what_is_a_mistake_and_not_the_model(fitted):
    model, dataset, rows = fitted
    p = model.probabilities(rows)
    called = dataset.targets.labels.copy()
    called[[200, 250]] = (called[[200, 250]] + 1) % 3
    found = find_examples(model, dataset, p, rows.__getitem__, predicted=called)
    assert {*found.places[:2]} == {200, 250}
    names = [example.predicted for example in describe_examples(found).images]
    assert names == [dataset.classes[called[place]] for place in found.places]


def test_neighbours_are_the_most_similar_images_that_were_learned_from(fitted):
    found, _ = look(*fitted)
    _, _, rows = fitted
    unit = rows.reshape(300, -1) / np.linalg.norm(rows.reshape(300, -1), axis=1)[:, None]
    for place, near in zip(found.places, found.neighbours):
        similarities = unit[:150] @ unit[place]
        assert [one.place for one in near] == np.argsort(-similarities)[:3].tolist()
        assert near[0].similarity == pytest.approx(similarities.max(), rel=1e-5)


def test_without_training_images_an_image_is_still_no_neighbour_of_its_own(fitted):
    model, dataset, rows = fitted
    dataset = dataclasses.replace(dataset, splits=np.repeat("test", 300))
    found, _ = look(model, dataset, rows)
    assert all(
        place not in {one.place for one in near}
        for place, near in zip(found.places, found.neighbours)
    )
    assert all(near[0].similarity < 0.9999 for near in found.neighbours)


def test_without_features_there_are_no_neighbours(fitted):
    found, _ = look(*fitted, features=())
    assert {len(near) for near in found.neighbours} == {0}


def test_the_document_names_files_and_classes(fitted):
    found, p = look(*fitted)
    document = describe_examples(found)
    assert (document.head, document.maps, document.size) == ("logistic", "weights", 64)
    place = found.places[0]
    first = document.images[0]
    assert first.path == f"{place}.png"
    assert first.label == fitted[1].classes[place % 3] != first.predicted
    assert first.probability == p[place].max()
    assert first.neighbours[0].path == f"{found.neighbours[0][0].place}.png"
    np.testing.assert_allclose(first.map, found.maps.values[0], rtol=1e-3)
