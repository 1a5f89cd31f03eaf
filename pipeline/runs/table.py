"""Figures in rows and columns, as text for Python's prompt and as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipeline.errors import printable


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
        """Write the table with spaces between its columns."""
        lines = [[printable(cell) for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        text = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([printable(self.title), "", *text, "", *map(printable, self.notes)])

    def as_html(self) -> str:
        """Write the table for a notebook."""
        head = "".join(f"<th>{_escape(name)}</th>" for name in self.columns)
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
