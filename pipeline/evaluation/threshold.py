"""From which probability on an image is called the positive one of two classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError

_EXPECTED = "f1, youden, precision=0.95 or recall=0.95, say"


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
        """Read an aim as it is typed.

        Raises
        ------
        PipelineError
            It is none.
        """
        name, _, value = text.partition("=")
        if name in ("f1", "youden") and not value:
            return cls(name)
        try:
            least = float(value)
        except ValueError:
            least = np.nan
        if name not in ("precision", "recall") or not 0 < least <= 1:
            raise PipelineError(f"{text!r} is no aim for a threshold.", expected=_EXPECTED)
        return cls(name, least)

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
        From this probability on an image is called positive.
    aim : str
        What it was chosen for, as typed.
    reached : bool
        Whether that could be had on the images that it was chosen on. If not, `value` is 0.5.
    """

    positive: int
    value: float
    aim: str
    reached: bool = True

    def apply(self, p: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Tell what rows are called, shape (n,), from probabilities of shape (n, 2)."""
        called = np.where(p[:, self.positive] >= self.value, self.positive, 1 - self.positive)
        return called.astype(np.int64)

    def rule(self, classes: Sequence[str]) -> str:
        """Say what is called what by it."""
        if not self.reached:
            return (
                f"{self.aim} cannot be reached on validation, so the threshold stays {self.value:g}"
            )
        return f"{classes[self.positive]} from a probability of {self.value:.3f} on ({self.aim})"

    def outcome(self, classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
        """Say the same, and what came of it on the images of ``confusion[truth][called]``."""
        hits = confusion[self.positive][self.positive]
        called = sum(of_class[self.positive] for of_class in confusion)
        occurs = sum(confusion[self.positive])
        precision, recall = (
            f"{hits / count:.3f}" if count else "undefined" for count in (called, occurs)
        )
        return f"{self.rule(classes)}; on test precision {precision}, recall {recall}"

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain values, ready for JSON."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Threshold:
        """Read what `to_dict` gave.

        Raises
        ------
        KeyError, TypeError, ValueError
            It is something else.
        """
        positive, value = int(fields["positive"]), float(fields["value"])
        if positive not in (0, 1) or not 0 <= value <= 1:
            raise ValueError("a threshold that is no probability of one of two classes")
        return cls(positive, value, str(fields["aim"]), bool(fields["reached"]))


def call(p: npt.NDArray[np.float64], threshold: Threshold | None = None) -> npt.NDArray[np.int64]:
    """Tell what images are called: the likeliest class, or what a threshold says.

    Parameters
    ----------
    p : ndarray of float64, shape (..., k)
        Probability of each class; shape (n, 2) where there is a threshold.
    threshold : Threshold, optional
        Of two classes.

    Returns
    -------
    ndarray of int64, shape (...)
    """
    if threshold:
        return threshold.apply(p)
    likeliest: npt.NDArray[np.int64] = p.argmax(axis=-1)
    return likeliest


def choose_threshold(
    truth: npt.NDArray[np.int64], p: npt.NDArray[np.float64], aim: Aim, positive: int = 1
) -> Threshold:
    """Choose a threshold on images that were not trained on.

    It lies in the middle between two neighbouring probabilities that occur, so that rounding moves
    no image across. Of several that are equally good, the one nearest to 0.5 is taken.

    Parameters
    ----------
    truth : ndarray of int64, shape (n,)
        True classes, 0 or 1.
    p : ndarray of float64, shape (n, 2)
        Their probabilities.
    aim : Aim
        What to choose it for.
    positive : int
        The class whose precision and recall are meant.

    Returns
    -------
    Threshold
        ``reached`` is False where no threshold gives what is aimed at: for a precision that is
        too high, or if there are no images of both classes.
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
    if not 0 < positives < len(truth):
        return Threshold(positive, 0.5, str(aim), reached=False)
    precision, recall = hits / called, hits / positives
    alarms = (called - hits) / (len(truth) - positives)
    worth = {
        "f1": 2 * hits / (called + positives),
        "youden": recall - alarms,
        "precision": np.where(precision >= aim.least, recall, -1.0),
        "recall": np.where(recall >= aim.least, precision, -1.0),
    }[aim.name]
    if worth.max() < 0:
        return Threshold(positive, 0.5, str(aim), reached=False)
    best = np.flatnonzero(np.isclose(worth, worth.max(), rtol=0, atol=1e-12))
    value = values[best[np.abs(values[best] - 0.5).argmin()]]
    return Threshold(positive, float(value), str(aim))
