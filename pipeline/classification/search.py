"""Candidates of a head, each judged on rows that it was not fitted on.

A head is a few steps that make each row ready by itself (pooling, length one, sparse), and a
classifier. So the steps are taken once, for all candidates and folds that share them; where the
classifier looks at inner products, these are computed once too, and folds are slices of them.
Fits run in threads, which share all of this: there is no copy a fit. Or they run elsewhere, where
it was brought to before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import joblib
import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline.errors import PipelineError
from pipeline.heads.products import GramClassifier, fits_at_a_time, inner_products
from pipeline.heads.registry import Head

Floats = npt.NDArray[np.float64]

Spread = Callable[..., AbstractContextManager[Sequence[Any]]]
"""Brings what many fits share to where joblib makes them while the context lasts, and gives what to
hand to each fit in its place: `pipeline.features.cluster.Cluster.spread`."""


class Fold(NamedTuple):
    """Positions of the rows to fit on, and of those to judge on: two ndarrays of int64."""

    fitted: npt.NDArray[np.int64]
    judged: npt.NDArray[np.int64]


class Material(NamedTuple):
    """What a head's classifier is fitted on: rows, or their inner products.

    Attributes
    ----------
    values : ndarray or csr_array, shape (n, d), or ndarray of float64, shape (n, n)
        All of them; a fold takes its own.
    width : int
        Number of values of a row.
    of_products : bool
        Whether they are inner products.
    """

    values: Any
    width: int
    of_products: bool


class Fit(NamedTuple):
    """What one fit has for itself.

    A tuple also since joblib, on a cluster, lays larger arguments down at one worker, with whose
    death they would be lost; what is in a tuple goes with the task.
    """

    classifier: Any
    fold: Fold
    labels: npt.NDArray[np.int64]  # of the rows to fit on


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
        self._last: tuple[Any, Floats] | None = None  # fitted to products, and what it says of all

    def of(self, estimator: Any) -> Material:
        """Give what an estimator's last step is fitted on; a network takes rows as they are."""
        if not isinstance(estimator, Pipeline):
            return Material(self.rows, self.rows.shape[1], of_products=False)
        steps, on_products = estimator[:-1], isinstance(estimator[-1], GramClassifier)
        ready = self.ready(steps)
        return Material(self.products(steps) if on_products else ready, ready.shape[1], on_products)

    def fit(
        self, estimator: Any, places: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
    ) -> None:
        """Fit what a head built to the rows at some places, by what is ready of them."""
        if not isinstance(estimator, Pipeline):
            estimator.fit(self.rows[places], labels)
            return
        values, width, of_products = self.of(estimator)
        steps, classifier = estimator[:-1], estimator[-1]
        if of_products:
            classifier.fit_products(values[np.ix_(places, places)], labels, width)
            said = classifier.predict_products(values[:, places], values.diagonal())
            self._last = estimator, said
            classifier.keep(self.ready(steps)[places])
        elif issparse(values):
            # Vectors are too short for BLAS to gain by a second thread; forests and folds do.
            parallel = joblib.parallel_config("threading", n_jobs=joblib.cpu_count())
            with threadpool_limits(1), parallel:
                classifier.fit(values[places], labels)
        else:
            classifier.fit(values[places], labels)

    def predict_proba(self, estimator: Any, places: npt.NDArray[np.int64]) -> Floats:
        """Give what an estimator says of the rows at some places.

        Of the one that `fit` fitted last this is known, if it was by inner products: made anew,
        they would take as long as the fit.
        """
        if self._last is not None and self._last[0] is estimator:
            return self._last[1][places]
        found: Floats = estimator.predict_proba(self.rows[places])
        return found

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
    classes: int,
    **options: Any,
) -> Floats:
    """Give each row's probabilities, for each candidate, by fits that never saw the row.

    Parameters are those of `judge_folds`.

    Returns
    -------
    ndarray of float64, shape (len(grid), n, classes)
        NaN for rows that no fold judges; of a row that several judge, what the last one says.
    """
    said = judge_folds(head, rows, labels, folds, classes=classes, **options)
    found = np.full((len(said), len(rows), classes), np.nan)
    for of_candidate, of_folds in zip(found, said):
        for fold, p in zip(folds, of_folds):
            of_candidate[fold.judged] = p
    return found


def judge_folds(
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
    spread: Spread | None = None,
) -> list[list[Floats]]:
    """Fit each candidate to each fold, and say what it thinks of the rows that the fold judges.

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
        Who is fitted to, and who is judged.
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
    spread : Spread, optional
        Where fits are made, in place of threads here. Networks stay here.

    Returns
    -------
    list of list of ndarray of float64, shape (len(judged), classes)
        For each candidate, for each fold; 0 for a class that a fold has no rows of to fit on.
    """
    candidates = head.grid if grid is None else grid
    prepared = Prepared(rows) if prepared is None else prepared
    materials = [prepared.of(head.build(seed, **parameters)) for parameters in candidates]
    if any(one.of_products for one in materials):
        jobs = fits_at_a_time(len(rows), jobs)
    if head.early_stopping:
        jobs, spread = 1, None

    def fit_of(parameters: Mapping[str, Any], fold: Fold) -> Fit:
        options: dict[str, Any] = {"balanced": True} if balanced else {}
        if head.calibrated and groups is not None:
            options["groups"] = groups[fold.fitted]
        estimator = head.build(seed, **options, **parameters)
        classifier = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        return Fit(classifier, fold, labels[fold.fitted])

    with (spread or _threads)(*(one.values for one in materials)) as values:
        said = joblib.Parallel(jobs)(
            joblib.delayed(_judge)(fit_of(parameters, fold), one._replace(values=there), classes)
            for parameters, one, there in zip(candidates, materials, values)
            for fold in folds
        )
    return [said[start : start + len(folds)] for start in range(0, len(said), len(folds))]


@contextmanager
def _threads(*shared: Any) -> Iterator[Sequence[Any]]:
    """Make fits in threads of this process, each on a core of its own."""
    with threadpool_limits(1), joblib.parallel_config("threading"):
        yield shared


def _judge(fit: Fit, material: Material, classes: int) -> Floats:
    """Fit to a fold's rows, and give probabilities of those to judge."""
    classifier, (fitted, judged), labels = fit
    values = material.values
    p = np.zeros((len(judged), classes))
    with joblib.parallel_config("sequential"):  # a worker's threads are busy with other fits
        if material.of_products:
            of_fitted = values[np.ix_(fitted, fitted)]
            classifier.fit_products(of_fitted, labels, material.width)
            squares = values[judged, judged]
            found = classifier.predict_products(values[np.ix_(judged, fitted)], squares)
        else:
            found = classifier.fit(values[fitted], labels).predict_proba(values[judged])
    p[:, classifier.classes_] = found
    return p
