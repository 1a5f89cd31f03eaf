# ruff: noqa: N803 -- X, C and unused arguments are scikit-learn's interface
"""The classifiers ("heads") that are trained on cached features, by name.

Rows come in as a ``(n, d)`` float32 matrix, one row an image: ``d = 8192`` for the flattened
``(4, 4, 512)`` block VGG16 makes of a 150 x 150 picture. About 93 % of the values are zeros, none
is negative, and there are fewer rows than columns. What follows from that, measured on 2,624
photographs of solar cells (three seeded splits, judged on validation):

* Every scikit-learn head first brings each row to length one. Raw values, square roots and
  per-column scaling (``MaxAbsScaler``, ``StandardScaler(with_mean=False)``) were each worse on at
  least one split, by 1 to 4 points; this was about 1 point from the best at worst. It needs no
  fitting, and makes ``C`` and ``gamma`` mean the same whether features were made with VGG16's own
  preprocessing or with the recipe's 1/255.
* ``logistic``, ``linear-svm`` and ``knn`` get sparse rows (logistic regression: 6 times as fast).
  ``rbf-svm`` gets dense ones, since BLAS makes their Gram matrix faster.
* Every head gives probabilities. Those of ``logistic`` and ``dense`` come from their loss. The
  others are calibrated by Platt's sigmoid on out-of-fold scores, inside the training rows.

Importing this module never imports TensorFlow; only fitting or building ``dense`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from sklearn.svm import LinearSVC

from pipeline.errors import PipelineError
from pipeline.heads.dense import DenseHead, build_dense
from pipeline.heads.estimators import CalibrationFolds, NearestNeighbours, RbfSVM

__all__ = [
    "HEADS",
    "TRUSTED_TYPES",
    "Classifier",
    "DenseHead",
    "Head",
    "build_dense",
    "get_head",
]

TRUSTED_TYPES: tuple[str, ...] = (
    "pipeline.heads.estimators.CalibrationFolds",
    "pipeline.heads.estimators.NearestNeighbours",
    "pipeline.heads.estimators.RbfSVM",
    "scipy.sparse._csr.csr_array",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
)
"""What ``skops.io.load`` must be told to trust beyond its defaults for scikit-learn heads."""


class Classifier(Protocol):
    """What every head's estimator can do: scikit-learn's classifier interface."""

    classes_: NDArray[Any]

    def fit(self, *data: Any, **options: Any) -> Any:
        """Learn from rows of shape (n, d) and their labels of shape (n,); give itself."""

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""

    def predict_proba(self, X: NDArray[Any]) -> NDArray[Any]:
        """Give the probability of each class for each row, shape (n, k)."""


@dataclass(frozen=True)
class Head:
    """A kind of classifier, and what of it is to be chosen on validation.

    Attributes
    ----------
    name : str
        What the user calls it.
    summary : str
        What it is, in a line.
    build : callable
        ``build(seed, **params)`` gives a fresh, unfitted estimator.
    grid : tuple of mapping
        The candidates: parameters for ``build``, from strong to weak regularisation.
    early_stopping : bool
        Whether ``fit`` also takes ``validation_data`` and ``on_epoch``, as `DenseHead` does.
    calibrated : bool
        Whether ``build`` also takes ``groups``, as `CalibrationFolds` does.
    """

    name: str
    summary: str
    build: Callable[..., Classifier]
    grid: tuple[Mapping[str, Any], ...] = field(default=({},))
    early_stopping: bool = False
    calibrated: bool = False


Groups = NDArray[np.int64] | None


def _sparse_unit_rows() -> list[Any]:
    return [FunctionTransformer(csr_array), Normalizer()]


def _calibrated(classifier: Any, seed: int, groups: Groups) -> CalibratedClassifierCV:
    # One classifier on all rows, not one per fold: a model a fifth as large and as slow.
    return CalibratedClassifierCV(classifier, cv=CalibrationFolds(seed, groups), ensemble=False)


def _logistic(seed: int, *, C: float = 10.0) -> Classifier:
    # At C = 300 it took 120 iterations; 2,000 leaves room for harder data.
    classifier = LogisticRegression(C=C, max_iter=2000, random_state=seed)
    return make_pipeline(*_sparse_unit_rows(), classifier)  # type: ignore[no-any-return]


def _linear_svm(seed: int, *, groups: Groups = None, C: float = 1.0) -> Classifier:
    svm = LinearSVC(C=C, max_iter=20_000, random_state=seed)
    return make_pipeline(*_sparse_unit_rows(), _calibrated(svm, seed, groups))  # type: ignore[no-any-return]


def _rbf_svm(seed: int, *, groups: Groups = None, C: float = 3.0, gamma: float = 2.0) -> Classifier:
    svm = RbfSVM(C, gamma, seed, groups)
    return make_pipeline(Normalizer(), svm)  # type: ignore[no-any-return]


def _knn(seed: int, *, groups: Groups = None, n_neighbors: int = 20) -> Classifier:
    # Between rows of length one the nearest by distance are the nearest by angle. Near rows count
    # more, which ranked better on every split. Raw votes are often 0 of k: an infinite log loss if
    # wrong. Calibrated, the log loss fell from 0.45-2.6 to 0.41-0.49.
    knn = NearestNeighbours(n_neighbors, weights="distance", algorithm="brute")
    return make_pipeline(*_sparse_unit_rows(), _calibrated(knn, seed, groups))  # type: ignore[no-any-return]


def _dense(seed: int, **params: Any) -> Classifier:
    return DenseHead(random_state=seed, **params)


HEADS: Mapping[str, Head] = MappingProxyType(
    {
        head.name: head
        for head in (
            Head(
                "logistic",
                "logistic regression",
                _logistic,
                tuple({"C": c} for c in (1.0, 3.0, 10.0, 30.0, 100.0)),
            ),
            Head(
                "linear-svm",
                "linear support vector machine",
                _linear_svm,
                tuple({"C": c} for c in (0.1, 0.3, 1.0, 3.0)),
                calibrated=True,
            ),
            Head(
                "rbf-svm",
                "support vector machine with a Gaussian kernel",
                _rbf_svm,
                tuple({"gamma": g, "C": c} for g in (1.0, 2.0, 4.0) for c in (3.0, 10.0)),
                calibrated=True,
            ),
            Head(
                "knn",
                "k nearest neighbours by angle",
                _knn,
                tuple({"n_neighbors": k} for k in (40, 20, 10, 5)),
                calibrated=True,
            ),
            Head(
                "dense",
                "the recipe's densely connected network (Keras)",
                _dense,
                # The recipe regularises by dropout and by stopping early on validation.
                early_stopping=True,
            ),
        )
    }
)
"""Every head, by name."""


def get_head(name: str) -> Head:
    """Give the head of that name.

    Raises
    ------
    PipelineError
        If there is none; the message lists the names.
    """
    try:
        return HEADS[name]
    except KeyError:
        raise PipelineError(
            f"There is no head named {name!r}.",
            expected=f"one of {', '.join(HEADS)}.",
        ) from None
