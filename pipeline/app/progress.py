"""How far a labelling is, and whether it may stop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.analysis.active_learning import NONE, ActiveLearner
from pipeline.evaluation.intervals import Share

Places = npt.NDArray[np.integer]

WINDOW = 50
"""So many labels must have changed nothing, so that one may stop."""

_AGREEMENT = 0.99
_FEWEST_TO_JUDGE = 10
_FEWEST_OF_A_CLASS = 5  # so that some are in each split


@dataclass(frozen=True)
class LabellingState:
    """How far the labelling is.

    Attributes
    ----------
    counts : dict of str to int
        Classes, and how many images have each label.
    labelled, unlabelled : int
        Numbers of images.
    added : int
        How many images were given a label that have none in the data set.
    answered : int
        Answers since the data set was opened, less those that were taken back.
    accuracy : Share or None
        How many labelled images a classifier that did not learn from them predicts correctly, with
        a 95 % interval. The images that are asked about are the hard ones, so it says rather too
        little. None while there are too few labels.
    history : tuple of (int, Share)
        The number of labelled images and the accuracy after each answer.
    agreement : float or None
        Cohen's kappa of the classes that are predicted now and 50 labels ago, whoever gave these
        and when, for the images that have no label. Shortly after a start it may be some more than
        50.
    may_stop : bool
        Whether these last labels changed nothing: the agreement is 0.99 or more, as M. Bloodgood
        and K. Vijay-Shanker propose (*A method for stopping active learning based on stabilizing
        predictions*, CoNLL 2009), and the accuracy is within its interval of then.
    unwritten : str
        Why the file of labels could not be written; answers are safe in its journal.
    """

    counts: dict[str, int]
    labelled: int
    unlabelled: int
    added: int
    answered: int
    accuracy: Share | None
    history: tuple[tuple[int, Share], ...]
    agreement: float | None
    may_stop: bool
    unwritten: str = ""

    @property
    def may_train(self) -> bool:
        """Whether there are two classes or more, and five labels of each, to train on."""
        used = [count for count in self.counts.values() if count]
        return len(used) > 1 and min(used) >= _FEWEST_OF_A_CLASS


@dataclass(frozen=True)
class Moment:
    """What the classifier said after an answer."""

    labelled: int
    accuracy: Share | None
    predicted: Places | None

    @classmethod
    def of(cls, learner: ActiveLearner, labels: Places) -> Moment:
        """Ask a classifier; `labels` are of all images, also of those that it did not learn."""
        labelled = int(np.count_nonzero(labels != NONE))
        if len(learner.classes) < 2:
            return cls(labelled, None, None)
        accuracy = None
        if np.count_nonzero(learner.labels != NONE) >= _FEWEST_TO_JUDGE:
            places, predicted = learner.held_out()
            accuracy = Share(int(np.count_nonzero(labels[places] == predicted)), len(places))
        return cls(labelled, accuracy, learner.predicted().astype(np.int32))


class Progress:
    """What the classifier said with one number of labels after another.

    Parameters
    ----------
    unlabelled : int
        How many images have no label in the data set.
    """

    def __init__(self, unlabelled: int) -> None:
        self._at_first = unlabelled
        self._moments: list[Moment] = []

    @property
    def now(self) -> Moment:
        """What it says now."""
        return self._moments[-1]

    def keep(self, moment: Moment) -> None:
        """Add what it says now, in place of what it said with as many labels, or more.

        What it predicted is kept of the last 50 labels only: that is large.
        """
        older = [each for each in self._moments if each.labelled < moment.labelled]
        self._moments = [*older, moment]
        for at in range(self._before()):
            if self._moments[at].predicted is not None:
                self._moments[at] = replace(self._moments[at], predicted=None)

    def state(
        self,
        counts: dict[str, int],
        missing: npt.NDArray[np.bool_],
        *,
        answered: int,
        unwritten: str,
    ) -> LabellingState:
        """Tell how far the labelling is; `missing` are the images without a label."""
        now, at = self.now, self._before()
        before = self._moments[at] if at >= 0 and self._moments[at].predicted is not None else None
        agreement = agreement_of(before, now, missing) if before else None
        steady = before is not None and is_steady(before, now)
        unlabelled = len(missing) - now.labelled
        return LabellingState(
            counts=counts,
            labelled=now.labelled,
            unlabelled=unlabelled,
            added=self._at_first - unlabelled,
            answered=answered,
            accuracy=now.accuracy,
            history=tuple((m.labelled, m.accuracy) for m in self._moments if m.accuracy),
            agreement=agreement,
            may_stop=(agreement or 0) >= _AGREEMENT and steady,
            unwritten=unwritten,
        )

    def _before(self) -> int:
        """Find the last moment that had 50 labels fewer, or more than that; -1 if there is none."""
        most = self.now.labelled - WINDOW
        return sum(each.labelled <= most for each in self._moments) - 1


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
