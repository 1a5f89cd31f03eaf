"""Significance tests, compared with SciPy's, with formulas, and with simulated chance."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.significance import (
    Comparison,
    corrected_t_test,
    disagreement,
    sign_flip_test,
)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (5, 5), (12, 30), (40, 3)])
def test_the_p_value_is_that_of_the_exact_binomial_test(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, False]
    second = [False] * only_first + [True] * only_second + [True, False]
    result = disagreement(first, second)
    assert (result.only_first, result.only_second) == (only_first, only_second)
    n = only_first + only_second
    assert result.p == pytest.approx(stats.binomtest(only_first, n, 0.5).pvalue if n else 1.0)


def test_the_p_value_of_ten_thousand_disagreements_is_a_number():
    even = disagreement([True, False] * 5000, [False, True] * 5000)
    assert even.p == 1.0
    assert disagreement([True] * 5000, [False] * 5000).p == 0.0


def test_with_each_row_in_its_own_group_the_sign_flip_test_is_mcnemars():
    first, second = np.random.default_rng(0).random((2, 80)) < [[0.8], [0.6]]
    p = sign_flip_test(first, second, np.arange(80))
    assert p == pytest.approx(disagreement(first, second).p)
    assert sign_flip_test(first, first, np.arange(80)) == 1.0


def test_the_sign_flip_test_counts_all_combinations_of_signs():
    first, second = np.random.default_rng(1).random((2, 60)) < [[0.8], [0.5]]
    groups = np.arange(60) % 8
    differences = np.bincount(groups, first.astype(int) - second)
    sums = np.abs([np.dot(signs, differences) for signs in itertools.product([-1, 1], repeat=8)])
    expected = np.mean(sums >= abs(differences.sum()))
    assert sign_flip_test(first, second, groups) == pytest.approx(expected)


def test_the_sign_flip_test_seldom_finds_a_difference_where_whole_groups_vary():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 6)
    right = (rng.random((300, 2, 40)) < 0.7)[:, :, groups]
    p = [(sign_flip_test(*both, groups), disagreement(*both).p) for both in right]
    careful, careless = np.mean(np.less(p, 0.05), axis=0)
    assert careful < 0.08
    assert careless > 0.3


def test_the_corrected_t_test_is_the_ordinary_one_with_a_wider_variance():
    differences = np.random.default_rng(0).normal(0.02, 0.03, 30)
    count, folds = 30, 10
    ordinary = stats.ttest_1samp(differences, 0)
    narrower = np.sqrt((1 / count) / (1 / count + 1 / (folds - 1)))
    expected = 2 * stats.t.sf(abs(ordinary.statistic) * narrower, count - 1)
    assert corrected_t_test(differences, folds=folds) == pytest.approx(expected)
    assert corrected_t_test(-differences, folds=folds) == pytest.approx(expected)
    assert ordinary.pvalue < expected


def test_without_any_difference_p_is_1_and_with_the_same_in_all_folds_0():
    assert corrected_t_test([0.0] * 5, folds=5) == 1.0
    assert corrected_t_test([0.25] * 5, folds=5) == 0.0


def test_the_corrected_t_test_seldom_finds_a_difference_by_chance():
    # With independent folds, as here, the test is conservative.
    rng = np.random.default_rng(1)
    p = [corrected_t_test(rng.normal(size=10), folds=10) for _ in range(500)]
    assert np.mean(np.less(p, 0.05)) < 0.05


@pytest.mark.parametrize(
    ("p", "ending"),
    [
        (0.41, "differ by 0.6 points of accuracy: within noise (McNemar, p = 0.41)."),
        (0.05, "within noise (McNemar, p = 0.05)."),
        (0.049, "more than noise (McNemar, p = 0.049)."),
        (0.0, "more than noise (McNemar, p < 0.001)."),
    ],
)
def test_a_comparison_says_whether_the_difference_is_noise(p, ending):
    sentence = Comparison("rbf-svm", "logistic", -0.6, p, "McNemar").sentence
    assert sentence.startswith("rbf-svm and logistic differ by 0.6 points")
    assert sentence.endswith(ending)
