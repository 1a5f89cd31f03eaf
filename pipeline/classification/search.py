"""Candidates of a head, each judged on rows that it was not fitted on.

A head is a few steps that make each row ready by itself (pooling, length one, sparse), and a
classifier. So the steps are taken once, for all candidates and folds that share them; where the
classifier looks at inner products, these are computed once too, and folds are slices of them.
Fits run in threads, which share all of this: there is no copy a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline.errors import PipelineError
from pipeline.heads import GramClassifier, Head
from pipeline.heads.gram import fits_at_a_time, inner_products


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

    Raises
    ------
    PipelineError
        A row holds NaN or infinity.
    """

    def __init__(self, rows: npt.NDArray[np.float32]) -> None:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise PipelineError(
                f"{len(bad)} of {len(rows)} rows of features are not finite; "
                f"the first is {bad[0]}.",
                expected="numbers.",
                fix="make these features again.",
            )
        self.rows = rows
        self._ready: dict[str, Any] = {}
        self._products: dict[str, npt.NDArray[np.float64]] = {}

    def ready(self, steps: Pipeline) -> Any:
        """Take steps that look at each row by itself; give the matrix that comes of them."""
        key = joblib.hash(steps)
        if key not in self._ready:
            self._ready[key] = steps.transform(self.rows)
        return self._ready[key]

    def products(self, steps: Pipeline) -> npt.NDArray[np.float64]:
        """Give the inner products (n, n) of the rows after these steps."""
        key = joblib.hash(steps)
        if key not in self._products:
            self._products[key] = inner_products(self.ready(steps))
        return self._products[key]


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
        How many fits at a time; fewer where those on inner products would not fit into memory.

    Returns
    -------
    ndarray of float64, shape (len(grid), n, classes)
        NaN for rows that no fold judges; 0 for a class that a fold has no rows of to fit on.
    """
    candidates = head.grid if grid is None else grid
    prepared = Prepared(rows) if prepared is None else prepared
    found = np.full((len(candidates), len(rows), classes), np.nan)

    def judge(place: int, fold: Fold) -> None:
        options: dict[str, Any] = {"balanced": True} if balanced else {}
        if head.calibrated and groups is not None:
            options["groups"] = groups[fold.fitted]
        estimator = head.build(seed, **options, **candidates[place])
        proba, columns = _judge(estimator, prepared, labels, fold)
        found[place, fold.judged] = 0
        found[place][np.ix_(fold.judged, columns)] = proba

    tasks = [(place, fold) for place in range(len(candidates)) for fold in folds]
    if jobs == 1 or head.early_stopping:  # TensorFlow uses all cores by itself
        for place, fold in tasks:
            judge(place, fold)
    else:
        estimators = [head.build(seed, **parameters) for parameters in candidates]
        for estimator in estimators:
            _prepare(estimator, prepared)
        if any(map(_on_products, estimators)):
            jobs = fits_at_a_time(len(rows), jobs)
        with threadpool_limits(1):
            joblib.Parallel(jobs, require="sharedmem")(
                joblib.delayed(judge)(place, fold) for place, fold in tasks
            )
    return found


def _on_products(estimator: Any) -> bool:
    return isinstance(estimator, Pipeline) and isinstance(estimator[-1], GramClassifier)


def _prepare(estimator: Any, prepared: Prepared) -> None:
    """Make ready what threads would else make at the same time."""
    if not isinstance(estimator, Pipeline):
        return
    if _on_products(estimator):
        prepared.products(estimator[:-1])
    else:
        prepared.ready(estimator[:-1])


def _judge(
    estimator: Any, prepared: Prepared, labels: npt.NDArray[np.int64], fold: Fold
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Fit on a fold; give probabilities of the rows to judge, and the classes they are for."""
    fitted, judged = fold
    if not isinstance(estimator, Pipeline):  # a network takes rows as they are
        estimator.fit(prepared.rows[fitted], labels[fitted])
        return estimator.predict_proba(prepared.rows[judged]), estimator.classes_
    steps, classifier = estimator[:-1], estimator[-1]
    rows = prepared.ready(steps)
    if isinstance(classifier, GramClassifier):
        products = prepared.products(steps)
        classifier.fit_products(products[np.ix_(fitted, fitted)], labels[fitted], rows.shape[1])
        squares = products[judged, judged]
        proba = classifier.predict_products(products[np.ix_(judged, fitted)], squares)
    else:
        proba = classifier.fit(rows[fitted], labels[fitted]).predict_proba(rows[judged])
    return proba, classifier.classes_
