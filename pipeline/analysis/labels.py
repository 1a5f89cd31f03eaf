"""Labels that are likely wrong, by what classifiers that never saw an image say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, issparse
from threadpoolctl import threadpool_limits

from pipeline.errors import PipelineError
from pipeline.heads.estimators import Classifier

Build = Callable[[int], Classifier]
"""A seed in, a fresh classifier out: ``get_head("rbf-svm").build`` is one."""

FOLDS = 5


class TooFewImagesError(PipelineError):
    """There are too few images, or classes, to learn from some and judge others."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label another class fits better.

    Attributes
    ----------
    place : int
        Position of the image.
    given, suggested : int
        Its label, and the likeliest class.
    score : float
        The probability of the label less that of the suggested class, -1 to 0: the lower, the
        more suspicious.
    likely : bool
        Whether confident learning counts it among the wrong ones.
    """

    place: int
    given: int
    suggested: int
    score: float
    likely: bool


@dataclass(frozen=True)
class LabelProblems:
    """Labels to look at again.

    Attributes
    ----------
    suspects : tuple of Suspect
        Every image whose label is not its likeliest class, the most suspicious first.
    estimated : int
        How many labels are wrong, as confident learning estimates it.
    judged : int
        Number of images that were judged; 0 where there are too few to learn from.
    """

    suspects: tuple[Suspect, ...]
    estimated: int
    judged: int


def assign_folds(
    labels: npt.NDArray[np.int64],
    folds: int,
    *,
    groups: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Deal images out to folds, class by class, groups as a whole.

    Unlike scikit-learn's splitters it takes classes of fewer images than there are folds.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Classes. A group is dealt out with the class of its first image.
    folds : int
        How many.
    groups : ndarray of int64, shape (n,), optional
        Images with the same number come into the same fold.
    seed : int
        Decides who comes where.

    Returns
    -------
    ndarray of int64, shape (n,)
        0 to `folds` - 1.
    """
    numbers = np.arange(len(labels)) if groups is None else groups
    _, first, unit = np.unique(numbers, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    dealt = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[dealt] = np.arange(len(first)) % folds
    return fold[unit]


def out_of_fold(
    rows: npt.NDArray[np.float32] | csr_array,
    labels: npt.NDArray[np.int64],
    build: Build,
    *,
    classes: int,
    folds: int = FOLDS,
    groups: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Give each image's probabilities, by a classifier that was not trained on it.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, ...), or csr_array of shape (n, d)
        Features; a row is flattened.
    labels : ndarray of int64, shape (n,)
        Classes, 0 to `classes` - 1.
    build : callable
        Makes an unfitted classifier from a seed.
    classes : int
        Number of classes.
    folds, groups, seed
        As for `assign_folds`: images of a group (views, copies) are never on both sides.

    Returns
    -------
    ndarray of float64, shape (n, classes)
        0 for a class that a fold's classifier had fewer than two images of.

    Raises
    ------
    TooFewImagesError
        Some fold leaves fewer than two classes to learn from.
    """
    flat = rows if rows.ndim == 2 else rows.reshape(len(labels), -1)
    fold = assign_folds(labels, min(folds, max(len(labels), 1)), groups=groups, seed=seed)
    found = np.zeros((len(labels), classes))
    for one in np.unique(fold):
        judged = np.flatnonzero(fold == one)
        # A sparse head's vectors are too short for BLAS to gain by a second thread.
        with threadpool_limits(1 if issparse(flat) else None):
            fitted = learn(build(seed), flat, labels, np.flatnonzero(fold != one))
        columns = np.asarray(fitted.classes_, np.int64)
        found[np.ix_(judged, columns)] = fitted.predict_proba(flat[judged])
    return found


def learn(
    classifier: Classifier,
    flat: npt.NDArray[np.float32] | csr_array,
    labels: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
) -> Classifier:
    """Fit a classifier to some images, less those that are alone in their class.

    Heads that calibrate their probabilities need two of each.

    Raises
    ------
    TooFewImagesError
        Fewer than two classes are left.
    """
    counts = np.bincount(labels[places], minlength=int(labels.max()) + 1)
    learned = places[counts[labels[places]] > 1]
    if (counts > 1).sum() < 2:
        raise TooFewImagesError(
            f"Of {len(labels)} images, {len(places)} are to be learned from; "
            f"{(counts > 1).sum()} of their classes have two images or more.",
            expected="two images or more of two classes or more.",
            fix="add images of the other classes, or put fewer of them into one group.",
        )
    fitted: Classifier = classifier.fit(flat[learned], labels[learned])
    return fitted


def find_label_problems(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64], *, fewest: int = FOLDS
) -> LabelProblems:
    """Rank the labels that do not fit what a classifier says, by confident learning.

    An image is likely of a class if its probability is at least the mean over the images of that
    label; of several such classes, the likeliest. Where that is not its label, the label is
    likely wrong. The counts, scaled to the number of images of each label, estimate how many are
    wrong. The ranking is by the normalised margin: on the demo, with 3 % of the labels flipped, it
    found more of them in the top 5 % than margins adjusted for each class's mean (0.56 to 0.48,
    mean of three seeds with ``rbf-svm``).

    These are the rules of the package cleanlab, ``filter_by="confident_learning"`` and
    ``normalized_margin``, which was not used for these few lines since it brings pandas along:
    the results were compared with those of its release 2.9.0.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Classes, 0 to k - 1.
    probabilities : ndarray of float64, shape (n, k)
        By classifiers that were not trained on the image, as of `out_of_fold`.
    fewest : int
        Images of classes smaller than this are not judged, nor suggested: there was nothing to
        learn them from.

    References
    ----------
    C. Northcutt, L. Jiang, I. Chuang, *Confident learning: estimating uncertainty in dataset
    labels*, Journal of Artificial Intelligence Research 70, 2021.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    large = counts >= fewest
    judged = np.flatnonzero(large[labels])
    given = labels[judged]
    p = np.where(large, probabilities[judged], -np.inf)
    own = p[np.arange(len(given)), given]
    others = p.copy()
    others[np.arange(len(given)), given] = -np.inf
    suggested = others.argmax(axis=1) if len(given) else given
    margin = own - others.max(axis=1, initial=-np.inf)
    joint, likely = _confident_joint(given, p, large)
    order = np.argsort(margin, kind="stable")
    suspects = tuple(
        Suspect(
            int(judged[one]),
            int(given[one]),
            int(suggested[one]),
            float(margin[one]),
            bool(likely[one]),
        )
        for one in order[margin[order] < 0]
    )
    return LabelProblems(suspects, round(float(joint.sum() - np.trace(joint))), len(judged))


def _confident_joint(
    given: npt.NDArray[np.int64], p: npt.NDArray[np.float64], large: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Count label against likely class, scaled to the labels' numbers, and tell who is off it."""
    k = p.shape[1]
    usual = np.full(k, np.inf)
    for one in np.flatnonzero(large):
        usual[one] = p[given == one, one].mean()
    fits = p >= usual - 1e-6  # float32 probabilities that are all the same have another mean
    confident = np.where(fits, p, -np.inf).argmax(axis=1) if len(p) else given
    is_counted = fits.any(axis=1)
    joint = np.zeros((k, k))
    np.add.at(joint, (given[is_counted], confident[is_counted]), 1)
    of_label = joint.sum(axis=1, keepdims=True)
    numbers = np.bincount(given, minlength=k)[:, None]
    joint = np.divide(joint * numbers, of_label, out=np.zeros_like(joint), where=of_label > 0)
    return joint, is_counted & (confident != given)
