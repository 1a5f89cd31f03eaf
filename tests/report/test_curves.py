"""Curves, held against scikit-learn's."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from pipeline.evaluation.metrics import evaluate
from pipeline.report import curves


def predictions(n, k, *, seed=0, levels=None):
    """Probabilities that lean to the truth; with `levels`, many of them are equal."""
    rng = np.random.default_rng(seed)
    truth = np.append(np.arange(k), rng.integers(0, k, n - k))
    scores = rng.random((n, k))
    scores[np.arange(n), truth] += 0.3
    if levels:
        scores = np.ceil(scores * levels)
    return truth, scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("n", [4, 30, 500])
@pytest.mark.parametrize("positive", [0, 1])
def test_of_two_classes_the_curves_are_scikit_learns(n, levels, positive):
    truth, p = predictions(n, 2, levels=levels)
    is_positive, score = truth == positive, p[:, positive]
    curve = curves.roc(truth, p, positive)
    x, y, _ = metrics.roc_curve(is_positive, score, drop_intermediate=False)
    assert np.allclose([curve.x, curve.y], [x, y])
    curve, area, share = curves.precision_recall(truth, p, positive)
    precision, recall, _ = metrics.precision_recall_curve(is_positive, score)
    assert area == pytest.approx(metrics.average_precision_score(is_positive, score))
    assert share == is_positive.mean()
    # Ours goes in steps, from left to right; theirs are the corners, from right to left.
    assert np.allclose(curve.x[1::2], recall[-2::-1])
    assert np.allclose(curve.y[1::2], precision[-2::-1])
    assert np.array_equal(curve.y[::2], curve.y[1::2])


@pytest.mark.parametrize("k", [3, 7])
def test_of_several_classes_the_curve_is_the_mean_whose_area_run_json_holds(k):
    truth, p = predictions(400, k)
    curve = curves.roc(truth, p)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(evaluate(truth, p).roc_auc, abs=0.01)
    _, area, share = curves.precision_recall(truth, p)
    assert area == pytest.approx(metrics.average_precision_score(np.eye(k)[truth], p))
    assert share == pytest.approx(1 / k)


def test_a_class_that_does_not_occur_is_left_out_of_the_mean():
    truth, p = predictions(200, 3)
    with_absent = np.column_stack([p * 0.9, np.full(200, 0.1)])
    one, other = curves.roc(truth, p), curves.roc(truth, with_absent)
    assert np.allclose(one.y, other.y)


def test_there_is_no_curve_where_all_are_of_one_class():
    p = np.full((5, 2), 0.5)
    assert curves.roc(np.ones(5, int), p) is None
    assert curves.precision_recall(np.zeros(5, int), p) is None


def test_reliability_gathers_what_was_said_and_what_happened():
    p = np.array([[0.95, 0.05], [0.96, 0.04], [0.1, 0.9], [0.08, 0.92], [0.0, 1.0], [0.45, 0.55]])
    found = curves.reliability(np.array([0, 1, 1, 1, 0, 1]), p)
    assert found.predicted == pytest.approx([0.045, 0.55, (0.9 + 0.92 + 1) / 3])
    assert found.observed == pytest.approx([0.5, 1, 2 / 3])
    assert found.counts.tolist() == [2, 1, 3]
    differences = [0.455, 0.45, 0.94 - 2 / 3]
    assert found.error == pytest.approx(np.average(differences, weights=[2, 1, 3]))
    for count, share, low, high in zip(found.counts, found.observed, found.low, found.high):
        exact = binomtest(round(share * count), count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((exact.low, exact.high))


def test_of_several_classes_reliability_is_that_of_the_likeliest():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.72, 0.18], [0.1, 0.12, 0.78], [0.4, 0.35, 0.25]])
    found = curves.reliability(np.array([0, 2, 2, 1]), p)
    assert found.predicted == pytest.approx([0.4, (0.7 + 0.72 + 0.78) / 3])
    assert found.observed == pytest.approx([0, 2 / 3])
