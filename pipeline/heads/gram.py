# ruff: noqa: N803 -- the arguments and their names are scikit-learn's
"""Classifiers that need only the inner products of rows.

The products are computed once, by BLAS; the fits of all parameters, folds and calibrations use
slices of that one matrix. With n rows of d values the products cost ``n * n * d`` operations and
a fit at most ``n ** 3``, and n is usually much smaller than d. Nothing is approximated.

Models of version 0.1.0 on disk name `Votes`, `DualRidge` and `DualDiscriminant` in this module, so
they must stay importable from here.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from pipeline.heads.estimators import Groups, sparse_rows
from pipeline.heads.machines import SAME, DualDiscriminant, DualRidge, DualSVM, Matrix, Votes
from pipeline.heads.products import GramClassifier


def _squared_distances(products: Matrix, squares: Matrix, others: Matrix) -> Matrix:
    lengths = squares[:, None] + others[None, :]
    distances = lengths - 2 * products
    distances[distances < SAME * lengths] = 0
    return distances


class RbfSVM(GramClassifier):
    """Support vector machine with the kernel ``exp(-gamma |a - b|^2 / m)``, calibrated.

    m is the mean squared distance between rows of the training set, so that one ``gamma`` serves
    rows that differ much and rows that differ little (A. Gretton et al., *A kernel two-sample
    test*, Journal of Machine Learning Research 13, 2012, take the median).

    Equals ``CalibratedClassifierCV(SVC(gamma=gamma / m, C=C), ensemble=False)``, which would
    compute the kernel value by value, again in each fold; of three classes or more, with
    ``OneVsRestClassifier(SVC(gamma=gamma / m, C=C))`` in it.

    Parameters
    ----------
    C : float, default 10.0
        Inverse strength of the regularisation.
    gamma : float, default 1.0
        Inverse width of the kernel.
    random_state : int, default 0
        Decides the calibration folds.
    groups : ndarray of int64, shape (n,), optional
        As for `CalibrationFolds`.
    balanced : bool, default False
        Whether all classes count the same, as in `pipeline.heads.estimators.Balanced`.

    Attributes
    ----------
    distance_ : float
        m; 1 in models of version 0.1.0.
    """

    distance_ = 1.0

    def __init__(
        self,
        C: float = 10.0,
        gamma: float = 1.0,
        random_state: int = 0,
        groups: Groups | None = None,
        balanced: bool = False,
    ) -> None:
        self.C = C
        self.gamma = gamma
        self.random_state = random_state
        self.groups = groups
        self.balanced = balanced

    def _machine(self) -> SVC | DualSVM:
        return SVC(kernel="precomputed", C=self.C) if len(self.classes_) == 2 else DualSVM(self.C)

    def _kernel(self, products: Matrix, squares: Matrix, others: Matrix) -> Matrix:
        kernel = _squared_distances(products, squares, others)
        kernel *= -self.gamma / self.distance_
        return np.exp(kernel, out=kernel)

    def fit_products(self, products: Matrix, labels: NDArray[Any], n_features: int) -> Self:
        """Fit to the inner products (n, n) of rows of ``n_features`` values, and their labels."""
        self.distance_ = 2.0 * float(np.diag(products).mean() - products.mean()) or 1.0
        return super().fit_products(products, labels, n_features)

    def keep(self, rows: NDArray[Any]) -> None:
        """Keep the support vectors."""
        machine = self._fitted
        pairs = isinstance(machine, SVC)
        self.support_ = machine.support_ if pairs else np.flatnonzero(machine.dual_.any(axis=1))
        self.kept_ = sparse_rows(rows[self.support_], np.float64)


class NearestNeighbours(GramClassifier):
    """k nearest neighbours, weighted by the inverse of their Euclidean distance, calibrated.

    Parameters
    ----------
    n_neighbors : int, default 20
        Number of neighbours; all rows if there are fewer.
    random_state, groups, balanced
        As for `RbfSVM`; balancing acts on the calibration, not on the votes.
    """

    def __init__(
        self,
        n_neighbors: int = 20,
        random_state: int = 0,
        groups: Groups | None = None,
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


class _LinearMachine(GramClassifier):
    """Keeps a linear machine's weights (a row of d values for each score) instead of the rows."""

    def keep(self, rows: NDArray[Any]) -> None:
        """Keep the weights."""
        machine = self._fitted
        self.kept_ = machine.dual_.T @ rows
        machine.dual_ = np.eye(len(self.kept_))
        self.support_ = np.arange(len(self.kept_))
        self.squares_ = np.zeros(len(self.kept_))


class Ridge(_LinearMachine):
    """Ridge regression on the classes, -1 or 1, calibrated.

    Equals ``CalibratedClassifierCV(RidgeClassifier(alpha=alpha), ensemble=False)``, but solves n
    equations instead of d.

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
        groups: Groups | None = None,
        balanced: bool = False,
    ) -> None:
        self.alpha = alpha
        self.random_state = random_state
        self.groups = groups
        self.balanced = balanced

    def _machine(self) -> DualRidge:
        return DualRidge(self.alpha)


class DiscriminantAnalysis(_LinearMachine):
    """Linear discriminant analysis with a shrunk covariance, calibrated.

    The discriminants equal those of ``LinearDiscriminantAnalysis(solver="lsqr",
    shrinkage=shrinkage)``, which estimates a d x d covariance (8,192 x 8,192) from fewer rows; its
    own probabilities would be much too confident, hence the calibration.

    Parameters
    ----------
    shrinkage : float, default 0.8
        Above 0 and below 1: the share of the covariance that is replaced by its mean eigenvalue
        in all directions (O. Ledoit, M. Wolf, *A well-conditioned estimator for
        large-dimensional covariance matrices*, Journal of Multivariate Analysis 88, 2004).
    random_state, groups, balanced
        As for `RbfSVM`; balanced, classes have equal priors.
    """

    def __init__(
        self,
        shrinkage: float = 0.8,
        random_state: int = 0,
        groups: Groups | None = None,
        balanced: bool = False,
    ) -> None:
        self.shrinkage = shrinkage
        self.random_state = random_state
        self.groups = groups
        self.balanced = balanced

    def _machine(self) -> DualDiscriminant:
        return DualDiscriminant(self.shrinkage, self.n_features_in_)
