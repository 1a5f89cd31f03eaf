"""The parts of a run's page, in their order.

To add one: write a function that takes the `Record` and returns what its template needs, or None
where there is nothing to show; put the template into `templates/`, named by the section's key; add
a line to `SECTIONS`. What the templates may use is in `templates/parts.html.j2`. Any text may come
from the user: the templates escape it, so leave ``|safe`` away.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from pipeline.digests import read_image
from pipeline.errors import ImageError
from pipeline.images import thumbnail
from pipeline.report import figures, tables
from pipeline.report.reading import Record
from pipeline.report.verdict import guessing
from pipeline.report.words import number

MISTAKES = 24
"""Most mistakes that are shown."""

SIDE = 160
"""Longer side of their pictures, in pixels."""

_FILES = 200
_CLASSES = 100
_CANDIDATES = 12
_MATRICES = 30  # with more classes, only the best head's matrix is drawn

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Section(Generic[Subject]):
    """One part of a page.

    Attributes
    ----------
    key : str
        Its anchor, and the name of its template.
    title : str
        Its heading.
    show : callable
        From what the page is about to what the template needs; None leaves the section out.
    """

    key: str
    title: str
    show: Callable[[Subject], Mapping[str, Any] | None]


def _heads(record: Record) -> Mapping[str, Any]:
    rows = [(head.name, head, head is record.chosen) for head in record.heads]
    return {
        "table": tables.heads_table(
            [((name,), head, best) for name, head, best in rows], ["head"], "best on validation"
        ),
        "chart": figures.draw_accuracies(rows, guessing(record.best)[0]),
        "reference": [
            (
                one["head"],
                one["precision"],
                one["test"]["accuracy"],
                next(head.test["accuracy"] for head in record.heads if head.name == one["head"]),
            )
            for one in record.document.get("reference", ())
        ],
    }


def _confusion(record: Record) -> Mapping[str, Any]:
    heads = record.heads if len(record.classes) <= _MATRICES else record.heads[:1]
    pairs = figures.confused(record.best) if len(record.classes) > 2 else []
    return {
        "matrices": [figures.draw_confusion(head, record.classes) for head in heads],
        "left_out": len(record.heads) - len(heads),
        "best": record.best.name,
        "pairs": [
            (
                record.classes[truth],
                record.classes[seen],
                count,
                sum(record.best.test["confusion"][truth]),
            )
            for truth, seen, count in pairs
        ],
    }


def _curves(record: Record) -> Mapping[str, Any]:
    subjects = [
        figures.Subject(head.name, style, record.predictions[head.name], head.test.get("roc_auc"))
        for style, head in enumerate(record.heads)
        if record.predictions
    ]
    return {
        "plots": figures.draw_curves(subjects, record.classes) if subjects else [],
        "problem": record.problem,
    }


def _training(record: Record) -> Mapping[str, Any] | None:
    plots = [plot for head in record.heads for plot in figures.draw_training(head)]
    return {"plots": plots} if plots else None


@dataclass(frozen=True)
class Mistake:
    """A test image that the best head got wrong.

    Attributes
    ----------
    picture : str
        A small JPEG as a ``data:`` URI; empty where there is none.
    reason : str
        Why there is none.
    """

    path: str
    truth: str
    predicted: str
    probability: float
    number: int
    picture: str
    reason: str


def _mistakes(record: Record) -> Mapping[str, Any]:
    if not record.predictions:
        return {"problem": record.problem, "mistakes": []}
    predictions = record.predictions[record.best.name]
    wrong = np.flatnonzero(~predictions.right)
    sureness = predictions.probabilities.max(axis=1)
    order = wrong[np.argsort(-sureness[wrong], kind="stable")][:MISTAKES]
    folder = _common_folder([predictions.paths[place] for place in order])
    mistakes = []
    for place in order:
        truth, predicted = predictions.truth[place], predictions.predicted[place]
        path = predictions.paths[place]
        picture, reason = _picture(path)
        mistakes.append(
            Mistake(
                path[len(folder) :],
                record.classes[truth],
                record.classes[predicted],
                float(sureness[place]),
                int(truth),
                picture,
                reason,
            )
        )
    shown = sorted({(one.number, one.truth) for one in mistakes})
    return {
        "problem": "",
        "best": record.best.name,
        "mistakes": mistakes,
        "folder": folder,
        "total": len(wrong),
        "n": len(predictions.truth),
        "missing": sum(not one.picture for one in mistakes),
        "classes": [
            (number, name, sum(one.number == number for one in mistakes)) for number, name in shown
        ],
    }


def _common_folder(paths: Sequence[str]) -> str:
    """Find what all paths begin with, up to a slash: it need not stand below each picture."""
    try:
        common = os.path.commonpath([Path(path).parent for path in paths])
    except ValueError:  # some begin at the root and some do not
        return ""
    folder = os.path.join(common, "") if Path(common).name else ""  # noqa: PTH118 - Path drops the slash
    return folder if len(paths) > 1 and all(path.startswith(folder) for path in paths) else ""


def _picture(path: str) -> tuple[str, str]:
    """Make a thumbnail to be put into the page, or tell why there is none."""
    try:
        small = thumbnail(read_image(Path(path))[0], SIDE)
    except ImageError as error:
        return "", error.found
    return f"data:image/jpeg;base64,{base64.b64encode(small).decode()}", ""


def _data(record: Record) -> Mapping[str, Any]:
    dataset = record.document["dataset"]
    return {
        "name": dataset["name"],
        "splits": list(dataset["images"]),
        "counts": [
            (name, [of_class.get(name, 0) for of_class in dataset["images"].values()])
            for name in record.classes[:_CLASSES]
        ],
        "more_classes": max(0, len(record.classes) - _CLASSES),
        "totals": [sum(of_class.values()) for of_class in dataset["images"].values()],
        "quarantined": dataset["quarantined"][:_FILES],
        "quarantined_total": len(dataset["quarantined"]),
    }


def _settings(record: Record) -> Mapping[str, Any]:
    document = record.document
    return {
        "groups": [
            (
                "Run",
                [
                    ("created", str(document["created"])),
                    ("seed", str(document["seed"])),
                    ("data set", str(document["dataset"]["name"])),
                    ("digest of the data", str(document["dataset"]["digest"])),
                ],
            ),
            ("Features", list(tables.flattened(document["recipe"]))),
            ("Versions", list(tables.flattened(document["versions"]))),
        ],
        "heads": [
            (
                head.name,
                list(tables.flattened(head.parameters)),
                [
                    (
                        tables.described(tried["parameters"]),
                        number(tried["validation_log_loss"]),
                    )
                    for tried in head.candidates[:_CANDIDATES]
                ],
                max(0, len(head.candidates) - _CANDIDATES),
            )
            for head in record.heads
        ],
    }


SECTIONS: tuple[Section[Record], ...] = (
    Section("heads", "Heads", _heads),
    Section("confusion", "What is taken for what", _confusion),
    Section("curves", "Curves", _curves),
    Section("training", "Training", _training),
    Section("mistakes", "Most confident mistakes", _mistakes),
    Section("data", "Data", _data),
    Section("settings", "Settings and versions", _settings),
)
"""What a run's page is made of, from top to bottom."""
