"""Candidates of a head, each judged on rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.heads import Head


class Fold(NamedTuple):
    """Positions of the rows to fit on, and of those to judge on: two ndarrays of int64."""

    fitted: npt.NDArray[np.int64]
    judged: npt.NDArray[np.int64]


class Prepared:
    """Rows as classifiers want them: each preparation is made once, for all that share it.

    Give the same one to every call of `out_of_fold` on the same rows.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, d)
        Features, flattened.
    """

    def __init__(self, rows: npt.NDArray[np.float32]) -> None:
        self.rows = rows


def out_of_fold(
    head: Head,
    rows: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    folds: Sequence[Fold],
    *,
    grid: Sequence[Mapping[str, Any]] | None = None,
    classes: int,
    groups: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
    balanced: bool = False,
    prepared: Prepared | None = None,
    jobs: int = 1,
) -> npt.NDArray[np.float64]:
    """Give each row's probabilities, for each candidate, by fits that never saw the row.

    The same, to 1e-6, as ``head.build(seed, **parameters)`` fitted on ``rows[fitted]`` and applied
    to ``rows[judged]``.

    Parameters
    ----------
    head : Head
        What is fitted.
    rows : ndarray of float32, shape (n, d)
        Features, flattened.
    labels : ndarray of int64, shape (n,)
        Classes, 0 to `classes` - 1.
    folds : sequence of Fold
        A row that several judge has the last one's probabilities.
    grid : sequence of mapping, optional
        Candidates: parameters for ``head.build``. The default is ``head.grid``.
    classes : int
        Number of classes.
    groups : ndarray of int64, shape (n,), optional
        Rows of the same number belong together, and are not parted where a head calibrates its
        probabilities.
    seed : int
        Decides what is random in the head.
    balanced : bool
        Whether classes are to count the same, however many rows they have.
    prepared : Prepared, optional
        What other calls on the same rows have made ready.
    jobs : int
        How many fits at a time.

    Returns
    -------
    ndarray of float64, shape (len(grid), n, classes)
        NaN for rows that no fold judges; 0 for a class that a fold has no rows of to fit on.
    """
    candidates = head.grid if grid is None else grid
    found = np.full((len(candidates), len(rows), classes), np.nan)
    for fitted, judged in folds:
        options: dict[str, Any] = {"balanced": True} if balanced else {}
        if head.calibrated and groups is not None:
            options["groups"] = groups[fitted]
        for place, parameters in enumerate(candidates):
            estimator = head.build(seed, **options, **parameters)
            estimator.fit(rows[fitted], labels[fitted])
            found[place, judged] = 0
            columns = np.asarray(estimator.classes_, np.int64)
            found[place][np.ix_(judged, columns)] = estimator.predict_proba(rows[judged])
    return found
