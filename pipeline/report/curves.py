"""Curves of probabilities against the truth. Pure.

In NumPy alone: a page is drawn in a fraction of the time that importing scikit-learn takes. The
tests hold each function against scikit-learn's or SciPy's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.intervals import wilson_interval
from pipeline.evaluation.threshold import call

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

BINS = 10
"""Number of equally wide bins that probabilities are gathered in for calibration."""

_GRID = np.linspace(0, 1, 201)


@dataclass(frozen=True)
class Curve:
    """Points of a curve, from left to right."""

    x: Floats
    y: Floats


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities and how often they came true, in bins of the probability.

    Attributes
    ----------
    predicted, observed : ndarray of float64
        Mean probability, and share of rows where it came true, of each bin that is not empty.
    low, high : ndarray of float64
        Wilson's 95 % interval for `observed`.
    counts : ndarray of int64
        Rows in each bin.
    error : float
        Mean difference of `predicted` and `observed`, weighted by `counts`: the expected
        calibration error (M. P. Naeini et al., AAAI 2015).
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    counts: Labels
    error: float


def roc(truth: Labels, p: Floats, positive: int = 1) -> Curve | None:
    """Draw the receiver operating characteristic: true against false positive rate.

    Of two classes it is that of the positive one, of more the mean over them.
    """
    curves = []
    for is_class, score in _one_against_others(truth, p, positive):
        hits, alarms = _cumulated(is_class, score)
        curves.append(
            Curve(np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])),
        )
    if len(curves) < 2:
        return curves[0] if curves else None
    mean = np.mean([np.interp(_GRID, curve.x, curve.y) for curve in curves], axis=0)
    return Curve(np.append(0.0, _GRID), np.append(0.0, mean))


def precision_recall(
    truth: Labels, p: Floats, positive: int = 1
) -> tuple[Curve, float, float] | None:
    """Draw precision against recall; parameters as for `roc`."""
    curves, areas, shares = [], [], []
    for is_class, score in _one_against_others(truth, p, positive):
        hits, alarms = _cumulated(is_class, score)
        recall, precision = hits / hits[-1], hits / (hits + alarms)
        areas.append(float(np.sum(np.diff(recall, prepend=0.0) * precision)))
        shares.append(float(is_class.mean()))
        # Between two thresholds, precision is that of the one that reaches the recall.
        x = np.append(0.0, np.repeat(recall, 2)[:-1])
        curves.append((recall, precision, Curve(x, np.repeat(precision, 2))))
    if not curves:
        return None
    if len(curves) == 1:
        return curves[0][2], areas[0], shares[0]
    of_all = [
        precision[np.minimum(np.searchsorted(recall, _GRID), len(recall) - 1)]
        for recall, precision, _ in curves
    ]
    mean = Curve(_GRID, np.mean(of_all, axis=0))
    return mean, float(np.mean(areas)), float(np.mean(shares))


def reliability(truth: Labels, p: Floats, positive: int = 1) -> Reliability:
    """Compare probabilities with how often they came true; parameters as for `roc`.

    Of two classes, the probability of the positive one; of several, that of the likeliest.
    """
    if p.shape[1] == 2:
        predicted, observed = p[:, positive], truth == positive
    else:
        predicted, observed = p.max(axis=1), call(p) == truth
    bins = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    counts = counts[filled]
    means = np.bincount(bins, weights=predicted, minlength=BINS)[filled] / counts
    shares = np.bincount(bins, weights=observed, minlength=BINS)[filled] / counts
    low, high = wilson_interval(shares, counts)
    error = float(np.sum(counts * np.abs(means - shares)) / counts.sum())
    return Reliability(means, shares, low, high, counts, error)


def _one_against_others(
    truth: Labels, p: Floats, positive: int
) -> list[tuple[npt.NDArray[np.bool_], Floats]]:
    classes = [positive] if p.shape[1] == 2 else range(p.shape[1])
    pairs = [(truth == label, p[:, label]) for label in classes]
    return [(is_class, score) for is_class, score in pairs if 0 < is_class.sum() < len(truth)]


def _cumulated(is_class: npt.NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Count true and false positives at every threshold, from the highest down."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(is_class[order])[last].astype(np.float64)
    return hits, last + 1 - hits
