"""Classes of which there are too few images, or far more than of others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

FEW_TO_TEST = 20
"""Test images of a class below which its recall is known to no better than ± 20 points (Wilson)."""

FEW_TO_LEARN = 20
"""Training images of a class that it should have: a rule of thumb, not measured."""

_EASY_POINTS = 0.1


@dataclass(frozen=True)
class ClassCount:
    """How many images there are of a class.

    Attributes
    ----------
    name : str
        Name of the class.
    train, validation, test : int
        Number of its images in each split.
    """

    name: str
    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class ClassProblems:
    """What the numbers of images do not allow.

    Attributes
    ----------
    counts : tuple of ClassCount
        For each class.
    commonest : str
        The class of which most images are.
    guessing : float
        Share of all images that are of it: the accuracy of always guessing it, 0 to 1.
    notes : tuple of str
        What is to be noted, a sentence each; empty where nothing is.
    """

    counts: tuple[ClassCount, ...]
    commonest: str
    guessing: float
    notes: tuple[str, ...]


def find_class_problems(
    labels: npt.NDArray[np.int64], splits: npt.NDArray[np.str_], classes: tuple[str, ...]
) -> ClassProblems:
    """Find classes that cannot be learned or judged well, and say if one outnumbers the others.

    Imbalance is noted where always guessing the commonest class is right at least 10 points more
    often than guessing at random among the classes.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Classes, an index into `classes`; n is at least 1.
    splits : ndarray of str, shape (n,)
        ``"train"``, ``"validation"`` or ``"test"``; all of them test in cross-validation, where
        there is no number of training images to note.
    classes : tuple of str
        Names of the classes.
    """
    numbers = {
        split: np.bincount(labels[splits == split], minlength=len(classes))
        for split in ("train", "validation", "test")
    }
    counts = tuple(
        ClassCount(name, *(int(numbers[split][place]) for split in numbers))
        for place, name in enumerate(classes)
    )
    total = np.bincount(labels, minlength=len(classes))
    commonest = classes[int(total.argmax())]
    guessing = float(total.max() / total.sum())
    notes = [note for count in counts for note in _notes(count)]
    if not (splits == "test").all():
        notes = [note for count in counts for note in _notes_on_learning(count)] + notes
    if guessing >= 1 / len(classes) + _EASY_POINTS:
        notes.append(
            f"{guessing:.0%} of the images are {commonest}: always guessing that has an accuracy "
            f"of {guessing:.3f}, so look at the balanced accuracy too."
        )
    return ClassProblems(counts, commonest, guessing, tuple(notes))


def _notes_on_learning(count: ClassCount) -> list[str]:
    if count.train >= FEW_TO_LEARN:
        return []
    few = f"{count.name} has {count.train} training images"
    return [f"{few}: with fewer than {FEW_TO_LEARN}, it is hard to learn."]


def _notes(count: ClassCount) -> list[str]:
    notes = []
    if count.test == 0:
        notes.append(f"{count.name} has no test images: nothing is known of how well it is told.")
    elif count.test < FEW_TO_TEST:
        interval = binomtest(count.test // 2, count.test).proportion_ci(0.95, method="wilson")
        notes.append(
            f"{count.name} has {count.test} test images: how often it is told right may be off by "
            f"{50 * (interval.high - interval.low):.0f} points by chance."
        )
    return notes
