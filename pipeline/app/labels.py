"""A file of labels: a CSV that `classify` takes, which several processes may write at once."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.data.confirmed import confirmed_labels, journal_of
from pipeline.data.entries import Entry
from pipeline.data.table import COLUMNS, has_line_break, is_missing, list_csv
from pipeline.data.urls import Location, Url, locate, whole_name
from pipeline.errors import DataError, PipelineError, in_one_line
from pipeline.system.cells import to_cell
from pipeline.system.files import clear_unfinished, file_errors, read_regular, write_file
from pipeline.system.journal import Journal

_UNSOUND = re.compile("[\0\r]")
_NONE = Entry(Path(), "")


class ChangedError(PipelineError):
    """An image has another label by now than whoever gives it one has seen."""

    @classmethod
    def of(cls, image: Location, label: str) -> ChangedError:
        """Say which label the image has."""
        now = f"was labelled {label} in another window meanwhile" if label else "has no label now"
        return cls(f"{image.name} {now}.")


class LabelsFile:
    """The labels of images, those of their class folders and those that were given since.

    `put` and `put_all` return when labels are on disk: in a journal, and in the CSV file, which is
    written whole or not at all. Whatever is killed at whatever moment, the labels of every call
    that returned are there when the file is opened again. Of several labels for an image the last
    one holds, whichever process gave it. Rows of images that are not in the data set stay.

    Parameters
    ----------
    path : Path
        The CSV file, which need not exist. It is written with the first label; its journal lies
        beside it.
    images : iterable of Entry
        The data set's images, with the labels that they have without the file.

    Attributes
    ----------
    unwritten : str
        Why the CSV file could not be written, if it could not: labels are in the journal then.
    rereads : int
        How often labels that others wrote were taken in.
    own, foreign : int
        How many labels the file had of images of the data set, and of others, when it was read.

    Raises
    ------
    PipelineError
        The file cannot be read, or is not such a file.
    """

    def __init__(self, path: Path, images: Iterable[Entry]) -> None:
        if not path.parent.is_dir():
            raise PipelineError(
                f"there is no folder {path.parent} for the file of labels.",
                fix="make it, or name another file",
            )
        self.path = path
        self.unwritten = ""
        self.rereads = 0
        self.own = self.foreign = 0
        self._folder = os.path.join(whole_name(path.parent), "")  # noqa: PTH118 -- with a slash at the end
        self._journal = path.with_name(f".{path.name}.journal")
        self._confirmed = journal_of(path)
        self._given = {whole_name(entry.path): entry for entry in images}
        self._columns = self._columns_of(())
        self._signature: tuple[int, ...] | None = None
        self._entries: dict[str, Entry] = {}
        self._lines: dict[str, bytes] = {}
        self._take(self._given.values())
        self.refresh()
        clear_unfinished(path.parent)

    def label(self, image: Location) -> str:
        """Return an image's label, empty if it has none."""
        entry = self._entries.get(whole_name(image))
        return entry.label if entry else ""

    @property
    def labels(self) -> dict[str, str]:
        """All labels, by the whole names of the images."""
        return {key: entry.label for key, entry in self._entries.items()}

    @property
    def added(self) -> list[str]:
        """The whole names of the images that have no label without the file, the first first."""
        return [key for key in self._entries if not self._given.get(key, _NONE).label]

    def given(self, image: Location) -> str:
        """Return the label that an image has without the file, empty if none."""
        return self._given.get(whole_name(image), _NONE).label

    def remarks(self, data: str) -> tuple[str, ...]:
        """Say how many labels are of images that are not in the data set."""
        if not self.foreign:
            return ()
        remark = (
            f"{self.foreign:,} of the {self.own + self.foreign:,} labels in {self.path} are of "
            f"images that are not in {data}: they stay there."
        )
        return (remark,)

    def refresh(self) -> None:
        """Take in what other processes wrote, and what a killed one left in the journal."""
        if not self.path.exists() and not self._journal.exists():
            return
        with self._opened() as journal:
            if journal.lines():
                self._write(journal)

    def put(self, image: Location, label: str, was: str | None = None) -> str:
        """As `put_all`, for one image."""
        return self.put_all({image: label}, was)[0]

    def put_all(self, labels: Mapping[Location, str], was: str | None = None) -> list[str]:
        """Give images labels, or take them back with empty ones; return those that they had.

        Raises
        ------
        ChangedError
            An image had neither the label `was`, if that is given, nor its new one.
        PipelineError
            The labels could not be kept, and nothing has changed.
        """
        for image, label in labels.items():
            self._line(Entry(image, label))  # refuses what no CSV can hold
        with self._opened() as journal:
            before = [self.label(image) for image in labels]
            for had, (image, label) in zip(before, labels.items()):
                if was is not None and had not in (was, label):
                    raise ChangedError.of(image, had)
            with file_errors(f"keep {_name(labels)} in {self._journal}"):
                journal.append(*self._texts(labels))
            for image, label in labels.items():
                self._apply(image, label)
            self._write(journal)
        return before

    def confirm(self, labels: Mapping[Location, str]) -> None:
        """Remember that somebody found images' labels right; with empty ones, forget it."""
        if labels:
            with (
                file_errors(f"keep the confirmation of {_name(labels)} in {self._confirmed}"),
                Journal.opened(self._confirmed) as journal,
            ):
                journal.append(*self._texts(labels))

    def confirmed(self) -> set[str]:
        """Return the whole names of the images whose label of now was confirmed, by whomever."""
        labels = self.labels
        found = confirmed_labels(self.path)
        return {key for key, label in found.items() if label and label == labels.get(key)}

    @contextmanager
    def _opened(self) -> Iterator[Journal]:
        """Let no other process write, and know all that others wrote."""
        with ExitStack() as stack:
            with file_errors(f"open {self._journal}"):
                journal = stack.enter_context(Journal.opened(self._journal))
                lines = journal.lines()
            self._read()
            for text, label in lines:
                image = locate(text, self.path.parent)
                if self.label(image) != label:
                    self._apply(image, label)
                    self.rereads += 1
            yield journal

    def _read(self) -> None:
        """Read the file, if it is not the one that was read or written last."""
        with file_errors(f"read {self.path}"):
            signature = _signature(self.path)
            if signature == self._signature:
                return
            listed = [] if signature is None else self._listed()
        self._entries.clear()
        self._lines.clear()
        self._columns = self._columns_of(listed)
        self._take(self._given.values())
        self._take(listed)
        self.own = sum(whole_name(entry.path) in self._given for entry in listed)
        self.foreign = len(listed) - self.own
        self._signature = signature
        self.rereads += 1

    def _listed(self) -> list[Entry]:
        text = read_regular(self.path, follow=True).decode("utf-8-sig", errors="replace")
        header, _, rest = text.partition("\n")
        names = {name.strip(' "').casefold() for name in re.split(r"[,;\t|]", header.strip())}
        if not {"path", "label"} <= names <= set(COLUMNS):
            raise DataError(
                f"{self.path} is no file of labels: it begins with {header[:80]!r}.",
                expected="the columns path,label[,split][,group]; others would be lost",
                fix="name another file for the labels",
            )
        return list_csv(self.path).entries if rest.strip() else []

    def _columns_of(self, listed: Iterable[Entry]) -> list[str]:
        """Name the columns that the data set's images need, and those of the file."""
        entries = [*self._given.values(), *listed]
        always = ("path", "label")
        return [c for c in COLUMNS if c in always or any(getattr(each, c) for each in entries)]

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.label:
                self._set(whole_name(entry.path), entry)

    def _apply(self, image: Location, label: str) -> None:
        key = whole_name(image)
        entry = self._entries.get(key) or self._given.get(key) or Entry(image, "")
        if label:
            self._set(key, replace(entry, label=label))
        else:
            self._entries.pop(key, None)
            self._lines.pop(key, None)

    def _set(self, key: str, entry: Entry) -> None:
        self._lines[key] = self._line(entry)
        self._entries[key] = entry

    def _write(self, journal: Journal) -> None:
        """Write the file whole; what cannot be written stays in the journal."""
        try:
            content = [_csv(self._columns), *self._lines.values()]
            write_file(self.path, b"".join(content), sync_folder=True)
            self._signature = _signature(self.path)
            journal.clear()
            self.unwritten = ""
        except OSError as error:
            self.unwritten = in_one_line(error)

    def _texts(self, labels: Mapping[Location, str]) -> Iterator[tuple[str, str]]:
        return ((self._text(image), label) for image, label in labels.items())

    def _text(self, image: Location) -> str:
        """Name an image as in the file: relative to it, where it lies below."""
        if isinstance(image, Url):
            return str(image)
        text = whole_name(image)
        if text.startswith(self._folder):
            text = text[len(self._folder) :].replace(os.sep, "/")
            text = f"./{text}" if to_cell(text) != text or "://" in text else text
        return text

    def _line(self, entry: Entry) -> bytes:
        """Write what can be read again, and refuse the rest."""
        cells = [self._text(entry.path)]
        cells += [to_cell(getattr(entry, name)) for name in self._columns[1:]]
        try:
            line = _csv(cells)
            sound = not any(
                cell != cell.strip()
                or _UNSOUND.search(cell)
                or (name != "path" and (is_missing(name, cell) or has_line_break(cell)))
                for name, cell in zip(self._columns, cells)
            )
        except UnicodeEncodeError:
            sound = False
        if not sound:
            raise PipelineError(
                f"the name of {entry.path}, or its label {entry.label!r}, cannot be written into a "
                "CSV file.",
                expected="names in UTF-8 without spaces around them; classes on one line, and "
                "not named like a missing value",
                fix="rename the file or its class",
            )
        return line


def _name(labels: Mapping[Location, str]) -> str:
    if len(labels) > 1:
        return f"the labels of {len(labels):,} images"
    return f"the label of {next(iter(labels))}"


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _csv(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
