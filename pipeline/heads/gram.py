# ruff: noqa: ARG002, N803 -- the arguments and their names are scikit-learn's
"""Classifiers that need of the rows no more than their inner products.

These are computed once, by BLAS; every fit, with whatever parameters, on whatever fold, and every
fit that calibrates its probabilities, works on slices of that one matrix. With n rows of d values
the product costs ``n * n * d`` and the fits at most ``n ** 3`` each, where n is mostly a fraction
of d. Nothing is approximated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.extmath import row_norms
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.errors import PipelineError
from pipeline.heads.estimators import CalibrationFolds, at_least_two_classes
from pipeline.memory import free_memory

Matrix = NDArray[np.float64]

_COLUMNS = 1024  # a float64 copy of so many columns at a time: 21 MB for 2,624 rows
_OF_A_FIT = 3  # matrices as large as the products: a kernel, a fold's slice, a factorisation
_SAME = 1e-12  # of squared lengths; what is left of the distance of a row from itself is rounding


def inner_products(rows: NDArray[Any]) -> Matrix:
    """Multiply each row by each row, in float64.

    Raises
    ------
    PipelineError
        If the matrix, and those that fits make of it, do not fit into the memory that is free.
    """
    count = len(rows)
    matrices, free = 1 + _OF_A_FIT, free_memory()
    needed = matrices * 8 * count**2
    if needed > free:
        raise PipelineError(
            f"A head on the inner products of {count:,} rows needs about {needed / 1e9:.1f} GB of "
            f"memory; {free / 1e9:.1f} GB are free.",
            expected=f"at most {int((free / matrices / 8) ** 0.5):,} rows, views included.",
            fix="use the heads 'logistic' or 'linear-svm', fewer views, or a machine with more.",
        )
    products = np.zeros((count, count))
    for start in range(0, rows.shape[1], _COLUMNS):
        part = rows[:, start : start + _COLUMNS].astype(np.float64)
        products += part @ part.T
    return products


def fits_at_a_time(count: int, jobs: int) -> int:
    """Give how many fits on the products of `count` rows the free memory has room for.

    Parameters
    ----------
    count : int
        Number of rows. Their products have been made.
    jobs : int
        How many are wanted.

    Returns
    -------
    int
        1 to `jobs`.
    """
    room = free_memory() // (_OF_A_FIT * 8 * count**2)
    return int(max(1, min(jobs, room)))


class GramClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What is the same for all classifiers on inner products.

    A machine that takes a kernel matrix is fitted to all rows, and its probabilities are
    calibrated by Platt's sigmoid on scores of rows that it was not fitted to.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, in the order of the columns of ``predict_proba``.
    calibrated_ : CalibratedClassifierCV
        The machine on kernel values against all training rows.
    squares_ : ndarray of float64, shape (n,)
        The training rows' squared lengths.
    support_ : ndarray of int, shape (s,)
        Which of the training rows the machine looks at.
    kept_ : csr_array or ndarray of shape (s, d)
        These rows. Sparse, as features are mostly zeros.
    """

    random_state: int
    groups: NDArray[np.int64] | None
    balanced: bool

    @abstractmethod
    def _machine(self) -> Any:
        """Make the classifier that takes a kernel matrix."""

    def _kernel(self, products: Matrix, squares: Matrix, others: Matrix) -> Matrix:
        """Make the kernel of inner products and of the squared lengths of their two sides."""
        return products

    def keep(self, rows: NDArray[Any]) -> None:
        """Keep of the training rows (n, d) what predicting needs, after `fit_products`."""
        self.support_ = np.arange(len(rows))
        self.kept_ = csr_array(rows, dtype=np.float64)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,).

        Raises
        ------
        PipelineError
            If a class has a single row, which leaves none to calibrate on, or the rows are too
            many for the memory.
        ValueError
            If there are fewer than two classes, or ``X`` or ``y`` is malformed.
        """
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        at_least_two_classes(labels)
        self.fit_products(inner_products(rows), labels, rows.shape[1])
        self.keep(rows)
        return self

    def fit_products(self, products: Matrix, labels: NDArray[Any], n_features: int) -> Self:
        """Learn from inner products (n, n) of rows of ``n_features`` values, and their labels."""
        self.n_features_in_ = n_features
        self.squares_ = np.diag(products).copy()
        weights = compute_sample_weight("balanced", labels) if self.balanced else None
        self.calibrated_ = CalibratedClassifierCV(
            self._machine(), cv=CalibrationFolds(self.random_state, self.groups), ensemble=False
        ).fit(self._kernel(products, self.squares_, self.squares_), labels, sample_weight=weights)
        self.classes_ = self.calibrated_.classes_
        return self

    def predict_products(self, products: Matrix, squares: Matrix) -> Matrix:
        """Give probabilities (m, k) of inner products (m, n) of m rows with those fitted to.

        Parameters
        ----------
        products : ndarray of float64, shape (m, n)
        squares : ndarray of float64, shape (m,)
            The m rows' squared lengths.
        """
        kernel = self._kernel(products, squares, self.squares_)
        proba: Matrix = self.calibrated_.predict_proba(kernel)
        return proba

    def predict_proba(self, X: ArrayLike) -> Matrix:
        """Give the probability of each class for each row, shape (n, k), from 0 to 1."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        sparse = csr_array(rows, dtype=np.float64)
        # The machine expects a column for every training row, but reads the support's only.
        products = np.zeros((len(rows), len(self.squares_)))
        found = sparse @ self.kept_.T
        products[:, self.support_] = found.toarray() if isinstance(found, csr_array) else found
        return self.predict_products(products, row_norms(sparse, squared=True))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""
        proba = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[proba.argmax(axis=1)]
        return labels

    @property
    def _fitted(self) -> Any:
        return self.calibrated_.calibrated_classifiers_[0].estimator


def _squared_distances(products: Matrix, squares: Matrix, others: Matrix) -> Matrix:
    lengths = squares[:, None] + others[None, :]
    distances = lengths - 2 * products
    distances[distances < _SAME * lengths] = 0
    return distances


class RbfSVM(GramClassifier):
    """A support vector machine with the kernel ``exp(-gamma |a - b|^2)``, with probabilities.

    The same machine as ``CalibratedClassifierCV(SVC(gamma=gamma, C=C), ensemble=False)``, for which
    libsvm would compute the kernel value by value, again in each fold.

    Parameters
    ----------
    C : float, default 3.0
        Inverse strength of the regularisation.
    gamma : float, default 2.0
        Inverse width of the kernel, for rows of length one (squared distances from 0 to 4;
        from 0 to 2 for non-negative rows).
    random_state : int, default 0
        Decides the calibration folds.
    groups : ndarray of int64, shape (n,), optional
        As for `CalibrationFolds`.
    balanced : bool, default False
        Whether classes are to count the same, as in `pipeline.heads.estimators.Balanced`.
    """

    def __init__(
        self,
        C: float = 3.0,
        gamma: float = 2.0,
        random_state: int = 0,
        groups: NDArray[np.int64] | None = None,
        balanced: bool = False,
    ) -> None:
        self.C = C
        self.gamma = gamma
        self.random_state = random_state
        self.groups = groups
        self.balanced = balanced

    def _machine(self) -> SVC:
        return SVC(kernel="precomputed", C=self.C)

    def _kernel(self, products: Matrix, squares: Matrix, others: Matrix) -> Matrix:
        kernel = _squared_distances(products, squares, others)
        kernel *= -self.gamma
        return np.exp(kernel, out=kernel)

    def keep(self, rows: NDArray[Any]) -> None:
        """Keep the support vectors."""
        self.support_ = self._fitted.support_
        self.kept_ = csr_array(rows[self.support_], dtype=np.float64)


class NearestNeighbours(GramClassifier):
    """The k nearest neighbours by Euclidean distance, the nearer the weightier, calibrated.

    Parameters
    ----------
    n_neighbors : int, default 20
        How many, or all rows where there are fewer.
    random_state, groups, balanced
        As for `RbfSVM`. Balanced are the calibrated probabilities; the votes are not.
    """

    def __init__(
        self,
        n_neighbors: int = 20,
        random_state: int = 0,
        groups: NDArray[np.int64] | None = None,
        balanced: bool = False,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.random_state = random_state
        self.groups = groups
        self.balanced = balanced

    def _machine(self) -> Votes:
        return Votes(self.n_neighbors, weights="distance", metric="precomputed")

    def _kernel(self, products: Matrix, squares: Matrix, others: Matrix) -> Matrix:
        distances = _squared_distances(products, squares, others)
        return np.sqrt(distances, out=distances)


class Ridge(GramClassifier):
    """Ridge regression on the classes, -1 or 1, with probabilities.

    The same as ``CalibratedClassifierCV(RidgeClassifier(alpha=alpha), ensemble=False)``, by one
    system of n equations in place of d.

    Parameters
    ----------
    alpha : float, default 0.3
        Strength of the regularisation.
    random_state, groups, balanced
        As for `RbfSVM`.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        random_state: int = 0,
        groups: NDArray[np.int64] | None = None,
        balanced: bool = False,
    ) -> None:
        self.alpha = alpha
        self.random_state = random_state
        self.groups = groups
        self.balanced = balanced

    def _machine(self) -> DualRidge:
        return DualRidge(self.alpha)

    def keep(self, rows: NDArray[Any]) -> None:
        """Keep the weights."""
        _keep_weights(self, rows)


class DiscriminantAnalysis(GramClassifier):
    """Linear discriminant analysis with a shrunk covariance, with calibrated probabilities.

    The same discriminants as ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)``,
    whose covariance is a d x d matrix: 8,192 x 8,192 values, estimated from fewer rows. Its own
    probabilities are far too sure there, hence the calibration.

    Parameters
    ----------
    shrinkage : float, default 0.8
        Between 0 and 1, both excluded: how much of the covariance is replaced by its mean
        eigenvalue in all directions (O. Ledoit, M. Wolf, *A well-conditioned estimator for
        large-dimensional covariance matrices*, Journal of Multivariate Analysis 88, 2004).
    random_state, groups, balanced
        As for `RbfSVM`. Balanced, classes have equal priors.
    """

    def __init__(
        self,
        shrinkage: float = 0.8,
        random_state: int = 0,
        groups: NDArray[np.int64] | None = None,
        balanced: bool = False,
    ) -> None:
        self.shrinkage = shrinkage
        self.random_state = random_state
        self.groups = groups
        self.balanced = balanced

    def _machine(self) -> DualDiscriminant:
        return DualDiscriminant(self.shrinkage, self.n_features_in_)

    def keep(self, rows: NDArray[Any]) -> None:
        """Keep the weights."""
        _keep_weights(self, rows)


def _keep_weights(classifier: GramClassifier, rows: NDArray[Any]) -> None:
    """Keep a linear machine's weights in place of the rows: a row of d values for each score."""
    machine = classifier._fitted
    classifier.kept_ = machine.dual_.T @ rows
    machine.dual_ = np.eye(len(classifier.kept_))
    classifier.support_ = np.arange(len(classifier.kept_))
    classifier.squares_ = np.zeros(len(classifier.kept_))


# Machines, which take kernel matrices


class Votes(KNeighborsClassifier):  # type: ignore[misc]
    """k nearest neighbours; all rows where there are fewer than ``n_neighbors``.

    scikit-learn's own refuses to predict then, so that one grid could not serve small data sets.
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: object = None) -> Self:
        """Remember the rows. Weights count in the calibration, where votes become probabilities."""
        del sample_weight
        fitted: Self = super().fit(X, y)
        return fitted

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Find the nearest rows, as ``KNeighborsClassifier.kneighbors`` does."""
        check_is_fitted(self)
        rows = self.n_samples_fit_ - (X is None)
        wanted = self.n_neighbors if n_neighbors is None else n_neighbors
        return super().kneighbors(X, min(wanted, rows), return_distance)


class _Dual(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A linear classifier whose weights are sums of rows: ``dual_`` says how much of each."""

    dual_: Matrix
    intercept_: Matrix

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        return tags

    def fit(self, X: Matrix, y: NDArray[Any], sample_weight: Matrix | None = None) -> Self:
        """Learn from inner products (n, n) and labels (n,)."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        self._solve(X, codes, np.ones(len(X)) if sample_weight is None else sample_weight)
        if len(self.classes_) == 2:  # one score, for the second class
            self.dual_ = self.dual_[:, 1:] - self.dual_[:, :1]
            self.intercept_ = self.intercept_[1:] - self.intercept_[:1]
        return self

    @abstractmethod
    def _solve(self, products: Matrix, codes: NDArray[np.intp], weights: Matrix) -> None:
        """Set `dual_` of shape (n, k) and `intercept_` of shape (k,)."""

    def decision_function(self, X: Matrix) -> Matrix:
        """Give scores (m, k) of inner products (m, n); for two classes (m,)."""
        scores: Matrix = X @ self.dual_ + self.intercept_
        return scores.ravel() if len(self.classes_) == 2 else scores

    def predict(self, X: Matrix) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (m,)."""
        scores = self.decision_function(X)
        codes = scores > 0 if len(self.classes_) == 2 else scores.argmax(axis=1)
        labels: NDArray[Any] = self.classes_[codes.astype(np.intp)]
        return labels


class DualRidge(_Dual):
    """`Ridge` on inner products.

    The minimum of ``sum_i w_i (t_i - x_i v - b)^2 + alpha |v|^2`` has ``v = X' a`` with
    ``(X X' + alpha / w) a = t - b`` and ``sum(a) = 0`` (C. Saunders et al., *Ridge regression
    learning algorithm in dual variables*, ICML 1998).
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def _solve(self, products: Matrix, codes: NDArray[np.intp], weights: Matrix) -> None:
        system = products.copy()
        system[np.diag_indices_from(system)] += self.alpha / weights
        # 1 for the class and 0 for others: the score for one of two classes is that for -1 and 1.
        right = np.column_stack([np.eye(len(self.classes_))[codes], np.ones(len(codes))])
        solved = cho_solve(cho_factor(system, overwrite_a=True, check_finite=False), right)
        self.intercept_ = solved[:, :-1].sum(axis=0) / solved[:, -1].sum()
        self.dual_ = solved[:, :-1] - solved[:, -1:] * self.intercept_


class DualDiscriminant(_Dual):
    """`DiscriminantAnalysis` on inner products of rows of ``n_features`` values.

    With the classes' means ``M = T' X`` and the rows less their class's mean, weighted, ``B``, the
    covariance is ``(1 - s) (B' B + a I)``, ``a = s / (1 - s) * trace(B' B) / d``; its inverse
    follows from that of the n x n matrix ``B B' + a I`` (Woodbury's identity).
    """

    def __init__(self, shrinkage: float = 0.5, n_features: int = 1) -> None:
        self.shrinkage = shrinkage
        self.n_features = n_features

    def _solve(self, products: Matrix, codes: NDArray[np.intp], weights: Matrix) -> None:
        member = np.eye(len(self.classes_))[codes] * weights[:, None]
        priors = member.sum(axis=0) / weights.sum()
        to_mean = member / member.sum(axis=0)  # T
        roots = np.sqrt(weights / weights.sum())[:, None]

        def centred(of_rows: Matrix) -> Matrix:
            deviations: Matrix = roots * (of_rows - (to_mean.T @ of_rows)[codes])
            return deviations

        within = centred(centred(products).T)  # B B'
        spread = np.trace(within)
        if spread <= _SAME * np.trace(products):  # rows of a class are all the same
            spread = self.n_features
        ridge = self.shrinkage / (1 - self.shrinkage) * spread / self.n_features
        within[np.diag_indices_from(within)] += ridge
        of_means = products @ to_mean  # X M'
        factor = cho_factor(within, overwrite_a=True, check_finite=False)
        back = roots * cho_solve(factor, centred(of_means))  # sums to 0 over each class
        self.dual_ = (to_mean - back) / (ridge * (1 - self.shrinkage))
        self.intercept_ = np.log(priors) - 0.5 * np.einsum("nc,nc->c", of_means, self.dual_)
