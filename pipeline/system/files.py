"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import PipelineError, StoreError


def free_space(folder: Path) -> int | None:
    """Return the bytes that are free where a folder is, or will be; None where nobody can tell."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None  # some network drives say 0 of 0


def publish(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole and for good, or not at all."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _fsync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and see to it that its name, too, is on disk for good."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new or [folder]:  # another writer may have made it a moment ago
        _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def storage_errors(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise StoreError(
            f"not enough memory to {what} {path}.", fix="close other programs, and run it again"
        ) from error
    except OSError as error:
        fix = "name another cache with --cache, or see to the folder's permissions"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "make room on the disk and run the same command again: it goes on where it was"
        raise StoreError(
            f"cannot {what} {path}: {error.strerror or error}.",
            expected="a cache folder that can be read and written",
            fix=fix,
        ) from error


def write_whole(text: str, file: Path) -> Path:
    """Write a file of text whole or not at all.

    Raises
    ------
    PipelineError
        It cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}-", delete=False
        ) as stream:
            unfinished = Path(stream.name)
            try:
                stream.write(text)
                stream.close()
                unfinished.chmod(0o644)
                unfinished.replace(file)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise PipelineError(
            f"cannot write {file}: {error.strerror or error}.",
            fix="see to the folder's permissions and free space",
        ) from error
    return file
