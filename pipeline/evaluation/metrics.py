"""Truth and probabilities in, metrics with their intervals out.

Each metric is computed from weights of the rows, for many sets of weights at once: weights of 1
give the metric itself, counts of how often a row was drawn give it for a bootstrap resample. A
thousand resamples of 10,000 rows take seconds; calling scikit-learn, whose values these are, for
each of them would take many minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.bootstrap import (
    TINY,
    Floats,
    Labels,
    ScoredRows,
    bootstrap_intervals,
    log_losses,
    measure,
)
from pipeline.evaluation.intervals import NORMAL_975, Share, wilson_interval
from pipeline.evaluation.threshold import call

RESAMPLES = 1000
"""Bootstrap resamples: with fewer, the ends of an interval depend visibly on the seed."""

_FEWEST_RESAMPLES = 200
_MOST_DRAWN = 10**8  # rows drawn in all, times the classes that are ranked: a few seconds

_LEAST = 1e-6  # smaller probabilities count as this in log-odds
_FEWEST_GROUPS = 10  # with fewer, the resamples are too similar and the intervals too narrow


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How well probabilities fit the truth, on ``n`` rows of ``k`` classes.

    Where a class does not occur in the truth, `roc_auc` and `average_precision` are None, and
    means over the classes leave it out.

    Attributes
    ----------
    n : int
        Number of rows.
    accuracy : float
        Share of rows that are predicted correctly, 0 to 1.
    accuracy_low, accuracy_high : float
        Its 95 % interval, also in `intervals`.
    balanced_accuracy : float
        Mean recall over the classes, 0 to 1.
    macro_f1 : float
        Mean over the classes of the harmonic mean of precision and recall, 0 to 1. A class that
        is predicted but does not occur counts as 0.
    roc_auc : float or None
        Area under the ROC curve; with more than two classes, the mean of each against the rest.
    average_precision : float or None
        Area under the precision-recall curve, in steps: of the positive of two classes, or the
        mean over more than two.
    log_loss : float
        Mean of ``-ln(probability of the true class)``, 0 or more, in nats.
    brier : float
        Mean squared difference of probability and truth (G. W. Brier, Monthly Weather Review 78,
        1950): for the second of two classes, 0 to 1; summed over more than two, 0 to 2.
    confusion : tuple of tuple of int
        ``confusion[truth][prediction]``: how many rows, shape (k, k).
    intervals : mapping of str to (float, float)
        95 % intervals by the names of the metrics above; none for a metric that is None.
    interval_method : str
        How they were computed.
    positive : int
        Of two classes, the one that `average_precision` is of; runs of the first weeks hold that
        of the second.
    recall_counts, precision_counts : tuple of float
        Where rows come in groups, or each fold has a threshold: for each class the number of
        independent rows that would estimate its recall, or precision, as precisely.
    """

    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    macro_f1: float = np.nan  # runs of the first weeks do not hold it, nor the next two below
    roc_auc: float | None
    average_precision: float | None = None
    log_loss: float
    brier: float = np.nan
    confusion: tuple[tuple[int, ...], ...]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    interval_method: str = ""
    positive: int = 1
    recall_counts: tuple[float, ...] = ()
    precision_counts: tuple[float, ...] = ()

    @property
    def guessing(self) -> float:
        """Accuracy of always guessing the most common class."""
        return max(map(sum, self.confusion)) / self.n

    @property
    def grouped(self) -> bool:
        """Whether rows came in groups; `interval_method` tells that also of the first runs."""
        return "groups of images" in self.interval_method

    def with_thresholds_of(self, folds: int) -> Metrics:
        """Return the metrics with counts for calls by a threshold that each fold has for itself.

        What a threshold finds varies with the images that it was chosen on, here `folds` - 1 of
        `folds` parts, as much as with those that it is tested on: the variances of both add up. Of
        ten samples of 25 positives, intervals of the plain counts held the recall on new images 8
        times, these 9 times; the counts were chosen after the 8 were seen, so fresh samples are
        still to confirm them.
        """
        share = (folds - 1) / (2 * folds - 1)
        recalls = self.recall_counts or [sum(row) for row in self.confusion]
        precisions = self.precision_counts or [sum(column) for column in zip(*self.confusion)]
        return replace(
            self,
            recall_counts=tuple(share * count for count in recalls),
            precision_counts=tuple(share * count for count in precisions),
        )

    def recall(self, label: int) -> Share:
        """Give how many rows of a class are predicted as it."""
        counts = self.recall_counts
        hits, count = self.confusion[label][label], sum(self.confusion[label])
        return Share(hits, count, counts[label] if counts else None)

    def precision(self, label: int) -> Share:
        """Give how many rows that are predicted as a class are of it."""
        counts = self.precision_counts
        hits, count = self.confusion[label][label], sum(row[label] for row in self.confusion)
        return Share(hits, count, counts[label] if counts else None)


def evaluate(
    y_true: ArrayLike,
    proba: ArrayLike,
    predicted: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    resamples: int | None = None,
    positive: int = 1,
) -> Metrics:
    """Compare probabilities with the truth.

    The interval of the accuracy is Wilson's (E. B. Wilson, JASA 22, 1927). The others are
    percentiles of a bootstrap (B. Efron, Annals of Statistics 7, 1979) that draws rows whatever
    their class; a resample without a class is left out of the metrics that are then undefined. Rows
    of one group are not independent: the bootstrap draws whole groups, and gives no intervals for
    fewer than 10; Wilson's interval uses the effective number of rows (E. L. Korn, B. I. Graubard,
    Survey Methodology 24, 1998).

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        True classes, 0 to k - 1. Classes may be absent.
    proba : array-like of float, shape (n, k) or (repeats, n, k)
        Probability of each class, rows summing to 1; k is at least 2. With repeats, as from
        repeated cross-validation, each metric is the mean over them. They do not make the
        accuracy's interval narrower, as they add no rows. `confusion` is that of the first.
    predicted : array-like of int, shape (n,) or (repeats, n), optional
        Predicted classes; the default is the most probable class, the first of equals.
    groups : array-like of int, shape (n,), optional
        Rows with the same number belong together.
    resamples : int, optional
        Number of bootstrap resamples; 0 leaves out all intervals except Wilson's. The default is
        1,000, reduced to as few as 200 for many rows, where intervals are narrow and 200 are
        enough.
    positive : int
        Of two classes, the one that precision and recall are of.

    Returns
    -------
    Metrics

    Raises
    ------
    PipelineError
        There are no rows, the shapes do not fit, a label is not one of 0 to k - 1, or
        probabilities are not finite, not between 0 and 1, or do not sum to 1.
    """
    truth, sets = _checked(y_true, proba)
    n, k = sets.shape[1:]
    calls = call(sets) if predicted is None else _checked_calls(predicted, sets)
    scored = [
        ScoredRows.from_probabilities(truth, p, called, positive) for p, called in zip(sets, calls)
    ]
    figures = {name: float(value[0]) for name, value in measure(scored, np.ones((1, n))).items()}
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    enough = groups is None or unit.max() + 1 >= _FEWEST_GROUPS
    if resamples is None:
        ranked = n * sum(len(rows.rankings) for rows in scored)
        resamples = min(max(_MOST_DRAWN // ranked, _FEWEST_RESAMPLES), RESAMPLES)
    bootstrap = bootstrap_intervals(scored, unit, resamples) if resamples and enough else {}
    intervals = {name: ends for name, ends in bootstrap.items() if np.isfinite(figures[name])}
    method, what, count = "Wilson for the accuracy", "images", float(n)
    of_class: dict[str, tuple[float, ...]] = {}
    if groups is not None:
        of_class = {
            "recall_counts": _counts_by(truth, calls[0] == truth, unit, k),
            "precision_counts": _counts_by(calls[0], calls[0] == truth, unit, k),
        }
        count = _effective_count(np.mean(calls == truth, axis=0), unit)
        what = "groups of images"
        method += " of the effective number of images"
    low, high = map(float, wilson_interval(figures["accuracy"], count))
    intervals["accuracy"] = (low, high)
    if not enough:
        method += f", else none: fewer than {_FEWEST_GROUPS} {what}"
    elif resamples:
        method += f", else percentile bootstrap of {what}, {resamples:,} resamples"
    confusion = np.bincount(truth * k + calls[0], minlength=k * k).reshape(k, k)
    return Metrics(
        n=n,
        accuracy=figures["accuracy"],
        accuracy_low=low,
        accuracy_high=high,
        balanced_accuracy=figures["balanced_accuracy"],
        macro_f1=figures["macro_f1"],
        roc_auc=_defined(figures["roc_auc"]),
        average_precision=_defined(figures["average_precision"]),
        log_loss=figures["log_loss"],
        brier=figures["brier"],
        confusion=tuple(map(tuple, confusion.tolist())),
        intervals=intervals,
        interval_method=method,
        positive=positive if k == 2 else 1,
        **of_class,
    )


def log_loss(truth: Labels, p: Floats, weights: Floats | None = None) -> float:
    """Give the mean of ``-ln(probability of the true class)``, by which candidates are chosen."""
    return float(np.average(log_losses(truth, p), weights=weights))


def log_odds(p: Floats) -> Floats:
    """Turn probabilities into ``ln(p / (1 - p))``; 0 and 1 count as 1e-6 from there."""
    within = np.clip(p, _LEAST, 1 - _LEAST)
    odds: Floats = np.log(within / (1 - within))
    return odds


def _counts_by(classes: Labels, hits: NDArray[np.bool_], unit: Labels, k: int) -> tuple[float, ...]:
    """Give `_effective_count` of the rows of each class; 0 of none."""
    counts = []
    for label in range(k):
        rows = classes == label
        own = np.unique(unit[rows], return_inverse=True)[1]
        counts.append(_effective_count(hits[rows].astype(np.float64), own) if rows.any() else 0.0)
    return tuple(counts)


def _effective_count(hits: Floats, unit: Labels) -> float:
    """Give the number of independent rows that would estimate the accuracy as precisely."""
    from scipy.special import stdtrit

    n, groups = len(hits), int(unit.max()) + 1
    if groups == 1:
        return 1.0
    accuracy = hits.mean()
    spread = np.bincount(unit, hits - accuracy)
    variance = groups / (groups - 1) * np.sum(spread**2) / n**2
    if variance < TINY:  # all groups have the same accuracy, which says nothing of the variance
        return float(groups)
    known = (NORMAL_975 / stdtrit(groups - 1, 0.975)) ** 2  # the variance is estimated, too
    return float(np.clip(known * accuracy * (1 - accuracy) / variance, 1, n))


def _defined(figure: float) -> float | None:
    return figure if np.isfinite(figure) else None


def _checked_calls(predicted: ArrayLike, sets: Floats) -> Labels:
    calls = np.broadcast_to(np.asarray(predicted), sets.shape[:2])
    if calls.min() < 0 or calls.max() >= sets.shape[2]:
        raise PipelineError(
            f"predicted classes are from {calls.min()} to {calls.max()}",
            expected=f"integers from 0 to {sets.shape[2] - 1}",
        )
    return calls


def _checked(y_true: ArrayLike, proba: ArrayLike) -> tuple[Labels, Floats]:
    truth = np.asarray(y_true)
    given = np.asarray(proba, dtype=np.float64)
    sets = given[None] if given.ndim == 2 else given
    if sets.ndim != 3 or sets.shape[2] < 2 or not len(sets) or truth.shape != sets.shape[1:2]:
        raise PipelineError(
            f"labels of shape {truth.shape} and probabilities of shape {given.shape} do not fit",
            expected="labels (n,) and probabilities (n, k) with k of 2 or more",
        )
    if len(truth) == 0:
        raise PipelineError("there are no rows to evaluate", expected="at least one row")
    k = sets.shape[2]
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= k:
        raise PipelineError(
            f"labels are {truth.dtype} values from {truth.min()} to {truth.max()}",
            expected=f"integers from 0 to {k - 1}, one for each column of probabilities",
        )
    p = sets.reshape(-1, k)
    bad = np.flatnonzero(~np.isfinite(p).all(axis=1))
    if len(bad):
        raise PipelineError(
            f"{len(bad)} of {len(p)} rows of probabilities are not finite; the first is {bad[0]}",
            expected="numbers from 0 to 1",
            fix="check the features for NaN, and whether the head's training diverged",
        )
    # The float32 probabilities of a softmax sum to 1 within about 1e-6.
    bad = np.flatnonzero((p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > 1e-4))
    if len(bad):
        raise PipelineError(
            f"{len(bad)} of {len(p)} rows are not probabilities; row {bad[0]} is {p[bad[0]]}",
            expected="numbers from 0 to 1 that sum to 1 in each row",
        )
    return truth.astype(np.intp), sets
