"""What copies in training may add to the test accuracy."""

import numpy as np
import pytest
from synthetic import splits

from pipeline.analysis.duplicates import DuplicatePair
from pipeline.analysis.leakage import Leakage, measure_leakage
from pipeline.evaluation.intervals import newcombe_interval


def pair(first, second, *where):
    return DuplicatePair(first, second, 1.0, "near", where, same_label=True)


def leak(copied, hits, rest, rest_hits):
    """Measure leakage where some test images, of which some are hits, have copies."""
    where = splits(copied or 1, 0, copied + rest)
    pairs = [pair(place, copied + place, "train", "test") for place in range(copied)]
    first = len(where) - rest
    correct = np.zeros(len(where), bool)
    correct[copied : copied + hits] = correct[first : first + rest_hits] = True
    return measure_leakage(pairs, where, correct)


def test_leakage_is_what_the_copied_images_add_to_the_accuracy():
    leakage = leak(10, 10, 40, 30)
    assert (leakage.copied, leakage.total) == (10, 50)
    assert (leakage.accuracy_of_copied, leakage.accuracy_of_rest) == (1.0, 0.75)
    assert leakage.points == pytest.approx(100 * (40 / 50 - 30 / 40))
    assert leakage.low < leakage.points < leakage.high


def test_the_interval_is_newcombes_times_the_share_of_copied_images():
    leakage = leak(70, 56, 80, 48)
    expected = np.multiply(100 * 70 / 150, newcombe_interval(56, 70, 48, 80))
    assert (leakage.low, leakage.high) == pytest.approx(tuple(expected))


def test_without_copies_leakage_is_0_and_with_copies_only_it_is_unknown():
    assert leak(0, 0, 20, 15) == Leakage(0, 20, None, 0.75, 0.0, 0.0, 0.0)
    assert leak(20, 15, 0, 0) == Leakage(20, 20, 0.75, None, None, None, None)


def test_copies_within_the_test_images_do_not_leak():
    where, correct = splits(5, 0, 10), np.ones(15, bool)
    assert measure_leakage([pair(8, 9, "test", "test")], where, correct).copied == 0


def test_in_cross_validation_there_is_no_leakage_to_measure():
    leakage = measure_leakage([pair(0, 1, "test", "test")], splits(0, 0, 9), np.ones(9, bool))
    assert leakage == Leakage(0, 0, None, None, 0.0, 0.0, 0.0)
