"""What copies across splits may add to the test accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.duplicates import Pair
from pipeline.evaluation.intervals import newcombe_interval


@dataclass(frozen=True)
class Leakage:
    """How much of the test accuracy may come from test images that were as good as trained on.

    Attributes
    ----------
    copied, total : int
        Number of test images with a copy among those trained on or chosen by; and of test images,
        0 where all images are, as in cross-validation.
    accuracy_of_copied, accuracy_of_rest : float or None
        Share of these, and of the other test images, that are told right, 0 to 1. None where there
        are none.
    points, low, high : float or None
        Accuracy on all test images less that on the rest, in percentage points, and its 95 %
        interval: the share of the copied times what they have over the rest (the difference of two
        proportions, by Newcombe's hybrid score method). 0 where none is copied, None where all are.

    References
    ----------
    R. G. Newcombe, *Interval estimation for the difference between independent proportions*,
    Statistics in Medicine 17, 1998, method 10.
    """

    copied: int
    total: int
    accuracy_of_copied: float | None
    accuracy_of_rest: float | None
    points: float | None
    low: float | None
    high: float | None


def measure_leakage(
    pairs: Sequence[Pair], splits: npt.NDArray[np.str_], correct: npt.NDArray[np.bool_]
) -> Leakage:
    """Compare test images that have a copy in another split with those that have none.

    The copied ones may also be easier for another reason: what is told is what could be leakage,
    not what is.

    Parameters
    ----------
    pairs : sequence of Pair
        What `find_duplicates` found.
    splits : ndarray of str, shape (n,)
        ``"train"``, ``"validation"`` or ``"test"``.
    correct : ndarray of bool, shape (n,)
        Whether an image was told right, by a head trained on what is not test. Only test images
        are looked at.
    """
    # Where all are tested on, as in a cross-validation, none were learned from once and for all.
    is_test = (splits == "test") & np.any(splits != "test")
    ends = [place for pair in pairs if pair.across for place in (pair.first, pair.second)]
    copied = is_test & np.isin(np.arange(len(splits)), ends)
    if is_test.all():
        return Leakage(0, 0, None, None, 0.0, 0.0, 0.0)
    rest = is_test & ~copied
    count, total = int(copied.sum()), int(is_test.sum())
    of_copied, of_rest = (
        float(correct[one].mean()) if one.any() else None for one in (copied, rest)
    )
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
