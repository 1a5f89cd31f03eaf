"""How accuracy grows with the number of images, and whether more of them would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.analysis.labels import FOLDS, Build, assign_folds, learn

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Shares of the images to learn from, each twice the one before."""

_NORMAL = 1.96  # 97.5 % of a normal distribution lie below


@dataclass(frozen=True)
class Point:
    """Accuracy with some number of images to learn from.

    Attributes
    ----------
    images : int
        How many were learned from, the mean over folds and seeds.
    accuracy : float
        Share of images told right by classifiers that were not trained on them, 0 to 1.
    low, high : float
        95 % interval.
    """

    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """How accuracy grows with the number of images.

    Attributes
    ----------
    points : tuple of Point
        From few images to all.
    gain, low, high : float
        What the last step, from the last but one point to the last, brought in percentage points,
        and its 95 % interval.
    answer : str
        Whether more images would help, in a sentence or two.
    """

    points: tuple[Point, ...]
    gain: float
    low: float
    high: float
    answer: str = field(init=False)

    def __post_init__(self) -> None:
        before, after = self.points[-2:]
        brought = (
            f"Going from {before.images:,} to {after.images:,} images brought {self.gain:+.1f} "
            f"points of accuracy (95 % interval {self.low:+.1f} to {self.high:+.1f})"
        )
        if self.low > 0:
            answer = f"{brought}: more images would help; the next doubling, by that or less."
        elif self.high < 1:
            answer = f"{brought}: more images of the same kind would help little, if at all."
        else:
            answer = f"{brought}: within noise, so more images may help or not."
        object.__setattr__(self, "answer", answer)


def measure_learning_curve(
    rows: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    build: Build,
    *,
    shares: Sequence[float] = SHARES,
    folds: int = FOLDS,
    repeats: int = 3,
    groups: npt.NDArray[np.int64] | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Learn from more and more of the images, and judge by those that were left out.

    In each fold the smaller parts lie within the larger ones, and all are judged by the same
    images, so the steps are compared image by image. The interval's variance is that over the
    images (groups as one) plus that over the repeats, as both another sample of images to judge by
    and another to learn from would change the figure. It leaves out that the folds' classifiers
    share images, so it is somewhat too narrow where there are few.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, ...)
        Features; a row is flattened.
    labels : ndarray of int64, shape (n,)
        Classes.
    build : callable
        Makes an unfitted classifier from a seed.
    shares : sequence of float
        Which shares of the images to learn from, ascending, two or more.
    folds, groups, seed
        As for `pipeline.analysis.labels.out_of_fold`.
    repeats : int
        How often all of it is done, with other folds and parts.

    Raises
    ------
    TooFewImagesError
        The smallest part of some fold has too few images of too few classes.
    """
    flat = rows.reshape(len(rows), -1)
    units = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    correct = np.zeros((repeats, len(shares), len(rows)))
    images = np.zeros(len(shares))
    for repeat in range(repeats):
        fold = assign_folds(labels, folds, groups=units, seed=seed + repeat)
        for one in np.unique(fold):
            judged = np.flatnonzero(fold == one)
            rest = np.flatnonzero(fold != one)
            order = _deal(labels[rest], units[rest], seed + repeat)
            for step, share in enumerate(shares):
                learned = rest[order <= share]
                fitted = learn(build(seed + repeat), flat, labels, learned)
                correct[repeat, step, judged] = fitted.predict(flat[judged]) == labels[judged]
                images[step] += len(learned) / repeats / len(np.unique(fold))
    points = []
    for step, count in enumerate(images):
        mean, reach = _interval(correct[:, step], units)
        points.append(Point(round(count), mean, max(mean - reach, 0), min(mean + reach, 1)))
    gain, reach = _interval(100 * (correct[:, -1] - correct[:, -2]), units)
    return LearningCurve(tuple(points), gain, gain - reach, gain + reach)


def _deal(
    labels: npt.NDArray[np.int64], units: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.float64]:
    """Give each image the share from which on it is learned from, each class spread evenly."""
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    share = np.empty(len(first))
    for label in np.unique(labels[first]):
        members = shuffled[labels[first][shuffled] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
        share[members[:2]] = 0  # fewer than two cannot be learned from
    return share[unit]


def _interval(values: npt.NDArray[np.float64], units: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Give the mean of values of shape (repeats, n), and how far its 95 % interval reaches."""
    mean = float(values.mean())
    repeats, count = values.shape
    sums = np.bincount(units, weights=values.mean(axis=0) - mean)
    variance = float((sums**2).sum()) / count**2
    if repeats > 1:
        variance += float(values.mean(axis=1).var(ddof=1)) / repeats
    return mean, _NORMAL * variance**0.5
