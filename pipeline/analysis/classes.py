"""Classes with too few images, or with far more than others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.intervals import wilson_interval

_FEW_TO_TEST = 20  # with fewer, recall may be uncertain by more than ±20 points (Wilson)
_FEW_TO_LEARN = 20  # a rule of thumb, not measured
_IMBALANCE = 0.1


@dataclass(frozen=True)
class ClassCount:
    """How many images a class has.

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
    """What the numbers of images mean for learning and testing.

    Attributes
    ----------
    counts : tuple of ClassCount
        For each class.
    commonest : str
        The class with the most images.
    guessing : float
        Its share of all images, 0 to 1: the accuracy of always guessing it.
    notes : tuple of str
        Problems, a sentence each.
    """

    counts: tuple[ClassCount, ...]
    commonest: str
    guessing: float
    notes: tuple[str, ...]


def find_class_problems(
    labels: npt.NDArray[np.int64], splits: npt.NDArray[np.str_], classes: tuple[str, ...]
) -> ClassProblems:
    """Find classes with too few images to learn or test, and a class that outnumbers the others.

    There is a note on imbalance if always guessing the commonest class is at least 10 points more
    accurate than guessing at random. In cross-validation, where all splits are ``"test"``, there
    are no notes on the number of training images. Needs at least one image.
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
    notes = [] if (splits == "test").all() else list(_notes_on_training(counts))
    notes += _notes_on_testing(counts)
    if guessing >= 1 / len(classes) + _IMBALANCE:
        notes.append(
            f"{100 * guessing:.0f} % of the images are {commonest}: always guessing {commonest} "
            f"has an accuracy of {guessing:.3f}, so look at the balanced accuracy as well."
        )
    return ClassProblems(counts, commonest, guessing, tuple(notes))


def _notes_on_training(counts: Iterable[ClassCount]) -> Iterator[str]:
    for count in counts:
        if count.train < _FEW_TO_LEARN:
            yield (
                f"{count.name} has {count.train} training images; fewer than {_FEW_TO_LEARN} are "
                "often too few to learn a class from."
            )


def _notes_on_testing(counts: Iterable[ClassCount]) -> Iterator[str]:
    for count in counts:
        if count.test == 0:
            yield f"{count.name} has no test images, so its recall is unknown."
        elif count.test < _FEW_TO_TEST:
            low, high = wilson_interval(count.test // 2 / count.test, count.test)
            yield (
                f"The recall of {count.name} is uncertain by up to ±{50 * (high - low):.0f} points "
                f"({count.test} test images)."
            )
