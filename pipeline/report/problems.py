"""What may be wrong with the data: pictures to be looked at, and the lists they are taken from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import figures
from pipeline.report.tables import Cell, Column, Row, Table
from pipeline.report.thumbnails import Picture
from pipeline.report.words import common_folder
from pipeline.runs.reading import Record

_PAIRS = 12
_PICTURES = 24
_ROWS = 200


def show_problems(record: Record) -> Mapping[str, Any] | None:
    """Gather what was found, where it was looked for."""
    found = record.findings
    if found is None:
        return None
    likely = [one for one in found.suspects if one.likely]
    folder = common_folder(
        [path for one in found.copies for path in one.paths]
        + [one.path for one in likely]
        + [one.path for one in found.outliers]
    )

    def short(path: str) -> str:
        return path.removeprefix(folder)

    return {
        "summary": found.summary,
        "folder": folder,
        "pairs": [
            (one, [Picture.of(path) for path in one.paths], list(map(short, one.paths)))
            for one in found.copies[:_PAIRS]
        ],
        "suspects": [(one, Picture.of(one.path), short(one.path)) for one in likely[:_PICTURES]],
        "outliers": [
            (one, Picture.of(one.path), short(one.path)) for one in found.outliers[:_PICTURES]
        ],
        "tables": {
            "copies": _table(
                "copies",
                ("image", "copy", "splits", "labels", "what is the same"),
                "similarity",
                [
                    (
                        [
                            *map(short, one.paths),
                            " and ".join(one.splits),
                            " and ".join(dict.fromkeys(one.labels)),
                            one.kind,
                        ],
                        one.similarity,
                    )
                    for one in found.copies
                ],
            ),
            "suspects": _table(
                "suspects",
                ("image", "split", "label", "looks like"),
                "margin",
                [
                    ([short(one.path), one.split, one.label, one.suggested], one.score)
                    for one in likely
                ],
            ),
            "outliers": _table(
                "outliers",
                ("image", "split", "label"),
                "score",
                [([short(one.path), one.split, one.label], one.score) for one in found.outliers],
            ),
        },
        "curve": figures.draw_learning_curve(found.curve, found.answer) if found.curve else None,
    }


def _table(
    name: str, titles: Sequence[str], figure: str, lines: Sequence[tuple[Sequence[str], float]]
) -> tuple[Table, int]:
    """List what was found; also tell how many lines are left out."""
    columns = [*(Column(title, number=False, falling=False) for title in titles), Column(figure)]
    rows = [Row([*map(Cell, texts), Cell(f"{value:.3f}", value)]) for texts, value in lines[:_ROWS]]
    return Table(name, columns, rows, ""), len(lines) - len(rows)
