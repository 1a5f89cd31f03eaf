"""The parts of a run's page, in their order.

To add one: write a function that takes the `Record` and returns what its template needs, or None
where there is nothing to show; put the template into `templates/`, named by the section's key; add
a line to `SECTIONS`. What the templates may use is in `templates/parts.html.j2`. Any text may come
from the user: the templates escape it, so leave ``|safe`` away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.report import figures, tables
from pipeline.report.mistakes import show_mistakes
from pipeline.report.problems import show_problems
from pipeline.report.verdict import by_threshold, guessing
from pipeline.report.words import number
from pipeline.runs.reading import Record

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
            [((name,), head, best) for name, head, best in rows],
            ["head"],
            f"best {record.chosen_on}",
            record.chosen_on,
        ),
        "judged_on": record.judged_on,
        "method": record.best.test.get("interval_method"),
        "remarks": [
            *(one for head in record.heads[1:] for one in by_threshold(head.name, head, record)),
            *record.document.get("remarks", ()),
        ],
        "failed": {**record.document.get("failed", {}), **record.document.get("left_out", {})},
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
        "matrices": [
            figures.draw_confusion(head, record.classes, record.judged_on) for head in heads
        ],
        "judged_on": record.judged_on,
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
        "plots": figures.draw_curves(
            subjects, record.classes, judged_on=record.judged_on, chosen_on=record.chosen_on
        )
        if subjects
        else [],
        "problem": record.problem,
    }


def _training(record: Record) -> Mapping[str, Any] | None:
    plots = [plot for head in record.heads for plot in figures.draw_training(head)]
    return {"plots": plots} if plots else None


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
        "chosen_on": record.chosen_on,
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
            *([("Protocol", list(tables.flattened(record.protocol)))] if record.protocol else []),
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
    Section("mistakes", "Most confident mistakes", show_mistakes),
    Section("problems", "What may be wrong with the data", show_problems),
    Section("data", "Data", _data),
    Section("settings", "Settings and versions", _settings),
)
"""What a run's page is made of, from top to bottom."""
