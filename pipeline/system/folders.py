"""Folders that a process works in, and that a later one removes if it was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.system.files import lock, stale_before


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder, which is removed after the block unless it was renamed in it.

    Those that killed processes left are removed first. A process holds a lock on its folder, which
    the system opens when it dies; and, since some file systems have no locks, a folder also has to
    be an hour old.
    """
    _clear(parent, prefix)
    folder = parent / f"{prefix}{uuid.uuid4().hex}"
    folder.mkdir()  # with the permissions that the user's umask leaves
    try:
        with _opened(folder) as descriptor:
            with contextlib.suppress(OSError):  # some network file systems lock no folders
                lock(descriptor, shared=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(parent: Path, prefix: str) -> None:
    named = parent.glob(prefix + "[0-9a-f]" * 32)  # others may be a user's
    left = [path for path in named if path.is_dir() and not path.is_symlink()]
    before = stale_before(parent) if left else 0.0
    for folder in left:
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < before:
                with _opened(folder) as descriptor:
                    if lock(descriptor):
                        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open a folder, to lock it; there is nothing to open where there are no such locks."""
    descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else -1
    try:
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)
