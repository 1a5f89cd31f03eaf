"""The geometry of a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.report.charts import LONGEST_CLASS
from pipeline.report.words import NO_BREAK, shortened, width

_MATRIX = 264
_LARGEST_CELL, _SMALLEST_CELL, _CELL_WITH_UNIT, _NUMBERED_CELL = 80, 4, 44, 24
_LABEL, _SLANTED_LABEL = 13, 19  # pixels from one to the next
_SHADES = 10


@dataclass(frozen=True)
class PlacedText:
    """A number or name in a matrix, and where it stands."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class MatrixChart:
    """A confusion matrix, drawn as shaded cells.

    Attributes
    ----------
    shades : list of (int, str)
        Paths that fill all cells of one shade, from 1 to 10.
    """

    title: str
    summary: str
    note: str
    width: float
    height: float
    left: float
    top: float
    side: float
    shades: list[tuple[int, str]]
    numbers: list[PlacedText]
    rows: list[PlacedText]
    columns: list[PlacedText]
    slanted: bool


def lay_out_matrix(
    confusion: Sequence[Sequence[int]],
    classes: Sequence[str],
    *,
    title: str,
    summary: str,
    note: str = "",
) -> MatrixChart:
    """Lay out a confusion matrix; cells are shaded by their share of the row."""
    counts = np.asarray(confusion)
    k = len(counts)
    cell = max(min(_LARGEST_CELL, _MATRIX / k), _SMALLEST_CELL)
    names = [shortened(name, LONGEST_CLASS) for name in classes]
    longest = max(map(width, names))
    slanted = longest > cell - 4
    left = 26 + longest
    top = 6.0
    below = 26 + (longest * 0.72 + 10 if slanted else 16)
    numbered = cell >= _NUMBERED_CELL
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = np.rint(100 * counts / total).astype(int)
    unit = f"{NO_BREAK}%" if cell >= _CELL_WITH_UNIT else ""
    middle = [round(cell * (place + 0.5), 1) for place in range(k)]
    return MatrixChart(
        title=title,
        summary=summary,
        note=note,
        width=math.ceil(left + k * cell + 12),
        height=math.ceil(top + k * cell + below),
        left=round(left, 1),
        top=top,
        side=round(k * cell, 1),
        shades=_shades(counts, cell),
        numbers=[
            PlacedText(middle[column], middle[row], f"{shares[row, column]}{unit}")
            for row, column in np.ndindex(k, k)
            if unit or counts[row, column]
        ]
        if numbered
        else [],
        rows=[
            PlacedText(-6, middle[place], names[place])
            for place in range(0, k, math.ceil(_LABEL / cell))
        ],
        columns=[
            PlacedText(middle[place], round(k * cell, 1), names[place])
            for place in range(0, k, math.ceil(_SLANTED_LABEL / cell) if slanted else 1)
        ],
        slanted=slanted,
    )


def _shades(counts: npt.NDArray[np.int64], cell: float) -> list[tuple[int, str]]:
    """Gather the cells of each shade in one path: 100 classes have 10,000 cells."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    levels = np.ceil(shares * _SHADES).astype(int)
    paths = []
    for level in range(1, _SHADES + 1):
        squares = [
            f"M{column * cell:.4g} {row * cell:.4g}h{cell:.4g}v{cell:.4g}h-{cell:.4g}z"
            for row, column in np.argwhere(levels == level)
        ]
        if squares:
            paths.append((level, "".join(squares)))
    return paths
