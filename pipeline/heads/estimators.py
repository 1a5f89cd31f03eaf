# ruff: noqa: ARG002, N803 -- the arguments and their names are scikit-learn's
"""Parts of heads that scikit-learn does not have in this form: pooling, balance, folds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from pipeline.errors import PipelineError
from pipeline.heads.pooling import Pooling

Groups = NDArray[np.int64]
"""Rows of the same number belong together: views of an image, images of a group."""


class Classifier(Protocol):
    """scikit-learn's interface of a classifier with probabilities."""

    classes_: NDArray[Any]

    def fit(self, *data: Any, **options: Any) -> Any:
        """Fit to rows of shape (n, d) and their labels of shape (n,); return itself."""

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return the likeliest class of each row, shape (n,)."""

    def predict_proba(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each class for each row, shape (n, k)."""


class Pool(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pool flattened rows: one value for each channel, over all cells of the feature map.

    Parameters
    ----------
    kind : str, default "average"
        ``"average"`` or ``"max"``; ``"flatten"`` returns rows unchanged.
    shape : tuple of int, optional
        Height, width and channels before flattening; ``"flatten"`` does not need it.
    """

    def __init__(
        self, kind: Pooling = "average", shape: tuple[int, int, int] | None = None
    ) -> None:
        self.kind = kind
        self.shape = shape

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Do nothing: pooling has nothing to learn."""
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return rows (n, channels) for rows (n, height * width * channels)."""
        rows = np.asarray(X, np.float32)
        if self.kind == "flatten":
            return rows
        if self.shape is None:
            raise PipelineError(f"pooling {self.kind!r} needs the shape of a row.")
        height, width, channels = self.shape
        if rows.ndim != 2 or rows.shape[1] != height * width * channels:
            raise PipelineError(
                f"rows of shape {rows.shape} cannot be pooled.",
                expected=f"{height} x {width} cells of {channels} channels in each row",
            )
        cells = rows.reshape(len(rows), height * width, channels)
        pooled: NDArray[np.float32]
        pooled = cells.mean(axis=1) if self.kind == "average" else cells.max(axis=1)
        return pooled

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn that no fit is needed."""
        return True


def sparse_rows(rows: Any, dtype: Any = None) -> Any:
    """Return rows (n, d) as a sparse matrix if at most half of their values are not zero."""
    if not issparse(rows):
        rows = np.asarray(rows)
        if np.count_nonzero(rows) > rows.size / 2:
            return rows.astype(dtype or rows.dtype, copy=False)
    return csr_array(rows, dtype=dtype)


_ROOT_OF_TWO = np.float32(2**0.5)


class CoarseForest(RandomForestClassifier):  # type: ignore[misc]
    """A random forest that is grown on rows rounded to eight values an octave.

    With few different values to sort it grows in a third of the time, and is as good:
    docs/decisions/0035. Thresholds lie between rounded values, so rows to predict stay as they are.
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,)."""
        rows = validate_data(
            self, X, accept_sparse="csc", dtype=np.float32, ensure_all_finite=False
        )
        if issparse(rows):
            coarse = rows.copy()
            coarse.data = _rounded(rows.data)
        else:
            coarse = _rounded(rows)
        super().fit(coarse, y, sample_weight)
        return self


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round the products of values and the root of two to four significant bits.

    Without the root, many thresholds would be values that rows have which were rounded before, and
    last bits would decide on which side of them such a row is.
    """
    mantissas, exponents = np.frexp(values * _ROOT_OF_TWO)
    rounded: NDArray[np.float32] = np.ldexp(np.rint(mantissas * 16), exponents - 4) / _ROOT_OF_TWO
    return rounded


class Balanced(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Give all classes the same weight, however many rows each has.

    A row weighs ``n / (k * rows of its class)``, as with ``class_weight="balanced"``, which not all
    estimators have (G. King, L. Zeng, *Logistic regression in rare events data*, 2001).

    Parameters
    ----------
    classifier : estimator
        Its ``fit`` takes ``sample_weight``.
    """

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Fit to rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,)."""
        weights = compute_sample_weight("balanced", y)
        self.classifier_ = clone(self.classifier).fit(X, y, sample_weight=weights)
        self.classes_ = self.classifier_.classes_
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class for each row, shape (n, k)."""
        proba: NDArray[np.float64] = self.classifier_.predict_proba(X)
        return proba

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each row, shape (n,)."""
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels


_CALIBRATION_FOLDS = 3  # as in Platt's paper; with five, log losses differed by 0.002 at most


class CalibrationFolds(BaseEstimator):  # type: ignore[misc]
    """Stratified, shuffled folds: three, or as many as the smallest class has images.

    Three folds are Platt's own choice (*Probabilistic outputs for support vector machines*, 1999).
    scikit-learn's splitters need the number in advance, and fail or warn for a smaller class.

    Parameters
    ----------
    random_state : int, default 0
        Decides the shuffling.
    groups : ndarray of int, shape (n,), optional
        Rows of the same number come into the same fold. By default each row is on its own.
    """

    def __init__(self, random_state: int = 0, groups: Groups | None = None) -> None:
        self.random_state = random_state
        self.groups = groups

    def split(
        self, X: ArrayLike, y: ArrayLike, groups: object = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the positions of the rows to fit on and of the rows to score, fold by fold."""
        count, labels = self.get_n_splits(X, y), np.asarray(y)
        folds = StratifiedKFold(count, shuffle=True, random_state=self.random_state)
        if self.groups is None:
            yield from folds.split(X, y)
            return
        _, first, group = np.unique(self.groups, return_index=True, return_inverse=True)
        if np.any(labels != labels[first][group]):  # a group of several classes
            codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
            numbers = group.astype(np.int64)
            yield from _split_groups(count, self.random_state, codes.tobytes(), numbers.tobytes())
            return
        for fitted, scored in folds.split(first, labels[first]):
            yield np.flatnonzero(np.isin(group, fitted)), np.flatnonzero(np.isin(group, scored))

    def get_n_splits(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, groups: object = None
    ) -> int:
        """Return the number of folds for the labels ``y``: 2 or 3."""
        if y is None:
            return _CALIBRATION_FOLDS
        names, labels = np.unique(y, return_inverse=True)
        groups = np.arange(len(labels)) if self.groups is None else self.groups
        counts = np.bincount(np.unique(np.stack([groups, labels]), axis=1)[1])
        if counts.min() < 2:
            raise PipelineError(
                f"class {names[counts.argmin()]} has a single training image.",
                expected="two or more, to calibrate probabilities on images not trained on",
                fix="add images of that class, or use the head 'logistic', which needs only one",
            )
        return int(min(_CALIBRATION_FOLDS, counts.min()))


@lru_cache(maxsize=128)
def _split_groups(
    count: int, seed: int, labels: bytes, groups: bytes
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Split groups of several classes; cached, as it takes 0.1 s and every fit needs the same."""
    y = np.frombuffer(labels, np.int64)
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(folds.split(y, y, np.frombuffer(groups, np.int64)))


def require_two_classes(labels: NDArray[Any]) -> None:
    """Raise ValueError, as scikit-learn's classifiers do, if labels name a single class."""
    check_classification_targets(labels)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"all rows are of one class, {labels[0]}; two or more are needed")
