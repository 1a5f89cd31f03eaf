"""Labels that may be wrong, found with classifiers that were not trained on the image."""

import numpy as np
import pytest
from synthetic import Recorder, logistic, overlapping

from pipeline import PipelineError
from pipeline.analysis.labels import (
    SuspectLabel,
    assign_folds,
    find_label_problems,
    out_of_fold,
)
from pipeline.analysis.sentences import describe_labels
from pipeline.heads.registry import get_head


def test_flipped_labels_come_first():
    rows, labels = overlapping(400, classes=3, distance=6.0)
    given = labels.copy()
    flipped = np.random.default_rng(1).choice(400, 12, replace=False)
    given[flipped] = (given[flipped] + 1) % 3
    problems = find_label_problems(given, out_of_fold(rows, given, logistic, classes=3))
    assert {suspect.place for suspect in problems.suspects[:12]} == set(flipped.tolist())
    assert all(labels[suspect.place] == suspect.suggested for suspect in problems.suspects[:12])
    assert 10 <= problems.estimated <= 14


def test_confident_learning_as_worked_out_by_hand():
    # The mean probability of the label is 0.7 for class 0, and 0.6 for class 1.
    of_class_1 = np.tile([0.1, 0.2, 0.1, 0.8, 0.9, 0.88, 0.42, 0.2], 6)
    labels = np.tile([0, 0, 0, 0, 1, 1, 1, 1], 6)
    problems = find_label_problems(labels, np.stack([1 - of_class_1, of_class_1], axis=1))
    # Image 3 probably belongs to class 1, and 7 to class 0; 6 to neither, but rather to class 0.
    assert problems.suspects[:2] == (
        SuspectLabel(3, 0, 1, pytest.approx(-0.6), likely=True),
        SuspectLabel(7, 1, 0, pytest.approx(-0.6), likely=True),
    )
    assert problems.suspects[12] == SuspectLabel(6, 1, 0, pytest.approx(-0.16), likely=False)
    assert len(problems.suspects) == 18
    # Of class 0, 1 of 4 counts as wrong; of class 1, 1 of the 3 that belong to a class.
    assert problems.estimated == round(24 / 4 + 24 / 3)
    assert problems.judged == 48


def test_a_class_with_too_few_images_is_neither_checked_nor_suggested():
    labels = np.array([0] * 6 + [1] * 6 + [2] * 2)
    p = np.full((14, 3), 0.1)
    p[np.arange(14), [*[0] * 5, 1, *[1] * 5, 0, 2, 2]] = 0.3
    p[:, 2] = 0.6
    problems = find_label_problems(labels, p)
    assert problems.judged == 12
    assert len(problems.suspects) == 2
    assert not any(2 in (suspect.given, suspect.suggested) for suspect in problems.suspects)


@pytest.mark.parametrize(
    ("counts", "right", "checked"),
    [
        ((8, 8), (2, 4), False),  # worse than a coin
        ((8, 8), (6, 6), True),
        ((8, 8), (5, 5), False),  # better by chance, it may be
        ((300, 25), (300, 0), False),  # always the commoner class
        ((300, 25), (290, 10), True),
        ((100, 100), (60, 60), True),
        ((40, 40, 40), (20, 20, 20), True),
        ((40, 40, 40), (15, 14, 14), False),
    ],
)
def test_classifiers_that_may_be_guessing_check_no_labels(counts, right, checked):
    labels = np.repeat(np.arange(len(counts)), counts)
    called = labels.copy()
    for label, hits in enumerate(right):
        called[np.flatnonzero(labels == label)[hits:]] = (label + 1) % len(counts)
    p = np.full((len(labels), len(counts)), 0.1)
    p[np.arange(len(labels)), called] = 0.9
    problems = find_label_problems(labels, p)
    assert problems.by_chance != checked
    assert bool(problems.judged) == checked
    [sentence] = describe_labels(problems)
    assert ("wrong to classifiers" in sentence) == checked
    assert ("not clearly better than guessing" in sentence) != checked


def test_folds_have_each_class_evenly_and_whole_groups():
    labels = np.array([0] * 50 + [1] * 10 + [2] * 3)
    folds = assign_folds(labels)
    assert np.bincount(folds[labels == 0]).tolist() == [10] * 5
    assert np.bincount(folds[labels == 1]).tolist() == [2] * 5
    assert len(set(folds[labels == 2])) == 3
    assert (folds != assign_folds(labels, seed=1)).any()
    groups = np.arange(63) // 3
    grouped = assign_folds(labels, groups=groups)
    assert all(len(set(grouped[groups == group])) == 1 for group in range(21))


def test_images_of_a_group_are_either_trained_on_or_predicted():
    rows = np.repeat(np.arange(30, dtype=np.float32), 2)[:, None]  # a row is its group's number
    fits = []
    p = out_of_fold(
        rows,
        np.arange(60) // 2 % 3,
        lambda seed: Recorder(fits),
        classes=3,
        groups=np.arange(60) // 2,
    )
    assert len(fits) == 5
    assert not any(np.isin(trained, predicted).any() for trained, predicted in fits)
    assert sorted(row[0] for _, predicted in fits for row in predicted) == sorted(rows[:, 0])
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_a_class_with_one_image_has_its_column_in_every_fold():
    rows, labels = overlapping(40)
    labels[7] = 3
    p = out_of_fold(rows, labels, logistic, classes=4)
    assert p.shape == (40, 4)
    assert p[7, 3] == 0  # it was the only image to learn the class from
    assert (p[:, 2] == 0).all()


def test_a_class_too_small_to_calibrate_on_is_no_obstacle():
    rows, labels = overlapping(60, distance=6.0)
    labels[7] = labels[9] = 2
    p = out_of_fold(rows, labels, get_head("rbf-svm").build, classes=3)
    assert (p[np.arange(60) % 2 == 0].argmax(axis=1) == 0).mean() > 0.9


def test_a_fold_that_leaves_a_single_class_is_refused():
    labels = np.array([0] * 8 + [1])
    with pytest.raises(PipelineError, match="1 of their classes have two images or more"):
        out_of_fold(np.ones((9, 2), np.float32), labels, logistic, classes=2)
