"""What comes of training a head shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.heads import Classifier
from pipeline.streaming.stream import Floats

Report = Callable[[int, int], None]
"""Called with the number of epochs done, of all candidates, and the most that there will be."""


@dataclass(frozen=True)
class StreamedFit:
    """A head that was trained shard by shard.

    Attributes
    ----------
    classifier : Classifier
        Takes rows of shape (n, d).
    parameters : mapping
        What was chosen of the head's grid.
    candidates : tuple of (mapping, float)
        What was tried, and its log loss on validation.
    held_out : ndarray of float64, shape (m, k)
        What was said of the validation images, in their order, by fits that had not seen them; a
        calibration, too, is fitted to others. But `dense` stops by them.
    """

    classifier: Classifier
    parameters: Mapping[str, Any]
    candidates: tuple[tuple[Mapping[str, Any], float], ...]
    held_out: Floats
