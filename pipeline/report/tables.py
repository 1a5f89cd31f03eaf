"""Figures of heads in rows and columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.augmentation import typed
from pipeline.evaluation.metrics import Metrics
from pipeline.report.words import number
from pipeline.runs.documents import HeadRecord


@dataclass(frozen=True)
class Column:
    """A column's heading.

    Attributes
    ----------
    title : str
        What it is called.
    number : bool
        Whether it holds numbers.
    falling : bool
        Whether the first click on it puts the largest at the top.
    """

    title: str
    number: bool = True
    falling: bool = True


@dataclass(frozen=True)
class TableCell:
    """A text and what stands below it; `value` is what it is sorted by, if not by the text."""

    text: str
    value: float | None = None
    below: str = ""


@dataclass(frozen=True)
class TableRow:
    """One line of a table; the best one stands out."""

    cells: Sequence[TableCell]
    best: bool = False


@dataclass(frozen=True)
class WebTable:
    """A table that can be sorted and filtered.

    Attributes
    ----------
    name : str
        What it is for, in a word; it also names the filter.
    mark : str
        What is written below the names of the best rows.
    """

    name: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]
    mark: str


# Figures on test after the accuracy: title, field, whether more is better. Then on validation.
_TEST = (
    ("balanced accuracy", "balanced_accuracy", True),
    ("macro F1", "macro_f1", True),
    ("ROC AUC", "roc_auc", True),
    ("average precision", "average_precision", True),
    ("log loss", "log_loss", False),
    ("Brier score", "brier", False),
)
_ALIKE = ("balanced_accuracy", "macro_f1")
_VALIDATION = (("log loss {}", "log_loss", False),)


def heads_table(
    heads: Sequence[tuple[Sequence[str], HeadRecord, bool]],
    names: Sequence[str],
    mark: str,
    chosen_on: str,
    positive: tuple[int, str] | None = None,
) -> WebTable:
    """Put heads into a table, from (texts of the first columns, head, whether it is the best).

    `positive` is the number and name of the positive class, where there are two: its recall and
    precision then take the place of figures that count all classes the same.
    """
    of_test = [row for row in _TEST if positive is None or row[1] not in _ALIKE]
    columns = [
        *(Column(name, number=False, falling=False) for name in names),
        Column("accuracy"),
        *(Column(f"{what} of {positive[1]}") for what in ("recall", "precision") if positive),
        *(
            Column(title.format(chosen_on), falling=falling)
            for title, _, falling in (*of_test, *_VALIDATION)
        ),
        Column("seconds", falling=False),
    ]
    rows = [
        TableRow(
            [
                *map(TableCell, texts[:-1]),
                TableCell(texts[-1], below=str(head.parameters.get("backbone", ""))),
                _figure(head.test, "accuracy"),
                *(_shares(head.test, positive[0]) if positive else ()),
                *(_figure(head.test, key) for _, key, _ in of_test),
                *(_figure(head.validation, key) for _, key, _ in _VALIDATION),
                TableCell(f"{head.seconds:,.1f}", head.seconds),
            ],
            best,
        )
        for texts, head, best in heads
    ]
    return WebTable("heads", columns, rows, mark)


def _figure(metrics: Metrics | None, key: str) -> TableCell:
    """Write a figure with its interval, where it has one."""
    value = getattr(metrics, key, None)
    if metrics is None or value is None or math.isnan(value):
        return TableCell(number(None))
    interval = metrics.intervals.get(key)
    if key == "accuracy":
        interval = metrics.accuracy_low, metrics.accuracy_high
    return TableCell(number(value), value, " to ".join(map(number, interval)) if interval else "")


def _shares(test: Metrics, positive: int) -> Iterator[TableCell]:
    """Write a class's recall and precision with their intervals."""
    for share in (test.recall(positive), test.precision(positive)):
        if share.count:
            below = " to ".join(map(number, share.interval))
            yield TableCell(number(share.value), share.value, below)
        else:
            yield TableCell(number(None))


def augmentations(heads: Sequence[HeadRecord]) -> tuple[Sequence[str], list[tuple[str, list[str]]]]:
    """Put the lowest log loss of each augmentation that was tried into rows, one for each head."""
    lowest: dict[str, dict[str, float]] = {}
    for head in heads:
        for tried in head.candidates:
            name, loss = tried.parameters.get("augmentation"), tried.validation_log_loss
            if name is not None and loss is not None:
                of_head = lowest.setdefault(head.name, {})
                of_head[name] = min(loss, of_head.get(name, loss))
    names = list(dict.fromkeys(name for of_head in lowest.values() for name in of_head))
    rows = [
        (head, [number(of_head.get(name)) for name in names]) for head, of_head in lowest.items()
    ]
    return [typed(name) for name in names], rows


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Write settings as pairs of names and texts, those within others by their full name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _written(value)


def _written(value: object) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(map(str, value)) if value else "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == "" else str(value)


def described(parameters: Mapping[str, Any]) -> str:
    """Write parameters in one line."""
    return ", ".join(f"{name} {text}" for name, text in flattened(parameters)) or "no parameters"
