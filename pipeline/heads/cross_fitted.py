"""What to judge a network by on the rows that its training stops by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-7  # smaller probabilities count as this


class CrossFitted:
    """Probabilities of rows that decide when training stops: each by what suits the other half.

    By the epoch that suits a row itself, it looks better than new rows do: see
    docs/decisions/0026-dense-on-standardised-rows.md.

    Parameters
    ----------
    codes : ndarray of int64, shape (m,)
        The rows' classes, as column numbers of `p`.
    seed : int
        Decides the halves.

    Attributes
    ----------
    p : ndarray, shape (m, k)
        The probabilities so far.
    """

    def __init__(self, codes: NDArray[Any], seed: int) -> None:
        self.p: NDArray[np.floating] = np.empty((len(codes), 0))
        self._codes = codes
        order = np.random.default_rng(seed).permutation(len(codes))
        one, other = order[::2], order[1::2] if len(codes) > 1 else order
        self._halves, self._least = ((one, other), (other, one)), [math.inf, math.inf]

    def see(self, p: NDArray[np.floating]) -> None:
        """Take in what the network says after an epoch."""
        self.p = self.p if self.p.size else p.copy()
        for at, (half, others) in enumerate(self._halves):
            loss = -float(np.log(np.maximum(p[half, self._codes[half]], _LEAST)).mean())
            if loss < self._least[at]:
                self._least[at], self.p[others] = loss, p[others]
