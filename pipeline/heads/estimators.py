# ruff: noqa: ARG002, N803 -- the arguments and their names are scikit-learn's
"""Parts of heads that scikit-learn does not have in this form."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from pipeline.errors import PipelineError
from pipeline.heads.pooling import Pooling


class Classifier(Protocol):
    """What every head's estimator can do: scikit-learn's classifier interface."""

    classes_: NDArray[Any]

    def fit(self, *data: Any, **options: Any) -> Any:
        """Learn from rows of shape (n, d) and their labels of shape (n,); give itself."""

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""

    def predict_proba(self, X: NDArray[Any]) -> NDArray[Any]:
        """Give the probability of each class for each row, shape (n, k)."""


_CALIBRATION_FOLDS = 3


class Pool(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """One value for each channel, over all places of a picture, from flattened rows.

    Parameters
    ----------
    kind : str, default "average"
        ``"average"`` or ``"max"``; ``"flatten"`` gives rows as they are.
    shape : tuple of int, optional
        Height, width and channels of what was flattened; ``"flatten"`` does not need it.
    """

    def __init__(
        self, kind: Pooling = "average", shape: tuple[int, int, int] | None = None
    ) -> None:
        self.kind = kind
        self.shape = shape

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Do nothing: there is nothing to be learned."""
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Give rows (n, channels) of rows (n, height * width * channels).

        Raises
        ------
        PipelineError
            If rows are not as long as that.
        """
        rows = np.asarray(X, np.float32)
        if self.kind == "flatten":
            return rows
        if self.shape is None:
            raise PipelineError(f"pooling {self.kind!r} needs the shape of a row.")
        height, width, channels = self.shape
        if rows.ndim != 2 or rows.shape[1] != height * width * channels:
            raise PipelineError(
                f"Rows of shape {rows.shape} cannot be pooled.",
                expected=f"{height} x {width} places of {channels} channels in each row.",
            )
        places = rows.reshape(len(rows), height * width, channels)
        pooled: NDArray[np.float32]
        pooled = places.mean(axis=1) if self.kind == "average" else places.max(axis=1)
        return pooled

    def __sklearn_is_fitted__(self) -> bool:
        """Say that it can be used at once."""
        return True


class Balanced(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier for which all classes count the same, however many rows each has.

    Each row weighs ``n / (k * rows of its class)``: what ``class_weight="balanced"`` means where an
    estimator has that (G. King, L. Zeng, *Logistic regression in rare events data*, 2001).

    Parameters
    ----------
    classifier : estimator
        Its ``fit`` takes ``sample_weight``.
    """

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Learn from rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,)."""
        weights = compute_sample_weight("balanced", y)
        self.classifier_ = clone(self.classifier).fit(X, y, sample_weight=weights)
        self.classes_ = self.classifier_.classes_
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Give the probability of each class for each row, shape (n, k), from 0 to 1."""
        proba: NDArray[np.float64] = self.classifier_.predict_proba(X)
        return proba

    def predict(self, X: Any) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels


class CalibrationFolds(BaseEstimator):  # type: ignore[misc]
    """Stratified, shuffled folds: three, or as many as the smallest class has rows.

    Three are Platt's own (*Probabilistic outputs for support vector machines*, 1999). On the demo,
    the best log losses with five differ by less than 0.0005, that of ``lda`` by 0.002; and a fit
    takes half as long again.

    scikit-learn's own splitters want the number beforehand, and fail or warn for a smaller class.

    Parameters
    ----------
    random_state : int, default 0
        Decides the shuffling.
    groups : ndarray of int, shape (n,), optional
        Rows of the same number come into the same fold: views of an image, images of a group. By
        default each row is on its own.
    """

    def __init__(self, random_state: int = 0, groups: NDArray[np.int64] | None = None) -> None:
        self.random_state = random_state
        self.groups = groups

    def split(
        self, X: ArrayLike, y: ArrayLike, groups: object = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the indices of the rows to fit on and of the rows to score, fold by fold."""
        count, labels = self.get_n_splits(X, y), np.asarray(y)
        folds = StratifiedKFold(count, shuffle=True, random_state=self.random_state)
        if self.groups is None:
            yield from folds.split(X, y)
            return
        _, first, image = np.unique(self.groups, return_index=True, return_inverse=True)
        if np.any(labels != labels[first][image]):  # a group of several classes
            codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
            numbers = image.astype(np.int64)
            yield from _split_groups(count, self.random_state, codes.tobytes(), numbers.tobytes())
            return
        for fitted, scored in folds.split(first, labels[first]):
            yield np.flatnonzero(np.isin(image, fitted)), np.flatnonzero(np.isin(image, scored))

    def get_n_splits(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, groups: object = None
    ) -> int:
        """Give the number of folds for the labels ``y``: 2 or 3."""
        if y is None:
            return _CALIBRATION_FOLDS
        names, labels = np.unique(y, return_inverse=True)
        units = np.arange(len(labels)) if self.groups is None else self.groups
        counts = np.bincount(np.unique(np.stack([units, labels]), axis=1)[1])
        if counts.min() < 2:
            raise PipelineError(
                f"Class {names[counts.argmin()]} has a single training image.",
                expected="two or more, to calibrate probabilities on rows not trained on.",
                fix="add images of that class, or use the head 'logistic', which needs but one.",
            )
        return int(min(_CALIBRATION_FOLDS, counts.min()))


@lru_cache(maxsize=128)
def _split_groups(
    count: int, seed: int, labels: bytes, groups: bytes
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Split groups of several classes; once for all fits on the same rows: it takes 0.1 s each."""
    y = np.frombuffer(labels, np.int64)
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(folds.split(y, y, np.frombuffer(groups, np.int64)))


def at_least_two_classes(labels: NDArray[Any]) -> None:
    """Refuse labels that name a single class, as scikit-learn's classifiers do."""
    check_classification_targets(labels)
    if len(np.unique(labels)) < 2:
        # A ValueError, as every scikit-learn classifier raises here.
        raise ValueError(f"All rows are of one class, {labels[0]}; two or more are needed.")
