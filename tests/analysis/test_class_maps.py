"""Maps of what counts for a class, compared with scores and gradients worked out by hand."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import SVC

from pipeline.analysis.class_maps import find_class_maps, has_places
from pipeline.backbones.registry import make_recipe
from pipeline.heads.dense import DenseHead
from pipeline.heads.registry import get_head
from pipeline.models.model import Model
from pipeline.models.network import Network, TunedClassifier

SHAPE = (3, 3, 6)
RECIPE = dataclasses.replace(make_recipe(size=100, precision="float32"), shape=SHAPE)


def examples(count=90, classes=2, seed=0):
    """Make rows whose class depends on the features at the top left; the rest is noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = rng.exponential(size=(count, *SHAPE)) * (rng.random((count, *SHAPE)) < 0.5)
    rows[np.arange(count), 0, 0, labels] += 4
    return rows.astype(np.float32), labels


def fitted(name, rows, labels, **parameters):
    estimator = get_head(name).build(0, **parameters).fit(rows.reshape(len(rows), -1), labels)
    return Model(RECIPE, name, tuple("abcd"[: labels.max() + 1]), estimator)


def scaled(rows, down, across, by):
    """Scale the features of one position."""
    changed = rows.astype(np.float64)
    changed[:, down, across] *= by
    return changed.astype(np.float32)


@pytest.mark.parametrize("name", ["logistic", "linear-svm"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_map_of_a_linear_head_adds_up_to_its_score_without_the_intercept(name, classes):
    rows, labels = examples(classes=classes)
    model = fitted(name, rows, labels)
    about = np.roll(labels, 1)
    maps = find_class_maps(model, rows, about)
    assert maps.method == "weights"
    last = model.estimator[-1]
    linear = last if name == "logistic" else last.calibrated_classifiers_[0].estimator
    scores = linear.decision_function(model.estimator[:-1].transform(rows.reshape(90, -1)))
    scores = scores - linear.intercept_
    if classes == 2:
        scores = np.stack([-scores, scores], axis=1)
    np.testing.assert_allclose(
        maps.values.sum(axis=(1, 2)), scores[np.arange(90), about], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_the_map_of_a_scikit_learn_linear_classifier_is_by_its_weights(classes):
    rows, labels = examples(classes=classes)
    model = fitted("sklearn.linear_model:RidgeClassifierCV", rows, labels)
    linear = model.estimator[-1].calibrated_classifiers_[0].estimator
    maps = find_class_maps(model, rows, labels)
    assert maps.method == "weights"
    seen = model.estimator[:-1].transform(rows.reshape(90, -1))
    weights = np.atleast_2d(linear.coef_)
    weights = np.concatenate([-weights, weights]) if classes == 2 else weights
    by_hand = (seen * weights[labels]).reshape(rows.shape).sum(axis=-1)
    np.testing.assert_allclose(maps.values, by_hand, rtol=1e-4, atol=1e-6)


def pairwise():
    return SVC(kernel="linear", decision_function_shape="ovo")


def summed_up():
    return SVC(kernel="linear")


@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("factory", ["pairwise", "summed_up"])
def test_weights_of_pairs_of_classes_are_not_used_as_weights_of_classes(factory, classes):
    rows, labels = examples(classes=classes)
    model = fitted(f"test_class_maps:{factory}", rows, labels)
    assert find_class_maps(model, rows[:20], labels[:20]).method == "occlusion"


def test_each_position_of_a_linear_heads_map_is_its_features_times_weights():
    rows, labels = examples()
    model = fitted("logistic", rows, labels)
    weights = model.estimator[-1].coef_.reshape(SHAPE)
    lengths = np.linalg.norm(rows.reshape(90, -1), axis=1)
    by_hand = rows[:, 1, 2] @ weights[1, 2] / lengths
    maps = find_class_maps(model, rows, np.ones(90, np.int64))
    np.testing.assert_allclose(maps.values[:, 1, 2], by_hand, rtol=1e-4, atol=1e-6)


def scores_of(dense, rows, label):
    """The score before sigmoid or softmax, computed from the weights by hand."""
    hidden, bias, last, last_bias = map(np.float64, dense.get_weights())
    scores = np.maximum(rows.reshape(len(rows), -1) @ hidden + bias, 0) @ last + last_bias
    return scores[:, label] if scores.shape[1] > 1 else scores[:, 0] * (2 * label - 1)


POOLED = {
    "flatten": lambda rows: rows.reshape(len(rows), -1),
    "average": lambda rows: rows.mean(axis=(1, 2)),
    "max": lambda rows: rows.max(axis=(1, 2)),
}


@pytest.mark.parametrize("pool", POOLED)
@pytest.mark.parametrize(("classes", "label"), [(2, 0), (2, 1), (3, 2)])
def test_the_map_of_a_dense_head_is_the_gradient_of_its_score(classes, label, pool):
    rows, labels = examples(classes=classes)
    head = DenseHead(epochs=3, units=16, learning_rate=1e-3, pool=pool, shape=SHAPE)
    head.fit(rows.reshape(90, -1), labels)
    model = Model(RECIPE, "dense", tuple("abcd"[:classes]), head)
    maps = find_class_maps(model, rows, np.full(90, label))
    assert maps.method == "gradient"
    step = 1e-4
    for down, across in ((0, 0), (1, 2), (2, 1)):
        more, less = (
            scores_of(head.model_, POOLED[pool](scaled(rows, down, across, by)), label)
            for by in (1 + step, 1 - step)
        )
        np.testing.assert_allclose(
            maps.values[:, down, across], (more - less) / (2 * step), rtol=0.02, atol=0.01
        )


@pytest.mark.parametrize("pool", POOLED)
def test_the_map_of_a_fine_tuned_network_is_by_the_features_below_its_dense_layers(pool):
    recipe = make_recipe(size=64, precision="float32", layer="block5_conv2")
    rng = np.random.default_rng(0)
    base = Network(recipe, 2, weights=random_weights(), pool=pool, units=8)
    tuned = TunedClassifier(base, 2, {"pool": pool, "units": 8, "dropout": 0.0})
    rows = rng.exponential(size=(4, *recipe.shape)).astype(np.float32)
    maps = find_class_maps(Model(recipe, "finetuned", ("a", "b"), tuned), rows, np.ones(4, int))
    seen = np.asarray(base.upper(rows))
    assert maps.values.shape == seen.shape[:3] == (4, 2, 2)

    def score(features):
        return scores_of(base.dense, POOLED[pool](features), 1)

    step = 1e-4
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        by_hand = (
            score(scaled(seen, down, across, 1 + step))
            - score(scaled(seen, down, across, 1 - step))
        ) / (2 * step)
        tolerance = 0.02 * np.abs(maps.values).max()
        np.testing.assert_allclose(maps.values[:, down, across], by_hand, atol=tolerance)


def random_weights():
    """Make random weights for VGG16's base, in place of the 59 MB of its own."""
    rng = np.random.default_rng(0)
    weights, before = [], 3
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            spread = (2 / (9 * before)) ** 0.5
            weights.append((spread * rng.normal(size=(3, 3, before, channels))).astype(np.float32))
            weights.append(np.zeros(channels, np.float32))
            before = channels
    return weights


@pytest.mark.parametrize("name", ["rbf-svm", "knn"])
def test_the_map_of_any_other_head_is_what_is_lost_without_a_patch(name):
    rows, labels = examples()
    model = fitted(name, rows, labels)
    maps = find_class_maps(model, rows, labels)
    assert maps.method == "occlusion"
    without = rows.copy()
    without[:, 0, 1] = 0

    def odds(rows):
        p = model.probabilities(rows)[np.arange(90), labels]
        return np.log(p / (1 - p))

    np.testing.assert_allclose(
        maps.values[:, 0, 1], odds(rows) - odds(without), rtol=1e-4, atol=1e-6
    )


def test_large_grids_of_features_are_covered_in_at_most_16_patches():
    rng = np.random.default_rng(0)
    rows = rng.exponential(size=(40, 9, 9, 2)).astype(np.float32)
    labels = np.arange(40) % 2
    calls = []
    model = fitted("knn", rows, labels)
    probabilities = model.estimator.predict_proba
    model.estimator.predict_proba = lambda rows: calls.append(len(rows)) or probabilities(rows)
    [values] = find_class_maps(model, rows[:1], labels[:1]).values
    assert calls == [17]
    assert (values[:3, :3] == values[0, 0]).all()
    assert values.shape == (9, 9)


@pytest.mark.parametrize("name", ["logistic", "rbf-svm", "dense"])
def test_maps_are_largest_where_the_class_shows(name):
    rows, labels = examples(300)
    if name == "dense":
        head = DenseHead(epochs=20, units=16, learning_rate=1e-3)
        model = Model(RECIPE, name, ("a", "b"), head.fit(rows.reshape(300, -1), labels))
    else:
        model = fitted(name, rows, labels)
    mean = find_class_maps(model, rows, labels).values.mean(axis=0)
    assert np.unravel_index(mean.argmax(), mean.shape) == (0, 0)


def test_maps_of_heads_without_a_network_do_not_load_tensorflow():
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_class_maps import examples, fitted
from pipeline.analysis.class_maps import find_class_maps, has_places
rows, labels = examples()
find_class_maps(fitted("linear-svm", rows, labels), rows, labels)
find_class_maps(fitted("knn", rows, labels), rows[:3], labels[:3])
assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("size", "places"), [(32, False), (64, True)])
def test_a_fine_tuned_network_has_maps_where_its_last_features_have_places(size, places):
    recipe = make_recipe(size=size, precision="float32", layer="block5_conv2")
    tuned = TunedClassifier(
        Network(recipe, 2, weights=random_weights(), pool="average", units=8),
        2,
        {"pool": "average", "units": 8, "dropout": 0.0},
    )
    model = Model(recipe, "finetuned", ("a", "b"), tuned)
    rows = np.ones((1, *recipe.shape), np.float32)
    assert has_places(model) == places
    assert (find_class_maps(model, rows, np.zeros(1, int)).values.size > 1) == places
