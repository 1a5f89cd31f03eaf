"""How much copies across splits may add to the test accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.duplicates import DuplicatePair
from pipeline.evaluation.intervals import newcombe_interval


@dataclass(frozen=True)
class Leakage:
    """How much of the test accuracy may be due to test images with a copy in training.

    Attributes
    ----------
    copied, total : int
        Number of test images with a copy in the training or validation split, and of all test
        images; 0 in cross-validation, where every image is tested.
    accuracy_of_copied, accuracy_of_rest : float or None
        Share of these, and of the other test images, that are classified correctly, 0 to 1. None
        where there are none.
    points, low, high : float or None
        Accuracy on all test images minus that on the rest, in percentage points, and its 95 %
        interval: the share of copied images times the difference of the two accuracies, whose
        interval is Newcombe's. 0 if no image is copied, None if all are.
    """

    copied: int
    total: int
    accuracy_of_copied: float | None
    accuracy_of_rest: float | None
    points: float | None
    low: float | None
    high: float | None

    @property
    def matters(self) -> bool:
        """Whether copies may account for a point of accuracy, or for more than noise."""
        if not self.copied or self.points is None or self.low is None:
            return self.copied > 0
        return self.points >= 1 or self.low > 0


def measure_leakage(
    pairs: Sequence[DuplicatePair], splits: npt.NDArray[np.str_], correct: npt.NDArray[np.bool_]
) -> Leakage:
    """Compare test images that have a copy in another split with those that have none.

    The copied images may also be easier for another reason, so this is what leakage may add, not
    what it does add. `correct`, of shape (n,), tells which images a head classifies correctly that
    was trained without the test images; only test images matter.
    """
    # In cross-validation every image is tested, and none is trained on once and for all.
    is_test = (splits == "test") & np.any(splits != "test")
    ends = [place for pair in pairs if pair.across for place in (pair.first, pair.second)]
    copied = is_test & np.isin(np.arange(len(splits)), ends)
    rest = is_test & ~copied
    count, total = int(copied.sum()), int(is_test.sum())
    of_copied = float(correct[copied].mean()) if count else None
    of_rest = float(correct[rest].mean()) if total > count else None
    if of_copied is None:
        return Leakage(count, total, of_copied, of_rest, 0.0, 0.0, 0.0)
    if of_rest is None:
        return Leakage(count, total, of_copied, of_rest, None, None, None)
    low, high = newcombe_interval(
        int(correct[copied].sum()), count, int(correct[rest].sum()), total - count
    )
    share = 100 * count / total
    points = share * (of_copied - of_rest)
    return Leakage(count, total, of_copied, of_rest, points, share * low, share * high)
