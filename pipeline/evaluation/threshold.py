"""Thresholds between two classes, and which class an image is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Aim:
    """What a threshold is chosen for.

    Attributes
    ----------
    name : str
        ``"f1"``: the largest harmonic mean of precision and recall of the positive class.
        ``"youden"``: the largest sum of sensitivity and specificity (W. J. Youden, *Cancer* 3,
        1950). ``"precision"``: the largest recall at a precision of `least` or more.
        ``"recall"``: the largest precision at a recall of `least` or more.
    least : float
        For the last two: more than 0, at most 1.
    """

    name: str
    least: float = 0.0

    @classmethod
    def from_text(cls, text: str) -> Aim:
        """Read an aim as the user types it."""
        name, _, value = text.partition("=")
        if name in ("f1", "youden") and not value:
            return cls(name)
        try:
            least = float(value)
        except ValueError:
            least = np.nan
        if name not in ("precision", "recall") or not 0 < least <= 1:
            raise PipelineError(
                f"{text!r} is not something that a threshold can be chosen for",
                expected="f1, youden, or a least value such as precision=0.95 or recall=0.95",
            )
        return cls(name, least)

    @property
    def best(self) -> str:
        """What the head has that is chosen for this aim, as in a sentence."""
        return {
            "recall": f"fewest false alarms at recall {self.least:g}",
            "precision": f"highest recall at precision {self.least:g}",
            "f1": "highest F1",
        }.get(self.name, "highest Youden's J")

    def cost(
        self, truth: npt.NDArray[np.int64], called: npt.NDArray[np.int64], positive: int
    ) -> float:
        """Give what heads are compared by, 0 to 1, the lower the better.

        For a recall, the share of false alarms; for a precision, of positives that are missed; for
        F1 and Youden's J, what they lack of 1. What misses the aim has 1.
        """
        is_positive, is_called = truth == positive, called == positive
        positives, others = int(is_positive.sum()), int((~is_positive).sum())
        hits, alarms = int((is_positive & is_called).sum()), int((~is_positive & is_called).sum())
        if not positives or not others:
            return 1.0
        recall = hits / positives
        precision = hits / (hits + alarms) if hits else 0.0
        if self.name == "recall":
            return alarms / others if recall >= self.least else 1.0
        if self.name == "precision":
            return 1 - recall if precision >= self.least else 1.0
        if self.name == "f1":
            return 1 - 2 * hits / (hits + alarms + positives)
        return min(1.0, 1 - recall + alarms / others)

    def __str__(self) -> str:
        return f"{self.name}={self.least:g}" if self.least else self.name


@dataclass(frozen=True)
class Threshold:
    """A threshold on the probability of the positive class.

    Attributes
    ----------
    positive : int
        The positive class, 0 or 1.
    value : float
        An image is called positive when its probability is this or more.
    aim : str
        What it was chosen for, as typed.
    reached : bool
        Whether `aim` could be reached on the images that it was chosen on. If not, `value` is 0.5.
    images, positives : int
        How many images it was chosen on, and how many of them are of the positive class; 0 where
        that is not known, as of models of version 0.1.0.
    """

    positive: int
    value: float
    aim: str
    reached: bool = True
    images: int = 0
    positives: int = 0

    def __post_init__(self) -> None:
        if self.positive not in (0, 1) or not 0 <= self.value <= 1:
            raise ValueError("a threshold is a probability, 0 to 1, of one of two classes, 0 or 1")

    def apply(self, p: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the class that each row is called, shape (n,), from probabilities (n, 2)."""
        called = np.where(p[:, self.positive] >= self.value, self.positive, 1 - self.positive)
        return called.astype(np.int64)

    def rule(self, classes: Sequence[str]) -> str:
        """Say when an image is called positive, and what the threshold was chosen for."""
        name = classes[self.positive]
        rule = f"called {name} when P({name}) ≥ {self.value:.3f}"
        where = f"{self.positives:,} of {name} among {self.images:,} images" if self.images else ""
        if not self.reached:
            on = where or "validation"
            return f"{rule}, the default: {self.aim_text} cannot be reached on {on}"
        return f"{rule}, chosen for {self.aim_text}" + (f" on {where}" if where else "")

    @property
    def aim_text(self) -> str:
        """What it was chosen for, as in a sentence."""
        return {"f1": "F1", "youden": "Youden's J"}.get(self.aim, self.aim.replace("=", " "))


def call(p: npt.NDArray[np.float64], threshold: Threshold | None = None) -> npt.NDArray[np.int64]:
    """Return the class that each image is called: the most probable, or by the threshold.

    `p` has shape (..., k), with a threshold (n, 2); the result has shape (...).
    """
    if threshold:
        return threshold.apply(p)
    most_probable: npt.NDArray[np.int64] = p.argmax(axis=-1)
    return most_probable


def positive_class(
    classes: Sequence[str], threshold: Threshold | None, positive: int | None
) -> str | None:
    """Name the class whose probability is shown; None for that of the likeliest."""
    positive = threshold.positive if threshold else positive
    return None if positive is None or len(classes) != 2 else classes[positive]


def choose_threshold(
    truth: npt.NDArray[np.int64], p: npt.NDArray[np.float64], aim: Aim, positive: int = 1
) -> Threshold:
    """Choose a threshold on images that were not trained on.

    It lies midway between two probabilities that occur next to each other, so that rounding does
    not move an image across. Of several that are equally good, the one nearest to 0.5 is taken.
    Precision and recall are those of the class `positive`. ``reached`` is False if no threshold
    reaches the aim: the precision is too high, or one of the classes has no images.
    """
    score, is_positive = p[:, positive], truth == positive
    levels = np.unique(score)
    values = np.append(levels[0] / 2, (levels[:-1] + levels[1:]) / 2)  # all, ..., the top alone
    place = np.searchsorted(levels, score)
    called, hits = (
        np.cumsum(np.bincount(place, weights, len(levels))[::-1])[::-1]
        for weights in (None, is_positive.astype(np.float64))
    )
    positives = hits[0]
    unreached = Threshold(positive, 0.5, str(aim), False, len(truth), int(is_positive.sum()))
    if not 0 < positives < len(truth):
        return unreached
    precision, recall = hits / called, hits / positives
    alarms = (called - hits) / (len(truth) - positives)
    worth = {
        "f1": 2 * hits / (called + positives),
        "youden": recall - alarms,
        "precision": np.where(precision >= aim.least, recall, -1.0),
        "recall": np.where(recall >= aim.least, precision, -1.0),
    }[aim.name]
    if worth.max() < 0:
        return unreached
    best = np.flatnonzero(np.isclose(worth, worth.max(), rtol=0, atol=1e-12))
    value = values[best[np.abs(values[best] - 0.5).argmin()]]
    return replace(unreached, value=float(value), reached=True)
