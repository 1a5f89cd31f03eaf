"""Classes with too few images, or far more than others."""

import numpy as np
from synthetic import splits

from pipeline.analysis.classes import find_class_problems


def test_small_classes_and_imbalance_are_noted_with_what_they_mean():
    labels = np.repeat([0, 1, 2], [60, 8, 40])
    where = np.concatenate([splits(40, 0, 20), splits(3, 0, 5), splits(40, 0, 0)])
    assert find_class_problems(labels, where, ("cat", "dog", "cow")).notes == (
        "dog has 3 training images; fewer than 20 are often too few to learn a class from.",
        "The recall of dog is uncertain by up to ±33 points (5 test images).",
        "cow has no test images, so its recall is unknown.",
        (
            "56 % of the images are cat, so the accuracy says little about the others: look at the "
            "recall of each class."
        ),
    )


def test_classes_with_enough_images_are_not_noted():
    labels = np.arange(120) % 2
    assert find_class_problems(labels, splits(60, 20, 40), ("cat", "dog")).notes == ()


def test_in_cross_validation_there_are_no_notes_on_training_images():
    labels = np.arange(60) % 2
    assert find_class_problems(labels, splits(0, 0, 60), ("cat", "dog")).notes == ()


def test_many_small_classes_are_counted_in_one_sentence_each():
    labels = np.arange(120) % 6
    where = splits(60, 0, 60)
    where[(labels > 3) & (where == "test")] = "validation"
    assert find_class_problems(labels, where, tuple("abcdef")).notes == (
        (
            "6 classes have fewer than 20 training images (the fewest: a, 10), which are often too "
            "few to learn a class from."
        ),
        "The recall of 4 classes is uncertain by up to ±26 points (the fewest: a, 10 test images).",
        "2 classes have no test images (e, f): their recall is unknown.",
    )
