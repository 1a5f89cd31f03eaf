"""The gallery of the best head's most confident mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from pipeline.analysis.examples import MISTAKES
from pipeline.analysis.heat_maps import HeatMap, middles_of_cells
from pipeline.report.thumbnails import Picture, data_uri
from pipeline.report.words import common_folder
from pipeline.runs.documents import ExampleRecord, NeighbourRecord, PicturesDocument
from pipeline.runs.reading import Record


@dataclass(frozen=True)
class Seen:
    """A test image, its class, and its prediction by the best head.

    Attributes
    ----------
    overlay : str
        A map of the evidence for the predicted class, as a ``data:`` URI; may be empty.
    where : str
        Where most of that lies; empty if there is none.
    neighbours : sequence of (Picture, NeighbourRecord)
        The most similar images that were learned from.
    """

    picture: Picture
    truth: str
    predicted: str
    probability: float
    overlay: str = ""
    where: str = ""
    neighbours: Sequence[tuple[Picture, NeighbourRecord]] = ()

    @classmethod
    def plain(cls, choice: Choice, kept: PicturesDocument) -> Seen:
        """Draw an image, without map and neighbours."""
        picture = Picture.of(choice.path, kept)
        return cls(picture, choice.truth, choice.predicted, choice.probability)

    @classmethod
    def of(cls, choice: Choice, record: Record) -> Seen:
        """Draw an image, with map and neighbours if it is an example."""
        kept, examples, example = record.pictures, record.examples, choice.example
        seen = cls.plain(choice, kept)
        if example is None or examples is None:
            return seen
        near = [(Picture.of(neighbour.path, kept), neighbour) for neighbour in example.neighbours]
        seen = replace(seen, neighbours=near)
        if not seen.picture.source:
            return seen
        values, backbone = np.array(example.map, np.float64), record.document.recipe["backbone"]
        middles = middles_of_cells(str(backbone), examples.size, values)
        found = HeatMap(example.predicted, values, examples.maps, middles)
        return replace(seen, overlay=data_uri("png", found.overlay()), where=found.where)


class Choice(NamedTuple):
    """An image to be shown, with the fields of `Seen`; `example` has its map and neighbours."""

    path: str
    truth: str
    predicted: str
    probability: float
    example: ExampleRecord | None


def shown(record: Record) -> Iterator[str]:
    """Name the images that pictures are shown of."""
    for choice in chain(*_choose(record)):
        yield choice.path
        if choice.example:
            yield from (neighbour.path for neighbour in choice.example.neighbours)


def show_mistakes(record: Record) -> Mapping[str, Any]:
    """Gather the most confident mistakes, and for comparison some correct predictions."""
    if not record.predictions:
        return {"problem": record.problem, "mistakes": [], "right": []}
    examples = record.examples
    mistakes, right = _look(record)
    predictions = record.predictions[record.best.name]
    return {
        "problem": "",
        "best": record.best.name,
        "maps_of": (examples.maps_of if examples else "") or record.best.name,
        "judged_on": record.judged_on,
        "mistakes": mistakes,
        "right": right,
        "method": examples.maps if examples and any(m.overlay for m in mistakes) else "",
        "folder": common_folder([seen.picture.path for seen in (*mistakes, *right)]),
        "total": int((~predictions.right).sum()),
        "n": len(predictions.truth),
    }


def surest_mistakes(record: Record) -> list[Choice]:
    """Return the most confident mistakes, not drawn; none where predictions are missing."""
    return _choose(record)[0]


def _look(record: Record) -> tuple[list[Seen], list[Seen]]:
    """Draw the images that `_choose` chooses."""
    mistakes, right = (
        [Seen.of(choice, record) for choice in choices] for choices in _choose(record)
    )
    return mistakes, right


def _choose(record: Record) -> tuple[list[Choice], list[Choice]]:
    """Choose the most confident mistakes, and of the examples those predicted correctly."""
    if not record.predictions:
        return [], []
    predictions, classes, examples = (
        record.predictions[record.best.name],
        record.classes,
        record.examples,
    )
    wrong = np.flatnonzero(~predictions.right)
    confidence = predictions.confidence
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    of_best = examples.images if examples and examples.head == record.best.name else ()
    by_path = {example.path: example for example in of_best}
    mistakes = []
    for place in order:
        path, truth = predictions.paths[place], predictions.truth[place]
        predicted, example = classes[predictions.predicted[place]], by_path.pop(path, None)
        if example and example.predicted != predicted:
            example = None
        p = float(confidence[place])
        mistakes.append(Choice(path, classes[truth], predicted, p, example))
    right = [
        Choice(path, example.label, example.predicted, example.probability, example)
        for path, example in by_path.items()
        if example.label == example.predicted
    ]
    return mistakes, right
