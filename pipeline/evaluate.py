"""Truth and probabilities in, metrics out. Pure: nothing is read, written or remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn import metrics

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Metrics:
    """How well probabilities meet the truth, on ``n`` rows of ``k`` classes.

    Attributes
    ----------
    n : int
        Number of rows.
    accuracy : float
        Share of rows whose likeliest class is the true one, 0 to 1.
    accuracy_low, accuracy_high : float
        Wilson's 95 % interval for the accuracy (E. B. Wilson, JASA 22, 1927).
    balanced_accuracy : float
        Mean recall over the classes that occur in the truth, 0 to 1.
    roc_auc : float or None
        Area under the ROC curve; for several classes the mean over "this class or another".
        None where it is undefined, since a class does not occur in the truth.
    log_loss : float
        Mean of ``-ln(probability of the true class)``, 0 or more, in nats.
    confusion : tuple of tuple of int
        ``confusion[truth][prediction]``: how many rows, shape (k, k).
    """

    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    roc_auc: float | None
    log_loss: float
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the metrics as plain numbers and lists, ready for JSON."""
        return {**vars(self), "confusion": [list(row) for row in self.confusion]}


def evaluate(y_true: ArrayLike, proba: ArrayLike) -> Metrics:
    """Compare probabilities with the truth.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        True classes, 0 to k - 1. Classes may be absent.
    proba : array-like of float, shape (n, k)
        Probability of each class, rows summing to 1; k is at least 2.

    Returns
    -------
    Metrics
        The predicted class is the likeliest; the first of equals.

    Raises
    ------
    PipelineError
        If there are no rows, the shapes do not fit, a label is not one of 0 to k - 1, or
        probabilities are not finite, not between 0 and 1, or do not sum to 1.
    """
    truth, p = _checked(y_true, proba)
    n, k = p.shape
    classes = np.arange(k)
    predicted = p.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, predicted, labels=classes)
    hits = int(np.trace(confusion))
    interval = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    # Not scikit-learn's balanced_accuracy_score: it warns of classes that were predicted but do not
    # occur in the truth, and leaves them out, as here.
    occurs = np.isin(classes, truth)
    recalls = metrics.recall_score(truth, predicted, labels=classes[occurs], average=None)
    return Metrics(
        n=n,
        accuracy=hits / n,
        accuracy_low=float(interval.low),
        accuracy_high=float(interval.high),
        balanced_accuracy=float(np.mean(recalls)),
        roc_auc=_roc_auc(truth, p) if occurs.all() else None,
        log_loss=float(metrics.log_loss(truth, p, labels=classes)),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _roc_auc(truth: NDArray[np.intp], p: NDArray[np.float64]) -> float:
    if p.shape[1] == 2:
        return float(metrics.roc_auc_score(truth, p[:, 1]))
    return float(metrics.roc_auc_score(truth, p, multi_class="ovr", average="macro"))


def _checked(y_true: ArrayLike, proba: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    truth = np.asarray(y_true)
    p = np.asarray(proba, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or truth.shape != p.shape[:1]:
        raise PipelineError(
            f"Labels of shape {truth.shape} and probabilities of shape {p.shape} do not fit.",
            expected="labels (n,) and probabilities (n, k) with k of 2 or more.",
        )
    if len(truth) == 0:
        raise PipelineError("There are no rows to evaluate.", expected="at least one row.")
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= p.shape[1]:
        raise PipelineError(
            f"Labels are {truth.dtype} values from {truth.min()} to {truth.max()}.",
            expected=f"integers from 0 to {p.shape[1] - 1}, one for each column of probabilities.",
        )
    bad = np.flatnonzero(~np.isfinite(p).all(axis=1))
    if len(bad):
        raise PipelineError(
            f"{len(bad)} of {len(p)} rows of probabilities are not finite; the first is {bad[0]}.",
            expected="numbers from 0 to 1.",
            fix="check the features for NaN, and whether the head's training diverged.",
        )
    # float32 probabilities of a softmax sum to 1 within about 1e-6.
    bad = np.flatnonzero((p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > 1e-4))
    if len(bad):
        raise PipelineError(
            f"{len(bad)} of {len(p)} rows are no probabilities; row {bad[0]} is {p[bad[0]]}.",
            expected="numbers from 0 to 1 that sum to 1 in each row.",
        )
    return truth.astype(np.intp), p / p.sum(axis=1, keepdims=True)
