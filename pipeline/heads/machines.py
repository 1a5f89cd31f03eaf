# ruff: noqa: N803 -- the arguments and their names are scikit-learn's
"""Classifiers on kernel matrices, without calibration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

Matrix = NDArray[np.float64]
SAME = 1e-12  # of squared lengths: smaller squared distances are rounding, of equal rows


class Votes(KNeighborsClassifier):  # type: ignore[misc]
    """k nearest neighbours, or all rows if there are fewer than ``n_neighbors``.

    scikit-learn raises an error then, so that one grid would not serve small data sets.
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: object = None) -> Self:
        """Remember the rows; weights only matter to the calibration that follows."""
        del sample_weight
        fitted: Self = super().fit(X, y)
        return fitted

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Return the nearest rows, as ``KNeighborsClassifier.kneighbors`` does."""
        check_is_fitted(self)
        rows = self.n_samples_fit_ - (X is None)
        wanted = self.n_neighbors if n_neighbors is None else n_neighbors
        return super().kneighbors(X, min(wanted, rows), return_distance)


class _Dual(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A linear classifier whose weights are sums of rows, with the coefficients ``dual_``."""

    dual_: Matrix
    intercept_: Matrix

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        return tags

    def fit(self, X: Matrix, y: NDArray[Any], sample_weight: Matrix | None = None) -> Self:
        """Fit to inner products (n, n) and labels (n,)."""
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
        """Return scores (m, k), or (m,) for two classes, given inner products (m, n)."""
        scores: Matrix = X @ self.dual_ + self.intercept_
        return scores.ravel() if len(self.classes_) == 2 else scores

    def predict(self, X: Matrix) -> NDArray[Any]:
        """Return the likeliest class of each row, shape (m,)."""
        scores = self.decision_function(X)
        codes = scores > 0 if len(self.classes_) == 2 else scores.argmax(axis=1)
        labels: NDArray[Any] = self.classes_[codes.astype(np.intp)]
        return labels


class DualRidge(_Dual):
    """Ridge regression on inner products.

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
    """Linear discriminant analysis on inner products of rows of ``n_features`` values.

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

        def centred(values: Matrix) -> Matrix:
            deviations: Matrix = roots * (values - (to_mean.T @ values)[codes])
            return deviations

        within = centred(centred(products).T)  # B B'
        spread = np.trace(within)
        if spread <= SAME * np.trace(products):  # all rows of a class are equal
            spread = self.n_features
        ridge = self.shrinkage / (1 - self.shrinkage) * spread / self.n_features
        within[np.diag_indices_from(within)] += ridge
        mean_products = products @ to_mean  # X M'
        factor = cho_factor(within, overwrite_a=True, check_finite=False)
        back = roots * cho_solve(factor, centred(mean_products))  # sums to 0 over each class
        self.dual_ = (to_mean - back) / (ridge * (1 - self.shrinkage))
        self.intercept_ = np.log(priors) - 0.5 * np.einsum("nc,nc->c", mean_products, self.dual_)
        if len(priors) > 2:
            # What a row adds to the scores of all classes tells none of them, and is larger than
            # what does. It cancels in a comparison, but not where each score is calibrated alone.
            self.dual_ -= self.dual_.mean(axis=1, keepdims=True)
            self.intercept_ -= self.intercept_.mean()


class DualSVM(_Dual):
    """A support vector machine for each class, against the rest, of three classes or more.

    `SVC` has one for each pair of classes; what is left of their votes, a score for each class, is
    not calibrated well by a sigmoid for each class (docs/decisions/0033).
    """

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def _solve(self, products: Matrix, codes: NDArray[np.intp], weights: Matrix) -> None:
        machines = [
            SVC(kernel="precomputed", C=self.C).fit(products, codes == code, weights)
            for code in range(len(self.classes_))
        ]
        self.dual_ = np.zeros((len(products), len(machines)))
        for code, machine in enumerate(machines):
            self.dual_[machine.support_, code] = machine.dual_coef_[0]
        self.intercept_ = np.array([machine.intercept_[0] for machine in machines])
