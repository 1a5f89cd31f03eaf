"""Truth and probabilities in, metrics with their intervals out.

Pure: nothing is read, written or remembered. Each metric is computed from weights of the rows, for
many sets of weights at once: all ones give the figure itself, counts of how often a row was drawn
give those of bootstrap resamples. So a thousand resamples of 10,000 rows take seconds, where
calling scikit-learn for each, whose figures these are, takes many minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from pipeline.errors import PipelineError
from pipeline.evaluation.bootstrap import (
    TINY,
    Floats,
    Judged,
    Labels,
    bootstrap_intervals,
    measure,
    surprise,
)
from pipeline.evaluation.intervals import NORMAL_975, wilson_interval
from pipeline.evaluation.threshold import call

RESAMPLES = 1000
"""Bootstrap resamples: with fewer, the ends of an interval move visibly from seed to seed."""

_FEWEST_RESAMPLES = 200
_MOST_DRAWN = 10**8  # rows, for each class that is ranked: some seconds

_FEWEST_GROUPS = 10  # with fewer, resamples of groups are too much alike: intervals are too narrow


@dataclass(frozen=True)
class Metrics:
    """How well probabilities meet the truth, on ``n`` rows of ``k`` classes.

    Where a class does not occur in the truth, `roc_auc` and `average_precision` are None, and the
    means over classes are over those that occur.

    Attributes
    ----------
    n : int
        Number of rows.
    accuracy : float
        Share of rows that are called what they are, 0 to 1.
    accuracy_low, accuracy_high : float
        Its 95 % interval, also in `intervals`.
    balanced_accuracy : float
        Mean recall over the classes, 0 to 1.
    macro_f1 : float
        Mean over the classes of the harmonic mean of precision and recall, 0 to 1. A class that
        is called but does not occur counts with 0.
    roc_auc : float or None
        Area under the ROC curve; for several classes the mean over "this class or another".
    average_precision : float or None
        Area under the curve of precision against recall, in steps: of the second of two classes;
        of several the mean.
    log_loss : float
        Mean of ``-ln(probability of the true class)``, 0 or more, in nats.
    brier : float
        Mean squared difference of probability and truth (G. W. Brier, Monthly Weather Review 78,
        1950): of two classes that of the second, 0 to 1; of several the sum over them, 0 to 2.
    confusion : tuple of tuple of int
        ``confusion[truth][prediction]``: how many rows, shape (k, k).
    intervals : mapping of str to (float, float)
        95 % intervals by the names of the metrics above; none for what is None.
    interval_method : str
        How they were computed.
    """

    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    macro_f1: float
    roc_auc: float | None
    average_precision: float | None
    log_loss: float
    brier: float
    confusion: tuple[tuple[int, ...], ...]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    interval_method: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the metrics as plain numbers and lists, ready for JSON."""
        return {
            **vars(self),
            "confusion": [list(row) for row in self.confusion],
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
        }


def evaluate(
    y_true: ArrayLike,
    proba: ArrayLike,
    predicted: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> Metrics:
    """Compare probabilities with the truth.

    The interval of the accuracy is Wilson's (E. B. Wilson, JASA 22, 1927). The others are
    percentiles of a bootstrap (B. Efron, Annals of Statistics 7, 1979) that draws rows without
    regard to their class, as the rows themselves were come by; a resample that lacks a class has no
    say in what is then undefined. With groups, rows of a group are no independent evidence: whole
    groups are drawn, of 10 or more, else there are no such intervals; and Wilson's interval has the
    effective number of rows (E. L. Korn, B. I. Graubard, Survey Methodology 24, 1998).

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        True classes, 0 to k - 1. Classes may be absent.
    proba : array-like of float, shape (n, k) or (repeats, n, k)
        Probability of each class, rows summing to 1; k is at least 2. Of repeats, as repeated
        cross-validation gives them, figures are means; they do not make the accuracy's interval
        narrower, as they add no rows. `confusion` is the first one's.
    predicted : array-like of int, shape (n,) or (repeats, n), optional
        What each row is called; the default is the likeliest class, the first of equals.
    groups : array-like of int, shape (n,), optional
        Rows with the same number belong together.
    resamples : int, optional
        Number of bootstrap resamples; 0 leaves the intervals other than Wilson's out. The default
        is 1,000; of many rows 200 or more, so that they are drawn in seconds: intervals are narrow
        there, and their ends' own error is a small part of that.
    seed : int
        Decides the resamples: the same for everything that is judged on the same rows.

    Returns
    -------
    Metrics

    Raises
    ------
    PipelineError
        If there are no rows, the shapes do not fit, a label is not one of 0 to k - 1, or
        probabilities are not finite, not between 0 and 1, or do not sum to 1.
    """
    truth, sets = _checked(y_true, proba)
    n, k = sets.shape[1:]
    called = np.broadcast_to(
        call(sets) if predicted is None else np.asarray(predicted), sets.shape[:2]
    )
    if called.min() < 0 or called.max() >= k:
        raise PipelineError(
            f"Rows are called classes from {called.min()} to {called.max()}.",
            expected=f"integers from 0 to {k - 1}.",
        )
    judged = [Judged.of(truth, p, own) for p, own in zip(sets, called)]
    figures = {name: float(found[0]) for name, found in measure(judged, np.ones((1, n))).items()}
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    enough = groups is None or unit.max() + 1 >= _FEWEST_GROUPS
    if resamples is None:
        ranked = n * sum(len(one.rankings) for one in judged)
        resamples = min(max(_MOST_DRAWN // ranked, _FEWEST_RESAMPLES), RESAMPLES)
    bootstrap = bootstrap_intervals(judged, unit, resamples, seed) if resamples and enough else {}
    intervals = {name: ends for name, ends in bootstrap.items() if np.isfinite(figures[name])}
    method, what, count = "Wilson for the accuracy", "images", float(n)
    if groups is not None:
        hits = np.mean([one.truth == one.called for one in judged], axis=0)
        count, what = _effective_count(hits, unit), "groups of images"
        method += " of the effective number of images"
    intervals["accuracy"] = wilson_interval(figures["accuracy"], count)
    if not enough:
        method += f", else none: fewer than {_FEWEST_GROUPS} {what}"
    elif resamples:
        method += f", else percentile bootstrap of {what}, {resamples:,} resamples"
    confusion = np.bincount(truth * k + called[0], minlength=k * k).reshape(k, k)
    return Metrics(
        n=n,
        accuracy=figures["accuracy"],
        accuracy_low=intervals["accuracy"][0],
        accuracy_high=intervals["accuracy"][1],
        balanced_accuracy=figures["balanced_accuracy"],
        macro_f1=figures["macro_f1"],
        roc_auc=_defined(figures["roc_auc"]),
        average_precision=_defined(figures["average_precision"]),
        log_loss=figures["log_loss"],
        brier=figures["brier"],
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        intervals=intervals,
        interval_method=method,
    )


def log_loss(truth: Labels, p: Floats, weights: Floats | None = None) -> float:
    """Give the mean of ``-ln(probability of the true class)``: what candidates are chosen by."""
    return float(np.average(surprise(truth, p), weights=weights))


def _effective_count(hits: Floats, unit: Labels) -> float:
    """Give how many rows alone would tell as much of the accuracy as these, which share groups."""
    n, groups = len(hits), int(unit.max()) + 1
    if groups == 1:
        return 1.0
    accuracy = hits.mean()
    spread = np.bincount(unit, hits - accuracy)
    variance = groups / (groups - 1) * np.sum(spread**2) / n**2
    if variance < TINY:  # all groups are alike, so what they tell cannot be measured
        return float(groups)
    known = (NORMAL_975 / stdtrit(groups - 1, 0.975)) ** 2  # the variance itself is of few groups
    return float(np.clip(known * accuracy * (1 - accuracy) / variance, 1, n))


def _defined(figure: float) -> float | None:
    return figure if np.isfinite(figure) else None


def _checked(y_true: ArrayLike, proba: ArrayLike) -> tuple[Labels, Floats]:
    truth = np.asarray(y_true)
    given = np.asarray(proba, dtype=np.float64)
    sets = given[None] if given.ndim == 2 else given
    if sets.ndim != 3 or sets.shape[2] < 2 or not len(sets) or truth.shape != sets.shape[1:2]:
        raise PipelineError(
            f"Labels of shape {truth.shape} and probabilities of shape {given.shape} do not fit.",
            expected="labels (n,) and probabilities (n, k) with k of 2 or more.",
        )
    if len(truth) == 0:
        raise PipelineError("There are no rows to evaluate.", expected="at least one row.")
    k = sets.shape[2]
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= k:
        raise PipelineError(
            f"Labels are {truth.dtype} values from {truth.min()} to {truth.max()}.",
            expected=f"integers from 0 to {k - 1}, one for each column of probabilities.",
        )
    p = sets.reshape(-1, k)
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
    return truth.astype(np.intp), sets
