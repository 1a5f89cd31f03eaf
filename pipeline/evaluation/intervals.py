"""Confidence intervals of proportions."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

NORMAL_975 = 1.959964  # 97.5 % of a normal distribution lie below


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Give Wilson's interval, of a number that need not be whole."""
    z2 = NORMAL_975**2 / count
    middle = share + z2 / 2
    half = float(np.sqrt(z2 * (share * (1 - share) + z2 / 4)))
    low, high = (middle - half) / (1 + z2), (middle + half) / (1 + z2)
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def newcombe_interval(
    hits: int, count: int, other_hits: int, other_count: int
) -> tuple[float, float]:
    """Give the 95 % interval of the difference of two proportions."""
    p, q = hits / count, other_hits / other_count
    one, other = (
        binomtest(h, n).proportion_ci(0.95, method="wilson")
        for h, n in ((hits, count), (other_hits, other_count))
    )
    return (
        p - q - float(np.hypot(p - one.low, other.high - q)),
        p - q + float(np.hypot(one.high - p, q - other.low)),
    )
