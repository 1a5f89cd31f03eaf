"""Confidence intervals of proportions, in NumPy alone: a page is drawn without SciPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NORMAL_975 = 1.959964  # the normal distribution's 97.5 % quantile

Floats = npt.NDArray[np.float64]


def wilson_interval(share: npt.ArrayLike, count: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Give Wilson's 95 % interval (E. B. Wilson, JASA 22, 1927) of each of several proportions."""
    share, count = np.asarray(share, np.float64), np.asarray(count, np.float64)
    z2 = NORMAL_975**2 / count
    middle = share + z2 / 2
    half = np.sqrt(z2 * (share * (1 - share) + z2 / 4))
    low, high = (middle - half) / (1 + z2), (middle + half) / (1 + z2)
    return np.where(share == 0, 0.0, low), np.where(share == 1, 1.0, high)


@dataclass(frozen=True)
class Share:
    """How many of how many, with Wilson's 95 % interval.

    Attributes
    ----------
    hits, count : int
        So many of so many.
    effective : float, optional
        The number of independent images that tell as much, where images come in groups.
    """

    hits: int
    count: int
    effective: float | None = None

    @property
    def value(self) -> float:
        """The share, 0 to 1; NaN of nothing."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval; of nothing, 0 to 1."""
        if not self.count:
            return 0.0, 1.0
        low, high = wilson_interval(self.value, self.effective or self.count)
        return float(low), float(high)

    def __str__(self) -> str:
        if not self.count:
            return "undefined"
        low, high = self.interval
        return f"{self.value:.3f}, 95 % interval {low:.3f} to {high:.3f}"


def newcombe_interval(
    hits: int, count: int, other_hits: int, other_count: int
) -> tuple[float, float]:
    """Give the 95 % interval of the difference of two proportions.

    R. G. Newcombe, *Interval estimation for the difference between independent proportions*,
    Statistics in Medicine 17, 1998, method 10.
    """
    p, q = hits / count, other_hits / other_count
    low, high = wilson_interval([p, q], [count, other_count])
    return (
        p - q - math.hypot(p - low[0], high[1] - q),
        p - q + math.hypot(high[0] - p, q - low[1]),
    )
