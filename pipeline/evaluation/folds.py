"""Dealing images out to folds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline.errors import DataError

SEARCH_FOLDS = 5
"""Folds of a search; fewer if the smallest class has fewer images."""
_FEWEST_TO_LEARN_FROM = 2  # of each class: heads that calibrate their probabilities need them

Places = npt.NDArray[np.int64]


def deal_folds(
    labels: Places, units: Places, classes: Sequence[str], *, folds: int, seed: int, nested: bool
) -> list[Places]:
    """Deal images out to folds, each with about the same share of every class.

    Images with the same number in `units` come into the same fold. If `nested`, a second fold is
    left out of training, for choosing. Gives the positions of each fold's images, ascending.
    """
    fewest = _FEWEST_TO_LEARN_FROM + 1 + nested
    counts = _count_units(labels, units, classes)
    fewer = ", or ask for fewer folds" if min(counts.values()) >= fewest else ""
    _require(
        max(folds, fewest),
        counts,
        purpose=f"{folds} folds",
        fix=f"add images of that class, or leave it out{fewer}",
    )
    if len(np.unique(units)) == len(units):
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(units, labels)
    else:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        splits = splitter.split(units, labels, units)
    with warnings.catch_warnings():  # about classes with few images: checked below
        warnings.simplefilter("ignore", UserWarning)
        dealt = [np.asarray(held_out, np.int64) for _, held_out in splits]
    _check_training_parts(labels, dealt, classes, left_out=1 + nested)
    return dealt


def search_folds(
    labels: Places, units: Places, classes: Sequence[str], *, seed: int
) -> list[Places]:
    """Deal images out to the folds of a search: fewer of them if a class is small."""
    counts = _count_units(labels, units, classes)
    _require(
        _FEWEST_TO_LEARN_FROM + 1,
        counts,
        purpose="a search",
        fix="leave out --search and --threshold, add images of that class, or leave it out",
    )
    folds = min(SEARCH_FOLDS, *counts.values())
    return deal_folds(labels, units, classes, folds=folds, seed=seed, nested=False)


def _count_units(labels: Places, units: Places, classes: Sequence[str]) -> dict[str, int]:
    return {name: len(np.unique(units[labels == label])) for label, name in enumerate(classes)}


def _require(needed: int, counts: dict[str, int], *, purpose: str, fix: str) -> None:
    for name, count in counts.items():
        if count < needed:
            images = "1 image" if count == 1 else f"{count} images"
            raise DataError(
                f"the class {name} has {images}, too few for {purpose}",
                expected=f"{needed} or more; a group, or copies of one image, count as 1",
                fix=fix,
            )


def _check_training_parts(
    labels: Places, folds: Sequence[Places], classes: Sequence[str], *, left_out: int
) -> None:
    """Check that each class has images to learn from whichever folds are left out."""
    counts = np.array([np.bincount(labels[fold], minlength=len(classes)) for fold in folds])
    fewest = np.sort(counts, axis=0)[:-left_out].sum(axis=0)
    few = np.flatnonzero(fewest < _FEWEST_TO_LEARN_FROM)
    if few.size or not all(map(len, folds)):
        concerned = f"the class {classes[few[0]]}" if few.size else "a fold"
        raise DataError(
            f"{len(folds)} folds leave too few images for {concerned}: groups are not split up",
            expected=f"{_FEWEST_TO_LEARN_FROM} or more images of each class to learn from",
            fix="give smaller groups",
        )
