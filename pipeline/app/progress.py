"""How far a labelling is, and whether it may stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.intervals import Share

Places = npt.NDArray[np.integer]


@dataclass(frozen=True)
class LabellingState:
    """How far the labelling is.

    Attributes
    ----------
    counts : dict of str to int
        Classes, and how many images have each label.
    labelled, unlabelled : int
        Numbers of images.
    answered : int
        Answers since the data set was opened, less those that were taken back.
    accuracy : Share or None
        How many labelled images a classifier that did not learn from them predicts correctly, with
        a 95 % interval. The images that are asked about are the hard ones, so it says rather too
        little. None while there are too few labels.
    history : tuple of (int, Share)
        The number of labelled images and the accuracy after each answer.
    agreement : float or None
        Cohen's kappa of the classes that are predicted now and 50 answers ago, for the images that
        have no label.
    may_stop : bool
        Whether the last 50 answers changed nothing: the agreement is 0.99 or more, as M. Bloodgood
        and K. Vijay-Shanker propose (*A method for stopping active learning based on stabilizing
        predictions*, CoNLL 2009), and the accuracy is within its interval of then.
    unwritten : str
        Why the file of labels could not be written; answers are safe in its journal.
    """

    counts: dict[str, int]
    labelled: int
    unlabelled: int
    answered: int
    accuracy: Share | None
    history: tuple[tuple[int, Share], ...]
    agreement: float | None
    may_stop: bool
    unwritten: str = ""


@dataclass(frozen=True)
class Moment:
    """What the classifier said after an answer."""

    labelled: int
    accuracy: Share | None
    predicted: Places | None


def agreement_of(before: Moment, now: Moment, unlabelled: npt.NDArray[np.bool_]) -> float:
    """Give Cohen's kappa of what is predicted for images without a label; 1 where all are one."""
    if before.predicted is None or now.predicted is None:
        return 0.0
    first, second = before.predicted[unlabelled], now.predicted[unlabelled]
    if not len(first):
        return 1.0
    same = float((first == second).mean())
    most = int(max(first.max(), second.max())) + 1
    shares = [np.bincount(each, minlength=most) / len(each) for each in (first, second)]
    by_chance = float(shares[0] @ shares[1])
    return 1.0 if same == 1 else (same - by_chance) / (1 - by_chance)


def is_steady(before: Moment, now: Moment) -> bool:
    """Tell whether the accuracy is within its interval of before."""
    if before.accuracy is None or now.accuracy is None:
        return False
    low, high = before.accuracy.interval
    return low <= now.accuracy.value <= high
