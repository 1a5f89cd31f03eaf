"""A map of all images as a file: a table of them, or a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.analysis.image_map import check_installed
from pipeline.analysis.image_table import PLAIN, ImageTable
from pipeline.errors import PipelineError
from pipeline.models.export import check_absent
from pipeline.report.charts import STYLES
from pipeline.report.rendering import chart_style, render
from pipeline.report.words import shortened
from pipeline.system.files import clear_unfinished, file_errors, write_file

CHART = ".svg"
_ENDINGS = (".csv", CHART)
_SIDE, _MARGIN, _TOP = 720, 12, 32  # pixels
_COLUMNS, _LINE, _LONGEST_NAME = 3, 18, 22  # of the legend
_SHAPES = 4
_MOST_NAMES = _SHAPES * STYLES  # that have a mark of their own
_TURNS = 50


@dataclass(frozen=True)
class Mark:
    """How the images of one name are drawn, and how many there are."""

    name: str
    style: str
    shape: int
    count: int

    def draw(self, x: float, y: float, r: float) -> str:
        """Write the outline of one image, as the page has it: a circle, a square, a triangle."""
        if self.shape == 0:
            return (
                f"M{x - r:.4g} {y:.4g}a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0{-2 * r:g} 0z"
            )
        if self.shape == 1:
            return f"M{x - r:.4g} {y - r:.4g}h{2 * r:g}v{2 * r:g}h{-2 * r:g}z"
        up = r if self.shape == 2 else -r
        return f"M{x:.4g} {y - up:.4g}l{r:g} {2 * up:g}h{-2 * r:g}z"


def check_map_file(file: Path, *, coloured: bool = False) -> None:
    """Refuse a map that cannot be made or written, before the work.

    Parameters
    ----------
    file : Path
        The name of a table (.csv) or a chart (.svg) that is not there yet.
    coloured : bool
        Whether there is something to colour by, which only a chart takes.
    """
    ending = file.suffix.lower()
    if ending not in _ENDINGS:
        raise PipelineError(
            f"{file} is not the name of a map.", expected="a name that ends in .csv or .svg"
        )
    if coloured and ending != CHART:
        raise PipelineError(
            f"{file} is a table, which has no colours.",
            expected="a name that ends in .svg",
            fix="leave --by out, or name a chart",
        )
    check_absent(file)
    if not file.absolute().parent.is_dir():
        raise PipelineError(f"there is no folder {file.absolute().parent}.", fix="make it first")
    check_installed()


def write_map(table: ImageTable, file: Path, *, by: str = "class") -> None:
    """Write a map of all images whole or not at all, in place of no other file.

    Parameters
    ----------
    table : ImageTable
        The images.
    file : Path
        A table (.csv) as `ImageTable.map_csv` has it, or a chart (.svg).
    by : str
        What a chart is coloured by: one of `ImageTable.kinds`.

    Raises
    ------
    PipelineError
        The file is there already or cannot be written, or there is no such kind.
    """
    check_map_file(file)
    if file.suffix.lower() == CHART:
        names = table.column(by)  # before the map is made: there may be no such column
        content: bytes | str = draw_map(table.points(), names, f"{table.dataset.name} by {by}")
    else:
        content = table.map_csv()
    with file_errors(f"write {file}", fix="name another file with --out"):
        clear_unfinished(file.parent)
        write_file(file, content, replace=False)


def draw_map(points: Sequence[Sequence[float]], names: Sequence[str], title: str) -> str:
    """Draw images as marks, each name in a colour and shape of its own, as the text of an SVG file.

    Parameters
    ----------
    points : sequence of (x, y)
        Where each image is, from 0 to 1 to the right and down.
    names : sequence of str
        What each image is called, in the same order. Of more than 32 names, the rarer share a mark.
    title : str
        What stands above it.
    """
    marks, numbers = _marks(names)
    places = _MARGIN + np.asarray(points) * (_SIDE - 2 * _MARGIN) + (0, _TOP)
    radius = round(max(1.5, min(5, 250 / len(names) ** 0.5)), 1)
    groups = [
        (mark, [mark.draw(x, y, radius) for x, y in places[images]])
        for mark, images in _in_turns(marks, numbers)
    ]
    count = f"{len(names):,} image{'s' if len(names) > 1 else ''}"
    legend = [f"{mark.name}: {mark.count:,}" for mark in marks]
    columns = -(-len(marks) // _COLUMNS)
    entries = [
        (
            replace(mark, name=f"{shortened(mark.name, _LONGEST_NAME)} ({mark.count:,})"),
            mark.draw(0, 0, 5),
            _MARGIN + 5 + place // columns * _SIDE // _COLUMNS,
            _TOP + _SIDE + _LINE * (place % columns + 1),
        )
        for place, mark in enumerate(marks)
    ]
    return render(
        "image_map.svg.j2",
        title=f"{title}: {count}",
        heading=shortened(f"{title}: {count}", int(_SIDE / 8)),
        summary="Each mark is an image; similar images are close together, and the axes mean "
        f"nothing. {', '.join(legend)}.",
        width=_SIDE,
        height=_TOP + _SIDE + _LINE * (columns + 1),
        groups=groups,
        entries=entries,
        style=chart_style(),
    )


def _marks(names: Sequence[str]) -> tuple[list[Mark], npt.NDArray[np.intp]]:
    """Give names marks, in their order; return also which of them each image has."""
    unique, numbers, counts = np.unique(
        np.array(names, object).astype(str), return_inverse=True, return_counts=True
    )
    kept = np.sort(np.argsort(-counts, kind="stable")[:_MOST_NAMES])
    marks: list[Mark] = []
    for place, which in enumerate(kept):
        plain = unique[which] in PLAIN
        shape = sum(mark.style == "plain" for mark in marks) if plain else place // STYLES
        style = "plain" if plain else f"c{place % STYLES}"
        marks.append(Mark(unique[which], style, shape, int(counts[which])))
    number_of = np.full(len(unique), len(marks))
    number_of[kept] = np.arange(len(marks))
    if others := len(unique) - len(kept):
        rest = len(names) - sum(mark.count for mark in marks)
        marks.append(Mark(f"{others:,} others", "plain", _SHAPES - 1, rest))
    return marks, number_of[numbers]


def _in_turns(
    marks: Sequence[Mark], numbers: npt.NDArray[np.intp]
) -> Iterator[tuple[Mark, npt.NDArray[np.intp]]]:
    """Yield which images are drawn one after the other, so that no name hides the others."""
    turns = min(_TURNS, max(mark.count for mark in marks))
    images_of = [np.flatnonzero(numbers == number) for number in range(len(marks))]
    for mark, images in zip(marks, images_of, strict=True):
        if mark.style == "plain":
            yield mark, images
    for turn in range(turns):
        for mark, images in zip(marks, images_of, strict=True):
            if mark.style != "plain" and turn < len(images):
                yield mark, images[turn::turns]
