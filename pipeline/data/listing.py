"""A folder, CSV or bucket to its entries: paths, labels, splits, groups."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.dataset import Quarantined
from pipeline.data.demo import demo_images
from pipeline.data.entries import LAYOUTS, Entry, Listing
from pipeline.data.images import EXTENSIONS
from pipeline.data.layout import (
    beside_splits,
    check_classes,
    contents_by_name,
    find_splits,
    remarks_on_layout,
)
from pipeline.data.table import list_csv
from pipeline.data.tree import Parts, Tree, tree_of, why_no_image
from pipeline.data.urls import Location, Url, locate
from pipeline.errors import DataError
from pipeline.system.packages import as_typed

_IN_NO_CLASS = "in no class folder"


def list_entries(source: str | Path, *, unlabelled: bool = False) -> Listing:
    """List the images of a data set; only files without an image's suffix are looked into.

    With `unlabelled`, images may lack a label, which is then empty: those beside the class folders
    or in a folder named unlabelled, and those of a CSV whose label is empty.
    """
    path = locate(source)
    if isinstance(path, Url):
        is_csv = path.suffix.lower() == ".csv"
        return list_csv(path, unlabelled) if is_csv else _list_folder(path, unlabelled)
    try:
        if source == "demo":
            return _list_demo()
        if path.is_dir():
            return _list_folder(path, unlabelled)
        if path.is_file():
            return list_csv(path, unlabelled)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}.") from error
    raise DataError(f"there is no folder or file {path}.", expected=LAYOUTS)


def list_images(paths: Iterable[str | Path]) -> tuple[list[Location], list[Quarantined]]:
    """Replace each folder among `paths` by the images in it, at any depth; tell what is no image.

    What is named itself is taken for an image, whatever it is. Each is listed once.
    """
    images: dict[Location, Location] = {}  # by their absolute paths
    skipped: dict[Location, Quarantined] = {}
    others: Counter[str] = Counter()
    for path in map(locate, paths):
        may_be_folder = why_no_image(path) if isinstance(path, Url) else path.is_dir()
        tree = tree_of(path, confined=False) if may_be_folder else Tree()
        if not may_be_folder or (isinstance(path, Url) and not tree.signatures):
            images.setdefault(path.absolute(), path)
        for bad in tree.refused:
            skipped.setdefault(bad.path.absolute(), bad)
        for file in itertools.chain.from_iterable(tree.files.values()):
            if reason := why_no_image(file, others):
                skipped.setdefault(file.absolute(), Quarantined(file, reason))
            else:
                images.setdefault(file.absolute(), file)
    return list(images.values()), [bad for at, bad in skipped.items() if at not in images]


def _list_demo() -> Listing:
    if Path("demo").is_dir():
        raise DataError(
            "demo may be the demo data, or the folder demo/ here.",
            fix="name the folder ./demo; for the demo data, work in another folder",
        )
    return Listing("demo", [Entry(file, label) for file, label in demo_images()])


def _list_folder(root: Location, unlabelled: bool) -> Listing:
    """List a folder of class folders, or of splits with class folders, here or behind a URL."""
    tree = tree_of(root)
    passed_over = beside_splits(tree.files)
    for parts in [parts for parts in tree.files if parts and parts[0] in passed_over]:
        del tree.files[parts]
    tops = contents_by_name(tree.files, 0)
    split_of = find_splits(root, tops)
    level = 1 if split_of else 0  # of the class folders
    classes = contents_by_name(tree.files, 1) if split_of else tops
    check_classes(root, classes, in_splits=bool(split_of))
    empty = {parts[0] for parts in tree.files if parts} - tops.keys()
    if not classes and not tree.refused and not (unlabelled and any(tree.files.values())):
        raise _no_classes(root, tree, are_empty=bool(empty))
    entries: list[Entry] = []
    quarantined = list(tree.refused)
    to_label = f"label those {_IN_NO_CLASS}: {_labelling(root)}"
    others: Counter[str] = Counter()
    for parts, files in tree.files.items():
        label, refusal = _label_of(parts, level, unlabelled)
        for file in files:
            reason = why_no_image(file, others)
            if reason and len(parts) <= level:
                continue  # such as a text beside the class folders
            if refusal or reason:
                fix = to_label if refusal == _IN_NO_CLASS else ""
                quarantined.append(Quarantined(file, refusal or reason, fix))
            else:
                entries.append(Entry(file, label, split_of.get(parts[0], "") if parts else ""))
    if unlabelled and not entries:
        raise DataError(f"there are no images in {root}.", expected="images, with labels or not")
    return Listing(
        root.name if isinstance(root, Url) else root.resolve().name,
        entries,
        quarantined,
        tree.signatures,
        list(remarks_on_layout(classes, empty, passed_over, in_splits=bool(split_of))),
    )


def _label_of(parts: Parts, level: int, unlabelled: bool) -> tuple[str, str]:
    """Tell the label of the images in a folder, or why they have none that can be used."""
    if len(parts) <= level:
        return "", "" if unlabelled else _IN_NO_CLASS
    name = parts[level]
    if unlabelled and name.lower() in ("unlabelled", "unlabeled"):
        return "", ""
    return name, "" if name else "its class folder has no name"


def _no_classes(root: Location, tree: Tree, *, are_empty: bool) -> DataError:
    found = f"{root} holds no class folders."
    if are_empty:
        found = f"the class folders of {root} are empty."
    elif isinstance(root, Url) and not tree.signatures:
        found = f"there are no files in {root}."
    files = itertools.chain.from_iterable(tree.files.values())
    has_images = any(file.suffix.lower() in EXTENSIONS for file in files)
    fix = f"label the images in it: {_labelling(root)}" if has_images else ""
    return DataError(found, expected=LAYOUTS, fix=fix)


def _labelling(root: Location) -> str:
    return as_typed(shlex.join(["pipeline", "label", str(root)]))
