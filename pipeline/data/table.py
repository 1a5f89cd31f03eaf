"""A CSV file to its entries."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TextIO

from pipeline.data.dataset import shorten
from pipeline.data.entries import LAYOUTS, SPLIT_NAMES, Entry, Listing
from pipeline.data.urls import Location, Url, locate, read, signatures_of
from pipeline.errors import DataError, ImageError

_ENCODING = "utf-8-sig"


def list_csv(source: Location) -> Listing:
    """Read the entries of a CSV file, which may be behind a URL."""
    with _open(source) as file:
        try:
            entries = _read_entries(source, file)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{source} cannot be read as a CSV file: {error}.",
                expected=f"text in UTF-8; data may be {LAYOUTS}",
            ) from error
    if not entries:
        raise DataError(f"{source} lists no images.", expected=LAYOUTS)
    return Listing(
        source.name.removesuffix(source.suffix),
        list(entries.values()),
        signatures=signatures_of(path for path in entries if isinstance(path, Url)),
    )


def _open(source: Location) -> TextIO:
    if isinstance(source, Path):
        return source.open(newline="", encoding=_ENCODING)
    try:
        return io.TextIOWrapper(io.BytesIO(read(source)), newline="", encoding=_ENCODING)
    except ImageError as error:
        raise DataError(f"the file {source} {error.found}.", expected=LAYOUTS) from error


def _read_entries(source: Location, file: TextIO) -> dict[Location, Entry]:
    reader = csv.DictReader(file)
    columns = reader.fieldnames or []
    if absent := {"path", "label"} - set(columns):
        raise DataError(
            f"{source} lacks the column {shorten(sorted(absent))}; "
            f"it has {', '.join(columns) or 'no columns'}.",
            expected="the columns path,label[,split][,group] in the first line",
        )
    entries: dict[Location, Entry] = {}
    for row in reader:
        line = f"{source}, line {reader.line_num}"
        entry = _entry(row, line, source.parent)
        first = entries.setdefault(entry.path, entry)
        if first != entry:
            raise DataError(
                f"{line}: {row['path']} is listed as {_described(entry)}, and as "
                f"{_described(first)} further up.",
                expected="one label, one split and one group for each path",
            )
    return entries


def _entry(row: dict[str, str], line: str, folder: Location) -> Entry:
    path, label, split, group = (
        (row.get(column) or "").strip() for column in ("path", "label", "split", "group")
    )
    if not path or not label:
        raise DataError(f"{line}: the {'label' if path else 'path'} is empty.")
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(
            f"{line}: unknown split {split!r}.", expected="train, validation, test or nothing"
        )
    return Entry(locate(path, folder), label, SPLIT_NAMES.get(split.lower(), ""), group)


def _described(entry: Entry) -> str:
    return ", ".join(filter(None, (entry.label, entry.split, entry.group)))
