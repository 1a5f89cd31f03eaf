"""Findings about the data, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.analysis.classes import find_class_problems
from pipeline.analysis.duplicates import Duplicates
from pipeline.analysis.labels import LabelProblems
from pipeline.analysis.leakage import Leakage
from pipeline.analysis.outliers import OutlierImage
from pipeline.data.dataset import Dataset

CREDIBLE = 0.2
"""Share of labels that may be wrong; where more look so, classifiers are doubted instead."""

NOT_LOOKED_FOR = "This run did not look for"
"""The beginning of the first sentence of `not_looked_for`, also in older runs."""


def describe_leakage(leakage: Leakage) -> Iterator[str]:
    """Say how many test images have a copy in training, and what that may add to the accuracy."""
    if not leakage.total:
        return
    if not leakage.copied:
        yield "No test image has a copy among the training and validation images."
        return
    copied = (
        f"{leakage.copied:,} of {leakage.total:,} test images "
        f"{'has' if leakage.copied == 1 else 'have'} a duplicate or near-duplicate among the "
        "training and validation images"
    )
    if leakage.points is None:
        yield f"{copied}: the test accuracy says nothing about new images."
    elif leakage.points <= 0:
        yield f"{copied}, but are classified correctly no more often than the others."
    else:
        noise = "" if leakage.low is None or leakage.low > 0 else ", so within noise"
        yield (
            f"{copied}: this may account for {leakage.points:.1f} points of test accuracy (95 % "
            f"interval {leakage.low:.1f} to {leakage.high:.1f}{noise}). Of these images, "
            f"{_percent(leakage.accuracy_of_copied)} were classified correctly; of the other test "
            f"images, {_percent(leakage.accuracy_of_rest)}."
        )


def describe_contradictions(duplicates: Duplicates) -> Iterator[str]:
    """Say how many duplicates have different labels."""
    if count := len(duplicates.contradictory):
        have = "has" if count == 1 else "have"
        yield (
            f"{count:,} duplicate or near-duplicate {_pairs(count)} {have} different labels: one "
            "of the two labels is probably wrong."
        )


def describe_duplicates(duplicates: Duplicates, *, cross_validation: bool) -> Iterator[str]:
    """Say how many duplicates are not across splits."""
    if count := len(duplicates.pairs) - len(duplicates.across):
        where = "" if cross_validation else " within a split"
        yield f"{count:,} duplicate or near-duplicate {_pairs(count)}{where}."


def describe_labels(labels: LabelProblems) -> Iterator[str]:
    """Say how many labels may be wrong."""
    if labels.by_chance:
        yield (
            "The labels cannot be checked: classifiers that were not trained on the image are not "
            "clearly better than guessing."
        )
    elif not labels.judged:
        yield "There are too few images to check the labels."
    if likely := sum(suspect.likely for suspect in labels.suspects):
        look = "looks" if likely == 1 else "look"
        advice = "check the first few; the classifiers may be at fault"
        if likely > CREDIBLE * labels.judged:
            advice = "so many that the classifiers are probably at fault; check the first few"
        yield (
            f"{likely:,} of {labels.judged:,} labels {look} wrong to classifiers that were not "
            f"trained on the image: {advice}."
        )
    if labels.confirmed == 1:
        yield "1 label that looks wrong was confirmed in a review and is left out."
    elif labels.confirmed:
        yield (
            f"{labels.confirmed:,} labels that look wrong were confirmed in a review and are left "
            "out."
        )


def describe_outliers(outliers: tuple[OutlierImage, ...]) -> Iterator[str]:
    """Say how many images are outliers."""
    if len(outliers) == 1:
        yield "1 image is unusual for its class."
    elif outliers:
        yield f"{len(outliers):,} images are unusual for their class."


def not_looked_for(dataset: Dataset) -> tuple[str, ...]:
    """Say that a run did not look for problems, how to do so, and what is known about classes."""
    return (
        (
            f"{NOT_LOOKED_FOR} duplicates, wrong labels and outliers. `pipeline problems DATA "
            "--run RUN`, with the same options, does, and adds them to the report."
        ),
        *find_class_problems(dataset.targets.labels, dataset.splits, dataset.classes).notes,
    )


def _pairs(count: int) -> str:
    return "pair" if count == 1 else "pairs"


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.0f} %"
