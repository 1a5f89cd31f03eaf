"""Metrics of weighted rows, and bootstrap resamples of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_VALUES_AT_A_TIME = (
    2**17
)  # of weights: 1 MB, which caches hold, and some times that for what is made of them
TINY = float(np.finfo(np.float64).eps)  # what scikit-learn's log loss takes for 0

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]


def surprise(truth: Labels, p: Floats) -> Floats:
    """Give ``-ln(probability of the true class)`` of each row, made to sum to 1."""
    said = np.take_along_axis(p, truth[:, None], axis=1)[:, 0]
    found: Floats = -np.log(np.maximum(said / p.sum(axis=1), TINY))
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
class Judged:
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
    def of(cls, truth: Labels, p: Floats, called: Labels) -> Judged:
        k = p.shape[1]
        ranked = [1] if k == 2 else range(k)
        return cls(
            truth,
            called,
            np.where(truth == called, truth, k),
            k,
            np.stack([surprise(truth, p), _squares(truth, p) / (2 if k == 2 else 1)], axis=1),
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


def measure(judged: list[Judged], weights: Floats) -> dict[str, Floats]:
    """Give each metric for each row of weights, as its mean over the sets of probabilities."""
    found = [one.measure(weights) for one in judged]
    return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}


def bootstrap_intervals(
    judged: list[Judged], unit: Labels, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    found = [measure(judged, weights) for weights in _resampled(unit, resamples, seed)]
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
