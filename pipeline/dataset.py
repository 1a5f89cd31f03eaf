"""Folders or a CSV to a `Dataset`: which images there are, their labels and their splits."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from pipeline.demo import demo_images
from pipeline.digests import Digests, digest_files
from pipeline.errors import DataError, ImageError
from pipeline.images import EXTENSIONS
from pipeline.packed import PackedDigests, PackedPaths, packed
from pipeline.urls import Location, Url, list_files, locate, looks_of, read

SPLITS = ("train", "validation", "test")
"""The splits, from the least held-out to the most."""

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
_SHOWN = 5

LAYOUTS = (
    "a folder of class folders (cats/, dogs/), a folder with train/, validation/ and test/ of "
    "class folders, or a CSV with the columns path,label[,split][,group]"
)


@dataclass(frozen=True)
class Quarantined:
    """A file that takes no part, and why."""

    path: Location
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Images with labels and splits, in columns; entry i of each belongs to image i.

    Attributes
    ----------
    name : str
        What to call the data set.
    paths : sequence of Path or Url
        The image files.
    digests : sequence of bytes
        SHA-256 of each file's bytes, 32 bytes each.
    labels : ndarray of int64, shape (n,)
        Index into `classes`.
    splits : ndarray of str, shape (n,)
        ``"train"``, ``"validation"`` or ``"test"``.
    classes : tuple of str
        Class names, sorted.
    quarantined : tuple of Quarantined
        Files that take no part.
    groups : tuple of str
        Group of each image, empty where it has none. No entries at all where no image has one.
    """

    name: str
    paths: Sequence[Location]
    digests: Sequence[bytes]
    labels: npt.NDArray[np.int64]
    splits: npt.NDArray[np.str_]
    classes: tuple[str, ...]
    quarantined: tuple[Quarantined, ...] = ()
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images' digests, labels and splits, whatever their order and names."""
        # Of lines, sorted: by images' digests, and those of one digest as a whole.
        texts = np.ascontiguousarray(packed(self.digests)).view("S32").ravel()
        found = hashlib.sha256()
        separator = ""
        for digest, same in groupby(np.argsort(texts), key=self.digests.__getitem__):
            names = ((self.classes[self.labels[place]], self.splits[place]) for place in same)
            for line in sorted(f"{digest.hex()} {name} {split}" for name, split in names):
                found.update((separator + line).encode(errors="surrogateescape"))
                separator = "\n"
        return found.hexdigest()

    def where(self, *splits: str) -> npt.NDArray[np.int64]:
        """Return the positions of the images that are in one of `splits`."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def without(self, quarantined: Sequence[Quarantined]) -> Dataset:
        """Return the data set less some files, which join its quarantine."""
        if not quarantined:
            return self
        gone = {bad.path for bad in quarantined}
        kept = [place for place, path in enumerate(self.paths) if path not in gone]
        return replace(
            self,
            paths=PackedPaths(self.paths[place] for place in kept),
            digests=PackedDigests(self.digests[place] for place in kept),
            labels=self.labels[kept],
            splits=self.splits[kept],
            quarantined=(*self.quarantined, *quarantined),
            groups=tuple(self.groups[place] for place in kept) if self.groups else (),
        )

    def all_in(self, split: str) -> Dataset:
        """Return the data set with all images in one split, for cross-validation."""
        return replace(self, splits=np.full(len(self), split, self.splits.dtype))

    def check_learnable(self) -> None:
        """Refuse a data set that no classifier can be trained on.

        Raises
        ------
        DataError
            No image can be used, or a class has fewer than two to train on.
        """
        reasons = _listed(f"{bad.path}: {bad.reason}" for bad in self.quarantined)
        if not self.paths:
            raise DataError(
                f"none of the {len(self.quarantined)} files of {self.name} can be used; {reasons}",
                expected="images in one of the formats JPEG, PNG, WebP, BMP, GIF, TIFF",
            )
        unused = f"; {len(self.quarantined)} files take no part: {reasons}" if reasons else ""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if (few := np.flatnonzero(counts < 2)).size:
            raise DataError(
                "too few images of the class "
                f"{_listed(f'{self.classes[c]} ({counts[c]})' for c in few)}{unused}",
                expected="at least two of each class: one to learn from, one to be tested on",
                fix="add images of it, or leave the class out",
            )
        in_train = np.bincount(self.labels[self.where("train")], minlength=len(self.classes))
        if (few := np.flatnonzero(in_train < 2)).size:
            raise DataError(
                "too few training images of the class "
                f"{_listed(f'{self.classes[c]} ({in_train[c]})' for c in few)}{unused}",
                expected="at least two of each class in the training split",
                fix="add images of it, give the splits yourself, or try another --seed",
            )

    def require_all_splits(self) -> None:
        """Refuse a data set that lacks images to train on, to choose by or to be judged on.

        Raises
        ------
        DataError
            A split is empty.
        """
        for split in SPLITS:
            if not self.where(split).size:
                raise DataError(
                    f"the {split} split of {self.name} is empty.",
                    expected=f"images in all of {', '.join(SPLITS)}",
                    fix="add images, give the splits yourself, or try another --seed",
                )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image as the user lists it, before its bytes have been looked at."""

    path: Location
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class _Listing:
    """What a source lists; of files behind URLs also what tells whether they have changed."""

    name: str
    entries: list[_Entry]
    quarantined: list[Quarantined] = field(default_factory=list)
    looks: Mapping[Url, bytes] = field(default_factory=dict)


def load_dataset(
    source: str | Path,
    *,
    seed: int = 0,
    validation: float = 0.15,
    test: float = 0.25,
    remembered: Digests | None = None,
) -> Dataset:
    """List the images of a data set that is to be learned from.

    As `list_dataset`, and checked by `Dataset.check_learnable`.

    Raises
    ------
    DataError
        There is nothing there to learn from, or the listing contradicts itself.
    """
    dataset = list_dataset(
        source, seed=seed, validation=validation, test=test, remembered=remembered
    )
    dataset.check_learnable()
    return dataset


def list_dataset(
    source: str | Path,
    *,
    seed: int = 0,
    validation: float = 0.15,
    test: float = 0.25,
    remembered: Digests | None = None,
) -> Dataset:
    """List the images of a data set, with labels, digests and splits.

    Where no splits are given, an image's split follows from its group, or else from its
    digest, and the seed, and from nothing else: adding images never moves another. A split
    that is missing from those given is taken out of the training images. Of files with the
    same bytes in several splits, those in the most held-out split stay.

    Parameters
    ----------
    source : str or Path
        A folder of class folders; a folder with ``train/``, ``validation/``, ``test/`` of
        class folders; a CSV file with the columns ``path,label[,split][,group]``; or the
        word ``"demo"``. Folder, CSV file and the images that it names may be behind URLs.
    seed : int
        Another seed gives other splits.
    validation, test : float
        Expected share of the images in these splits, where they are not given.
    remembered : Digests, optional
        Spares reading files that have not changed, and takes in what was read.

    Raises
    ------
    DataError
        There are no images, or of one class only, or the listing contradicts itself.
    PipelineError
        What is behind a URL cannot be reached. What was read is in `remembered`.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):  # NaN fails this too
        raise DataError(
            f"shares of {validation} for validation and {test} for test leave nothing to train on.",
            expected="shares of 0 or more that add up to less than 1",
        )
    listing = _list_entries(source)
    entries = listing.entries
    classes = tuple(sorted({entry.label for entry in entries}))
    if entries and len(classes) < 2:
        raise DataError(
            f"{source} has images of one class only: {classes[0]}.",
            expected=f"two classes or more, as {LAYOUTS}",
        )
    entries, digests, unreadable = _with_digests(listing, remembered)
    number = {name: label for label, name in enumerate(classes)}
    splits = _assign_splits(entries, digests, seed=seed, validation=validation, test=test)
    groups = tuple(entry.group for entry in entries)
    dataset = Dataset(
        name=listing.name,
        paths=PackedPaths(entry.path for entry in entries),
        digests=PackedDigests(digests),
        labels=np.array([number[entry.label] for entry in entries], np.int64),
        splits=np.array(splits, dtype="<U10"),
        classes=classes,
        quarantined=(*listing.quarantined, *unreadable),
        groups=groups if any(groups) else (),
    )
    return dataset.without(_copies_across_splits(dataset))


def _list_entries(source: str | Path) -> _Listing:
    path = locate(source)
    if isinstance(path, Url):
        if path.suffix.lower() == ".csv":
            with io.TextIOWrapper(io.BytesIO(_read_csv(path)), **_CSV_TEXT) as file:
                return _list_csv(path, file)
        return _list_bucket(path)
    try:
        if source == "demo":
            return _Listing("demo", [_Entry(file, label) for file, label in demo_images()])
        if path.is_dir():
            return _Listing(path.resolve().name, *_list_folder(path))
        if path.is_file():
            with path.open(**_CSV_TEXT) as file:
                return _list_csv(path, file)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}.") from error
    raise DataError(f"there is no folder or file {path}.", expected=LAYOUTS)


def _list_folder(root: Path) -> tuple[list[_Entry], list[Quarantined]]:
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
    entries: list[_Entry] = []
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
                entries.append(_Entry(path, folder.name, split))
    if not entries and not quarantined:
        raise DataError(f"the class folders of {root} are empty.", expected=LAYOUTS)
    return entries, quarantined


def _list_bucket(root: Url) -> _Listing:
    """List a folder behind a URL, by the rules for one that is here."""
    looks = list_files(root)
    files = [(url, inside) for url in looks if (inside := _shown_parts(url, root))]
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
    entries: list[_Entry] = []
    quarantined: list[Quarantined] = []
    for url, inside in files:
        if len(inside) < at + 2:
            if url.suffix.lower() in EXTENSIONS:
                quarantined.append(Quarantined(url, "in no class folder"))
        elif reason := _misnamed(url) if inside[at] else "its class folder has no name":
            quarantined.append(Quarantined(url, reason))
        else:
            entries.append(_Entry(url, inside[at], given[inside[0]] if by_split else ""))
    return _Listing(root.name, entries, quarantined, looks)


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


def _list_csv(source: Location, file: TextIO) -> _Listing:
    entries: dict[Location, _Entry] = {}
    try:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if absent := {"path", "label"} - set(columns):
            raise DataError(
                f"{source} lacks the column {_listed(sorted(absent))}; "
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
    return _Listing(
        source.name.removesuffix(source.suffix),
        list(entries.values()),
        looks=looks_of(path for path in entries if isinstance(path, Url)),
    )


def _csv_entry(row: dict[str, str], place: str, folder: Location) -> _Entry:
    path, label, split, group = (
        (row.get(column) or "").strip() for column in ("path", "label", "split", "group")
    )
    if not path or not label:
        raise DataError(f"{place}: the {'label' if path else 'path'} is empty.")
    if split and split.lower() not in _SPLIT_NAMES:
        raise DataError(
            f"{place}: unknown split {split!r}.", expected="train, validation, test or nothing"
        )
    return _Entry(locate(path, folder), label, _SPLIT_NAMES.get(split.lower(), ""), group)


def _described(entry: _Entry) -> str:
    return ", ".join(filter(None, (entry.label, entry.split, entry.group)))


def _with_digests(
    listing: _Listing, remembered: Digests | None
) -> tuple[list[_Entry], list[bytes], list[Quarantined]]:
    kept, digests, quarantined = [], [], []
    paths = [entry.path for entry in listing.entries]
    for entry, found in zip(listing.entries, digest_files(paths, remembered, listing.looks)):
        if isinstance(found, ImageError):
            quarantined.append(Quarantined(entry.path, found.found))
        else:
            kept.append(entry)
            digests.append(found)
    return kept, digests, quarantined


def _assign_splits(
    entries: Sequence[_Entry],
    digests: Sequence[bytes],
    *,
    seed: int,
    validation: float,
    test: float,
) -> list[str]:
    given = {entry.split for entry in entries}
    splits = []
    for entry, digest in zip(entries, digests, strict=True):
        drawn = _draw(entry, digest, seed=seed, validation=validation, test=test)
        if entry.split in ("validation", "test"):
            splits.append(entry.split)
        elif entry.split == "train" and drawn in given:
            splits.append("train")
        else:
            splits.append(drawn)
    of_group: dict[str, str] = {}
    for entry, split in zip(entries, splits, strict=True):
        if entry.group and of_group.setdefault(entry.group, split) != split:
            raise DataError(
                f"the group {entry.group} stands in {of_group[entry.group]} and in {split}.",
                expected="every group in one split",
                fix="give its images the same split, or no split at all",
            )
    return splits


def _draw(entry: _Entry, digest: bytes, *, seed: int, validation: float, test: float) -> str:
    unit = b"group:" + entry.group.encode() if entry.group else digest
    drawn = hashlib.sha256(b"%d:" % seed + unit).digest()
    share = int.from_bytes(drawn[:8], "big") / 2**64
    if share < test:
        return "test"
    return "validation" if share < test + validation else "train"


def _copies_across_splits(dataset: Dataset) -> list[Quarantined]:
    """Find files whose very bytes stand in a more held-out split."""
    keeper: dict[bytes, int] = {}
    rank = [SPLITS.index(split) for split in dataset.splits]
    for place, digest in enumerate(dataset.digests):
        known = keeper.setdefault(digest, place)
        if rank[place] > rank[known]:
            keeper[digest] = place
    return [
        Quarantined(
            dataset.paths[place],
            f"the same bytes as {dataset.paths[kept]}, which is in {dataset.splits[kept]}",
        )
        for place, digest in enumerate(dataset.digests)
        if rank[kept := keeper[digest]] > rank[place]
    ]


def count_splits(dataset: Dataset) -> dict[str, Counter[str]]:
    """Count the images of each class in each split."""
    return {
        split: Counter(dataset.classes[label] for label in dataset.labels[dataset.where(split)])
        for split in SPLITS
    }


def _listed(items: Iterable[str]) -> str:
    shown = list(items)
    more = f" and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
