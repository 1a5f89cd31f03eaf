"""What lies in a folder, here or in a bucket: its files, folder by folder."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.dataset import Quarantined
from pipeline.data.ignored import is_ignored
from pipeline.data.images import EXTENSIONS
from pipeline.data.urls import Location, Url, list_tree
from pipeline.system.files import start_of_file

Parts = tuple[str, ...]
"""The names of the folders from the root down to one; none for the root itself."""

# Formats that begin like a TIFF, and whose first picture may be a preview.
_BUILT_ON_TIFF = frozenset(
    {
        *(".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos"),
        *(".nef", ".nrw", ".pef", ".sr2", ".srf", ".srw"),  # cameras
        *(".bif", ".lsm", ".ndpi", ".qptiff", ".scn", ".stk", ".svs"),  # microscopes, scanners
    }
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes of what follows the first 14 bytes
_ENOUGH_BYTES = 18
_MOST_OPENED = 1000  # of one suffix: a file is opened in 10 us here, in 1 ms on a network drive

LEADS_OUT = "a link that leads out of the folder (a CSV may name files anywhere)"


@dataclass
class Tree:
    """The files in a folder at any depth, and what in it cannot be looked into.

    Hidden and system files and folders are left out. A folder without files may have an entry.
    """

    files: dict[Parts, list[Location]] = field(default_factory=dict)
    refused: list[Quarantined] = field(default_factory=list)
    signatures: Mapping[Url, bytes] = field(default_factory=dict)


def tree_of(root: Location, *, confined: bool = True) -> Tree:
    """List a folder; no link out of it is followed where it is `confined`."""
    return _bucket(root) if isinstance(root, Url) else _folder(root, confined=confined)


def _folder(root: Path, *, confined: bool) -> Tree:
    tree = Tree()
    real_root = root.resolve()
    stack: list[tuple[Parts, Path]] = [((), root)]
    while stack:
        parts, folder = stack.pop()
        try:
            with os.scandir(folder) as found:
                items = sorted(
                    (item.name, item.is_dir(follow_symlinks=False), item.is_symlink())
                    for item in found
                    if not is_ignored(item.name)
                )
        except OSError:
            if not parts:
                raise
            tree.refused.append(Quarantined(folder, "a folder that cannot be read"))
            continue
        files = tree.files.setdefault(parts, [])
        below = []
        for name, is_folder, is_link in items:
            path = folder / name
            leads_to_folder = is_link and os.path.isdir(path)  # noqa: PTH112 -- no error in a circle
            if is_link and confined and not _is_inside(path, real_root):
                if parts or leads_to_folder or path.suffix.lower() in EXTENSIONS:
                    tree.refused.append(Quarantined(path, LEADS_OUT))
            elif is_folder or (leads_to_folder and confined and not parts):
                below.append(((*parts, name), path))
            elif leads_to_folder:
                tree.refused.append(Quarantined(path, "a link to a folder"))
            else:
                files.append(path)
        stack += reversed(below)
    return tree


def _bucket(root: Url) -> Tree:
    tree = Tree(signatures=list_tree(root))
    for url in tree.signatures:
        *parts, name = url[len(root) + 1 :].split("/")
        if not any(map(is_ignored, (*parts, name))):
            tree.files.setdefault(tuple(parts), []).append(url)
    return tree


def _is_inside(path: Path, root: Path) -> bool:
    # Not Path.resolve, which fails on a link to itself before Python 3.13.
    return Path(os.path.realpath(path)).is_relative_to(root)


def why_no_image(path: Location, others: Counter[str] | None = None) -> str:
    """Tell why a file cannot be an image; "" if it may be one, by its name or its first bytes.

    A file with the suffix of an image is not opened, nor is one behind a URL. `others` counts the
    files of a listing that were opened and are no images, by suffix: of many, only some are opened.
    """
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return ""
    ending = f"it ends in {path.suffix or 'nothing'}"
    unopened = "files behind URLs are not opened to look" if isinstance(path, Url) else ""
    if others is not None and suffix and others[suffix] >= _MOST_OPENED:
        unopened = f"{_MOST_OPENED:,} such were opened: no images"
    if isinstance(path, Url) or unopened:
        return f"not an image by its name: {ending} ({unopened})"
    try:
        start = start_of_file(path, _ENOUGH_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if start.startswith(_TIFF) and suffix in _BUILT_ON_TIFF:
        return f"{ending}: its first picture may be a preview only (save it as TIFF, PNG or JPEG)"
    is_image = _begins_like_an_image(start)
    if others is not None:
        others[suffix] += -sys.maxsize if is_image else 1  # where one is an image, all are opened
    if is_image:
        return ""
    return f"not an image by its name or its first bytes: {ending}"


def _begins_like_an_image(start: bytes) -> bool:
    return (
        start.startswith((*_BEGINNINGS, *_TIFF))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BMP_HEADERS)
    )
