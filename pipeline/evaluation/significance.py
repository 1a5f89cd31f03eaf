"""Whether two classifiers, tested on the same images, differ by more than chance.

In NumPy and the standard library, with SciPy for one function: importing scikit-learn takes longer
than drawing a whole page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

NOISE = 0.05
"""A difference with a p-value of this or more is within noise."""


@dataclass(frozen=True)
class Disagreement:
    """How two classifiers differ on the same rows.

    Attributes
    ----------
    only_first, only_second : int
        Rows that only this classifier predicts correctly.
    p : float
        p-value of McNemar's exact test (two-sided binomial): the probability of counts at least as
        uneven if both were equally good.
    """

    only_first: int
    only_second: int
    p: float


def disagreement(first: npt.ArrayLike, second: npt.ArrayLike) -> Disagreement:
    """Compare two classifiers by which of the same test rows each predicts correctly.

    `first` and `second` are boolean, of shape (n,). Q. McNemar, *Psychometrika* 12, 1947; the exact
    form as in T. G. Dietterich, *Neural Computation* 10, 1998.
    """
    right, other = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int(np.sum(right & ~other)), int(np.sum(other & ~right))
    n = only_first + only_second
    ways, tail = 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return Disagreement(only_first, only_second, min(1.0, 2 * tail / 2**n))


def sign_flip_test(
    first: npt.ArrayLike, second: npt.ArrayLike, groups: npt.NDArray[np.int64]
) -> float:
    """Compare two classifiers where the rows of a group are not independent; give the p-value.

    If both were equally good, the difference of the numbers of correct rows would have either sign
    with the same probability, for each group. All combinations of signs are counted, so the
    two-sided p-value is exact; with each row in its own group, it is that of McNemar's test.
    `first` and `second` are boolean, of shape (n,), as for `disagreement`; `groups` are numbers of
    0 or more. R. A. Fisher, *The Design of Experiments*, 1935, section 21.
    """
    differences = np.asarray(first, np.int64) - np.asarray(second, np.int64)
    by_group = np.bincount(groups, differences).astype(np.int64)
    sizes = np.abs(by_group[by_group != 0])
    probability = np.ones(1)  # of each sum of differences, from the lowest to the highest
    for size in sizes:
        shift = np.zeros(2 * size)
        probability = (np.append(probability, shift) + np.append(shift, probability)) / 2
    sums = np.arange(len(probability)) - sizes.sum()
    return min(1.0, float(probability[np.abs(sums) >= abs(by_group.sum())].sum()))


def corrected_t_test(differences: Sequence[float], *, folds: int) -> float:
    """Compare two classifiers by their difference in each fold of each repeat; give the p-value.

    The folds of a cross-validation share most of their training rows, so the ordinary t test finds
    differences too often where there are none. This one widens the variance by the ratio of test to
    training rows, 1 to `folds` - 1. Two-sided. C. Nadeau, Y. Bengio, *Inference for the
    generalization error*, Machine Learning 52, 2003; for repeated cross-validation as in
    R. R. Bouckaert, E. Frank, PAKDD 2004.
    """
    from scipy.special import stdtr

    values = np.asarray(differences, np.float64)
    mean, count = float(values.mean()), len(values)
    spread = math.sqrt((1 / count + 1 / (folds - 1)) * float(values.var(ddof=1)))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(count - 1, -abs(mean / spread)))


def p_text(p: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def noise_verdict(p: float) -> str:
    """Say whether a difference with this p-value is within noise."""
    return "within noise" if p >= NOISE else "more than noise"


@dataclass(frozen=True)
class Comparison:
    """The best head compared with the runner-up, on the same images.

    Attributes
    ----------
    first, second : str
        Names of the heads; `first` is the best.
    points : float
        Accuracy of the first minus that of the second, in percentage points.
    p : float
        Probability of a difference at least as large if both were equally good.
    test : str
        Name of the test that gave `p`.
    sentence : str
        All of it in a sentence.
    """

    first: str
    second: str
    points: float
    p: float
    test: str
    sentence: str = field(init=False)

    def __post_init__(self) -> None:
        sentence = (
            f"{self.first} and {self.second} differ by {abs(self.points):.1f} points of accuracy: "
            f"{noise_verdict(self.p)} ({self.test}, {p_text(self.p)})."
        )
        object.__setattr__(self, "sentence", sentence)
