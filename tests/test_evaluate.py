import json

import numpy as np
import pytest
from sklearn import metrics

from pipeline.errors import PipelineError
from pipeline.evaluate import evaluate


def two_columns(p):
    p = np.asarray(p, dtype=float)
    return np.stack([1 - p, p], axis=1)


def test_numbers_of_a_case_worked_by_hand():
    # Truth 0 0 0 1; the third row is wrongly called 1, and the row of class 1 ranks above two of
    # the three rows of class 0.
    result = evaluate([0, 0, 0, 1], two_columns([0.1, 0.2, 0.8, 0.6]))

    assert result.n == 4
    assert result.confusion == ((2, 1), (0, 1))
    assert result.accuracy == 3 / 4
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert result.roc_auc == pytest.approx(2 / 3)
    assert result.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.2, 0.6])))


def test_interval_is_wilsons():
    hits, n, z = 81, 100, 1.959963984540054
    truth = np.zeros(n, dtype=int)
    p = np.r_[np.full(hits, 0.1), np.full(n - hits, 0.9)]

    result = evaluate(truth, two_columns(p))

    share = hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert result.accuracy_low == pytest.approx(middle - half)
    assert result.accuracy_high == pytest.approx(middle + half)


def test_interval_stays_within_0_and_1_where_every_row_is_right():
    result = evaluate([0, 1], two_columns([0.1, 0.9]))
    assert 0.3 < result.accuracy_low < result.accuracy_high == 1.0


@pytest.mark.parametrize("k", [2, 3, 5])
def test_agrees_with_scikit_learn_for_any_number_of_classes(k):
    rng = np.random.default_rng(k)
    truth = np.r_[np.arange(k), rng.integers(k, size=200)]
    p = rng.dirichlet(np.ones(k), size=len(truth))

    result = evaluate(truth, p)

    scores = p[:, 1] if k == 2 else p
    predicted = p.argmax(axis=1)
    assert result.accuracy == metrics.accuracy_score(truth, predicted)
    assert result.balanced_accuracy == metrics.balanced_accuracy_score(truth, predicted)
    assert result.roc_auc == metrics.roc_auc_score(truth, scores, multi_class="ovr")
    assert result.log_loss == pytest.approx(metrics.log_loss(truth, p))
    np.testing.assert_array_equal(result.confusion, metrics.confusion_matrix(truth, predicted))


def test_a_class_absent_from_the_truth_keeps_its_row_and_leaves_auc_undefined(recwarn):
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.1, 0.3, 0.6]])

    result = evaluate([0, 1, 1], p)

    assert result.confusion == ((1, 0, 0), (0, 1, 1), (0, 0, 0))
    assert result.balanced_accuracy == pytest.approx((1 + 1 / 2) / 2)
    assert result.roc_auc is None
    assert result.log_loss == pytest.approx(-np.mean(np.log([0.7, 0.7, 0.3])))
    assert not recwarn.list


def test_one_class_only_in_the_truth_is_evaluated_without_warning(recwarn):
    result = evaluate([1, 1], two_columns([0.9, 0.2]))
    assert (result.accuracy, result.balanced_accuracy, result.roc_auc) == (0.5, 0.5, None)
    assert not recwarn.list


def test_float32_probabilities_are_taken_without_warning(recwarn):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), size=100).astype(np.float32)
    assert np.isfinite(evaluate(np.arange(100) % 7, p).log_loss)
    assert not recwarn.list


def test_a_sure_mistake_costs_much_but_not_infinitely_much():
    assert 30 < evaluate([0], [[0.0, 1.0]]).log_loss < 40


def test_dictionary_survives_json():
    result = evaluate([0, 1, 1], two_columns([0.2, 0.7, 0.4])).to_dict()
    assert json.loads(json.dumps(result)) == result
    assert result["confusion"] == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("truth", "p", "says"),
    [
        ([0, 1], [[0.5, 0.5]], r"\(2,\).*\(1, 2\)"),
        ([0, 1], [0.5, 0.5], "do not fit"),
        ([0, 0], [[1.0], [1.0]], "do not fit"),
        ([], np.empty((0, 2)), "no rows"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "from 0 to 2"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "from -1 to 0"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "float64"),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "not finite; the first is 1"),
        ([0, 1], [[0.5, 0.5], [np.inf, 0.5]], "not finite"),
        ([0, 1], [[0.5, 0.5], [-0.5, 1.5]], "row 1"),
        ([0, 1], [[0.5, 0.5], [2.0, 1.0]], "row 1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_found(truth, p, says):
    with pytest.raises(PipelineError, match=says):
        evaluate(truth, p)


def test_input_is_left_unchanged():
    p = np.array([[0.4, 0.60001], [0.3, 0.7]])
    kept = p.copy()
    evaluate([0, 1], p)
    np.testing.assert_array_equal(p, kept)
