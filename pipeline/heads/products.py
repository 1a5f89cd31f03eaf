# ruff: noqa: ARG002, N803 -- the arguments and their names are scikit-learn's
"""Inner products of rows, and the base class of classifiers that use them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.extmath import row_norms
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.data.targets import require_labels
from pipeline.errors import PipelineError
from pipeline.heads.estimators import CalibrationFolds, Groups, require_two_classes, sparse_rows
from pipeline.heads.machines import Matrix
from pipeline.system.machine import free_memory

_COLUMNS = 1024  # a float64 copy of so many columns at a time: 21 MB for 2,624 rows
_APART = 1e-10  # of squared lengths, that rounding cannot make equal rows impossible ones
_MATRICES_PER_FIT = 3  # as large as the products: a kernel, a fold's slice, a factorisation


def inner_products(rows: NDArray[Any]) -> Matrix:
    """Multiply each row by each row, in float64; raise PipelineError if memory is too small."""
    count = len(rows)
    matrices, free = 1 + _MATRICES_PER_FIT, free_memory()
    needed = matrices * 8 * count**2
    if needed > free:
        raise PipelineError(
            f"a head on the inner products of {count:,} rows needs about {needed / 1e9:.1f} GB of "
            f"memory; {free / 1e9:.1f} GB are free.",
            expected=f"at most {int((free / matrices / 8) ** 0.5):,} rows, views included",
            fix="use the head 'logistic' or 'linear-svm', or fewer views, or add memory",
        )
    products = np.zeros((count, count))
    for start in range(0, rows.shape[1], _COLUMNS):
        part = rows[:, start : start + _COLUMNS].astype(np.float64)
        products += part @ part.T
    return products


def triangular_rows(products: Matrix) -> csr_array:
    """Return rows (n, n) with these inner products (n, n), half of their values zeros.

    They are the rows themselves, rotated; a linear classifier with a squared penalty learns the
    same. liblinear, which looks at each value that is not zero, is 5 times as fast on them where
    2,000 rows have 4,000 values each. Raises LinAlgError if these are no inner products.
    """
    system = products.copy()
    system[np.diag_indices_from(system)] += _APART * products.diagonal().mean()
    return csr_array(cholesky(system, lower=True, overwrite_a=True, check_finite=False))


def fits_at_a_time(count: int, jobs: int) -> int:
    """Return how many fits, 1 to `jobs`, on the products of `count` rows fit into free memory."""
    room = free_memory() // (_MATRICES_PER_FIT * 8 * count**2)
    return int(max(1, min(jobs, room)))


class GramClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A classifier that needs only inner products of rows.

    A machine on a kernel matrix is fitted to all rows. Its probabilities are calibrated by Platt's
    sigmoid on the scores of rows that it was not fitted to.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, in the order of the columns of ``predict_proba``.
    calibrated_ : CalibratedClassifierCV
        The machine; it takes kernel values with all training rows.
    squares_ : ndarray of float64, shape (n,)
        The training rows' squared lengths.
    support_ : ndarray of int, shape (s,)
        Positions of the training rows that predictions depend on.
    kept_ : csr_array or ndarray of shape (s, d)
        These rows; sparse where they are mostly zeros.
    """

    random_state: int
    groups: Groups | None
    balanced: bool

    @abstractmethod
    def _machine(self) -> Any:
        """Return the classifier of `classes_` that takes a kernel matrix, unfitted."""

    def _kernel(self, products: Matrix, squares: Matrix, others: Matrix) -> Matrix:
        """Return the kernel, given inner products and the squared lengths of both sides."""
        return products

    def keep(self, rows: NDArray[Any]) -> None:
        """Keep what predicting needs of the training rows (n, d), after `fit_products`."""
        self.support_ = np.arange(len(rows))
        self.kept_ = sparse_rows(rows, np.float64)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,)."""
        require_labels(y)
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        require_two_classes(labels)
        self.fit_products(inner_products(rows), labels, rows.shape[1])
        self.keep(rows)
        return self

    def fit_products(self, products: Matrix, labels: NDArray[Any], n_features: int) -> Self:
        """Fit to the inner products (n, n) of rows of ``n_features`` values, and their labels."""
        self.n_features_in_ = n_features
        self.squares_ = np.diag(products).copy()
        self.classes_ = np.unique(labels)
        weights = compute_sample_weight("balanced", labels) if self.balanced else None
        self.calibrated_ = CalibratedClassifierCV(
            self._machine(), cv=CalibrationFolds(self.random_state, self.groups), ensemble=False
        ).fit(self._kernel(products, self.squares_, self.squares_), labels, sample_weight=weights)
        return self

    def predict_products(self, products: Matrix, squares: Matrix) -> Matrix:
        """Return probabilities (m, k) of m rows.

        `products` (m, n) are their inner products with the n training rows, `squares` (m,) their
        squared lengths.
        """
        kernel = self._kernel(products, squares, self.squares_)
        proba: Matrix = self.calibrated_.predict_proba(kernel)
        return proba

    def predict_proba(self, X: ArrayLike) -> Matrix:
        """Return the probability of each class for each row, shape (n, k)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        rows = sparse_rows(rows, np.float64)
        # The machine expects a column for every training row, but reads only those of `support_`.
        products = np.zeros((rows.shape[0], len(self.squares_)))
        kept = rows @ self.kept_.T
        products[:, self.support_] = kept.toarray() if issparse(kept) else kept
        return self.predict_products(products, row_norms(rows, squared=True))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class of each row, shape (n,)."""
        proba = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[proba.argmax(axis=1)]
        return labels

    @property
    def _fitted(self) -> Any:
        return self.calibrated_.calibrated_classifiers_[0].estimator
