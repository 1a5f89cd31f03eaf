"""The gallery of the best head's most confident mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.analysis.examples import MISTAKES
from pipeline.backbones.registry import get_backbone
from pipeline.report.thumbnails import Centres, Picture, overlay, strongest
from pipeline.report.words import common_folder
from pipeline.runs.documents import ExampleRecord, NeighbourRecord
from pipeline.runs.reading import Record


@dataclass(frozen=True)
class Seen:
    """A test image, its class, and its prediction by the best head.

    Attributes
    ----------
    number : int
        Index of the true class.
    overlay : str
        A map of the evidence for the predicted class, as a ``data:`` URI; may be empty.
    where : str
        Where most of that lies.
    neighbours : sequence of (Picture, NeighbourRecord)
        The most similar images that were learned from.
    """

    picture: Picture
    number: int
    truth: str
    predicted: str
    probability: float
    overlay: str = ""
    where: str = ""
    neighbours: Sequence[tuple[Picture, NeighbourRecord]] = ()

    @classmethod
    def of(
        cls,
        path: str,
        names: tuple[int, str, str],
        p: float,
        example: ExampleRecord | None,
        centres: Centres,
    ) -> Seen:
        """Make the pictures of an image, with map and neighbours if it is an example."""
        picture = Picture.of(path)
        if example is None or example.predicted != names[2]:
            return cls(picture, *names, p)
        near = [(Picture.of(neighbour.path), neighbour) for neighbour in example.neighbours]
        values = np.array(example.map, np.float64)
        drawn = overlay(values, centres) if picture.source else ""
        return cls(picture, *names, p, drawn, strongest(values, centres) if drawn else "", near)


def show_mistakes(record: Record) -> Mapping[str, Any]:
    """Gather the most confident mistakes, and for comparison some correct predictions."""
    if not record.predictions:
        return {"problem": record.problem, "mistakes": [], "right": []}
    predictions, classes = record.predictions[record.best.name], record.classes
    wrong = np.flatnonzero(~predictions.right)
    confidence = predictions.probabilities.max(axis=1)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    examples = record.examples
    if examples and examples.head != record.best.name:
        examples = None
    size = examples.size if examples else 1

    def centres(cells: int) -> npt.NDArray[np.float64]:
        return (
            get_backbone(str(record.document.recipe["backbone"])).cell_centres(cells, size) / size
        )

    by_path = {example.path: example for example in examples.images} if examples else {}
    mistakes = []
    for place in order:
        truth, predicted = predictions.truth[place], predictions.predicted[place]
        path = predictions.paths[place]
        names = (int(truth), classes[truth], classes[predicted])
        example = by_path.pop(path, None)
        mistakes.append(Seen.of(path, names, float(confidence[place]), example, centres))
    right = [
        Seen.of(path, (0, example.label, example.predicted), example.probability, example, centres)
        for path, example in by_path.items()
        if example.label == example.predicted
    ]
    counts = Counter((mistake.number, mistake.truth) for mistake in mistakes)
    return {
        "problem": "",
        "best": record.best.name,
        "judged_on": record.judged_on,
        "mistakes": mistakes,
        "right": right,
        "method": examples.maps if examples and any(m.overlay for m in mistakes) else "",
        "folder": common_folder([seen.picture.path for seen in (*mistakes, *right)]),
        "total": len(wrong),
        "n": len(predictions.truth),
        "missing": sum(not mistake.picture.source for mistake in mistakes),
        "classes": [(number, name, count) for (number, name), count in sorted(counts.items())],
    }
