"""The parts of a run's page, in their order.

To add a section: write a function that takes the `Record` and returns what its template needs, or
None to leave the section out; put the template into `templates/`, named by the section's key; add
a line to `SECTIONS`. What the templates may use is in `templates/parts.html.j2`. Any text may come
from the user: the templates escape it, so leave ``|safe`` away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from pipeline.report import figures, tables
from pipeline.report.mistakes import show_mistakes
from pipeline.report.problems import show_problems
from pipeline.report.verdict import guessing, how_chosen
from pipeline.report.words import number
from pipeline.runs.reading import Record

_FILES = 200
_CLASSES = 100
_CANDIDATES = 12
_MATRICES = 30  # with more classes, only the best head's matrix is drawn
_FOLDED = 20  # classes: a longer table is folded

About = TypeVar("About")


@dataclass(frozen=True)
class Section(Generic[About]):
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
    show: Callable[[About], Mapping[str, Any] | None]


def _heads(record: Record) -> Mapping[str, Any]:
    document, positive = record.document, record.positive
    several = len(record.heads) > 1
    rows = [(head.name, head, several and head is record.chosen) for head in record.heads]
    accuracies = {head.name: head.test.accuracy for head in record.heads}
    return {
        "table": tables.heads_table(
            [((name,), head, best) for name, head, best in rows],
            ["classifier"],
            f"best {record.chosen_on}",
            record.chosen_on,
            None if positive is None else (positive, record.classes[positive]),
        ),
        "judged_on": record.judged_on,
        "method": record.best.test.interval_method,
        "remarks": [
            *how_chosen(record),
            *document.remarks,
        ],
        "failed": document.failed,
        "left_out": document.left_out,
        "chart": figures.draw_aims(record)
        or figures.draw_accuracies(rows, guessing(record.best)[0], record.judged_on),
        "augmentations": tables.augmentations(record.heads),
        "chosen_on": record.chosen_on,
        "even_guess": math.log(len(record.classes)),
        "reference": [
            (head.name, head.precision, head.test.accuracy, accuracies[head.name])
            for head in document.reference
        ],
    }


def _confusion(record: Record) -> Mapping[str, Any]:
    heads = record.heads if len(record.classes) <= _MATRICES else record.heads[:1]
    pairs = figures.confused(record.best) if len(record.classes) > 2 else []
    return {
        "matrices": [figures.draw_confusion(head, record) for head in heads],
        "judged_on": record.judged_on,
        "left_out": len(record.heads) - len(heads),
        "best": record.best.name,
        "pairs": [
            (
                record.classes[truth],
                record.classes[predicted],
                count,
                sum(record.best.test.confusion[truth]),
            )
            for truth, predicted, count in pairs
        ],
    }


def _curves(record: Record) -> Mapping[str, Any]:
    n = record.best.test.n
    return {
        "plots": figures.draw_curves_of(record),
        "problem": record.problem,
        "uncalibrated": "" if figures.can_bin(n) else f"{n:,} {record.judged_on}",
    }


def _training(record: Record) -> Mapping[str, Any] | None:
    plots = [plot for head in record.heads for plot in figures.draw_training(head)]
    return {"plots": plots} if plots else None


def _data(record: Record) -> Mapping[str, Any]:
    dataset = record.document.dataset
    images = dataset.images
    if record.nested:  # all are tested on
        images = {"images": images.get("test", {})}
    return {
        "name": dataset.name,
        "splits": list(images),
        "counts": [
            (name, [counts.get(name, 0) for counts in images.values()])
            for name in record.classes[:_CLASSES]
        ],
        "folded": len(record.classes) > _FOLDED,
        "more_classes": max(0, len(record.classes) - _CLASSES),
        "totals": [sum(counts.values()) for counts in images.values()],
        "skipped": dataset.quarantined[:_FILES],
        "skipped_total": len(dataset.quarantined),
    }


def _settings(record: Record) -> Mapping[str, Any]:
    document = record.document
    return {
        "chosen_on": record.chosen_on,
        "groups": [
            (
                "Run",
                [
                    ("created", document.created),
                    ("seed", str(document.seed)),
                    ("data set", document.dataset.name),
                    ("digest of the data", document.dataset.digest),
                ],
            ),
            ("Protocol", list(tables.flattened(asdict(record.protocol)))),
            ("Features", list(tables.flattened(document.recipe))),
            *(
                (f"Features of {other.get('backbone')}", list(tables.flattened(other)))
                for other in document.beside
            ),
            ("Versions", list(tables.flattened(document.versions))),
        ],
        "heads": [
            (
                head.name,
                list(tables.flattened(head.parameters)),
                [
                    (tables.described(tried.parameters), number(tried.validation_log_loss))
                    for tried in head.candidates[:_CANDIDATES]
                ],
                max(0, len(head.candidates) - _CANDIDATES),
            )
            for head in record.heads
        ],
    }


SECTIONS: tuple[Section[Record], ...] = (
    Section("heads", "Classifiers", _heads),
    Section("confusion", "Confusion matrix", _confusion),
    Section("curves", "Curves", _curves),
    Section("training", "Training", _training),
    Section("mistakes", "Most confident mistakes", show_mistakes),
    Section("problems", "What may be wrong with the data", show_problems),
    Section("data", "Data", _data),
    Section("settings", "Settings and versions", _settings),
)
"""What a run's page is made of, from top to bottom."""
