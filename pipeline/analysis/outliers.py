"""Images that are unusual for their class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.analysis.neighbours import Neighbours

NEAREST = 10
"""How many neighbours within its class an image is compared with."""

# Iglewicz and Hoaglin recommend 3.5. On the demo it reports 12 of 2,624 images, nearly all of
# them visibly shattered cells.
_THRESHOLD = 3.5


@dataclass(frozen=True)
class OutlierImage:
    """An image that is far from the others of its class.

    Attributes
    ----------
    place : int
        Position of the image.
    label : int
        Its class.
    distance : float
        Mean distance (1 - cosine) to its nearest neighbours of the class, 0 to 1.
    score : float
        How many robust standard deviations the distance is above the median of the class.
    """

    place: int
    label: int
    distance: float
    score: float


def find_outliers(
    labels: npt.NDArray[np.int64], neighbours: Neighbours
) -> tuple[OutlierImage, ...]:
    """Find images that are unusual for their class, the most unusual first.

    An image's distance is the mean distance to its `neighbours`, which are those within its class.
    Its score is the distance minus the median of the class, divided by 1.4826 times the median
    absolute deviation, which estimates the standard deviation of a normal distribution.
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
        OutlierImage(int(place), int(labels[place]), float(distance[place]), float(score[place]))
        for place in np.argsort(-score, kind="stable")
        if score[place] > _THRESHOLD
    )
