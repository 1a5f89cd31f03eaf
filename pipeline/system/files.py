"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PipelineError

UNFINISHED = ".*.tmp"
"""Pattern of the files that a killed writer leaves behind."""


def write_file(
    path: Path,
    content: bytes | str | Callable[[BinaryIO], object],
    *,
    sync_folder: bool = False,
) -> Path:
    """Write a file whole or not at all, in place of the one that has its name.

    The content is on disk before the file gets its name, so a crash leaves the old file or the
    new one. Several processes may write the same file; the last one wins.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x+b") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sync_folder:
        _sync_folder(path.parent)
    return path


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; return when their names are on disk."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new or [folder]:  # another process may have made it a moment ago
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def file_errors(
    action: str,
    kind: type[PipelineError] = PipelineError,
    *,
    expected: str = "",
    fix: str = "check the folder's permissions and the free space",
) -> Iterator[None]:
    """Turn an error of the file system into one that tells what could not be done."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise kind(f"cannot {action}: {reason}.", expected=expected, fix=fix) from error


def free_space(folder: Path) -> int | None:
    """Return the free bytes on a folder's disk, None if unknown; the folder need not exist."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None  # some network drives report 0 of 0
