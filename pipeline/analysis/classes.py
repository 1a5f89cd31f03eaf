"""Classes with too few images, or with far more than others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.intervals import wilson_interval

_FEW_TO_TEST = 20  # with fewer, recall may be uncertain by more than ±20 points (Wilson)
_FEW_TO_LEARN = 20  # a rule of thumb, not measured
_IMBALANCE = 0.1
_NAMED = 5


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
    nested = (splits == "test").all()
    notes = [] if nested else list(_notes_on_training(counts))
    notes += _notes_on_testing(counts, "" if nested else "test ")
    if guessing >= 1 / len(classes) + _IMBALANCE:
        notes.append(
            f"{100 * guessing:.0f} % of the images are {commonest}, so the accuracy says little "
            "about the others: look at the recall of each class."
        )
    return ClassProblems(counts, commonest, guessing, tuple(notes))


def _notes_on_training(counts: Sequence[ClassCount]) -> Iterator[str]:
    few = [count for count in counts if count.train < _FEW_TO_LEARN]
    fewest = min(few, key=lambda count: count.train, default=None)
    if fewest is None:
        return
    who = f"{fewest.name} has {fewest.train} training images; fewer than {_FEW_TO_LEARN} are"
    if len(few) > 1:
        who = (
            f"{len(few):,} classes have fewer than {_FEW_TO_LEARN} training images (the fewest: "
            f"{fewest.name}, {fewest.train}), which are"
        )
    yield f"{who} often too few to learn a class from."


def _notes_on_testing(counts: Sequence[ClassCount], kind: str) -> Iterator[str]:
    few = [count for count in counts if 0 < count.test < _FEW_TO_TEST]
    if few:
        fewest = min(few, key=lambda count: count.test)
        low, high = wilson_interval(fewest.test // 2 / fewest.test, fewest.test)
        points = f"is uncertain by up to ±{50 * (high - low):.0f} points"
        images = f"{fewest.test} {kind}{'image' if fewest.test == 1 else 'images'}"
        if len(few) == 1:
            yield f"The recall of {fewest.name} {points} ({images})."
        else:
            who = f"The recall of {len(few):,} classes"
            yield f"{who} {points} (the fewest: {fewest.name}, {images})."
    untested = [count.name for count in counts if not count.test]
    if len(untested) == 1:
        yield f"{untested[0]} has no test images, so its recall is unknown."
    elif untested:
        names = ", ".join(untested[:_NAMED]) + (", ..." if len(untested) > _NAMED else "")
        yield f"{len(untested):,} classes have no test images ({names}): their recall is unknown."
