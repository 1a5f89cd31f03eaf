"""What findings about the data say to people."""

import numpy as np
import pytest
from synthetic import make_dataset, splits

from pipeline.analysis.duplicates import DuplicatePair, Duplicates, DuplicateThresholds
from pipeline.analysis.labels import LabelProblems, SuspectLabel
from pipeline.analysis.leakage import Leakage
from pipeline.analysis.outliers import OutlierImage
from pipeline.analysis.sentences import (
    describe_contradictions,
    describe_duplicates,
    describe_labels,
    describe_leakage,
    describe_outliers,
    not_looked_for,
)

COPIED = (
    "12 of 100 test images have a duplicate or near-duplicate among the training and validation "
    "images"
)


@pytest.mark.parametrize(
    ("leakage", "sentence"),
    [
        (
            Leakage(12, 100, 1.0, 0.75, 3.0, 1.5, 4.0),
            (
                f"{COPIED}: this may account for 3.0 points of test accuracy (95 % interval 1.5 to "
                "4.0). Of these images, 100 % were classified correctly; of the other test images, "
                "75 %."
            ),
        ),
        (
            Leakage(12, 100, 0.8, 0.75, 0.6, -1.5, 2.0),
            (
                f"{COPIED}: this may account for 0.6 points of test accuracy (95 % interval -1.5 "
                "to 2.0, so within noise). Of these images, 80 % were classified correctly; of the "
                "other test images, 75 %."
            ),
        ),
        (
            Leakage(12, 100, 0.5, 0.75, -3.0, -5.0, -1.0),
            f"{COPIED}, but are classified correctly no more often than the others.",
        ),
        (
            Leakage(0, 100, None, 0.75, 0.0, 0.0, 0.0),
            "No test image has a copy among the training and validation images.",
        ),
        (
            Leakage(12, 100, 0.9, None, None, None, None),
            f"{COPIED}: the test accuracy says nothing about new images.",
        ),
    ],
    ids=["clearly", "within noise", "not at all", "no copies", "copies only"],
)
def test_leakage_is_described_in_points_of_accuracy(leakage, sentence):
    assert list(describe_leakage(leakage)) == [sentence]


def test_in_cross_validation_nothing_is_said_about_leakage():
    assert list(describe_leakage(Leakage(0, 0, None, None, 0.0, 0.0, 0.0))) == []


def duplicates(*pairs):
    named = [
        DuplicatePair(0, 1, 0.99, "near", where, same_label=same_label)
        for where, same_label in pairs
    ]
    return Duplicates(tuple(named), np.arange(2), DuplicateThresholds())


def test_duplicates_within_a_split_and_different_labels_are_counted():
    found = duplicates(
        (("train", "test"), True), (("test", "test"), False), (("train", "train"), True)
    )
    assert list(describe_duplicates(found, cross_validation=False)) == [
        "2 duplicate or near-duplicate pairs within a split."
    ]
    assert list(describe_contradictions(found)) == [
        (
            "1 duplicate or near-duplicate pair has different labels: one of the two labels is "
            "probably wrong."
        )
    ]
    assert next(describe_duplicates(found, cross_validation=True)) == (
        "2 duplicate or near-duplicate pairs."
    )


def test_labels_that_look_wrong_are_counted():
    suspects = [SuspectLabel(place, 0, 1, -0.5, likely=place > 0) for place in range(4)]
    [sentence] = describe_labels(LabelProblems(tuple(suspects), 3, 240))
    assert sentence == (
        "3 of 240 labels look wrong to classifiers that were not trained on the image: check the "
        "first few; the classifiers may be at fault."
    )
    [sentence] = describe_labels(LabelProblems(tuple(suspects), 3, 14))
    assert sentence == (
        "3 of 14 labels look wrong to classifiers that were not trained on the image: so many that "
        "the classifiers are probably at fault; check the first few."
    )
    [sentence] = describe_labels(LabelProblems((), 0, 0))
    assert sentence == "There are too few images to check the labels."


def test_outliers_are_counted():
    outlier = OutlierImage(0, 0, 0.5, 4.0)
    assert list(describe_outliers(())) == []
    assert list(describe_outliers((outlier,))) == ["1 image is unusual for its class."]
    assert list(describe_outliers((outlier,) * 2)) == ["2 images are unusual for their class."]


def test_a_run_that_looked_for_no_problems_says_how_to_and_what_is_known_of_classes():
    classes = tuple("abcdef")
    dataset = make_dataset(np.arange(72) % 6, splits(36, 0, 36), classes)
    first, *notes = not_looked_for(dataset)
    assert first == (
        "This run did not look for duplicates, wrong labels and outliers. `pipeline problems DATA "
        "--run RUN`, with the same options, does, and adds them to the report."
    )
    assert notes == [
        (
            "6 classes have fewer than 20 training images (the fewest: a, 6), which are often too "
            "few to learn a class from."
        ),
        "The recall of 6 classes is uncertain by up to ±31 points (the fewest: a, 6 test images).",
    ]
