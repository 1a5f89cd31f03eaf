"""What is wrong with a data set, from features that are there already.

Nothing is read, written or remembered, and no image is looked at again: rows, labels, splits and
digests go in, and what to look at comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from pipeline.analysis.classes import ClassCount, ClassProblems, find_class_problems
from pipeline.analysis.duplicates import ALIKE, Alike, Duplicates, Kind, Pair, find_duplicates
from pipeline.analysis.labels import (
    Build,
    LabelProblems,
    Suspect,
    TooFewImagesError,
    assign_folds,
    find_label_problems,
    learn,
    out_of_fold,
)
from pipeline.analysis.leakage import Leakage, measure_leakage
from pipeline.analysis.learning_curve import LearningCurve, Point, measure_learning_curve
from pipeline.analysis.neighbours import Neighbours, Rows, find_neighbours
from pipeline.analysis.outliers import NEAREST, Outlier, find_outliers
from pipeline.analysis.sentences import say_duplicates, say_labels, say_leakage, say_outliers
from pipeline.data.dataset import Dataset
from pipeline.errors import PipelineError
from pipeline.evaluation.groups import join_groups, number_groups
from pipeline.heads.registry import get_head

__all__ = [
    "ALIKE",
    "NEAREST",
    "Alike",
    "Build",
    "ClassCount",
    "ClassProblems",
    "Duplicates",
    "Kind",
    "LabelProblems",
    "Leakage",
    "LearningCurve",
    "Neighbours",
    "Outlier",
    "Pair",
    "Point",
    "Problems",
    "Suspect",
    "TooFewImagesError",
    "assign_folds",
    "find_class_problems",
    "find_duplicates",
    "find_label_problems",
    "find_neighbours",
    "find_outliers",
    "find_problems",
    "find_problems_quickly",
    "join_groups",
    "measure_leakage",
    "measure_learning_curve",
    "nearest_rows",
    "not_looked_for",
    "out_of_fold",
]

QUICK = 20_000
"""Images that are compared with each other in less than half a minute."""

_NOTES = 5  # on classes, where there is no list of problems that they are on
_SMALL = 5000  # images up to which a Gram matrix is cheap: 200 MB


@dataclass(frozen=True)
class Problems:
    """What is wrong with a data set, or may be.

    Attributes
    ----------
    dataset : Dataset
        What was looked at: all that follows names images by their position in it.
    duplicates : Duplicates
        Images that are there more than once.
    leakage : Leakage
        What those across splits may be worth on the test images.
    labels : LabelProblems
        Labels that are likely wrong.
    outliers : tuple of Outlier
        Images unlike all others of their class, the strangest first.
    classes : ClassProblems
        Classes too small or too large.
    curve : LearningCurve or None
        How accuracy grows with the number of images; None where that was not asked for.
    """

    dataset: Dataset
    duplicates: Duplicates
    leakage: Leakage
    labels: LabelProblems
    outliers: tuple[Outlier, ...]
    classes: ClassProblems
    curve: LearningCurve | None = None

    def summary(self) -> tuple[str, ...]:
        """Say all of it in short sentences, what matters most first."""
        return (
            *say_leakage(self.leakage),
            *say_duplicates(self.duplicates, split=len(set(self.dataset.splits)) > 1),
            *say_labels(self.labels),
            *say_outliers(self.outliers),
            *self.classes.notes,
            *([self.curve.answer] if self.curve else []),
        )


def find_problems(
    dataset: Dataset,
    rows: Rows,
    *,
    build: Build | None = None,
    probabilities: npt.NDArray[np.float64] | None = None,
    predicted: npt.NDArray[np.int64] | None = None,
    groups: npt.NDArray[np.int64] | None = None,
    mirrored: Rows | None = None,
    neighbours: Sequence[Neighbours] | None = None,
    alike: Alike = ALIKE,
    repeats: int = 2,
    seed: int = 0,
) -> Problems:
    """Find what is wrong with a data set, or may be.

    Parameters
    ----------
    dataset : Dataset
        Labels, splits and digests of n images; their files are not touched.
    rows : ndarray of float32, shape (n, ...)
        Their features.
    build : callable, optional
        Makes an unfitted classifier from a seed: for what of the following is not given. The
        default is ``rbf-svm`` up to 5,000 images: of 3 % of the demo's labels that were flipped, it
        put 57 % among the first 5 % of the list, and ``logistic`` 52 %. Above it is ``logistic``,
        whose memory does not grow with n squared.
    probabilities : ndarray of float64, shape (n, k), optional
        Of classifiers that were not trained on the image, if that is there.
    predicted : ndarray of int64, shape (n,), optional
        Classes that a head says which was trained on all but the test images.
    groups : ndarray of int64, shape (n,), optional
        Images that belong together; the default is the data set's groups. Duplicates do in any
        case.
    mirrored : ndarray of float32, shape (n, ...), optional
        Features of the mirrored images, to find mirrored copies too.
    neighbours : sequence of Neighbours, optional
        What `nearest_rows` gives of these rows, if that is there.
    alike : Alike
        What to call a near-duplicate.
    repeats : int
        How often the learning curve is measured; 0 leaves it out. It is measured by ``logistic``,
        where `build` is not given, and without the test images.
    seed : int
        Decides folds, and what is random in classifiers.

    Raises
    ------
    PipelineError
        Features and data set do not fit, or features are not finite. Where there are too few
        images to judge labels or to measure a learning curve, these are left out.
    """
    if len(rows) != len(dataset):
        raise PipelineError(
            f"{len(rows)} rows of features and {len(dataset)} images do not fit.",
            expected="a row for each image.",
        )
    labels, splits, k = dataset.targets.labels, dataset.splits, len(dataset.classes)
    logistic = get_head("logistic").build
    judge = build or (get_head("rbf-svm").build if len(rows) <= _SMALL else logistic)
    nearest, of_class = neighbours or nearest_rows(rows, labels)
    duplicates = find_duplicates(
        rows,
        dataset.digests,
        labels,
        splits,
        neighbours=nearest,
        mirrored=mirrored,
        alike=alike,
    )
    if groups is None:
        groups = number_groups(dataset.groups or [""] * len(dataset))
    together = join_groups(duplicates.groups, groups)
    if predicted is None:
        predicted = _predict_test(rows, labels, splits, judge, seed)
    if probabilities is None:
        # The first step of this head, taken once and not for each fold.
        taken = csr_array(rows.reshape(len(rows), -1)) if judge is logistic else rows
        with suppress(TooFewImagesError):
            probabilities = out_of_fold(taken, labels, judge, classes=k, groups=together, seed=seed)
    curve = None
    if repeats:
        seen = dataset.where("train", "validation")
        with suppress(TooFewImagesError):
            curve = measure_learning_curve(
                rows[seen],
                labels[seen],
                build or logistic,
                repeats=repeats,
                groups=together[seen],
                seed=seed,
            )
    return Problems(
        dataset=dataset,
        duplicates=duplicates,
        leakage=measure_leakage(duplicates.pairs, splits, predicted == labels),
        labels=(
            LabelProblems((), 0, 0)
            if probabilities is None
            else find_label_problems(labels, probabilities)
        ),
        outliers=find_outliers(labels, of_class),
        classes=find_class_problems(labels, splits, dataset.classes),
        curve=curve,
    )


def nearest_rows(rows: Rows, labels: npt.NDArray[np.int64]) -> list[Neighbours]:
    """Find the neighbours that problems are found by: among all rows, and among their class."""
    return find_neighbours(rows, NEAREST, among=(None, labels))


def find_problems_quickly(
    dataset: Dataset,
    rows: Rows,
    predicted: npt.NDArray[np.int64],
    *,
    probabilities: npt.NDArray[np.float64] | None = None,
    neighbours: Sequence[Neighbours] | None = None,
    seed: int = 0,
) -> Problems | None:
    """Find what takes 3 s on the demo: all but the learning curve, labels by ``logistic``.

    Parameters are those of `find_problems`. None above 20,000 images, as the time for comparing
    them grows with the square of their number.
    """
    if len(rows) > QUICK:
        return None
    logistic = get_head("logistic").build
    return find_problems(
        dataset,
        rows,
        build=logistic,
        probabilities=probabilities,
        predicted=predicted,
        neighbours=neighbours,
        repeats=0,
        seed=seed,
    )


def not_looked_for(dataset: Dataset) -> tuple[str, ...]:
    """Say what a run says in place of `find_problems_quickly`, in sentences."""
    notes = find_class_problems(dataset.targets.labels, dataset.splits, dataset.classes).notes
    more = len(notes) - _NOTES
    return (
        "This run did not look for copies, wrong labels and outliers: `pipeline problems DATA "
        "--run RUN`, with the same options, does, and puts them on its page"
        + (f", and {more:,} more notes like the following." if more > 0 else "."),
        *notes[:_NOTES],
    )


def _predict_test(
    rows: Rows,
    labels: npt.NDArray[np.int64],
    splits: npt.NDArray[np.str_],
    build: Build,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Learn from what is not test, and say what the test images are; the others as they are."""
    predicted = labels.copy()
    learned, judged = np.flatnonzero(splits != "test"), np.flatnonzero(splits == "test")
    if len(judged):
        flat = rows.reshape(len(rows), -1)
        predicted[judged] = learn(build(seed), flat, labels, learned).predict(flat[judged])
    return predicted
