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
            "56 % of the images are cat: always guessing cat has an accuracy of 0.556, so look at "
            "the balanced accuracy as well."
        ),
    )


def test_classes_with_enough_images_are_not_noted():
    labels = np.arange(120) % 2
    assert find_class_problems(labels, splits(60, 20, 40), ("cat", "dog")).notes == ()


def test_in_cross_validation_there_are_no_notes_on_training_images():
    labels = np.arange(60) % 2
    assert find_class_problems(labels, splits(0, 0, 60), ("cat", "dog")).notes == ()
