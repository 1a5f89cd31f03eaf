"""What comes of training a head shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.classification.arrays import Floats
from pipeline.heads.estimators import Classifier

OnEpoch = Callable[[int, int], None]
"""Called with the number of epochs done, of all candidates, and the most that there will be."""


@dataclass(frozen=True)
class TrainedHead:
    """A head that was trained shard by shard.

    Attributes
    ----------
    classifier : Classifier
        Takes rows of shape (n, d).
    parameters : mapping
        Those chosen from the head's grid.
    candidates : tuple of (mapping, float)
        All parameters that were tried, and their log loss on the validation images.
    held_out : ndarray of float64, shape (m, k)
        Probabilities of the validation images, by fits and calibrations that had not seen them;
        only `dense` stops its training by them.
    """

    classifier: Classifier
    parameters: Mapping[str, Any]
    candidates: tuple[tuple[Mapping[str, Any], float], ...]
    held_out: Floats
