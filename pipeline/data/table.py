"""A CSV file to its entries."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from pipeline.data.dataset import shorten
from pipeline.data.entries import LAYOUTS, SPLIT_NAMES, Entry, Listing
from pipeline.data.names import MISSING, UNCLEAR
from pipeline.data.servers import check_server
from pipeline.data.urls import Location, Url, locate, read, signatures_of, without_query
from pipeline.errors import DataError, ImageError, PipelineError
from pipeline.system.cells import from_cell

COLUMNS = ("path", "label", "split", "group")
_ENCODING = "utf-8-sig"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_EXPECTED = "the columns path,label[,split][,group] in the first line"
_DELIMITERS = (",", ";", "\t", "|")
_MOST_BYTES = 2**30  # of a list behind a URL: ten million images
_MOST_REMARKS = 3
# What others call these columns, in words of a column's name.
_MEANT = {
    "path": {"file", "filename", "filepath", "image", "img", "name", "url", "uri"},
    "label": {"class", "category", "target", "y", "diagnosis", "type", "labels", "species"},
    "split": {"set", "subset", "fold", "partition", "phase", "dataset", "usage"},
    "group": {
        *(
            "patient",
            "patients",
            "subject",
            "animal",
            "person",
            "individual",
            "participant",
            "donor",
        ),
        *(
            "case",
            "slide",
            "specimen",
            "sample",
            "batch",
            "lot",
            "wafer",
            "plate",
            "series",
            "study",
        ),
        *(
            "scan",
            "session",
            "visit",
            "site",
            "location",
            "camera",
            "video",
            "clip",
            "scene",
            "groups",
        ),
    },
}


def list_csv(source: Location, unlabelled: bool = False) -> Listing:
    """Read the entries of a CSV file, which may be behind a URL; labels may have to be there."""
    with _open(source) as file:
        try:
            table = _Table(source, file)
            entries = _read_entries(table, unlabelled)
        except UnicodeDecodeError as error:
            if _HDF5 in error.object:
                raise _holds_no_images(source) from error
            raise DataError(
                f"{source} cannot be read as a CSV file: {error}.",
                expected=f"text in UTF-8; data may be {LAYOUTS}",
            ) from error
    if not entries:
        raise DataError(f"{source} lists no images.", expected=LAYOUTS)
    return Listing(
        without_query(source).name.removesuffix(source.suffix),
        list(entries.values()),
        signatures=signatures_of(path for path in entries if isinstance(path, Url)),
        remarks=list(table.remarks()),
    )


def _holds_no_images(source: Location) -> DataError:
    return DataError(
        f"{source} is an HDF5 file, which holds no images.",
        expected=LAYOUTS,
        fix="if `pipeline cache export` wrote it, give it, as a local file named .h5, to classify "
        "or problems",
    )


def _open(source: Location) -> TextIO:
    if isinstance(source, Path):
        return source.open(newline="", encoding=_ENCODING)
    try:
        content = read(source, _MOST_BYTES)
    except ImageError as error:
        raise DataError(f"the file {source} {error.found}.", expected=LAYOUTS) from error
    if len(content) >= _MOST_BYTES:
        raise DataError(
            f"the file {source} is larger than {_MOST_BYTES / 1e9:.0f} GB.",
            expected="a CSV file that names images",
            fix="download it, if it is one",
        )
    return io.TextIOWrapper(io.BytesIO(content), newline="", encoding=_ENCODING)


class _Table:
    """The rows of a CSV file, by the columns that are used."""

    def __init__(self, source: Location, file: TextIO) -> None:
        self.source, self._file = source, file
        self._delimiter, self._header = self._find_header()
        self._filled: set[int] = set()  # places of the columns that have a value in some row
        names = [name.casefold() for name in self._header]
        if absent := [name for name in ("label", "path") if name not in names]:
            raise DataError(
                f"{source} lacks the column {shorten(absent)}; "
                f"it has {', '.join(self._header) or 'no columns'}.",
                expected=_EXPECTED,
                fix=_renaming(absent, self._header),
            )
        counts = Counter(names)
        if twice := [name for name in COLUMNS if counts[name] > 1]:
            raise DataError(
                f"{source} has the column {twice[0]} {counts[twice[0]]} times.",
                expected=_EXPECTED,
                fix="delete or rename those that are not meant",
            )
        self._places = {name: names.index(name) for name in COLUMNS if name in names}

    def rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield where each row stands and its cells, but of the first line and of blank rows."""
        for number, cells in self._lines(self._delimiter):
            line = f"{self.source}, line {number}"
            if cells == self._header or not any(cells):
                continue
            if any(cells[len(self._header) :]):
                raise DataError(
                    f"{line}: {len(cells)} values ({shorten(cells)}) for {len(self._header)} "
                    f"columns ({shorten(self._header)}).",
                    expected="one value for each column, so one label for each image",
                    fix=f"delete what is too much; put a value with a {self._delimiter!r} in it "
                    "into double quotes",
                )
            self._filled.update(place for place, cell in enumerate(cells) if cell)
            yield (
                line,
                {
                    name: cells[place] if place < len(cells) else ""
                    for name, place in self._places.items()
                },
            )

    def remarks(self) -> Iterator[str]:
        """Name the columns that are not used, and say what they may be meant for."""
        unused = sorted(self._filled - set(self._places.values()))
        for place in unused[:_MOST_REMARKS]:
            name = self._header[place]
            column = f"The column {name}" if name else f"Column {place + 1}, which has no name,"
            absent = (meant for meant in ("group", "split") if meant not in self._places)
            meant = next((meant for meant in absent if _means(meant, name)), "")
            why = " (images of one group never are in two splits)" if meant == "group" else ""
            yield f"{column} is not used" + (f": did you mean {meant}{why}?" if meant else ".")
        if more := unused[_MOST_REMARKS:]:
            yield f"Other columns are not used: {shorten(self._header[place] for place in more)}."

    def _find_header(self) -> tuple[str, list[str]]:
        headers: dict[str, list[str]] = {}
        for sign in _DELIMITERS:
            with contextlib.suppress(DataError):  # quotes that end before another delimiter
                headers[sign] = next(self._lines(sign), (0, []))[1]
                if {"path", "label"} <= {name.casefold() for name in headers[sign]}:
                    return sign, headers[sign]
        return max(headers.items(), key=lambda found: len(found[1]), default=(",", []))

    def _lines(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        self._file.seek(0)
        # Strict: otherwise a quote that is never closed swallows the rest of the file.
        reader = csv.reader(self._file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                declares = reader.line_num == 1 and cells and cells[0].startswith("sep=")
                if cells and not declares:  # spreadsheets declare it so
                    yield reader.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise DataError(
                f"{self.source} cannot be read as a CSV file: line {reader.line_num}: {error}.",
                expected="values between commas; one with a comma or a quote in it is in double "
                "quotes, and each quote in it is written twice",
            ) from error


def _read_entries(table: _Table, unlabelled: bool) -> dict[Location, Entry]:
    entries: dict[Location, Entry] = {}
    folder = without_query(table.source).parent
    for line, cells in table.rows():
        entry = _entry(line, cells, folder, unlabelled)
        first = entries.setdefault(entry.path, entry)
        if first != entry and first.composed() != entry.composed():
            raise DataError(
                f"{line}: {cells['path']} is listed as {_described(entry)}, and as "
                f"{_described(first)} further up.",
                expected="one label, one split and one group for each path",
            )
    return entries


def _entry(line: str, cells: dict[str, str], folder: Location, unlabelled: bool) -> Entry:
    for name in ("path",) if unlabelled else ("path", "label"):
        if not cells[name]:
            fix = "delete the line, or label the image: pipeline app DATA --label"
            raise DataError(f"{line}: the {name} is empty.", fix=fix if name == "label" else "")
    for name in ("label", "split", "group"):
        value = cells.get(name, "")
        if is_missing(name, value):
            fix = "delete the line, or spell the class out" if name == "label" else "leave it empty"
            raise DataError(f"{line}: the {name} is {value}, a missing value.", fix=fix)
        if has_line_break(value):
            raise DataError(
                f"{line}: the {name} has a line break in it.", fix="look for a quote left open"
            )
    split = cells.get("split", "").lower()
    if split and split not in SPLIT_NAMES:
        raise DataError(
            f"{line}: unknown split {cells['split']!r}.",
            expected="train, validation, test or nothing",
        )
    path = _locate(cells["path"], folder)
    if isinstance(path, Url):
        try:
            check_server(path)
        except PipelineError as error:
            fault = f"{line}: {error.found}"
            raise DataError(fault, expected=error.expected, fix=error.fix) from error
    label, group = from_cell(cells["label"]), from_cell(cells.get("group", ""))
    return Entry(path, label, SPLIT_NAMES.get(split, ""), group)


def is_missing(name: str, value: str) -> bool:
    """Tell whether a cell of the column `name` stands for a missing value."""
    return value in (MISSING - UNCLEAR if name == "label" else MISSING)


def has_line_break(value: str) -> bool:
    """Tell whether a cell has several lines, as only a path may."""
    return len(value.splitlines()) > 1


def _locate(path: str, folder: Location) -> Location:
    """Find a file, whose path may have been written on Windows."""
    location = locate(path, folder)
    if "\\" in path and isinstance(location, Path) and not os.path.exists(location):  # noqa: PTH110
        slashed = locate(path.replace("\\", "/"), folder)
        if isinstance(slashed, Path) and slashed.exists():
            return slashed
    return location


def _described(entry: Entry) -> str:
    return ", ".join(filter(None, (entry.label, entry.split, entry.group)))


def _means(column: str, name: str) -> bool:
    """Tell whether a column's name is what others call `column`, as patient_id for group."""
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)]
    return any(
        word == meant or (len(meant) > 4 and word.startswith(meant))
        for word in words
        for meant in _MEANT[column]
    )


def _renaming(absent: Iterable[str], header: Iterable[str]) -> str:
    found = {name: next((own for own in header if _means(name, own)), "") for name in absent}
    renamed = [f"rename the column {own} to {name}" for name, own in found.items() if own]
    return " and ".join(renamed) or "write the names of the columns into the first line"
