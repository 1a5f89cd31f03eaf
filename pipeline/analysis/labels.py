"""Labels that may be wrong, found with classifiers that were not trained on the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import Places, Rows
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from pipeline.heads.estimators import Classifier

Build = Callable[[int], "Classifier"]
"""Makes an unfitted classifier from a seed, as ``get_head("rbf-svm").build``."""

FOLDS = 5
"""Folds, and images of a class without which its labels are not checked."""


_ONE_SIDED = 1.645  # the normal distribution's 95 % quantile


class TooFewImagesError(PipelineError):
    """There are too few images, or classes, to train on some and test on others."""


@dataclass(frozen=True)
class SuspectLabel:
    """A label that fits its image less well than another class.

    Attributes
    ----------
    place : int
        Position of the image.
    given, suggested : int
        The label, and the most probable other class.
    score : float
        Probability of the label minus that of the suggested class, -1 to 0: the lower, the more
        suspicious.
    likely : bool
        Whether confident learning counts the label as wrong.
    """

    place: int
    given: int
    suggested: int
    score: float
    likely: bool


@dataclass(frozen=True)
class LabelProblems:
    """Labels to check.

    Attributes
    ----------
    suspects : tuple of SuspectLabel
        Every label that is not the most probable class, the most suspicious first.
    estimated : int
        Number of wrong labels, as estimated by confident learning.
    judged : int
        Number of labels that were checked; 0 if there are too few images.
    by_chance : bool
        Whether none was checked because the classifiers may be guessing.
    confirmed : int
        Number of labels that look wrong and were left out, as somebody confirmed them.
    """

    suspects: tuple[SuspectLabel, ...]
    estimated: int
    judged: int
    by_chance: bool = False
    confirmed: int = 0


def assign_folds(labels: Places, *, groups: Places | None = None, seed: int = 0) -> Places:
    """Give each image the number of its fold, so that each fold has all classes and whole groups.

    Unlike scikit-learn's splitters, this accepts classes with fewer images than folds. A group
    counts as of the class of its first image.
    """
    numbers = np.arange(len(labels)) if groups is None else groups
    _, first, unit = np.unique(numbers, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    dealt = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[dealt] = np.arange(len(first)) % FOLDS
    return fold[unit]


def out_of_fold(
    rows: Rows | csr_array,
    labels: Places,
    build: Build,
    *,
    classes: int,
    groups: Places | None = None,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Give the probabilities of each image, by a classifier that was not trained on it.

    Images of a group are in the same fold. The result has shape (n, classes); it is 0 for a class
    of which a fold's classifier had fewer than two images.
    """
    from scipy.sparse import issparse
    from threadpoolctl import threadpool_limits

    flat = rows if rows.ndim == 2 else rows.reshape(len(labels), -1)
    folds = assign_folds(labels, groups=groups, seed=seed)
    probabilities = np.zeros((len(labels), classes))
    for fold in np.unique(folds):
        held_out = np.flatnonzero(folds == fold)
        # The vectors of sparse rows are too short for BLAS to gain from a second thread.
        with threadpool_limits(1 if issparse(flat) else None):
            fitted = learn(build(seed), flat, labels, np.flatnonzero(folds != fold))
        columns = np.asarray(fitted.classes_, np.int64)
        probabilities[np.ix_(held_out, columns)] = fitted.predict_proba(flat[held_out])
    return probabilities


def learn(
    classifier: Classifier, flat: Rows | csr_array, labels: Places, places: Places
) -> Classifier:
    """Fit a classifier to some images, without classes that have only one of them.

    Heads that calibrate their probabilities need two images of each class.
    """
    counts = np.bincount(labels[places], minlength=int(labels.max()) + 1)
    learned = places[counts[labels[places]] > 1]
    if (counts > 1).sum() < 2:
        raise TooFewImagesError(
            f"{len(places)} of {len(labels)} images are left to learn from, and "
            f"{(counts > 1).sum()} of their classes have two images or more",
            expected="two or more images of two or more classes",
            fix="add images of the other classes, or make the groups smaller",
        )
    fitted: Classifier = classifier.fit(flat[learned], labels[learned])
    return fitted


def find_label_problems(labels: Places, probabilities: npt.NDArray[np.float64]) -> LabelProblems:
    """Rank the labels that do not fit the probabilities, by confident learning.

    An image probably belongs to a class if its probability is at least the mean over the images
    with that label; if to several, to the most probable. If that is not its label, the label counts
    as wrong. These counts, scaled to the number of images of each label, estimate the number of
    wrong labels. The ranking is by the normalised margin: on the demo, with 3 % of the labels
    flipped, it had more of them in the top 5 % than margins adjusted for each class's mean (0.56
    against 0.48, mean of three seeds with ``rbf-svm``). Classes of fewer than five images are
    neither checked nor suggested, and no label is checked by classifiers that may be guessing.

    These are the rules of the package cleanlab (``filter_by="confident_learning"``,
    ``normalized_margin``), whose release 2.9.0 gave the same results; it is not used because it
    needs pandas. C. Northcutt, L. Jiang, I. Chuang, *Confident learning: estimating uncertainty in
    dataset labels*, Journal of Artificial Intelligence Research 70, 2021.
    """
    large = np.bincount(labels, minlength=probabilities.shape[1]) >= FOLDS
    checked = np.flatnonzero(large[labels])
    given = labels[checked]
    p = np.where(large, probabilities[checked], -np.inf)
    if len(given) and not _better_than_guessing(given, p):
        return LabelProblems((), 0, 0, by_chance=True)
    own = p[np.arange(len(given)), given]
    others = p.copy()
    others[np.arange(len(given)), given] = -np.inf
    suggested = others.argmax(axis=1) if len(given) else given
    margin = own - others.max(axis=1, initial=-np.inf)
    joint, likely = _confident_joint(given, p, large)
    order = np.argsort(margin, kind="stable")
    suspects = tuple(
        SuspectLabel(
            int(checked[place]),
            int(given[place]),
            int(suggested[place]),
            float(margin[place]),
            bool(likely[place]),
        )
        for place in order[margin[order] < 0]
    )
    return LabelProblems(suspects, round(float(joint.sum() - np.trace(joint))), len(checked))


def _better_than_guessing(given: Places, p: npt.NDArray[np.float64]) -> bool:
    """Tell whether the mean recall of the classes is above chance, at a level of 5 %."""
    classes, numbers = np.unique(given, return_counts=True)
    right = p.argmax(axis=1) == given
    recalls = np.array([right[given == label].mean() for label in classes])
    error = np.sqrt((recalls * (1 - recalls) / numbers).sum()) / len(classes)
    return bool(recalls.mean() - _ONE_SIDED * error > 1 / len(classes))


def _confident_joint(
    given: Places, p: npt.NDArray[np.float64], large: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Count label against probable class, scaled by label, and tell which labels count as wrong."""
    k = p.shape[1]
    usual = np.full(k, np.inf)
    for label in np.flatnonzero(large):
        usual[label] = p[given == label, label].mean()
    fits = p >= usual - 1e-6  # the mean of equal float32 probabilities differs from them slightly
    confident = np.where(fits, p, -np.inf).argmax(axis=1) if len(p) else given
    is_counted = fits.any(axis=1)
    joint = np.zeros((k, k))
    np.add.at(joint, (given[is_counted], confident[is_counted]), 1)
    counted = joint.sum(axis=1, keepdims=True)
    numbers = np.bincount(given, minlength=k)[:, None]
    joint = np.divide(joint * numbers, counted, out=np.zeros_like(joint), where=counted > 0)
    return joint, is_counted & (confident != given)
