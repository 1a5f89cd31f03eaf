"""Writing files whole or not at all, and opening those that somebody may have planted."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
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


def open_regular(path: Path, *, write: bool = False, follow: bool = False) -> BinaryIO:
    """Open a file in a folder that others can write into: only a regular file, and no link.

    A pipe is not waited for. With `write`, a missing file is made, and nothing is emptied.
    `follow` is for files whose content is checked by a digest, which may be links.
    """
    flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        kinds = {errno.ELOOP: "a link", errno.ENXIO: "a socket"}
        if error.errno not in kinds:
            raise
        reason = f"it is {kinds[error.errno]}, not a regular file"
        raise OSError(errno.EINVAL, reason, str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "r+b" if write else "rb")


def read_regular(path: Path, most: int | None = None, *, follow: bool = False) -> bytes:
    """Read a file that `open_regular` opens, if it has no more than `most` bytes."""
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {most:,}", str(path))
        return file.read(size)


def inside(folder: Path, path: str | Path) -> Path | None:
    """Return the regular file in a folder that a path means, None if there is none.

    The path comes from data, so it is only data: what leads out of the folder, by its text or by
    links, is not even looked for, and no file has the name of a URL.
    """
    root = os.path.abspath(folder)  # noqa: PTH100 (links stay: the path may name them)
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # no such file, a NUL, a circle
        file = Path(os.path.normpath(os.path.join(root, path)))  # noqa: PTH118
        if file.is_relative_to(root):
            file = file.resolve(strict=True)
            if file.is_relative_to(folder.resolve()) and file.is_file():
                return file
    return None


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
