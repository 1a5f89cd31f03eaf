"""How accuracy grows with the number of images, and whether more of them would help."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.analysis.labels import Build, assign_folds, learn
from pipeline.analysis.neighbours import Places, Rows
from pipeline.evaluation.intervals import NORMAL_975

_FEW = 50  # with fewer, the interval of the gain is too narrow, or chance makes it 0 to 0
_SHARES = (0.125, 0.25, 0.5, 1.0)  # of the training images, each twice the one before


@dataclass(frozen=True)
class LearningCurvePoint:
    """Accuracy after training on some of the images.

    Attributes
    ----------
    images : int
        Number of training images, the mean over folds and repeats.
    accuracy : float
        Share of images that classifiers not trained on them classify correctly, 0 to 1.
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
    points : tuple of LearningCurvePoint
        From few images to all.
    gain, low, high : float
        Accuracy at the last point minus that at the last but one, in percentage points, and its
        95 % interval.
    answer : str
        Whether more images would help, in a sentence.
    """

    points: tuple[LearningCurvePoint, ...]
    gain: float
    low: float
    high: float
    answer: str = field(init=False)

    def __post_init__(self) -> None:
        before, after = self.points[-2:]
        change = (
            f"Going from {before.images:,} to {after.images:,} training images changed accuracy by "
            f"{self.gain:+.1f} points (95 % interval {self.low:+.1f} to {self.high:+.1f})"
        )
        if before.images < _FEW:
            answer = "whether more would help, so few images cannot tell"
        elif self.low > 0:
            answer = "more images would probably help, the next doubling by this or less"
        elif self.high < 1:
            answer = "more images of the same kind would probably help little"
        else:
            answer = "within noise, so it is unclear whether more images would help"
        object.__setattr__(self, "answer", f"{change}: {answer}.")


def measure_learning_curve(
    rows: Rows,
    labels: Places,
    build: Build,
    *,
    repeats: int = 3,
    groups: Places | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Train on more and more of the images, and test on images that were left out.

    In each fold the smaller parts lie within the larger ones, and all are tested on the same
    images, so steps are compared image by image. The variance of the interval is that over the
    images (a group counts as one) plus that over the repeats, which have other folds and parts. It
    ignores that the classifiers of the folds share training images, so with few images the interval
    is somewhat too narrow.
    """
    flat = rows.reshape(len(rows), -1)
    units = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    correct = np.zeros((repeats, len(_SHARES), len(rows)))
    images = np.zeros(len(_SHARES))
    for repeat in range(repeats):
        folds = assign_folds(labels, groups=units, seed=seed + repeat)
        for fold in np.unique(folds):
            held_out, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            first_share = _first_share(labels[rest], units[rest], seed + repeat)
            for step, share in enumerate(_SHARES):
                part = rest[first_share <= share]
                fitted = learn(build(seed + repeat), flat, labels, part)
                correct[repeat, step, held_out] = fitted.predict(flat[held_out]) == labels[held_out]
                images[step] += len(part) / repeats / len(np.unique(folds))
    points = []
    for step, count in enumerate(images):
        mean, half = _interval(correct[:, step], units)
        points.append(
            LearningCurvePoint(round(count), mean, max(mean - half, 0), min(mean + half, 1))
        )
    gain, half = _interval(100 * (correct[:, -1] - correct[:, -2]), units)
    return LearningCurve(tuple(points), gain, gain - half, gain + half)


def _first_share(labels: Places, units: Places, seed: int) -> npt.NDArray[np.float64]:
    """Give each image the smallest share that it is part of, each class spread evenly."""
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    share = np.empty(len(first))
    for label in np.unique(labels[first]):
        members = shuffled[labels[first][shuffled] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
        share[members[:2]] = 0  # a class needs two images to be learned
    return share[unit]


def _interval(values: npt.NDArray[np.float64], units: Places) -> tuple[float, float]:
    """Give the mean of values of shape (repeats, n), and half the width of its 95 % interval."""
    mean = float(values.mean())
    repeats, count = values.shape
    sums = np.bincount(units, weights=values.mean(axis=0) - mean)
    variance = float((sums**2).sum()) / count**2
    if repeats > 1:
        variance += float(values.mean(axis=1).var(ddof=1)) / repeats
    return mean, NORMAL_975 * variance**0.5
