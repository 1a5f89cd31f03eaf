"""Figures of heads in rows and columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.words import number
from pipeline.runs.reading import Head


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
class Cell:
    """What stands in a row, and below it; and what it is sorted by where that is not the text."""

    text: str
    value: float | None = None
    below: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a table; the best one stands out."""

    cells: Sequence[Cell]
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and filtered.

    Attributes
    ----------
    name : str
        What it is for, in a word; it also names the filter.
    mark : str
        What is said of the rows that are best.
    """

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    mark: str


# What is shown of each head: title, where it is found, whether more is better.
_FIGURES = (
    ("accuracy", "test", "accuracy", True),
    ("balanced accuracy", "test", "balanced_accuracy", True),
    ("macro F1", "test", "macro_f1", True),
    ("ROC AUC", "test", "roc_auc", True),
    ("average precision", "test", "average_precision", True),
    ("log loss", "test", "log_loss", False),
    ("Brier score", "test", "brier", False),
    ("accuracy {chosen_on}", "validation", "accuracy", True),
    ("log loss {chosen_on}", "validation", "log_loss", False),
)


def heads_table(
    heads: Sequence[tuple[Sequence[str], Head, bool]],
    names: Sequence[str],
    mark: str,
    chosen_on: str,
) -> Table:
    """Put heads into a table, from (texts of the first columns, head, whether it is the best)."""
    columns = [
        *(Column(name, number=False, falling=False) for name in names),
        *(
            Column(title.format(chosen_on=chosen_on), falling=falling)
            for title, *_, falling in _FIGURES
        ),
        Column("seconds", falling=False),
    ]
    rows = [Row(_cells(texts, head), best) for texts, head, best in heads]
    return Table("heads", columns, rows, mark)


def _cells(texts: Sequence[str], head: Head) -> list[Cell]:
    where = {"test": head.test, "validation": head.validation or {}}
    return [
        *map(Cell, texts),
        *(_figure(where[on], key) for _, on, key, _ in _FIGURES),
        Cell(f"{head.seconds:,.1f}", head.seconds),
    ]


def _figure(figures: Mapping[str, Any], key: str) -> Cell:
    """Give a figure with its interval, where it has one."""
    value = figures.get(key)
    interval = (figures.get("intervals") or {}).get(key)
    if key == "accuracy" and "accuracy_low" in figures:
        interval = figures["accuracy_low"], figures["accuracy_high"]
    return Cell(number(value), value, " to ".join(map(number, interval)) if interval else "")


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
    return ", ".join(f"{name} {text}" for name, text in flattened(parameters)) or "none to choose"
