"""Pages: each is one file that loads nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.data.dataset import Dataset
from pipeline.errors import PipelineError
from pipeline.report import comparison, sections
from pipeline.report.chart_files import write_charts
from pipeline.report.first_screen import first_screen
from pipeline.report.pictures import take_pictures
from pipeline.report.rendering import asset, lay_out, page_style, render
from pipeline.report.sections import About, Section
from pipeline.runs.reading import PICTURES, read_run
from pipeline.system.documents import to_json
from pipeline.system.files import clear_unfinished, file_errors, read_regular, write_file

FILE = "report.html"
"""Name of the page in a run's folder."""

_COMPARISON = "Comparison of runs"
_PICTURE = "data:image/jpeg;"
_MOST_BYTES = 2**28  # of a page: a hundred times what a large one has


def write_report(
    folder: str | Path,
    name: str | None = None,
    *,
    dataset: Dataset | None = None,
    without_pictures: bool = False,
) -> Path:
    """Write the page of a run into its folder, and its charts as files beside it.

    Parameters
    ----------
    folder : str or Path
        The run's folder.
    name : str, optional
        What to call the run, if not by its folder.
    dataset : Dataset, optional
        The run's data set, as whoever calls this named it: pictures that the run does not keep
        yet are taken from it. Without it, no file outside the folder is opened.
    without_pictures : bool
        Whether a page that has pictures may be replaced by one with fewer.
    """
    record = read_run(Path(folder), name)
    record = replace(record, pictures=take_pictures(record, dataset))
    document, file = record.document, record.folder / FILE
    page = _lay_out(
        record,
        sections.SECTIONS,
        title=record.name,
        subtitle=f"run on {document.dataset.name}, {document.created[:10]}",
        verdict=(),
        first=render("first.html.j2", **first_screen(record)),
        notice=record.pictures.note,
    )
    with file_errors(f"write {record.folder}"):
        clear_unfinished(record.folder)
        if record.pictures.missing and not without_pictures:
            _keep_pictures(file, page.count(_PICTURE))
        write_charts(record)
        write_file(record.folder / PICTURES, to_json(record.pictures))
        return write_file(file, page)


def _keep_pictures(file: Path, count: int) -> None:
    """Refuse to write a page with `count` pictures in place of one that has more."""
    before = 0
    with contextlib.suppress(OSError):  # there is none, or it is no file
        before = read_regular(file, _MOST_BYTES).count(_PICTURE.encode())
    if count < before:
        raise PipelineError(
            f"{file} has {before:,} pictures, of which the run keeps {count:,}.",
            expected="all of them, so that the page can be written again without the images",
            fix=f"take them from the images: pipeline problems DATA --run {file.parent}; or write "
            f"the page with fewer: pipeline report {file.parent} --without-pictures",
        )


def write_comparison(folders: Sequence[str | Path], file: str | Path) -> Path:
    """Write a page that puts several runs side by side, into a file that ends in .html."""
    if Path(file).suffix.lower() not in (".html", ".htm"):
        raise PipelineError(f"cannot write {file}.", expected="a name that ends in .html")
    if len(folders) < 2:
        raise PipelineError(
            "a comparison of fewer than two runs.", expected="the folders of two or more"
        )
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise PipelineError(
            "a run is named more than once.", expected="the folders of several runs"
        )
    records = [read_run(Path(folder)) for folder in folders]
    labels = comparison.labelled([record.name for record in records], list(map(str, folders)))
    records = [replace(record, name=label) for record, label in zip(records, labels)]
    page = _lay_out(
        records,
        comparison.SECTIONS,
        title=_COMPARISON,
        subtitle=", ".join(labels),
        verdict=comparison.verdict(records),
        first="",
        notice="",
    )
    with file_errors(f"write {file}", fix="name another file with --out"):
        clear_unfinished(Path(file).parent)
        return write_file(Path(file), page, over=_COMPARISON.encode())


def _lay_out(about: About, parts: Sequence[Section[About]], **header: Any) -> str:
    shown = []
    for part in parts:
        context = part.show(about)
        if context is not None:
            shown.append((part.key, part.title, render(f"{part.key}.html.j2", **context)))
    return lay_out(shown, style=page_style(), script=asset("page.js"), **header)
