"""The gallery of the mistakes that the best head was surest of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.backbones.registry import get_backbone
from pipeline.report.thumbnails import Centres, Picture, overlay, strongest
from pipeline.report.words import common_folder
from pipeline.runs.findings import Example, Neighbour
from pipeline.runs.reading import Record

MISTAKES = 24
"""Most mistakes that are shown."""


@dataclass(frozen=True)
class Seen:
    """A test image, what it is, and what the best head takes it for.

    Attributes
    ----------
    number : int
        Index of the true class.
    overlay : str
        A map of what speaks for the predicted class, as a ``data:`` URI; may be empty.
    where : str
        Where most of that lies.
    neighbours : sequence of (Picture, Neighbour)
        The most similar images that were learned from.
    """

    picture: Picture
    number: int
    truth: str
    predicted: str
    probability: float
    overlay: str = ""
    where: str = ""
    neighbours: Sequence[tuple[Picture, Neighbour]] = ()

    @classmethod
    def of(
        cls,
        path: str,
        names: tuple[int, str, str],
        p: float,
        example: Example | None,
        centres: Centres,
    ) -> Seen:
        """Make the pictures of an image, with a map and neighbours where it was looked at."""
        picture = Picture.of(path)
        if example is None or example.predicted != names[2]:
            return cls(picture, *names, p)
        near = [(Picture.of(one.path), one) for one in example.neighbours]
        drawn = overlay(example.map, centres) if picture.source else ""
        where = strongest(example.map, centres) if drawn else ""
        return cls(picture, *names, p, drawn, where, near)


def show_mistakes(record: Record) -> Mapping[str, Any]:
    """Gather the surest mistakes, and the right ones that were looked at for comparison."""
    if not record.predictions:
        return {"problem": record.problem, "mistakes": [], "right": []}
    predictions, classes = record.predictions[record.best.name], record.classes
    wrong = np.flatnonzero(~predictions.right)
    sureness = predictions.probabilities.max(axis=1)
    order = wrong[np.argsort(-sureness[wrong], kind="stable")][:MISTAKES]
    looked = record.examples
    if looked and looked.head != record.best.name:
        looked = None
    closely = dict(looked.images) if looked else {}
    size, backbone = (
        looked.size if looked else 1,
        get_backbone(record.document["recipe"]["backbone"]),
    )

    def centres(cells: int) -> npt.NDArray[np.float64]:
        return backbone.cell_centres(cells, size) / size

    mistakes = []
    for place in order:
        truth, predicted = predictions.truth[place], predictions.predicted[place]
        path = predictions.paths[place]
        names = (int(truth), classes[truth], classes[predicted])
        mistakes.append(
            Seen.of(path, names, float(sureness[place]), closely.pop(path, None), centres)
        )
    right = [
        Seen.of(path, (0, one.label, one.predicted), one.probability, one, centres)
        for path, one in closely.items()
        if one.label == one.predicted
    ]
    folder = common_folder([one.picture.path for one in (*mistakes, *right)])
    shown = sorted({(one.number, one.truth) for one in mistakes})
    return {
        "problem": "",
        "best": record.best.name,
        "judged_on": record.judged_on,
        "mistakes": mistakes,
        "right": right,
        "method": looked.method if looked and any(one.overlay for one in mistakes) else "",
        "folder": folder,
        "total": len(wrong),
        "n": len(predictions.truth),
        "missing": sum(not one.picture.source for one in mistakes),
        "classes": [
            (number, name, sum(one.number == number for one in mistakes)) for number, name in shown
        ],
    }
