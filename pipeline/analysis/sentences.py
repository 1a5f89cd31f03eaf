"""Findings about the data, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.analysis.duplicates import Duplicates
from pipeline.analysis.labels import LabelProblems
from pipeline.analysis.leakage import Leakage
from pipeline.analysis.outliers import Outlier


def say_leakage(leakage: Leakage) -> Iterator[str]:
    if not leakage.total:
        return
    if not leakage.copied:
        yield "No test image has a copy among the images that are learned from."
        return
    found = (
        f"{leakage.copied:,} of {leakage.total:,} test images have a copy, or nearly one, among "
        "the images that are learned from"
    )
    if leakage.points is None:
        yield f"{found}: the test accuracy says nothing of new images."
    elif leakage.points <= 0:
        yield f"{found}; they are told right no more often than the others."
    else:
        noise = "" if leakage.low is None or leakage.low > 0 else ", so it is within noise"
        yield (
            f"{found}: {leakage.points:.1f} points of test accuracy could be leakage (95 % "
            f"interval {leakage.low:.1f} to {leakage.high:.1f}{noise}). They are told right in "
            f"{leakage.accuracy_of_copied:.0%} of cases, the others in "
            f"{leakage.accuracy_of_rest:.0%}."
        )


def say_duplicates(duplicates: Duplicates, *, split: bool) -> Iterator[str]:
    if inside := len(duplicates.pairs) - len(duplicates.across):
        where = ", within a split" if split else ""  # in cross-validation there are none
        yield f"{_count(inside, 'pair')} of copies, or nearly{where}."
    if wrong := len(duplicates.contradictory):
        yield f"{_count(wrong, 'pair')} of copies with two labels: at most one of them is right."


def say_labels(labels: LabelProblems) -> Iterator[str]:
    if not labels.judged:
        yield "There are too few images to tell which labels may be wrong."
    likely = sum(suspect.likely for suspect in labels.suspects)
    if likely:
        yield (
            f"{likely:,} of {labels.judged:,} labels look wrong to classifiers that were not "
            "trained on the image. Where these are weak, that may be their mistake: look at the "
            "first of the list."
        )


def say_outliers(outliers: tuple[Outlier, ...]) -> Iterator[str]:
    if outliers:
        yield f"{_count(len(outliers), 'image')} unlike all others of the same class."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
