"""Problems of a data set, found from features that are computed already.

Nothing is read or written: rows, labels, splits and digests go in, and images to look at come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.classes import ClassProblems, find_class_problems
from pipeline.analysis.duplicates import Duplicates, find_duplicates
from pipeline.analysis.labels import (
    Build,
    LabelProblems,
    TooFewImagesError,
    find_label_problems,
    learn,
    out_of_fold,
)
from pipeline.analysis.leakage import Leakage, measure_leakage
from pipeline.analysis.learning_curve import LearningCurve, measure_learning_curve
from pipeline.analysis.neighbours import Neighbours, Places, Rows, few_places, find_neighbours
from pipeline.analysis.outliers import NEAREST, OutlierImage, find_outliers
from pipeline.analysis.sentences import (
    describe_contradictions,
    describe_duplicates,
    describe_labels,
    describe_leakage,
    describe_outliers,
)
from pipeline.data.dataset import Dataset
from pipeline.errors import PipelineError
from pipeline.evaluation.groups import join_groups, number_groups
from pipeline.heads.estimators import sparse_rows
from pipeline.heads.registry import get_head

QUICK = 20_000
"""The most images that a run looks for problems in: comparing them takes half a minute."""


@dataclass(frozen=True)
class Problems:
    """What is or may be wrong with a data set.

    Attributes
    ----------
    dataset : Dataset
        The data set; the problems name images by their position in it.
    duplicates : Duplicates
        Images that occur more than once.
    leakage : Leakage
        How much those across splits may add to the test accuracy.
    labels : LabelProblems
        Labels that may be wrong.
    outliers : tuple of OutlierImage
        Images that are unusual for their class, the most unusual first.
    classes : ClassProblems
        Classes that are too small, or far larger than others.
    curve : LearningCurve or None
        How accuracy grows with the number of images; None if it was not measured.
    """

    dataset: Dataset
    duplicates: Duplicates
    leakage: Leakage
    labels: LabelProblems
    outliers: tuple[OutlierImage, ...]
    classes: ClassProblems
    curve: LearningCurve | None = None

    def summary(self) -> tuple[str, ...]:
        """Describe the problems in short sentences, the most costly first."""
        cross_validation = len(set(self.dataset.splits)) == 1
        leakage = tuple(describe_leakage(self.leakage))
        return (
            *(leakage if self.leakage.copied else ()),
            *describe_contradictions(self.duplicates),
            *describe_labels(self.labels),
            *self.classes.notes,
            *describe_outliers(self.outliers),
            *describe_duplicates(self.duplicates, cross_validation=cross_validation),
            *(() if self.leakage.copied else leakage),
            *([self.curve.answer] if self.curve else []),
        )


def find_problems(
    dataset: Dataset,
    rows: Rows,
    *,
    predicted: Places | None = None,
    neighbours: Sequence[Neighbours] | None = None,
    repeats: int = 2,
    seed: int = 0,
) -> Problems:
    """Find what is or may be wrong with a data set.

    The classifier is ``logistic`` everywhere, so that a run and ``pipeline problems`` name the same
    labels: it takes 2 s on the demo, and puts 52 % of the labels that were flipped (3 % of all)
    among the first 5 % of the list, where ``rbf-svm`` takes 16 s and puts 57 % there.

    Parameters
    ----------
    dataset : Dataset
        Labels, splits, groups and digests of n images; the files are not read.
    rows : ndarray of float32, shape (n, ...)
        Features of the images.
    predicted : ndarray of int64, shape (n,), optional
        Classes predicted by a head that was trained without the test images; computed by default.
    neighbours : sequence of Neighbours, optional
        Result of `nearest_rows` for these rows; computed by default.
    repeats : int
        How often the learning curve is measured; 0 leaves it out. The test images are not used.
    seed : int
        Random seed of the folds and classifiers.

    Raises
    ------
    PipelineError
        The number of rows is not that of the images, or features are not finite. If there are too
        few images to check the labels or to measure a learning curve, these are left out.
    """
    if len(rows) != len(dataset):
        raise PipelineError(
            f"there are {len(rows)} rows of features for {len(dataset)} images",
            expected="a row for each image",
        )
    few, labels, splits = few_places(rows), dataset.targets.labels, dataset.splits
    # Of long rows classifiers learn the average, here too: as good, in an eighth of the time.
    rows = rows if few is rows else rows.mean(axis=(1, 2))
    logistic = get_head("logistic").build
    nearest, nearest_of_class = neighbours or nearest_rows(few, labels)
    duplicates = find_duplicates(few, dataset.digests, labels, splits, neighbours=nearest)
    groups = join_groups(duplicates.groups, number_groups(dataset.groups or [""] * len(dataset)))
    if predicted is None:
        predicted = _predict_test(rows, labels, splits, logistic, seed)
    label_problems, curve = LabelProblems((), 0, 0), None
    with suppress(TooFewImagesError):
        # Converting rows is the first step of `logistic`: once here, not in each fold.
        probabilities = out_of_fold(
            sparse_rows(rows.reshape(len(rows), -1)),
            labels,
            logistic,
            classes=len(dataset.classes),
            groups=groups,
            seed=seed,
        )
        label_problems = find_label_problems(labels, probabilities)
    with suppress(TooFewImagesError):
        if repeats:
            seen = dataset.where("train", "validation")
            curve = measure_learning_curve(
                rows[seen],
                labels[seen],
                logistic,
                repeats=repeats,
                groups=groups[seen],
                seed=seed,
            )
    return Problems(
        dataset=dataset,
        duplicates=duplicates,
        leakage=measure_leakage(duplicates.pairs, splits, predicted == labels),
        labels=label_problems,
        outliers=find_outliers(labels, nearest_of_class),
        classes=find_class_problems(labels, splits, dataset.classes),
        curve=curve,
    )


def nearest_rows(rows: Rows, labels: Places) -> list[Neighbours]:
    """Find the neighbours that problems are found with: among all rows, and within each class."""
    return find_neighbours(few_places(rows), NEAREST, among=(None, labels))


def find_problems_quickly(
    dataset: Dataset,
    rows: Rows,
    predicted: Places,
    *,
    neighbours: Sequence[Neighbours] | None = None,
    seed: int = 0,
) -> Problems | None:
    """Find problems in 3 s on the demo: all but the learning curve.

    Parameters are those of `find_problems`. Returns None above 20,000 images, as the time to
    compare them grows with the square of their number.
    """
    if len(rows) > QUICK:
        return None
    return find_problems(
        dataset,
        rows,
        predicted=predicted,
        neighbours=neighbours,
        repeats=0,
        seed=seed,
    )


def _predict_test(
    rows: Rows, labels: Places, splits: npt.NDArray[np.str_], build: Build, seed: int
) -> Places:
    """Predict the test images by a classifier trained on the others, which keep their labels."""
    predicted = labels.copy()
    is_test = splits == "test"
    if is_test.any() and not is_test.all():
        flat = rows.reshape(len(rows), -1)
        fitted = learn(build(seed), flat, labels, np.flatnonzero(~is_test))
        predicted[is_test] = fitted.predict(flat[is_test])
    return predicted
