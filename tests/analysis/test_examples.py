"""Which test images are chosen for a closer look, and their most similar training images."""

import dataclasses

import numpy as np
import pytest
from synthetic import make_dataset, splits

from pipeline.analysis.examples import MISTAKES, find_examples
from pipeline.backbones.registry import make_recipe
from pipeline.heads.registry import get_head
from pipeline.models.model import Model
from pipeline.runs.describing import describe_examples

RECIPE = dataclasses.replace(make_recipe(size=64, precision="float32"), shape=(2, 2, 6))


@pytest.fixture(scope="module")
def fitted():
    """A head trained without the test images, a data set with overlapping classes, and its rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    rows = rng.exponential(size=(300, *RECIPE.shape)).astype(np.float32)
    rows[np.arange(300), 0, 1, labels] += 2
    dataset = make_dataset(labels, splits(100, 50, 150), ("cat", "cow", "dog"))
    estimator = get_head("logistic").build(0).fit(rows[:150].reshape(150, -1), labels[:150])
    model = Model(RECIPE, "logistic", dataset.classes, estimator)
    return model, dataset, rows


def examine(model, dataset, rows):
    p = model.probabilities(rows)
    blocks = [(rows[part], part) for part in np.array_split(np.arange(300), 7)]
    return find_examples(model, dataset, p, rows.__getitem__, blocks), p


def test_the_most_confident_mistakes_come_first_then_two_correct_images_of_each_class(fitted):
    examined, p = examine(*fitted)
    dataset = fitted[1]
    confidence, right = p.max(axis=1), p.argmax(axis=1) == dataset.targets.labels
    wrong = [place for place in np.argsort(-confidence) if place >= 150 and not right[place]]
    assert len(wrong) > MISTAKES
    assert examined.places[:MISTAKES].tolist() == wrong[:MISTAKES]
    rest = examined.places[MISTAKES:]
    assert dataset.targets.labels[rest].tolist() == [0, 0, 1, 1, 2, 2]
    for label in range(3):
        of_class = (dataset.targets.labels == label) & right & (np.arange(300) >= 150)
        assert set(rest[2 * label : 2 * label + 2]) == set(
            np.argsort(np.where(of_class, -confidence, 0))[:2]
        )


def test_given_predictions_decide_what_is_a_mistake(fitted):
    model, dataset, rows = fitted
    p = model.probabilities(rows)
    predicted = dataset.targets.labels.copy()
    predicted[[200, 250]] = (predicted[[200, 250]] + 1) % 3
    examined = find_examples(model, dataset, p, rows.__getitem__, predicted=predicted)
    assert {*examined.places[:2]} == {200, 250}
    assert (examined.predicted == predicted[examined.places]).all()
    assert (examined.probabilities == p[examined.places]).all()
    assert examined.maps.values.shape == (len(examined.places), 2, 2)


def test_neighbours_are_the_most_similar_images_that_were_trained_on(fitted):
    examined, _ = examine(*fitted)
    _, _, rows = fitted
    unit = rows.reshape(300, -1) / np.linalg.norm(rows.reshape(300, -1), axis=1)[:, None]
    for place, near in zip(examined.places, examined.neighbours):
        similarities = unit[:150] @ unit[place]
        assert [image.place for image in near] == np.argsort(-similarities)[:3].tolist()
        assert near[0].similarity == pytest.approx(similarities.max(), rel=1e-5)


def test_in_cross_validation_an_image_is_not_its_own_neighbour(fitted):
    model, dataset, rows = fitted
    examined, _ = examine(model, dataset.all_in("test"), rows)
    for place, near in zip(examined.places, examined.neighbours):
        assert len(near) == 3
        assert place not in {image.place for image in near}
        assert near[0].similarity < 0.9999


def test_without_features_there_are_no_neighbours(fitted):
    model, dataset, rows = fitted
    examined = find_examples(model, dataset, model.probabilities(rows), rows.__getitem__)
    assert {len(near) for near in examined.neighbours} == {0}


def test_confidence_is_the_probability_of_the_predicted_class(fitted):
    """With a threshold, an image may be called what it is not likely to be."""
    model, dataset, rows = fitted
    predicted = dataset.targets.labels.copy()
    predicted[[200, 250]] = (predicted[[200, 250]] + 1) % 3
    p = np.full((300, 3), 0.05)
    p[200, dataset.targets.labels[200]] = 0.9
    p[250, predicted[250]] = 0.7
    examined = find_examples(model, dataset, p, rows.__getitem__, predicted=predicted)
    assert examined.places[:2].tolist() == [250, 200]
    told = [image.probability for image in describe_examples(examined).images]
    assert told[:2] == [0.7, 0.05]
