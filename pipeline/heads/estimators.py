# ruff: noqa: ARG002, N803 -- the arguments and their names are scikit-learn's
"""Estimators for heads that scikit-learn does not have in this form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.errors import PipelineError


class CalibrationFolds(BaseEstimator):  # type: ignore[misc]
    """Stratified, shuffled folds: five, or as many as the smallest class has rows.

    scikit-learn's own splitters want the number beforehand, and fail or warn for a smaller class.

    Parameters
    ----------
    random_state : int, default 0
        Decides the shuffling.
    groups : ndarray of int, shape (n,), optional
        Which image each row is a view of: all views of an image come into the same fold. The
        default is an image for each row.
    """

    def __init__(self, random_state: int = 0, groups: NDArray[np.int64] | None = None) -> None:
        self.random_state = random_state
        self.groups = groups

    def split(
        self, X: ArrayLike, y: ArrayLike, groups: object = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the indices of the rows to fit on and of the rows to score, fold by fold."""
        folds = StratifiedKFold(
            self.get_n_splits(X, y), shuffle=True, random_state=self.random_state
        )
        if self.groups is None:
            yield from folds.split(X, y)
            return
        _, first, image = np.unique(self.groups, return_index=True, return_inverse=True)
        for fitted, scored in folds.split(first, np.asarray(y)[first]):
            yield np.flatnonzero(np.isin(image, fitted)), np.flatnonzero(np.isin(image, scored))

    def get_n_splits(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, groups: object = None
    ) -> int:
        """Give the number of folds for the labels ``y``: 2 to 5."""
        if y is None:
            return 5
        labels = np.asarray(y)
        if self.groups is not None:
            labels = labels[np.unique(self.groups, return_index=True)[1]]
        names, counts = np.unique(labels, return_counts=True)
        if counts.min() < 2:
            raise PipelineError(
                f"Class {names[counts.argmin()]} has a single training image.",
                expected="two or more, to calibrate probabilities on rows not trained on.",
                fix="add images of that class, or use the head 'logistic', which needs but one.",
            )
        return int(min(5, counts.min()))


class NearestNeighbours(KNeighborsClassifier):  # type: ignore[misc]
    """k nearest neighbours; all rows where there are fewer than ``n_neighbors``.

    scikit-learn's own refuses to predict then, so that one grid could not serve small data sets.
    """

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Find the nearest rows, as ``KNeighborsClassifier.kneighbors`` does."""
        check_is_fitted(self)
        rows = self.n_samples_fit_ - (X is None)
        wanted = self.n_neighbors if n_neighbors is None else n_neighbors
        return super().kneighbors(X, min(wanted, rows), return_distance)


def at_least_two_classes(labels: NDArray[Any]) -> None:
    """Refuse labels that name a single class, as scikit-learn's classifiers do."""
    check_classification_targets(labels)
    if len(np.unique(labels)) < 2:
        # A ValueError, as every scikit-learn classifier raises here.
        raise ValueError(f"All rows are of one class, {labels[0]}; two or more are needed.")


class RbfSVM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A support vector machine with the kernel ``exp(-gamma |a - b|^2)``, with probabilities.

    The same machine as ``CalibratedClassifierCV(SVC(gamma=gamma, C=C), ensemble=False)``, but each
    kernel value is computed once, by BLAS, and the calibration folds are slices of that Gram
    matrix; libsvm would compute it value by value, again in each fold. In float64: scikit-learn's
    care for float32 rows makes their kernel several times as slow.

    Parameters
    ----------
    C : float, default 3.0
        Inverse strength of the regularisation.
    gamma : float, default 2.0
        Inverse width of the kernel, for rows of length one (squared distances from 0 to 4;
        from 0 to 2 for non-negative rows).
    random_state : int, default 0
        Decides the calibration folds.
    groups : ndarray of int, shape (n,), optional
        As for `CalibrationFolds`.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, in the order of the columns of ``predict_proba``.
    support_ : ndarray of shape (s,)
        Which training rows are support vectors.
    support_vectors_ : csr_array of shape (s, d)
        These rows. Sparse, as features are mostly zeros: the saved model is a tenth of the size.
    calibrated_ : CalibratedClassifierCV
        The machine on kernel values against all training rows.
    """

    def __init__(
        self,
        C: float = 3.0,
        gamma: float = 2.0,
        random_state: int = 0,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.C = C
        self.gamma = gamma
        self.random_state = random_state
        self.groups = groups

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,).

        Raises
        ------
        PipelineError
            If a class has a single row, which leaves none to calibrate on.
        ValueError
            If there are fewer than two classes, or ``X`` or ``y`` is malformed.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        at_least_two_classes(labels)
        self.calibrated_ = CalibratedClassifierCV(
            SVC(kernel="precomputed", C=self.C),
            cv=CalibrationFolds(self.random_state, self.groups),
            ensemble=False,
        ).fit(rbf_kernel(rows, gamma=self.gamma), labels)
        self.classes_ = self.calibrated_.classes_
        self.support_ = self.calibrated_.calibrated_classifiers_[0].estimator.support_
        self.support_vectors_ = csr_array(rows[self.support_])
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give the probability of each class for each row, shape (n, k), from 0 to 1."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        # The machine expects a column for every training row, but reads the support vectors' only.
        kernel = np.zeros((len(rows), self.calibrated_.n_features_in_))
        kernel[:, self.support_] = rbf_kernel(rows, self.support_vectors_, gamma=self.gamma)
        proba: NDArray[np.float64] = self.calibrated_.predict_proba(kernel)
        return proba

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""
        proba = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[proba.argmax(axis=1)]
        return labels
