"""Figures of heads in rows and columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


# Figures on test: title, field, whether more is better. Then those on validation.
_TEST = (
    ("accuracy", "accuracy", True),
    ("balanced accuracy", "balanced_accuracy", True),
    ("macro F1", "macro_f1", True),
    ("ROC AUC", "roc_auc", True),
    ("average precision", "average_precision", True),
    ("log loss", "log_loss", False),
    ("Brier score", "brier", False),
)
_VALIDATION = (("accuracy {}", "accuracy", True), ("log loss {}", "log_loss", False))


def heads_table(
    heads: Sequence[tuple[Sequence[str], HeadRecord, bool]],
    names: Sequence[str],
    mark: str,
    chosen_on: str,
) -> WebTable:
    """Put heads into a table, from (texts of the first columns, head, whether it is the best)."""
    columns = [
        *(Column(name, number=False, falling=False) for name in names),
        *(
            Column(title.format(chosen_on), falling=falling)
            for title, _, falling in _TEST + _VALIDATION
        ),
        Column("seconds", falling=False),
    ]
    rows = [
        TableRow(
            [
                *map(TableCell, texts[:-1]),
                TableCell(texts[-1], below=str(head.parameters.get("backbone", ""))),
                *(_figure(head.test, key) for _, key, _ in _TEST),
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
