"""Dealing images out to folds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline.errors import DataError

SEARCH_FOLDS = 5
"""Folds of a search, or as many as the smallest class has images."""
_FEWEST_TO_LEARN_FROM = 2  # of each class: heads that calibrate their probabilities need them

Places = npt.NDArray[np.int64]


def deal_folds(
    labels: Places, units: Places, classes: Sequence[str], *, folds: int, seed: int, nested: bool
) -> list[Places]:
    """Deal images out to folds, each with about the same share of every class.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Classes, 0 to k - 1.
    units : ndarray of int64, shape (n,)
        Images of the same number come into the same fold.
    classes : sequence of str
        Names of the k classes.
    folds : int
        How many.
    seed : int
        Decides who comes where.
    nested : bool
        Whether a second fold is left out of training, to choose by.

    Returns
    -------
    list of ndarray of int64
        The positions of each fold's images, ascending.

    Raises
    ------
    DataError
        Some class has too few images, or too few that may be parted.
    """
    there = [len(np.unique(units[labels == one])) for one in range(len(classes))]
    fewest = max(folds, _FEWEST_TO_LEARN_FROM + 1 + nested)
    for name, count in zip(classes, there):
        if count < fewest:
            raise DataError(
                f"the class {name} has {_counted(count)} for {folds} folds.",
                expected=f"{fewest} or more; groups and copies count as one",
                fix="add images of that class, leave it out, or ask for fewer folds",
            )
    if len(np.unique(units)) == len(units):
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(units, labels)
    else:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        splits = splitter.split(units, labels, units)
    with warnings.catch_warnings():  # of few images of a class: what matters is checked below
        warnings.simplefilter("ignore", UserWarning)
        dealt = [np.asarray(judged, np.int64) for _, judged in splits]
    counts = np.array([np.bincount(labels[fold], minlength=len(classes)) for fold in dealt])
    without = np.sort(counts, axis=0)[: -(1 + nested)].sum(axis=0)
    if (few := np.flatnonzero(without < _FEWEST_TO_LEARN_FROM)).size or not all(map(len, dealt)):
        named = f"the class {classes[few[0]]}" if few.size else "some fold"
        raise DataError(
            f"{folds} folds leave too few images for {named}, since groups must not be parted.",
            expected=f"{_FEWEST_TO_LEARN_FROM} images or more of each class to learn from",
            fix="ask for fewer folds, or give smaller groups",
        )
    return dealt


def search_folds(
    labels: Places, units: Places, classes: Sequence[str], *, seed: int
) -> list[Places]:
    """Deal images out for a search: into fewer folds where a class is small."""
    there = [len(np.unique(units[labels == one])) for one in range(len(classes))]
    fewest = _FEWEST_TO_LEARN_FROM + 1
    for name, count in zip(classes, there):
        if count < fewest:
            raise DataError(
                f"the class {name} has {_counted(count)} for a search.",
                expected=f"{fewest} or more; groups and copies count as one",
                fix="leave --search away, add images of that class, or leave it out",
            )
    folds = min(SEARCH_FOLDS, *there)
    return deal_folds(labels, units, classes, folds=folds, seed=seed, nested=False)


def _counted(count: int) -> str:
    return "one image" if count == 1 else f"{count} images"
