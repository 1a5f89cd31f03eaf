"""Metrics of weighted rows, and bootstrap resamples of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_WEIGHTS_AT_A_TIME = 2**17  # 1 MB, small enough for the CPU cache
_SEED = 0  # the same resamples for everything that is evaluated on the same rows
TINY = float(np.finfo(np.float64).eps)  # probabilities are clipped to this, as in scikit-learn

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]


def log_losses(truth: Labels, p: Floats) -> Floats:
    """Give ``-ln(probability of the true class)`` of each row, probabilities scaled to sum to 1."""
    of_truth = np.take_along_axis(p, truth[:, None], axis=1)[:, 0]
    losses: Floats = -np.log(np.maximum(of_truth / p.sum(axis=1), TINY))
    return losses


def _squared_errors(truth: Labels, p: Floats) -> Floats:
    """Sum the squared differences of probability and truth over the classes, for each row."""
    errors = np.empty(len(p))
    step = max(1, _WEIGHTS_AT_A_TIME // p.shape[1])
    for start in range(0, len(p), step):  # in blocks, to save the memory of a second copy
        block = slice(start, start + step)
        difference = p[block] / p[block].sum(axis=1, keepdims=True)
        difference[np.arange(len(difference)), truth[block]] -= 1
        errors[block] = (difference**2).sum(axis=1)
    return errors


class _Ranking(NamedTuple):
    """Rows sorted by the score of one class.

    Rows with equal scores form a step. Only steps with a row of the class matter: `before` and
    `after` count the rows up to the start and the end of each such step, `hits_before` and
    `hits_after` the rows of the class among them.
    """

    order: Labels
    positive: Labels  # positions in `order` of the rows of the class
    before: Labels
    after: Labels
    hits_before: Labels
    hits_after: Labels

    @classmethod
    def by_score(cls, is_class: NDArray[np.bool_], score: Floats) -> _Ranking:
        order = np.argsort(score, kind="stable")
        positive = np.flatnonzero(is_class[order])
        after = np.append(np.flatnonzero(np.diff(score[order])) + 1, len(order))
        before = np.append(0, after[:-1])
        hits_before = np.searchsorted(positive, before)
        hits_after = np.searchsorted(positive, after)
        steps = hits_after > hits_before
        return cls(
            order,
            positive,
            before[steps],
            after[steps],
            hits_before[steps],
            hits_after[steps],
        )

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """Give the area under the ROC curve and the average precision, for each row of weights."""
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
            predicted = total - rows[:, self.before]
            precision = np.where(gained > 0, (total_hits - low) / predicted, 0.0)
            average = np.sum(gained * precision, axis=1) / total_hits[:, 0]
        return roc, np.where(np.isnan(roc), np.nan, average)


def _cumulated(weights: Floats) -> Floats:
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


@dataclass(frozen=True)
class ScoredRows:
    """One set of probabilities beside the truth, prepared to be weighted many times.

    `hit` is a row's class where it is predicted correctly, else the number of classes. `costs`
    holds the log loss and the Brier score of each row.
    """

    truth: Labels
    predicted: Labels
    hit: Labels
    classes: int
    costs: Floats
    rankings: tuple[_Ranking, ...]

    @classmethod
    def from_probabilities(
        cls, truth: Labels, p: Floats, predicted: Labels, positive: int = 1
    ) -> ScoredRows:
        """Prepare probabilities of shape (n, k); of two classes, one is ranked."""
        k = p.shape[1]
        ranked = [positive] if k == 2 else range(k)
        brier = _squared_errors(truth, p) / (2 if k == 2 else 1)
        return cls(
            truth,
            predicted,
            np.where(truth == predicted, truth, k),
            k,
            np.stack([log_losses(truth, p), brier], axis=1),
            tuple(_Ranking.by_score(truth == label, p[:, label]) for label in ranked),
        )

    def measure(self, weights: Floats) -> dict[str, Floats]:
        """Give each metric for each row of weights, shape (b, n); NaN where it is undefined."""
        total = weights.sum(axis=1)
        true, predicted, hits = (
            self._by_class(weights, labels) for labels in (self.truth, self.predicted, self.hit)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls = np.where(true > 0, hits / true, 0.0)
            f1 = np.where(true + predicted > 0, 2 * hits / (true + predicted), 0.0)
        costs = weights @ self.costs / total[:, None]
        areas = np.mean([ranking.areas(weights) for ranking in self.rankings], axis=0)
        return {
            "accuracy": hits.sum(axis=1) / total,
            "balanced_accuracy": recalls.sum(axis=1) / (true > 0).sum(axis=1),
            "macro_f1": f1.sum(axis=1) / (true + predicted > 0).sum(axis=1),
            "roc_auc": areas[0],
            "average_precision": areas[1],
            "log_loss": costs[:, 0],
            "brier": costs[:, 1],
        }

    def _by_class(self, weights: Floats, labels: Labels) -> Floats:
        """Add up weights by the class of each row, shape (b, k)."""
        k = self.classes
        return np.array([np.bincount(labels, row, k + 1)[:k] for row in weights])


def measure(scored: Sequence[ScoredRows], weights: Floats) -> dict[str, Floats]:
    """Give each metric for each row of weights, as its mean over the sets of probabilities."""
    figures = [rows.measure(weights) for rows in scored]
    return {name: np.mean([of_set[name] for of_set in figures], axis=0) for name in figures[0]}


def bootstrap_intervals(
    scored: Sequence[ScoredRows], unit: Labels, resamples: int
) -> dict[str, tuple[float, float]]:
    """Give the 95 % interval of each metric by resampling units; none where it is undefined."""
    blocks = [measure(scored, weights) for weights in _resampled(unit, resamples)]
    intervals = {}
    for name in blocks[0]:
        figures = np.concatenate([block[name] for block in blocks])
        figures = figures[np.isfinite(figures)]
        if figures.size:
            low, high = np.percentile(figures, [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    return intervals


def _resampled(unit: Labels, resamples: int) -> Iterator[Floats]:
    """Yield how often each row was drawn in each of some resamples, shape (b, n)."""
    rng = np.random.default_rng(_SEED)
    units = int(unit.max()) + 1
    at_a_time = max(1, _WEIGHTS_AT_A_TIME // len(unit))
    for start in range(0, resamples, at_a_time):
        count = min(at_a_time, resamples - start)
        draws = (rng.integers(units, size=units) for _ in range(count))
        yield np.array([np.bincount(drawn, minlength=units)[unit] for drawn in draws], np.float64)
