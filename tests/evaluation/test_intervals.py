"""Intervals of proportions, compared with SciPy's and with published examples."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.evaluation.intervals import newcombe_interval, wilson_interval


def test_wilson_intervals_are_scipys():
    counts = np.repeat([1, 2, 20, 1000], 3)
    hits = np.round(counts * np.tile([0, 0.37, 1], 4)).astype(int)
    low, high = wilson_interval(hits / counts, counts)
    expected = [
        binomtest(int(hit), int(count)).proportion_ci(method="wilson")
        for hit, count in zip(hits, counts)
    ]
    np.testing.assert_allclose(np.transpose([low, high]), expected, atol=1e-7)


def test_wilson_intervals_end_at_0_and_1_exactly():
    low, high = wilson_interval([0.0, 1.0], [7, 7])
    assert low[0] == 0
    assert high[1] == 1


def test_newcombes_interval_is_that_of_his_first_example():
    assert newcombe_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
