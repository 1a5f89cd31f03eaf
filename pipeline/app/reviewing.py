"""Which of the labels so far are likely wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.analysis.active_learning import NONE
from pipeline.analysis.problems import find_problems
from pipeline.data.targets import Targets
from pipeline.features.extractor import Extraction


def likely_wrong(
    extraction: Extraction, labels: npt.NDArray[np.int64], classes: Sequence[str], *, seed: int
) -> dict[int, str]:
    """Give the images whose labels are likely wrong, the most suspicious first, and their classes.

    They are those that `pipeline problems` finds among the images that have a label.
    """
    places = np.flatnonzero(labels != NONE)
    used, own = np.unique(labels[places], return_inverse=True)
    if len(used) < 2:
        return {}
    named = [classes[int(label)] for label in used]
    order = sorted(range(len(used)), key=named.__getitem__)
    names = tuple(named[at] for at in order)
    targets = Targets(np.argsort(order)[own], names)
    labelled = replace(extraction.dataset.take(places), targets=targets).all_in("train")
    rows = extraction.rows(places=[*map(int, places)])
    suspects = find_problems(labelled, rows, repeats=0, seed=seed).labels.suspects
    return {
        int(places[suspect.place]): names[suspect.suggested]
        for suspect in suspects
        if suspect.likely
    }
