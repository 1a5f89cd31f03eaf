"""Truth and probabilities in, metrics with their intervals out.

Pure: nothing is read, written or remembered. Each metric is computed from weights of the rows, for
many sets of weights at once: all ones give the figure itself, counts of how often a row was drawn
give those of bootstrap resamples. So a thousand resamples of 10,000 rows take seconds, where
calling scikit-learn for each, whose figures these are, takes many minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from pipeline.errors import PipelineError

RESAMPLES = 1000
"""Bootstrap resamples: with fewer, the ends of an interval move visibly from seed to seed."""

_FEWEST_RESAMPLES = 200
_MOST_DRAWN = 10**8  # rows, for each class that is ranked: some seconds

_FEWEST_GROUPS = 10  # with fewer, resamples of groups are too much alike: intervals are too narrow
_NORMAL = 1.959964  # 97.5 % of a normal distribution lie below

_VALUES_AT_A_TIME = (
    2**17
)  # of weights: 1 MB, which caches hold, and some times that for what is made of them
_TINY = float(np.finfo(np.float64).eps)  # what scikit-learn's log loss takes for 0

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]


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
        sets.argmax(axis=2) if predicted is None else np.asarray(predicted), sets.shape[:2]
    )
    if called.min() < 0 or called.max() >= k:
        raise PipelineError(
            f"Rows are called classes from {called.min()} to {called.max()}.",
            expected=f"integers from 0 to {k - 1}.",
        )
    judged = [_Judged.of(truth, p, own) for p, own in zip(sets, called)]
    figures = {name: float(found[0]) for name, found in _measure(judged, np.ones((1, n))).items()}
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    enough = groups is None or unit.max() + 1 >= _FEWEST_GROUPS
    if resamples is None:
        ranked = n * sum(len(one.rankings) for one in judged)
        resamples = min(max(_MOST_DRAWN // ranked, _FEWEST_RESAMPLES), RESAMPLES)
    bootstrap = _bootstrap(judged, unit, resamples, seed) if resamples and enough else {}
    intervals = {name: ends for name, ends in bootstrap.items() if np.isfinite(figures[name])}
    method, what, count = "Wilson for the accuracy", "images", float(n)
    if groups is not None:
        hits = np.mean([one.truth == one.called for one in judged], axis=0)
        count, what = _effective_count(hits, unit), "groups of images"
        method += " of the effective number of images"
    intervals["accuracy"] = _wilson(figures["accuracy"], count)
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
    return float(np.average(_surprise(truth, p), weights=weights))


def _effective_count(hits: Floats, unit: Labels) -> float:
    """Give how many rows alone would tell as much of the accuracy as these, which share groups."""
    n, groups = len(hits), int(unit.max()) + 1
    if groups == 1:
        return 1.0
    accuracy = hits.mean()
    spread = np.bincount(unit, hits - accuracy)
    variance = groups / (groups - 1) * np.sum(spread**2) / n**2
    if variance < _TINY:  # all groups are alike, so what they tell cannot be measured
        return float(groups)
    known = (_NORMAL / stdtrit(groups - 1, 0.975)) ** 2  # the variance itself is of few groups
    return float(np.clip(known * accuracy * (1 - accuracy) / variance, 1, n))


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Give Wilson's interval, of a number that need not be whole."""
    z2 = _NORMAL**2 / count
    middle = share + z2 / 2
    half = float(np.sqrt(z2 * (share * (1 - share) + z2 / 4)))
    low, high = (middle - half) / (1 + z2), (middle + half) / (1 + z2)
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def _defined(figure: float) -> float | None:
    return figure if np.isfinite(figure) else None


def _surprise(truth: Labels, p: Floats) -> Floats:
    """Give ``-ln(probability of the true class)`` of each row, made to sum to 1."""
    said = np.take_along_axis(p, truth[:, None], axis=1)[:, 0]
    found: Floats = -np.log(np.maximum(said / p.sum(axis=1), _TINY))
    return found


def _squares(truth: Labels, p: Floats) -> Floats:
    """Give the sum over the classes of the squared difference of probability and truth."""
    found = np.empty(len(p))
    step = max(1, _VALUES_AT_A_TIME // p.shape[1])
    for start in range(0, len(p), step):  # a copy of all would double what memory holds
        some = slice(start, start + step)
        wrong = p[some] / p[some].sum(axis=1, keepdims=True)
        wrong[np.arange(len(wrong)), truth[some]] -= 1
        found[some] = (wrong**2).sum(axis=1)
    return found


class _Ranking(NamedTuple):
    """Rows from the lowest to the highest score of one class, and where it occurs among them.

    Rows of one score are a step. Only steps with a row of the class matter: `before` and `after`
    count the rows below each such step, and with it; `hits_before` and `hits_after` those of the
    class.
    """

    order: Labels
    positive: Labels  # in `order`
    before: Labels
    after: Labels
    hits_before: Labels
    hits_after: Labels

    @classmethod
    def of(cls, is_class: NDArray[np.bool_], score: Floats) -> _Ranking:
        order = np.argsort(score, kind="stable")
        positive = np.flatnonzero(is_class[order])
        after = np.append(np.flatnonzero(np.diff(score[order])) + 1, len(order))
        before = np.append(0, after[:-1])
        hits_before, hits_after = (
            np.searchsorted(positive, before),
            np.searchsorted(positive, after),
        )
        steps = hits_after > hits_before
        bounds = (one[steps] for one in (before, after, hits_before, hits_after))
        return cls(order, positive, *bounds)

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """Give the areas below the ROC curve and below precision against recall, in steps."""
        ordered = weights[:, self.order]
        rows, hits = _cumulated(ordered), _cumulated(ordered[:, self.positive])
        low, high = hits[:, self.hits_before], hits[:, self.hits_after]
        others_below = rows[:, self.before] - low
        others_with = rows[:, self.after] - high
        total, total_hits = rows[:, -1:], hits[:, -1:]
        gained = high - low
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = total_hits * (total - total_hits)
            roc = np.sum(gained * (others_below + others_with), axis=1) / 2 / pairs[:, 0]
            called = total - rows[:, self.before]
            precision = np.where(gained > 0, (total_hits - low) / called, 0.0)
            average = np.sum(gained * precision, axis=1) / total_hits[:, 0]
        return roc, np.where(np.isnan(roc), np.nan, average)


def _cumulated(weights: Floats) -> Floats:
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


@dataclass(frozen=True)
class _Judged:
    """What one set of probabilities says of each row, ready to be weighted.

    `hit` is the class of a row that is called what it is, else `classes`. `costs` has log loss and
    Brier score.
    """

    truth: Labels
    called: Labels
    hit: Labels
    classes: int
    costs: Floats
    rankings: tuple[_Ranking, ...]

    @classmethod
    def of(cls, truth: Labels, p: Floats, called: Labels) -> _Judged:
        k = p.shape[1]
        ranked = [1] if k == 2 else range(k)
        return cls(
            truth,
            called,
            np.where(truth == called, truth, k),
            k,
            np.stack([_surprise(truth, p), _squares(truth, p) / (2 if k == 2 else 1)], axis=1),
            tuple(_Ranking.of(truth == one, p[:, one]) for one in ranked),
        )

    def measure(self, weights: Floats) -> dict[str, Floats]:
        """Give each metric for each row of weights, shape (b, n); NaN where it is undefined."""
        total = weights.sum(axis=1)
        true, called, hits = (
            self._by_class(weights, of) for of in (self.truth, self.called, self.hit)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls = np.where(true > 0, hits / true, 0.0)
            f1 = np.where(true + called > 0, 2 * hits / (true + called), 0.0)
        costs = weights @ self.costs / total[:, None]
        areas = np.mean([ranking.areas(weights) for ranking in self.rankings], axis=0)
        return {
            "accuracy": hits.sum(axis=1) / total,
            "balanced_accuracy": recalls.sum(axis=1) / (true > 0).sum(axis=1),
            "macro_f1": f1.sum(axis=1) / (true + called > 0).sum(axis=1),
            "roc_auc": areas[0],
            "average_precision": areas[1],
            "log_loss": costs[:, 0],
            "brier": costs[:, 1],
        }

    def _by_class(self, weights: Floats, of: Labels) -> Floats:
        """Add up weights by the class of each row, shape (b, k)."""
        k = self.classes
        return np.array([np.bincount(of, row, k + 1)[:k] for row in weights])


def _measure(judged: list[_Judged], weights: Floats) -> dict[str, Floats]:
    """Give each metric for each row of weights, as its mean over the sets of probabilities."""
    found = [one.measure(weights) for one in judged]
    return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}


def _bootstrap(
    judged: list[_Judged], unit: Labels, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    found = [_measure(judged, weights) for weights in _resampled(unit, resamples, seed)]
    ends = {}
    for name in found[0]:
        figures = np.concatenate([one[name] for one in found])
        figures = figures[np.isfinite(figures)]
        if figures.size:
            low, high = np.percentile(figures, [2.5, 97.5])
            ends[name] = (float(low), float(high))
    return ends


def _resampled(unit: Labels, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each row was drawn in each of some resamples, shape (b, n)."""
    rng = np.random.default_rng(seed)
    units = int(unit.max()) + 1
    at_a_time = max(1, _VALUES_AT_A_TIME // len(unit))
    for start in range(0, resamples, at_a_time):
        drawn = (rng.integers(units, size=units) for _ in range(min(at_a_time, resamples - start)))
        times = [np.bincount(one, minlength=units)[unit] for one in drawn]
        yield np.array(times, np.float64)


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
