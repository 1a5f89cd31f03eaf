"""Metrics and their intervals, compared with scikit-learn's and with resampling row by row."""

import numpy as np
import pytest
from rows import two_columns
from scipy.stats import binomtest
from sklearn import metrics

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import Metrics, evaluate
from pipeline.system.documents import convert, parse, to_json


def predictions(n, k, *, levels=None, seed=0):
    """Make labels, and probabilities that favour them; with `levels`, many are equal."""
    rng = np.random.default_rng(seed + k)
    truth = np.r_[np.arange(k), rng.integers(k, size=n - k)]
    scores = rng.random((n, k)) + 0.3 * np.eye(k)[truth]
    if levels:
        scores = np.ceil(scores * levels)
    return truth, scores / scores.sum(axis=1, keepdims=True)


def test_numbers_of_a_case_worked_by_hand():
    # Truth 0 0 0 1; the third row is wrongly predicted as 1, and the row of class 1 ranks above
    # two of the three rows of class 0.
    result = evaluate([0, 0, 0, 1], two_columns([0.1, 0.2, 0.8, 0.6]))

    assert result.n == 4
    assert result.confusion == ((2, 1), (0, 1))
    assert result.accuracy == 3 / 4
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert result.roc_auc == pytest.approx(2 / 3)
    assert result.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.2, 0.6])))
    assert result.brier == pytest.approx(np.mean(np.square([0.1, 0.2, 0.8, 0.4])))
    # Class 0: precision 2 of 2, recall 2 of 3. Class 1: precision 1 of 2, recall 1 of 1.
    assert result.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    # The row of class 1 has the second highest probability of class 1.
    assert result.average_precision == pytest.approx(1 / 2)


def test_the_interval_of_the_accuracy_is_wilsons():
    result = evaluate(np.zeros(100, int), two_columns(np.repeat([0.1, 0.9], [81, 19])))
    expected = binomtest(81, 100).proportion_ci(method="wilson")
    assert (result.accuracy_low, result.accuracy_high) == pytest.approx(expected)


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_agrees_with_scikit_learn_for_any_number_of_classes(k, levels):
    truth, p = predictions(200 + k, k, levels=levels)

    result = evaluate(truth, p, resamples=0)

    scores = p[:, 1] if k == 2 else p
    predicted = p.argmax(axis=1)
    assert result.accuracy == metrics.accuracy_score(truth, predicted)
    assert result.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(truth, predicted)
    )
    assert result.macro_f1 == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert result.roc_auc == pytest.approx(
        metrics.roc_auc_score(truth, scores, multi_class="ovr"), abs=1e-12
    )
    assert result.average_precision == pytest.approx(
        metrics.average_precision_score(truth if k == 2 else np.eye(k)[truth], scores)
    )
    if k == 2:
        of_first = evaluate(truth, p, resamples=0, positive=0)
        assert of_first.roc_auc == pytest.approx(result.roc_auc, abs=1e-12)
        assert of_first.average_precision == pytest.approx(
            metrics.average_precision_score(1 - truth, p[:, 0])
        )
    assert result.brier == pytest.approx(metrics.brier_score_loss(truth, p))
    assert result.log_loss == pytest.approx(metrics.log_loss(truth, p))
    np.testing.assert_array_equal(result.confusion, metrics.confusion_matrix(truth, predicted))


METRICS = (
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
)


@pytest.mark.parametrize("k", [2, 3])
def test_bootstrap_intervals_are_those_of_evaluating_each_resample_alone(k):
    truth, p = predictions(60, k, levels=5)
    result = evaluate(truth, p, resamples=400)
    draws = np.random.default_rng(0).integers(60, size=(400, 60))  # the same resamples
    alone = [evaluate(truth[rows], p[rows], resamples=0) for rows in draws]
    for name in METRICS:
        figures = [getattr(metrics, name) for metrics in alone]
        ends = np.percentile([figure for figure in figures if figure is not None], [2.5, 97.5])
        assert result.intervals[name] == pytest.approx(tuple(ends), abs=1e-9), name
        assert ends[0] < getattr(result, name) < ends[1]


def test_intervals_contain_the_true_value_about_95_times_in_100():
    rng = np.random.default_rng(0)
    truth, p = predictions(100_000, 2)
    true = evaluate(truth, p, resamples=0)
    covered = dict.fromkeys((*METRICS, "accuracy"), 0)
    for _ in range(200):
        rows = rng.integers(len(truth), size=150)
        result = evaluate(truth[rows], p[rows], resamples=200)
        for name, (low, high) in result.intervals.items():
            covered[name] += low <= getattr(true, name) <= high
    assert all(0.89 < count / 200 < 0.99 for count in covered.values()), covered


def test_rows_of_one_group_do_not_count_as_independent():
    truth, p = predictions(40, 2)
    groups = np.repeat(np.arange(40), 10)
    alone = evaluate(truth, p)
    tenfold = evaluate(np.repeat(truth, 10), np.repeat(p, 10, axis=0), groups=groups)
    assert tenfold.interval_method == (
        "Wilson for the accuracy of the effective number of images, else percentile bootstrap of "
        "groups of images, 1,000 resamples"
    )
    for name in METRICS:
        assert getattr(tenfold, name) == pytest.approx(getattr(alone, name)), name
        assert tenfold.intervals[name] == pytest.approx(alone.intervals[name]), name
    assert tenfold.accuracy_high - tenfold.accuracy_low == pytest.approx(
        alone.accuracy_high - alone.accuracy_low, rel=0.2
    )
    assert (tenfold.accuracy_low, tenfold.accuracy_high) == tenfold.intervals["accuracy"]


@pytest.mark.parametrize(
    ("groups", "wrong"), [(1, 0.3), (4, 0.0)], ids=["one group", "all right in four groups"]
)
def test_few_groups_give_a_wide_interval_for_the_accuracy_and_no_others(groups, wrong):
    truth = np.arange(40) % 2
    predicted = np.where(np.arange(40) < 40 * wrong, 1 - truth, truth)
    result = evaluate(truth, np.eye(2)[predicted], groups=np.arange(40) % groups)
    assert set(result.intervals) == {"accuracy"}
    assert "else none: fewer than 10 groups" in result.interval_method
    assert result.accuracy_high - result.accuracy_low > 0.45


@pytest.mark.parametrize("count", [3, 5, 40])
def test_with_groups_the_interval_contains_the_true_accuracy_about_95_times_in_100(count):
    rng = np.random.default_rng(0)
    groups, truth = np.repeat(np.arange(count), 6), np.zeros(count * 6, int)
    covered = 0
    for _ in range(400):
        right = rng.random(count * 6) < rng.beta(3.5, 1.5, count)[groups]  # 0.7 on average
        result = evaluate(truth, np.eye(2)[1 - right.astype(int)], groups=groups, resamples=0)
        covered += result.accuracy_low <= 0.7 <= result.accuracy_high
    assert covered >= 0.92 * 400


def test_metrics_of_repeats_are_means_and_the_interval_is_not_narrower():
    truth, p = predictions(80, 3)
    _, other = predictions(80, 3, seed=9)
    repeats = np.stack([p, p[::-1], other])
    result = evaluate(truth, repeats)
    alone = [evaluate(truth, p) for p in repeats]
    for name in METRICS:
        mean = np.mean([getattr(metrics, name) for metrics in alone])
        assert getattr(result, name) == pytest.approx(mean)
    assert result.n == 80
    assert result.confusion == alone[0].confusion
    same = evaluate(truth, np.stack([p, p, p]))
    for name in METRICS:
        assert same.intervals[name] == pytest.approx(alone[0].intervals[name])
    assert same.intervals["accuracy"] == alone[0].intervals["accuracy"]


def test_predicted_classes_may_be_other_than_the_most_probable():
    p = two_columns([0.2, 0.4, 0.45, 0.9])
    result = evaluate([0, 0, 1, 1], p, predicted=[0, 1, 1, 1])
    assert result.confusion == ((1, 1), (0, 2))
    assert result.accuracy == 0.75
    assert result.balanced_accuracy == 0.75
    assert result.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result.roc_auc == evaluate([0, 0, 1, 1], p).roc_auc


def test_the_same_rows_give_the_same_intervals():
    truth, p = predictions(50, 2)
    assert evaluate(truth, p) == evaluate(truth, p)


def test_the_method_of_the_intervals_is_named():
    truth, p = predictions(20, 2)
    assert evaluate(truth, p).interval_method == (
        "Wilson for the accuracy, else percentile bootstrap of images, 1,000 resamples"
    )
    none = evaluate(truth, p, resamples=0)
    assert none.interval_method == "Wilson for the accuracy"
    assert set(none.intervals) == {"accuracy"}


def test_many_rows_are_resampled_less_often():
    assert "200 resamples" in evaluate(*predictions(200_000, 3)).interval_method


def test_fewer_resamples_give_about_the_same_intervals():
    truth, p = predictions(2000, 3)
    many, few = evaluate(truth, p), evaluate(truth, p, resamples=250)
    for name, (low, high) in many.intervals.items():
        assert few.intervals[name] == pytest.approx((low, high), abs=0.2 * (high - low))


def test_a_class_without_rows_stays_in_the_confusion_matrix_and_leaves_auc_undefined(recwarn):
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
    assert result.average_precision is None
    assert not {"roc_auc", "average_precision"} & set(result.intervals)
    assert not recwarn.list


def test_float32_probabilities_are_accepted_without_warning(recwarn):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), size=100).astype(np.float32)
    assert np.isfinite(evaluate(np.arange(100) % 7, p).log_loss)
    assert not recwarn.list


def test_log_loss_of_a_confident_mistake_is_large_but_finite():
    assert 30 < evaluate([0], [[0.0, 1.0]]).log_loss < 40


def test_metrics_survive_json():
    result = evaluate([0, 1, 1], two_columns([0.2, 0.7, 0.4]))
    assert result.confusion == ((1, 0), (1, 1))
    assert convert(parse(to_json(result)), Metrics) == result


@pytest.mark.parametrize(
    ("truth", "p", "message"),
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
def test_invalid_input_is_refused_with_what_is_wrong(truth, p, message):
    with pytest.raises(PipelineError, match=message):
        evaluate(truth, p)


@pytest.mark.parametrize(
    ("predicted", "message"), [([2, 1], "from 1 to 2"), ([0, -1], "from -1 to 0")]
)
def test_predicted_classes_must_exist(predicted, message):
    with pytest.raises(PipelineError, match=message):
        evaluate([0, 1], [[0.5, 0.5], [0.5, 0.5]], predicted)


def test_evaluate_does_not_change_its_input():
    p = np.array([[0.4, 0.60001], [0.3, 0.7]])
    kept = p.copy()
    evaluate([0, 1], p)
    np.testing.assert_array_equal(p, kept)
