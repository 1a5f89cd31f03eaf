"""Images that are unlike all others of their class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import Neighbours

NEAREST = 10
"""How many neighbours of its class an image is held against."""

THRESHOLD = 3.5
"""Robust z-score beyond which an image is an outlier."""


@dataclass(frozen=True)
class Outlier:
    """An image that is far from all others of its class.

    Attributes
    ----------
    place : int
        Position of the image.
    label : int
        Its class.
    distance : float
        Mean distance (1 - cosine) to the nearest of its class, 0 to 1.
    score : float
        How many robust standard deviations that is above its class's median.
    """

    place: int
    label: int
    distance: float
    score: float


def find_outliers(
    labels: npt.NDArray[np.int64], neighbours: Neighbours, *, threshold: float = THRESHOLD
) -> tuple[Outlier, ...]:
    """Find images that are unlike the others of their class, the strangest first.

    An image's distance is the mean of those to its nearest neighbours (as many as `neighbours`
    has) in its class. Its score is that less the class's median, divided by 1.4826 times the
    median absolute deviation, which is the standard deviation of a normal distribution.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Classes.
    neighbours : Neighbours
        Of each image, within its class.
    threshold : float
        Scores above this are reported. 3.5 is what Iglewicz and Hoaglin recommend. On the demo it
        names 12 of 2,624 images, by eye nearly all of shattered cells.

    References
    ----------
    B. Iglewicz, D. Hoaglin, *How to detect and handle outliers*, ASQC Quality Press, 1993.
    """
    near = np.isfinite(neighbours.distances)
    total = np.where(near, neighbours.distances, 0).sum(axis=1, dtype=np.float64)
    distance = total / np.maximum(near.sum(axis=1), 1)
    score = np.zeros(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero((labels == label) & near.any(axis=1))
        if not len(members):
            continue
        middle = np.median(distance[members])
        spread = 1.4826 * np.median(np.abs(distance[members] - middle))
        if spread > 0:
            score[members] = (distance[members] - middle) / spread
    return tuple(
        Outlier(int(place), int(labels[place]), float(distance[place]), float(score[place]))
        for place in np.argsort(-score, kind="stable")
        if score[place] > threshold
    )
