"""Figures in rows and columns, as text for Python's prompt and as HTML for a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipeline.errors import printable
from pipeline.evaluation.intervals import Share
from pipeline.evaluation.metrics import Metrics

FEW = 20
"""Images to judge by: with fewer, the interval of an accuracy is more than 30 points wide."""

_MOST_RECALLS = 3  # with more classes, one column has the lowest recall
_LONGEST_CLASS = 14  # in a heading
_MORE = (
    ("balanced\naccuracy", "balanced_accuracy"),
    ("macro\nF1", "macro_f1"),
    ("ROC\nAUC", "roc_auc"),
    ("average\nprecision", "average_precision"),
    ("Brier\nscore", "brier"),
)


@dataclass(frozen=True)
class Figures:
    """Which figures of a head a table has: those that people use, or all.

    Attributes
    ----------
    classes : sequence of str
        Class names.
    positive : int or None
        The class that matters, whose recall is shown with its interval.
    every : bool
        Whether to add all other figures.
    """

    classes: Sequence[str]
    positive: int | None = None
    every: bool = False

    @property
    def _recalled(self) -> Sequence[int]:
        """The classes that have a column of their own."""
        if self.positive is not None:
            return [self.positive]
        return range(len(self.classes)) if len(self.classes) <= _MOST_RECALLS else ()

    @property
    def headings(self) -> list[str]:
        """Headings, some of two lines."""
        names = [printable(self.classes[place]) for place in self._recalled]
        short = [n if len(n) <= _LONGEST_CLASS else f"{n[: _LONGEST_CLASS - 1]}…" for n in names]
        recalls = [f"recall of\n{name}" for name in short] or ["lowest\nrecall"]
        more = [title for title, _ in _MORE] if self.every else []
        if self.every and self.positive is not None:
            more.insert(0, f"precision of\n{short[0]}")
        return ["classifier", "accuracy\n(95 % interval)", *recalls, "log loss", *more, "time"]

    def row(self, name: str, test: Metrics, seconds: float) -> list[str]:
        """Write a head's figures on the images that it is judged on."""
        if self.positive is not None:
            recalls = [_with_interval(test.recall(self.positive))]
        elif not (recalls := [_written(test.recall(place).value) for place in self._recalled]):
            shares = map(test.recall, range(len(self.classes)))
            recalls = [_written(min(share.value for share in shares if share.count))]
        more = [_written(getattr(test, key)) for _, key in _MORE] if self.every else []
        if self.every and self.positive is not None:
            more.insert(0, _with_interval(test.precision(self.positive)))
        accuracy = f"{test.accuracy:.3f} ({test.accuracy_low:.3f}-{test.accuracy_high:.3f})"
        log_loss = f"{test.log_loss:.3f}"
        return [name, accuracy, *recalls, log_loss, *more, f"{seconds:.1f} s"]


def _with_interval(share: Share) -> str:
    if not share.count:
        return _written(None)
    low, high = share.interval
    return f"{share.value:.3f} ({low:.3f}-{high:.3f})"


def _written(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes
    ----------
    title : str
        What stands above it.
    columns : sequence of str
        Headings.
    rows : sequence of sequence of str
        One text for each column.
    best : int
        Number of the row that stands out.
    notes : sequence of str
        What stands below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int
    notes: Sequence[str]

    def as_text(self) -> str:
        """Write the table with spaces between its columns, aligned as a terminal shows them."""
        from rich.cells import cell_len, set_cell_size  # not at the top: it is for prompts alone

        headings = [title.replace("\n", " ") for title in self.columns]
        lines = [[printable(cell) for cell in line] for line in (headings, *self.rows)]
        widths = [max(map(cell_len, column)) for column in zip(*lines)]
        text = [
            "  ".join(
                f"{' ' * (width - cell_len(cell))}{cell}" if place else set_cell_size(cell, width)
                for place, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([printable(self.title), "", *text, "", *map(printable, self.notes)])

    def as_html(self) -> str:
        """Write the table for a notebook."""
        head = "".join(f"<th>{_escape(name.replace(chr(10), ' '))}</th>" for name in self.columns)
        body = "".join(
            f"<tr{_bold(number == self.best)}>"
            + "".join(f"<td>{_escape(cell)}</td>" for cell in row)
            + "</tr>"
            for number, row in enumerate(self.rows)
        )
        return (
            f"<table><caption>{_escape(self.title)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
            + "".join(f"<p>{_escape(line)}</p>" for line in self.notes)
        )


def _escape(text: str) -> str:
    return escape(printable(text))


def _bold(best: bool) -> str:
    return ' style="font-weight: bold"' if best else ""
