"""What comes of training a head shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.classification.streaming.stream import Floats, Rows, Stream
from pipeline.evaluation.metrics import log_loss
from pipeline.evaluation.threshold import call
from pipeline.heads.estimators import Classifier

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
        What was tried, and its log loss on validation; of `linear-svm`, where there are more than
        50,000 such images, an estimate from about so many.
    held_out : ndarray of float64, shape (m, k)
        What was said of the validation images, in their order, by fits that had not seen them; a
        calibration, too, is fitted to others (a copy may be among these). But `dense` stops by
        them.
    """

    classifier: Classifier
    parameters: Mapping[str, Any]
    candidates: tuple[tuple[Mapping[str, Any], float], ...]
    held_out: Floats


def watch(
    stream: Stream,
    heads: Sequence[Callable[[Rows], npt.NDArray[np.floating]]],
    weights: Floats | None = None,
) -> Floats:
    """Judge what heads say of the validation images, without holding it for all of these."""
    data = stream.dataset
    if weights is None:
        weights = np.ones(len(data.classes))
    sums, total = np.zeros((len(heads), 3)), np.zeros(3)
    for rows, places in stream.once("validation"):
        truth = data.targets.labels[places]
        of_rows = weights[truth]
        counts = np.array([len(truth), of_rows.sum(), len(truth)])
        total += counts
        for place, say in enumerate(heads):
            p = np.asarray(say(rows), np.float64)
            right = np.mean(call(p) == truth)
            sums[place] += counts * [log_loss(truth, p), log_loss(truth, p, of_rows), right]
    return sums / total
