"""Writing files whole or not at all, and opening those that somebody may have planted."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PipelineError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_OURS = "pipeline-"  # other programs' temporary files are not ours to remove
UNFINISHED = f".{_OURS}*.tmp"
"""Pattern of the files that a killed writer leaves behind."""

_STALE_SECONDS = 3600.0


def write_file(
    path: Path,
    content: bytes | str | Sequence[bytes] | Callable[[BinaryIO], object],
    *,
    sync_folder: bool = False,
    replace: bool = True,
    over: bytes = b"",
) -> Path:
    """Write a file whole or not at all, by default in place of the one that has its name.

    The content is on disk before the file gets its name, so a crash leaves the old file or the
    new one. Several processes may write the same file; the last one wins, or, without `replace`,
    the first, and the others get a `FileExistsError`. So does who would replace a file that does
    not hold the bytes `over`. A pipe or a device stays what it is, and so does a link to one.
    """
    with contextlib.suppress(FileNotFoundError):
        _require_regular(path, path.stat())
        if over and path.stat().st_size and over not in read_regular(path, follow=True):
            reason = f"{path.name} is there already, and this command did not write it"
            raise FileExistsError(errno.EEXIST, reason, str(path))
    temporary = path.with_name(f".{_OURS}{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x+b") as file:
            lock(file)  # until it is closed: see `clear_unfinished`
            if callable(content):
                content(file)
            elif isinstance(content, str):
                file.write(content.encode())
            else:
                for part in [content] if isinstance(content, bytes) else content:
                    file.write(part)
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path, replace=replace)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sync_folder:
        _sync_folder(path.parent)
    return path


def _publish(temporary: Path, path: Path, *, replace: bool) -> None:
    if replace:
        temporary.replace(path)
        return
    if os.name == "nt":
        temporary.rename(path)  # there, nothing is replaced
        return
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.replace(path)
    else:
        with contextlib.suppress(OSError):
            temporary.unlink()


def publish(made: Path, path: Path) -> None:
    """Give a file or folder beside it a name that nothing has yet, once its content is on disk."""
    for part in (*made.rglob("*"), made):
        if part.is_dir():
            _sync_folder(part)
        else:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
    if not made.is_dir():
        _publish(made, path, replace=False)
    else:
        if os.name == "posix":  # there, a folder replaces an empty one, and nothing else
            path.mkdir()
        made.rename(path)
    _sync_folder(path.parent)


def clear_unfinished(folder: Path, pattern: str = UNFINISHED) -> None:
    """Remove what killed writers left in a folder, once nobody can be using it.

    A writer holds a lock until its file is whole. Since some network file systems have no locks,
    a file also has to be an hour old, by the clock of its file system: this machine's may be wrong.
    """
    stale = [path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink()]
    if not stale:
        return
    before = stale_before(folder)
    for path in stale:
        with contextlib.suppress(OSError):  # it may just have got its name
            with open_regular(path) as file:
                old = os.fstat(file.fileno()).st_mtime < before
                unused = old and lock(file, shared=True)
            if unused:
                path.unlink()


def stale_before(folder: Path) -> float:
    """Return the time of an hour ago, by the clock of a folder's file system."""
    with tempfile.TemporaryFile(dir=folder) as now_made:
        return os.fstat(now_made.fileno()).st_mtime - _STALE_SECONDS


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Wait until no other process is in this block; the system forgets one that dies in it."""
    with open_regular(path, write=True) as file:
        lock(file, wait=True)
        yield


def lock(file: BinaryIO | int, *, wait: bool = False, shared: bool = False) -> bool:
    """Lock what is open until it is closed, where there are locks; False if another has it."""
    try:
        if fcntl is not None:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def has_locks(folder: Path) -> bool:
    """Tell whether files in a folder can be locked: on some network file systems they cannot."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


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


def open_regular(
    path: Path, *, write: bool = False, follow: bool = False, buffering: int = -1
) -> BinaryIO:
    """Open a file in a folder that others can write into: only a regular file, and no link.

    A pipe is not waited for. With `write`, a missing file is made, and nothing is emptied.
    `follow` is for files whose content is checked by a digest, which may be links.
    """
    descriptor = _open_regular(path, write=write, follow=follow)
    return os.fdopen(descriptor, "r+b" if write else "rb", buffering)


def start_of_file(path: Path, count: int) -> bytes:
    """Read up to so many bytes of a regular file: in half the time, for folders of many."""
    descriptor = _open_regular(path, write=False, follow=True)
    try:
        return os.read(descriptor, count)
    finally:
        os.close(descriptor)


def _open_regular(path: Path, *, write: bool, follow: bool) -> int:
    with contextlib.suppress(FileNotFoundError):
        status = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 -- half the time of Path.stat
        _require_regular(path, status)  # to open a device can do harm
    flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _require_regular(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        link = "a link, " if stat.S_ISLNK(status.st_mode) else ""
        raise OSError(errno.EINVAL, f"{path.name} is {link}not a regular file", str(path))


def read_regular(path: Path, most: int | None = None, *, follow: bool = False) -> bytes:
    """Read a file that `open_regular` opens, if it has no more than `most` bytes."""
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {most:,}", str(path))
        return file.read(size)


@contextlib.contextmanager
def file_errors(
    action: str,
    kind: type[PipelineError] = PipelineError,
    *,
    fix: str = "check the folder's permissions and the free space",
) -> Iterator[None]:
    """Turn an error of the file system into one that tells what could not be done."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise kind(f"cannot {action}: {reason}.", fix=fix) from error


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
