"""Pages: one file each, which asks for nothing outside itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.errors import PipelineError
from pipeline.report import comparison, sections
from pipeline.report.sections import Section
from pipeline.report.verdict import verdict
from pipeline.report.words import printable
from pipeline.runs.reading import read_run
from pipeline.system.files import file_errors, write_file

FILE = "report.html"
"""Name of the page in a run's folder."""

_TEMPLATES = Path(__file__).parent / "templates"

Subject = TypeVar("Subject")


def write_report(folder: str | Path, name: str | None = None) -> Path:
    """Write the page of a run into its folder, from what the folder holds.

    Parameters
    ----------
    folder : str or Path
        ``runs/<name>``.
    name : str, optional
        What to call the run; the default is the folder's name.

    Returns
    -------
    Path
        The page. One that is there already is replaced.

    Raises
    ------
    PipelineError
        There is no run, or the page cannot be written.
    """
    record = read_run(Path(folder), name)
    page = _render(
        record,
        sections.SECTIONS,
        title=record.name,
        subtitle=f"run on {record.document['dataset']['name']}, {record.document['created'][:10]}",
        verdict=verdict(record),
    )
    return _write(page, record.folder / FILE)


def write_comparison(folders: Sequence[str | Path], file: str | Path) -> Path:
    """Write a page that puts several runs side by side.

    Parameters
    ----------
    folders : sequence of str or Path
        The runs' folders: two or more.
    file : str or Path
        HTML file to write; one that is there already is replaced.

    Raises
    ------
    PipelineError
        Fewer than two runs are named, or one of them twice, one cannot be read, or the page cannot
        be written.
    """
    if len(folders) < 2:
        raise PipelineError("there is one run to compare.", expected="the folders of two or more")
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise PipelineError(
            "a run is named more than once.", expected="the folders of several runs"
        )
    records = [read_run(Path(folder)) for folder in folders]
    labels = comparison.labelled([record.name for record in records], list(map(str, folders)))
    records = [replace(record, name=label) for record, label in zip(records, labels)]
    page = _render(
        records,
        comparison.SECTIONS,
        title="Comparison of runs",
        subtitle=", ".join(labels),
        verdict=comparison.verdict(records),
    )
    return _write(page, Path(file))


def _render(subject: Subject, parts: Sequence[Section[Subject]], **header: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_finish,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["removeprefix"] = str.removeprefix
    shown = []
    for part in parts:
        context = part.show(subject)
        if context is not None:
            text = environment.get_template(f"{part.key}.html.j2").render(context)
            shown.append((part.key, part.title, text))
    style, script = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    return environment.get_template("page.html.j2").render(
        **header,
        sections=shown,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _write(page: str, file: Path) -> Path:
    with file_errors(f"write {file}"):
        return write_file(file, page)


def _hash(text: str) -> str:
    """Name the one style, or script, that a browser may apply, in the form that policies use."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _finish(value: object) -> object:
    """Make names printable; what a template has made is so already."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return printable(str(value)) if is_text else value
