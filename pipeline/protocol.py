"""Who is fitted on what, chosen by what and judged on what: the settings, and the folds.

Every head gets the same images, folds and seeds. Images of one group, and files with the same
bytes, are never parted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline.dataset import Dataset
from pipeline.errors import DataError, PipelineError
from pipeline.evaluate.threshold import Aim
from pipeline.problems import QUICK, find_duplicates, join_groups
from pipeline.problems.duplicates import number_groups
from pipeline.problems.neighbours import Neighbours, Rows

SEARCH_FOLDS = 5
"""Folds of a search, or as many as the smallest class has images."""

_MOST_COPIES = 10  # of one picture; where more are alike, it is what the pictures are of
_FEWEST_FOLDS = 3  # of nested ones: one to test on, one to choose by, one to learn from
_FEWEST_TO_LEARN_FROM = 2  # of each class: heads that calibrate their probabilities need them

Places = npt.NDArray[np.int64]


class Shares(TypedDict, total=False):
    """Shares of the splits, as `pipeline.dataset.load_dataset` takes them."""

    validation: float
    test: float


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How heads are fitted, chosen and judged.

    As it stands: candidates are fitted on the training split, compared by their log loss on the
    validation split, the best is fitted again on both, and judged once on the test split.

    Attributes
    ----------
    search : bool
        Compare candidates by cross-validation on training and validation images together.
    cv : int or None
        Nested cross-validation with this number of folds in place of the splits: every image is
        tested on once, by a fit that was chosen and made without it. The model that is kept is
        fitted on all images.
    repeats : int
        How often that is done, with other folds and seeds.
    threshold : str or None
        Aim of a threshold for two classes; see `pipeline.evaluate.threshold.Aim`.
    positive : str or None
        The class whose probability that is; the default is the second.
    balanced : bool
        Whether all classes count the same in training, however many images they have.
    """

    search: bool = False
    cv: int | None = None
    repeats: int = 1
    threshold: str | None = None
    positive: str | None = None
    balanced: bool = False

    def __post_init__(self) -> None:
        if self.cv is not None and self.cv < _FEWEST_FOLDS:
            raise PipelineError(
                f"{self.cv} folds are too few.",
                expected=f"{_FEWEST_FOLDS} or more: to test on, to choose by and to learn from",
            )
        if self.repeats < 1 or (self.repeats > 1 and self.cv is None):
            raise PipelineError(
                f"{self.repeats} repeats.", expected="1 or more, of a cross-validation (--cv 5)"
            )
        if self.threshold is not None:
            Aim.from_text(self.threshold)
        elif self.positive is not None:
            raise PipelineError(
                "a positive class is for a threshold only.", fix="give --threshold f1, say"
            )

    @property
    def shares(self) -> Shares:
        """Shares of the splits for `load_dataset`, where none are to be drawn; else its own."""
        return {} if self.cv is None else {"validation": 0.0, "test": 0.0}

    @property
    def aim(self) -> Aim | None:
        """What the threshold is to be chosen for."""
        return None if self.threshold is None else Aim.from_text(self.threshold)

    def check(self, dataset: Dataset) -> Dataset:
        """Refuse a data set that cannot be judged so; give it with the splits that are used.

        Raises
        ------
        PipelineError
            A split is empty, or a threshold is wanted, and does not fit the classes.
        """
        self.positive_of(dataset.classes)
        if self.cv is not None:
            return dataset.all_in("train")  # all may be learned from, in all their views
        dataset.require_all_splits()
        return dataset

    def positive_of(self, classes: Sequence[str]) -> int:
        """Give the number of the positive class.

        Raises
        ------
        PipelineError
            A threshold is wanted, and there are more than two classes, or none of that name.
        """
        if self.threshold is not None and len(classes) != 2:
            raise PipelineError(
                f"there are {len(classes)} classes.", expected="two, for a threshold between them"
            )
        if self.positive is not None and self.positive not in classes:
            raise PipelineError(
                f"there is no class {self.positive!r}.", expected=f"one of {', '.join(classes)}"
            )
        return 1 if self.positive is None else list(classes).index(self.positive)

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain values, ready for JSON."""
        return asdict(self)


def find_units(
    dataset: Dataset, rows: Rows | None = None, neighbours: Neighbours | None = None
) -> Places:
    """Give a number to each image, shape (n,): those of the same number must not be parted.

    With rows, their features, of shape (n, ...), images that are nearly the same are not parted
    either; but more than ten of those are alike, and no copies of one. Above 20,000 images that is
    left out, as it takes time that grows with their square. What is known of neighbours is not
    found again.
    """
    number = {digest: place for place, digest in enumerate(dataset.digests)}
    of_bytes = np.array([number[digest] for digest in dataset.digests], np.int64)
    together = [of_bytes]
    if dataset.groups:
        together.append(number_groups(dataset.groups))
    if rows is not None and len(rows) <= QUICK:
        labels, splits = dataset.labels, dataset.splits
        found = find_duplicates(rows, dataset.digests, labels, splits, neighbours=neighbours)
        copies = found.groups
        alone = len(rows) + np.arange(len(rows))
        _, copy, count = np.unique(copies, return_inverse=True, return_counts=True)
        together.append(np.where(count[copy] <= _MOST_COPIES, copies, alone))
    return join_groups(*together)


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
