"""A folder, CSV or bucket to its entries: paths, labels, splits, groups."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.data.dataset import Quarantined
from pipeline.data.demo import demo_images
from pipeline.data.entries import LAYOUTS, SPLIT_NAMES, Entry, Listing
from pipeline.data.images import EXTENSIONS
from pipeline.data.table import list_csv
from pipeline.data.urls import Location, Url, list_tree, locate
from pipeline.errors import DataError

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
_LEADS_OUT = "a link that leads out of the folder (a CSV may name files anywhere)"
_IN_NO_CLASS = "in no class folder"


def list_entries(source: str | Path) -> Listing:
    """List the images of a data set; no image file is opened."""
    path = locate(source)
    if isinstance(path, Url):
        return list_csv(path) if path.suffix.lower() == ".csv" else _list_bucket(path)
    try:
        if source == "demo":
            return Listing("demo", [Entry(file, label) for file, label in demo_images()])
        if path.is_dir():
            return _list_folder(path)
        if path.is_file():
            return list_csv(path)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}.") from error
    raise DataError(f"there is no folder or file {path}.", expected=LAYOUTS)


def list_images(paths: Iterable[str | Path]) -> list[Location]:
    """Replace each folder among `paths` by the images in it, at any depth, sorted."""
    return [file for path in paths for file in _images(locate(path))]


def _images(path: Location) -> Iterator[Location]:
    if isinstance(path, Url):
        files = {} if _is_image(path) else list_tree(path)
        yield from (file for file in files if _is_image(file) and _visible_parts(file, path))
        if not files:  # it is no folder
            yield path
    elif path.is_dir():
        # A folder that cannot be read is among them: it shows as that when it is read.
        yield from (file for file in _files(path) if _is_image(file) or file.is_dir())
    else:
        yield path


def _split_of_folder(names: Iterable[str], with_folders: Iterable[str]) -> dict[str, str]:
    """Tell the split of each top folder, or "" of each if they are class folders.

    They are splits if all have a split's name, and one named for training holds folders: classes
    may be called train and test, too, but their folders hold images.
    """
    splits = {name: SPLIT_NAMES.get(name.lower(), "") for name in names}
    by_split = "" not in splits.values() and any(splits[name] == "train" for name in with_folders)
    return splits if by_split else dict.fromkeys(splits, "")


def _list_folder(root: Path) -> Listing:
    folders = {folder.name: folder for folder in _subfolders(root)}
    with_folders = (name for name, folder in folders.items() if _subfolders(folder))
    split_of = _split_of_folder(folders, with_folders)
    by_split = any(split_of.values())
    parents = [(split_of[name], folders[name]) for name in folders] if by_split else [("", root)]
    class_folders = [(split, folder) for split, parent in parents for folder in _subfolders(parent)]
    if not class_folders:
        raise DataError(f"{root} holds no class folders.", expected=LAYOUTS)
    outside = dict.fromkeys([root, *(parent for _, parent in parents)])
    quarantined = [
        Quarantined(path, _IN_NO_CLASS)
        for folder in outside
        for path in sorted(folder.iterdir())
        if _is_image(path) and not path.name.startswith(".") and path.is_file()
    ]
    entries: list[Entry] = []
    real_root = root.resolve()
    for split, folder in class_folders:
        if not _is_inside(folder, real_root):
            quarantined.append(Quarantined(folder, _LEADS_OUT))
            continue
        for path in _files(folder):
            if reason := _unusable(path, real_root):
                quarantined.append(Quarantined(path, reason))
            else:
                entries.append(Entry(path, folder.name, split))
    if not entries and not quarantined:
        raise DataError(f"the class folders of {root} are empty.", expected=LAYOUTS)
    return Listing(root.resolve().name, entries, quarantined)


def _list_bucket(root: Url) -> Listing:
    """List a folder behind a URL, by the rules for one on this machine."""
    signatures = list_tree(root)
    files = [(url, parts) for url in signatures if (parts := _visible_parts(url, root))]
    split_of = _split_of_folder(
        {parts[0] for _, parts in files if len(parts) > 1},
        {parts[0] for _, parts in files if len(parts) > 2},
    )
    level = 1 if any(split_of.values()) else 0  # of the class folders
    if all(len(parts) < level + 2 for _, parts in files):
        raise DataError(
            f"{root} holds no class folders." if files else f"there are no files in {root}.",
            expected=LAYOUTS,
        )
    entries: list[Entry] = []
    quarantined: list[Quarantined] = []
    for url, parts in files:
        if len(parts) < level + 2:
            if _is_image(url):
                quarantined.append(Quarantined(url, _IN_NO_CLASS))
        elif not parts[level]:
            quarantined.append(Quarantined(url, "its class folder has no name"))
        elif not _is_image(url):
            quarantined.append(Quarantined(url, _no_image(url)))
        else:
            entries.append(Entry(url, parts[level], split_of[parts[0]]))
    return Listing(root.name, entries, quarantined, signatures)


def _visible_parts(url: Url, root: Url) -> list[str]:
    """Return the names of a file and of the folders that it is in; none where one is hidden."""
    parts = url[len(root) + 1 :].split("/")
    hidden = any(part.startswith(".") for part in parts) or parts[-1].lower() in _SYSTEM_FILES
    return [] if hidden else parts


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _files(folder: Path) -> Iterator[Path]:
    """List what lies in a folder at any depth, and the folders that cannot be read."""
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
    """Tell why a file in a class folder cannot be an image of it; "" if it can."""
    is_link = os.path.islink(path)  # noqa: PTH114 -- twice as fast, for a hundred thousand files
    if is_link and not _is_inside(path, root):
        return _LEADS_OUT
    is_image = _is_image(path)
    if (is_link or not is_image) and path.is_dir():
        return "a link to a folder" if is_link else "a folder that cannot be read"
    return "" if is_image else _no_image(path)


def _is_image(path: Location) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _no_image(path: Location) -> str:
    return f"not an image by its name: it ends in {path.suffix or 'nothing'}"
