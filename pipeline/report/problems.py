"""What may be wrong with the data: pictures to look at, and the lists they are taken from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.report import figures
from pipeline.report.tables import Column, TableCell, TableRow, WebTable
from pipeline.report.thumbnails import Picture
from pipeline.report.words import common_folder
from pipeline.runs.documents import ProblemsDocument
from pipeline.runs.reading import Record

_PAIRS = 12
_PICTURES = 24
_SHOWN = 6  # of each kind: the others are folded
_ROWS = 200
_SPLITS = ("split", "splits")


def shown(record: Record) -> Iterator[str]:
    """Name the images that pictures are shown of."""
    if problems := record.problems:
        for pair in problems.duplicates.pairs[:_PAIRS]:
            yield from pair.paths
        yield from (suspect.path for suspect in problems.likely_wrong[:_PICTURES])
        yield from (outlier.path for outlier in problems.outliers[:_PICTURES])


def show_problems(record: Record) -> Mapping[str, Any] | None:
    """Gather the problems, if the run was searched for them."""
    problems = record.problems
    if problems is None:
        return None
    pairs, suspects, outliers = (
        problems.duplicates.pairs,
        problems.likely_wrong,
        problems.outliers,
    )
    paths = [path for pair in pairs for path in pair.paths]
    paths += [suspect.path for suspect in suspects] + [outlier.path for outlier in outliers]
    folder = common_folder(paths)

    def short(path: str) -> str:
        return path.removeprefix(folder)

    def picture(path: str) -> Picture:
        return Picture.of(path, record.pictures)

    return {
        "summary": problems.summary,
        "nested": record.nested,
        "shown": _SHOWN,
        "folder": folder,
        "pairs": [
            (pair, list(map(picture, pair.paths)), list(map(short, pair.paths)))
            for pair in pairs[:_PAIRS]
        ],
        "suspects": [
            (suspect, picture(suspect.path), short(suspect.path))
            for suspect in suspects[:_PICTURES]
        ],
        "outliers": [
            (outlier, picture(outlier.path), short(outlier.path))
            for outlier in outliers[:_PICTURES]
        ],
        "tables": _tables(problems, short, nested=record.nested),
        "curve": problems.learning_curve and figures.draw_learning_curve(problems.learning_curve),
    }


def _tables(
    problems: ProblemsDocument, short: Callable[[str], str], *, nested: bool
) -> Mapping[str, tuple[WebTable, int]]:
    """List all problems."""
    pairs, suspects = problems.duplicates.pairs, problems.likely_wrong
    outliers = problems.outliers
    return {
        "copies": _table(
            "copies",
            ("image", "copy", "splits", "labels", "kind", "similarity"),
            [
                (*map(short, pair.paths), *map(_both, (pair.splits, pair.labels)), pair.kind)
                for pair in pairs
            ],
            [pair.similarity for pair in pairs],
            nested=nested,
        ),
        "suspects": _table(
            "suspects",
            ("image", "split", "label", "suggested", "margin"),
            [(short(s.path), s.split, s.label, s.suggested) for s in suspects],
            [suspect.score for suspect in suspects],
            nested=nested,
        ),
        "outliers": _table(
            "outliers",
            ("image", "split", "label", "score"),
            [(short(outlier.path), outlier.split, outlier.label) for outlier in outliers],
            [outlier.score for outlier in outliers],
            nested=nested,
        ),
    }


def _both(names: tuple[str, str]) -> str:
    return " and ".join(dict.fromkeys(names))


def _table(
    name: str,
    titles: Sequence[str],
    texts: Sequence[Sequence[str]],
    values: Sequence[float],
    *,
    nested: bool,
) -> tuple[WebTable, int]:
    """List problems, each with a value in the last column; also count the rows left out.

    In cross-validation, there are no splits to be named.
    """
    *names, figure = titles
    shown = [place for place, title in enumerate(names) if not (nested and title in _SPLITS)]
    columns = [Column(names[place], number=False, falling=False) for place in shown]
    rows = [
        TableRow([*(TableCell(own[place]) for place in shown), TableCell(f"{value:.3f}", value)])
        for own, value in zip(texts[:_ROWS], values)
    ]
    return WebTable(name, [*columns, Column(figure)], rows, ""), len(texts) - len(rows)
