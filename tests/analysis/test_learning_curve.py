"""How accuracy grows with the number of images."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid
from synthetic import Recorder, logistic, overlapping

from pipeline.analysis.learning_curve import (
    LearningCurve,
    LearningCurvePoint,
    measure_learning_curve,
)
from pipeline.heads.registry import get_head


def test_more_images_help_where_classes_overlap_in_many_dimensions():
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    rows = rng.normal(size=(1000, 300)).astype(np.float32) + 0.05 * (2 * labels[:, None] - 1)
    curve = measure_learning_curve(rows, labels, lambda seed: NearestCentroid(), repeats=2)
    assert [point.images for point in curve.points] == [100, 200, 400, 800]
    accuracies = [point.accuracy for point in curve.points]
    assert accuracies[0] + 0.05 < accuracies[-1]
    assert curve.gain == pytest.approx(100 * (accuracies[-1] - accuracies[-2]))
    assert "more images would probably help" in curve.answer


def test_more_images_do_not_help_where_a_few_are_enough():
    rows, labels = overlapping(200, distance=12.0)
    curve = measure_learning_curve(rows, labels, logistic, repeats=1)
    assert curve.points[-1].accuracy == 1
    assert curve.answer.endswith("more images of the same kind would probably help little.")


def test_within_noise_it_is_unclear_whether_more_images_would_help():
    points = (LearningCurvePoint(50, 0.8, 0.7, 0.9), LearningCurvePoint(100, 0.81, 0.71, 0.91))
    assert LearningCurve(points, 1.0, -2.5, 4.5).answer == (
        "Going from 50 to 100 training images changed accuracy by +1.0 points (95 % interval -2.5 "
        "to +4.5): within noise, so it is unclear whether more images would help."
    )


@pytest.mark.parametrize("gain", [(0.0, 0.0, 0.0), (9.0, 2.0, 16.0)])
def test_of_few_images_nothing_is_claimed(gain):
    points = (LearningCurvePoint(6, 0.8, 0.7, 0.9), LearningCurvePoint(13, 0.8, 0.7, 0.9))
    answer = LearningCurve(points, *gain).answer
    assert answer.endswith("whether more would help, so few images cannot tell.")


def test_the_interval_widens_if_images_come_in_groups():
    rows, labels = overlapping(120, distance=1.5)
    rows, labels = np.repeat(rows, 3, axis=0), np.repeat(labels, 3)
    grouped, alone = (
        measure_learning_curve(rows, labels, logistic, repeats=1, groups=groups).points[-1]
        for groups in (np.arange(360) // 3, None)
    )
    width = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert width == pytest.approx(3**0.5, rel=0.2)


def test_smaller_parts_lie_within_larger_ones_and_all_are_tested_on_the_same_images():
    rows = np.arange(100, dtype=np.float32)[:, None]
    labels = np.array([0] * 96 + [1] * 4)
    fits = []
    measure_learning_curve(rows, labels, lambda seed: Recorder(fits), repeats=1)
    parts = [({int(row[0]) for row in trained}, np.ravel(tested)) for trained, tested in fits]
    for first in range(0, 20, 4):
        smallest, *larger = (trained for trained, _ in parts[first : first + 4])
        assert smallest < larger[0] < larger[1] < larger[2]
        assert smallest & set(range(96, 100))
        assert len({tuple(tested) for _, tested in parts[first : first + 4]}) == 1


def test_a_class_too_small_to_calibrate_on_is_no_obstacle():
    rows, labels = overlapping(60, distance=6.0)
    labels[7] = labels[9] = 2
    curve = measure_learning_curve(rows, labels, get_head("rbf-svm").build, repeats=1)
    assert curve.points[-1].accuracy > 0.9
