"""A folder, CSV or bucket to its entries: paths, labels, splits, groups."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pipeline.data.dataset import Quarantined, listed
from pipeline.data.demo import demo_images
from pipeline.data.images import EXTENSIONS
from pipeline.data.urls import Location, Url, list_files, locate, read, signatures_of
from pipeline.errors import DataError, ImageError

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
_LEADS_OUT = "a link that leads out of the folder (a CSV may name files anywhere)"
_CSV_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8-sig"}

LAYOUTS = (
    "a folder of class folders (cats/, dogs/), a folder with train/, validation/ and test/ of "
    "class folders, or a CSV with the columns path,label[,split][,group]"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image as the user lists it, before its bytes have been looked at."""

    path: Location
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source lists; of files behind URLs also what tells whether they have changed."""

    name: str
    entries: list[Entry]
    quarantined: list[Quarantined] = field(default_factory=list)
    signatures: Mapping[Url, bytes] = field(default_factory=dict)


def list_entries(source: str | Path) -> Listing:
    path = locate(source)
    if isinstance(path, Url):
        if path.suffix.lower() == ".csv":
            with io.TextIOWrapper(io.BytesIO(_read_csv(path)), **_CSV_TEXT) as file:
                return _list_csv(path, file)
        return _list_bucket(path)
    try:
        if source == "demo":
            return Listing("demo", [Entry(file, label) for file, label in demo_images()])
        if path.is_dir():
            return Listing(path.resolve().name, *_list_folder(path))
        if path.is_file():
            with path.open(**_CSV_TEXT) as file:
                return _list_csv(path, file)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}.") from error
    raise DataError(f"there is no folder or file {path}.", expected=LAYOUTS)


def _list_folder(root: Path) -> tuple[list[Entry], list[Quarantined]]:
    folders = _subfolders(root)
    given = [_SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders]
    # Classes may be called train and test too; their folders hold images, not folders.
    by_split = "" not in given and any(
        split == "train" and _subfolders(folder) for split, folder in zip(given, folders)
    )
    parents = list(zip(given, folders)) if by_split else [("", root)]
    class_folders = [(split, folder) for split, parent in parents for folder in _subfolders(parent)]
    if not class_folders:
        raise DataError(f"{root} holds no class folders.", expected=LAYOUTS)
    entries: list[Entry] = []
    quarantined = [
        Quarantined(path, "in no class folder")
        for folder in dict.fromkeys([root, *(parent for _, parent in parents)])
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    resolved_root = root.resolve()
    for split, folder in class_folders:
        if not _is_inside(folder, resolved_root):
            quarantined.append(Quarantined(folder, _LEADS_OUT))
            continue
        for path in _files(folder):
            if reason := _unusable(path, resolved_root):
                quarantined.append(Quarantined(path, reason))
            else:
                entries.append(Entry(path, folder.name, split))
    if not entries and not quarantined:
        raise DataError(f"the class folders of {root} are empty.", expected=LAYOUTS)
    return entries, quarantined


def _list_bucket(root: Url) -> Listing:
    """List a folder behind a URL, by the rules for one that is here."""
    signatures = list_files(root)
    files = [(url, inside) for url in signatures if (inside := _shown_parts(url, root))]
    folders = {inside[0] for _, inside in files if len(inside) > 1}
    with_folders = {inside[0] for _, inside in files if len(inside) > 2}
    given = {name: _SPLIT_NAMES.get(name.lower(), "") for name in folders}
    by_split = "" not in given.values() and any(given[name] == "train" for name in with_folders)
    at = 1 if by_split else 0  # where the class stands
    if all(len(inside) < at + 2 for _, inside in files):
        raise DataError(
            f"{root} holds no class folders." if files else f"there are no files in {root}.",
            expected=LAYOUTS,
        )
    entries: list[Entry] = []
    quarantined: list[Quarantined] = []
    for url, inside in files:
        if len(inside) < at + 2:
            if url.suffix.lower() in EXTENSIONS:
                quarantined.append(Quarantined(url, "in no class folder"))
        elif reason := _misnamed(url) if inside[at] else "its class folder has no name":
            quarantined.append(Quarantined(url, reason))
        else:
            entries.append(Entry(url, inside[at], given[inside[0]] if by_split else ""))
    return Listing(root.name, entries, quarantined, signatures)


def _shown_parts(url: Url, root: Url) -> list[str]:
    """Give the names of a file and of the folders that it is in; none where one is hidden."""
    parts = url[len(root) + 1 :].split("/")
    hidden = any(part.startswith(".") for part in parts) or parts[-1].lower() in _SYSTEM_FILES
    return [] if hidden else parts


def list_images(paths: Iterable[str | Path]) -> list[Location]:
    """Replace each folder among `paths` by the images in it, at any depth, sorted."""
    return [file for path in paths for file in _images(locate(path))]


def _images(path: Location) -> Iterator[Location]:
    if isinstance(path, Url):
        files = {} if path.suffix.lower() in EXTENSIONS else list_files(path)
        shown = (file for file in files if _shown_parts(file, path))
        yield from (file for file in shown if file.suffix.lower() in EXTENSIONS)
        if not files:  # it is no folder
            yield path
    elif path.is_dir():
        # A folder among them cannot be read: it shows as that when it is.
        yield from (
            file for file in _files(path) if file.suffix.lower() in EXTENSIONS or file.is_dir()
        )
    else:
        yield path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _files(folder: Path) -> Iterator[Path]:
    """List what lies in a folder at any depth, and the folders that cannot be looked into."""
    unreadable: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted(names + links):
            if not name.startswith(".") and name.lower() not in _SYSTEM_FILES:
                yield Path(parent, name)
    yield from (Path(error.filename) for error in unreadable)


def _is_inside(path: Path, root: Path) -> bool:
    # Not Path.resolve, which fails on a link to itself before Python 3.13.
    return Path(os.path.realpath(path)).is_relative_to(root)


def _unusable(path: Path, root: Path) -> str:
    is_link = os.path.islink(path)  # noqa: PTH114 -- twice as fast, for a hundred thousand files
    if is_link and not _is_inside(path, root):
        return _LEADS_OUT
    is_named_as_image = path.suffix.lower() in EXTENSIONS
    if (is_link or not is_named_as_image) and path.is_dir():
        return "a link to a folder" if is_link else "a folder that cannot be read"
    return _misnamed(path)


def _misnamed(path: Location) -> str:
    if path.suffix.lower() in EXTENSIONS:
        return ""
    return f"not an image by its name: it ends in {path.suffix or 'nothing'}"


def _read_csv(source: Url) -> bytes:
    try:
        return read(source)
    except ImageError as error:
        raise DataError(f"the file {source} {error.found}.", expected=LAYOUTS) from error


def _list_csv(source: Location, file: TextIO) -> Listing:
    entries: dict[Location, Entry] = {}
    try:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if absent := {"path", "label"} - set(columns):
            raise DataError(
                f"{source} lacks the column {listed(sorted(absent))}; "
                f"it has {', '.join(columns) or 'no columns'}.",
                expected="the columns path,label[,split][,group] in the first line",
            )
        for row in reader:
            entry = _csv_entry(row, f"{source}, line {reader.line_num}", source.parent)
            known = entries.setdefault(entry.path, entry)
            if known != entry:
                raise DataError(
                    f"{source}, line {reader.line_num}: {row['path']} is listed as "
                    f"{_described(entry)}, and as {_described(known)} further up.",
                    expected="one label, one split and one group for each path",
                )
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


def _csv_entry(row: dict[str, str], place: str, folder: Location) -> Entry:
    path, label, split, group = (
        (row.get(column) or "").strip() for column in ("path", "label", "split", "group")
    )
    if not path or not label:
        raise DataError(f"{place}: the {'label' if path else 'path'} is empty.")
    if split and split.lower() not in _SPLIT_NAMES:
        raise DataError(
            f"{place}: unknown split {split!r}.", expected="train, validation, test or nothing"
        )
    return Entry(locate(path, folder), label, _SPLIT_NAMES.get(split.lower(), ""), group)


def _described(entry: Entry) -> str:
    return ", ".join(filter(None, (entry.label, entry.split, entry.group)))
