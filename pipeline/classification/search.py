"""Fit every candidate of a head to every fold, and predict the rows that each fold leaves out.

A head is a few steps that transform each row by itself (pooling, scaling to length one, making it
sparse) and a classifier. Candidates and folds share the transformed rows; classifiers on inner
products share these, too, and folds are slices of them. Fits run in threads, which need no copies,
or on the workers of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import joblib
import numpy as np
from scipy.linalg import LinAlgError
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline.classification.arrays import Floats, Labels, Places, RowMatrix
from pipeline.errors import PipelineError
from pipeline.heads.products import (
    GramClassifier,
    fits_at_a_time,
    inner_products,
    triangular_rows,
)
from pipeline.heads.registry import Head

Spread = Callable[..., AbstractContextManager[Sequence[Any]]]
"""Brings what many fits share to where joblib runs them while the context lasts, and gives what to
pass to each fit in its place: `pipeline.features.cluster.Cluster.spread`."""


_MOST_TRIANGULAR = 5000  # rows: 0.5 GB with their products


class Fold(NamedTuple):
    """Positions of the rows to fit to, and of the rows to judge by."""

    fitted: Places
    judged: Places


class Material(NamedTuple):
    """What a head's classifier is fitted to: all rows (n, d), or their inner products (n, n)."""

    values: Any
    width: int  # of a row
    are_products: bool


@dataclass(frozen=True, eq=False)
class _Transformed:
    """Rows after some steps, named by their values, as different steps may give the same."""

    rows: RowMatrix

    @cached_property
    def name(self) -> str:
        """Their hash, which takes a while where rows are many."""
        return str(joblib.hash(self.rows))


class PreparedRows:
    """Rows as classifiers need them: each transformation is computed once, for all that share it.

    Raises PipelineError if a row holds NaN or infinity.
    """

    def __init__(self, rows: RowMatrix) -> None:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise PipelineError(
                f"{len(bad)} of {len(rows)} rows of features are not finite, first row {bad[0]}.",
                expected="numbers",
                fix="compute these features again",
            )
        self.rows = rows
        self._transformed: dict[str, _Transformed] = {}
        self._products: dict[str, Floats] = {}
        self._triangular: dict[str, Any] = {}
        # The last estimator fitted to products, and its probabilities for all rows: to compute
        # these again, from the rows, would take as long as the fit.
        self._last: tuple[Any, Floats] | None = None

    def material(self, estimator: Any, *, triangular: bool = False) -> Material:
        """Return what an estimator's classifier is fitted to; a network takes rows unchanged.

        It may be fitted to `triangular` rows, which have the same inner products, where rows are
        dense and there are few.
        """
        if not isinstance(estimator, Pipeline):
            return Material(self.rows, self.rows.shape[1], are_products=False)
        transformed = self._transform(estimator[:-1])
        rows = transformed.rows
        if isinstance(estimator[-1], GramClassifier):
            return Material(self._multiply(transformed), rows.shape[1], are_products=True)
        if triangular and not issparse(rows) and len(rows) <= min(rows.shape[1], _MOST_TRIANGULAR):
            rows = self._make_triangular(transformed)
        return Material(rows, rows.shape[1], are_products=False)

    def fit(self, estimator: Any, places: Places, labels: Labels) -> None:
        """Fit an estimator that a head built to the rows at some positions."""
        if not isinstance(estimator, Pipeline):
            estimator.fit(self.rows[places], labels)
            return
        values, width, are_products = self.material(estimator)
        classifier = estimator[-1]
        if are_products:
            classifier.fit_products(values[np.ix_(places, places)], labels, width)
            p = classifier.predict_products(values[:, places], values.diagonal())
            self._last = estimator, p
            classifier.keep(self._transform(estimator[:-1]).rows[places])
        else:
            # Products of sparse vectors gain nothing from a second BLAS thread; forests and
            # calibration folds gain from running in parallel.
            parallel = joblib.parallel_config("threading", n_jobs=joblib.cpu_count())
            with threadpool_limits(1 if issparse(values) else None), parallel:
                classifier.fit(values[places], labels)

    def predict_proba(self, estimator: Any, places: Places) -> Floats:
        """Return an estimator's probabilities for the rows at some positions."""
        if self._last is not None and self._last[0] is estimator:
            return self._last[1][places]
        p: Floats = estimator.predict_proba(self.rows[places])
        return p

    def _transform(self, steps: Pipeline) -> _Transformed:
        """Return the rows after steps that look at each row by itself."""
        key = joblib.hash(steps)
        if key not in self._transformed:
            self._transformed[key] = _Transformed(steps.transform(self.rows))
        return self._transformed[key]

    def _multiply(self, transformed: _Transformed) -> Floats:
        """Return the inner products (n, n) of rows."""
        key = transformed.name
        if key not in self._products:
            self._products[key] = inner_products(transformed.rows)
        return self._products[key]

    def _make_triangular(self, transformed: _Transformed) -> Any:
        """Return short rows with the same inner products; the rows, where there is no memory."""
        key = transformed.name
        if key not in self._triangular:
            try:
                self._triangular[key] = triangular_rows(self._multiply(transformed))
            except (PipelineError, LinAlgError):
                self._triangular[key] = transformed.rows
        return self._triangular[key]


@dataclass(frozen=True)
class LabelledRows:
    """Rows, and what is known of them.

    Attributes
    ----------
    rows : PreparedRows
        The n rows.
    labels : ndarray of int64, shape (n,)
        Classes, 0 to `classes` - 1.
    classes : int
        Number of classes.
    groups : ndarray of int64, shape (n,), optional
        Rows of the same number are not parted where a head calibrates its probabilities.
    """

    rows: PreparedRows
    labels: Labels
    classes: int
    groups: Labels | None = None


class _Fit(NamedTuple):
    """What a fit has for itself.

    In a tuple, it travels with the task: on a cluster, joblib leaves larger arguments with one
    worker, and if that dies they are lost.
    """

    classifier: Any
    fold: Fold
    labels: Labels  # of the rows to fit to


def judge_folds(
    head: Head,
    data: LabelledRows,
    folds: Sequence[Fold],
    *,
    seed: int = 0,
    balanced: bool = False,
    jobs: int = 1,
    spread: Spread | None = None,
) -> list[list[Floats]]:
    """Fit each candidate of a head to each fold; return its probabilities for the rows to judge.

    To 1e-6, for `linear-svm` to what its solver tolerates, the same as
    ``head.build(seed, **parameters).fit(rows[fitted], labels[fitted])`` and
    ``predict_proba(rows[judged])``, one after the other.
    """
    materials = [
        data.rows.material(head.candidate(seed, parameters), triangular=head.triangular)
        for parameters in head.grid
    ]
    if any(material.are_products for material in materials):
        jobs = fits_at_a_time(len(data.labels), jobs)

    def fit_for(parameters: Any, fold: Fold) -> _Fit:
        groups = None if data.groups is None else data.groups[fold.fitted]
        estimator = head.candidate(seed, parameters, balanced=balanced, groups=groups)
        classifier = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        return _Fit(classifier, fold, data.labels[fold.fitted])

    with (spread or _threads)(*(material.values for material in materials)) as shared:
        probabilities = joblib.Parallel(jobs)(
            joblib.delayed(_judge)(
                fit_for(parameters, fold), material._replace(values=values), data.classes
            )
            for parameters, material, values in zip(head.grid, materials, shared)
            for fold in folds
        )
    count = len(folds)
    return [probabilities[start : start + count] for start in range(0, len(probabilities), count)]


@contextmanager
def _threads(*shared: Any) -> Iterator[Sequence[Any]]:
    """Run fits in threads of this process, each on a core of its own."""
    with threadpool_limits(1), joblib.parallel_config("threading"):
        yield shared


def _judge(fit: _Fit, material: Material, classes: int) -> Floats:
    """Fit to a fold's rows, and return probabilities for those to judge."""
    classifier, (fitted, judged), labels = fit
    values = material.values
    with joblib.parallel_config("sequential"):  # the other threads run other fits
        if material.are_products:
            classifier.fit_products(values[np.ix_(fitted, fitted)], labels, material.width)
            squares = values[judged, judged]
            known = classifier.predict_products(values[np.ix_(judged, fitted)], squares)
        else:
            known = classifier.fit(values[fitted], labels).predict_proba(values[judged])
    p = np.zeros((len(judged), classes))
    p[:, classifier.classes_] = known
    return p
