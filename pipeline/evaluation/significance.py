"""Whether two classifiers differ by more than chance, from what they got right of the same images.

In NumPy and the standard library, SciPy for one function: a page is drawn in a fraction of the time
that importing scikit-learn takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NOISE = 0.05
"""The p-value from which on a difference passes for noise."""


@dataclass(frozen=True)
class Disagreement:
    """Two classifiers on the same rows.

    Attributes
    ----------
    only_first, only_second : int
        Rows that one gets right and the other does not.
    p : float
        McNemar's exact test (two-sided binomial): how probable so uneven a split would be if both
        were equally good.
    """

    only_first: int
    only_second: int
    p: float


def disagreement(first: npt.ArrayLike, second: npt.ArrayLike) -> Disagreement:
    """Tell whether two classifiers differ, from which of the same rows each gets right.

    For one split into training and test rows.

    Parameters
    ----------
    first, second : array-like of bool, shape (n,)
        Which rows are called what they are.

    References
    ----------
    Q. McNemar, *Psychometrika* 12, 1947; the exact form as in T. G. Dietterich, *Neural
    Computation* 10, 1998.
    """
    one, other = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int(np.sum(one & ~other)), int(np.sum(other & ~one))
    n = only_first + only_second
    ways, tail = 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return Disagreement(only_first, only_second, min(1.0, 2 * tail / 2**n))


def sign_flip_test(
    first: npt.ArrayLike, second: npt.ArrayLike, groups: npt.NDArray[np.int64]
) -> float:
    """Tell whether two classifiers differ, where rows of a group are no independent evidence.

    If both were equally good, each group's difference in the number of rows that are right could
    as well have the other sign. All ways to choose the signs are counted, so that p is exact;
    where each row is its own group, it is that of McNemar's test.

    Parameters
    ----------
    first, second : array-like of bool, shape (n,)
        Which rows are called what they are.
    groups : ndarray of int64, shape (n,)
        Rows of the same number, 0 or more, belong together.

    Returns
    -------
    float
        The two-sided p-value; 1 where no group differs.

    References
    ----------
    R. A. Fisher, *The Design of Experiments*, 1935, section 21.
    """
    differences = np.asarray(first, np.int64) - np.asarray(second, np.int64)
    of_group = np.bincount(groups, differences).astype(np.int64)
    sizes = np.abs(of_group[of_group != 0])
    share = np.ones(1)  # of all ways, for each sum from the lowest to the highest
    for size in sizes:
        nothing = np.zeros(2 * size)
        share = (np.append(share, nothing) + np.append(nothing, share)) / 2
    sums = np.arange(len(share)) - sizes.sum()
    return min(1.0, float(share[np.abs(sums) >= abs(of_group.sum())].sum()))


def corrected_t_test(differences: Sequence[float], *, folds: int) -> float:
    """Tell whether two classifiers differ, from the differences of their figures by fold.

    The folds of a cross-validation share most of their training rows, so the ordinary t test takes
    chance for a difference too often. This one widens the variance by the ratio of test to
    training rows, which is 1 to `folds` - 1.

    Parameters
    ----------
    differences : sequence of float
        Of each fold of each repeat: the figure of one less that of the other.
    folds : int
        Number of folds of a repeat: 2 or more.

    Returns
    -------
    float
        The two-sided p-value; 1 where all differences are 0.

    References
    ----------
    C. Nadeau, Y. Bengio, *Inference for the generalization error*, Machine Learning 52, 2003; for
    repeated cross-validation as in R. R. Bouckaert, E. Frank, PAKDD 2004.
    """
    from scipy.special import stdtr

    found = np.asarray(differences, np.float64)
    mean, count = float(found.mean()), len(found)
    spread = math.sqrt((1 / count + 1 / (folds - 1)) * float(found.var(ddof=1)))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(count - 1, -abs(mean / spread)))


@dataclass(frozen=True)
class Comparison:
    """The best head against the runner-up, on the same images.

    Attributes
    ----------
    first, second : str
        Their names; `first` is the one that was chosen.
    points : float
        Accuracy of the first less that of the second, in percentage points.
    p : float
        How probable so large a difference would be if both were equally good.
    test : str
        What gave `p`.
    """

    first: str
    second: str
    points: float
    p: float
    test: str

    @property
    def sentence(self) -> str:
        """Say it in a sentence."""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        verdict = "within noise" if self.p >= NOISE else "more than noise"
        return (
            f"{self.first} and {self.second} differ by {abs(self.points):.1f} points of accuracy: "
            f"{verdict} ({self.test}, {p})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as plain values, ready for JSON."""
        return {**asdict(self), "sentence": self.sentence}
