"""Files' bytes and their SHA-256, read again only where file system or server say they changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pipeline.data.images import MAX_PIXELS
from pipeline.data.urls import REQUESTS_AT_ONCE, Location, Url, locate, read
from pipeline.errors import ImageError

_FILE = "digests.sqlite"
_MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits: nothing that is decoded is larger
_READING_THREADS = 4
_NO_LOOKS: Mapping[Url, bytes] = MappingProxyType({})
_FILES_AT_ONCE = 1000  # one that waits for a thread takes 2 kB
# A file that is written twice within the time resolution of its file system (2 s on FAT) can change
# and look the same. What was changed that shortly before it was read is read again next time.
_RESOLUTION_NS = 2_000_000_000
_TABLE = """
    CREATE TABLE IF NOT EXISTS files (
        path BLOB PRIMARY KEY, source BLOB, looks BLOB, digest BLOB, checksum BLOB
    ) WITHOUT ROWID
"""


def read_image(path: Location, digest: bytes | None = None) -> tuple[bytes, bytes]:
    """Read a file's bytes.

    Parameters
    ----------
    path : Path or Url
        The file.
    digest : bytes, optional
        The SHA-256 that the file had when it was listed.

    Returns
    -------
    tuple of bytes
        The bytes, and their SHA-256.

    Raises
    ------
    ImageError
        It is empty, is no regular file, is too large, cannot be read, or has changed since it
        was listed.
    PipelineError
        It is behind a URL, and that fails in a way that says nothing about the file.
    """
    data = read(path, _MAX_BYTES + 1) if isinstance(path, Url) else _read_file(path)
    if len(data) > _MAX_BYTES:
        raise _too_large(len(data))
    if not data:
        raise ImageError("0 bytes")
    found = hashlib.sha256(data).digest()
    if digest is not None and found != digest:
        raise ImageError("changed while the work went on; run the same command again")
    return data, found


def _read_file(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        if status.st_size > _MAX_BYTES:
            raise _too_large(status.st_size)
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name, from a CSV
        raise ImageError(f"cannot be read: {error}") from error


def _too_large(size: int) -> ImageError:
    return ImageError(f"{size / 1e9:.1f} GB: more than the limit of {_MAX_BYTES / 1e9:.1f}")


def digest_files(
    paths: Sequence[Location],
    remembered: Digests | None = None,
    looks: Mapping[Url, bytes] = _NO_LOOKS,
) -> list[bytes | ImageError]:
    """Return the SHA-256 of each file's bytes, or why it cannot be read.

    Parameters
    ----------
    paths : sequence of Path or Url
        The files.
    remembered : Digests, optional
        Spares reading files that have not changed, and takes in what was read.
    looks : mapping of Url to bytes
        How files behind URLs looked when they were listed; others are always read.

    Returns
    -------
    list of bytes or ImageError
        32 bytes for each file, or the error.

    Raises
    ------
    PipelineError
        As for `read_image`. What was read before is in `remembered`.
    """

    def digested(path: Location) -> tuple[bytes, bytes] | ImageError:
        try:
            seen = looks.get(path, b"") if isinstance(path, Url) else _looks(path)
            return seen, read_image(path)[1]
        except ImageError as error:
            return ImageError(error.found)  # its traceback would keep the file's bytes in memory

    found: list[bytes | ImageError] = []
    elsewhere = any(isinstance(path, Url) for path in paths)
    with (
        ThreadPoolExecutor(REQUESTS_AT_ONCE if elsewhere else _READING_THREADS) as pool,
        contextlib.ExitStack() as leaving,
    ):
        leaving.callback(pool.shutdown, wait=False, cancel_futures=True)
        for start in range(0, len(paths), _FILES_AT_ONCE):
            block = paths[start : start + _FILES_AT_ONCE]
            known = [remembered.recall(path, looks) if remembered else None for path in block]
            unknown = [path for path, digest in zip(block, known) if digest is None]
            read_now = pool.map(digested, unknown)
            for path, digest in zip(block, known):
                outcome = digest if digest is not None else next(read_now)
                if isinstance(outcome, tuple):
                    seen, outcome = outcome
                    if remembered and seen:
                        remembered.note(path, seen, outcome)
                found.append(outcome)
    return found


class Digests:
    """What is remembered of files: how they looked to the file system, and their digest.

    A file whose size, inode and times of change are the same is taken to have the same bytes; so
    is one behind a URL whose size, tag and time of change are the same.
    The memory is a SQLite file in the cache folder. If it is lost, damaged or cannot be written,
    files are read again, and nothing else is different.

    Parameters
    ----------
    cache : Path
        The cache folder. It need not be there.
    """

    def __init__(self, cache: Path) -> None:
        self._file = Path(cache) / _FILE
        self._noted: dict[bytes, tuple[bytes, bytes]] = {}
        self._database: sqlite3.Connection | None = None
        with contextlib.suppress(sqlite3.Error):
            self._database = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro", uri=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is remembered from then on, and it may be saved."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def recall(self, path: Location, looks: Mapping[Url, bytes] = _NO_LOOKS) -> bytes | None:
        """Return a file's digest, if it looks as it did when that was noted."""
        try:
            now = looks.get(path) if isinstance(path, Url) else _looks(path)
        except ImageError:
            return None
        seen = self._row(path)
        return seen[1] if seen is not None and seen[0] == now else None

    def last(self, path: Location) -> bytes | None:
        """Return the digest that a file had when it was last saved, changed since or not."""
        seen = self._row(path)
        return None if seen is None else seen[1]

    def note(self, path: Location, looks: bytes, digest: bytes) -> None:
        """Take in the digest of a file that looked like `looks` before it was read."""
        self._noted[_name(path)] = looks, digest

    def paths_of(self, source: str | Path) -> Iterator[str]:
        """Yield the absolute paths that were listed when `source` was last saved."""
        origin = _name(locate(source))
        for (name,) in self._query("SELECT path FROM files WHERE source = ?", origin):
            yield os.fsdecode(name)

    def save(self, source: str | Path, paths: Sequence[Location] | None = None) -> None:
        """Write down what was noted, and that `source` lists `paths` and no others, if given."""
        if not self._noted and paths is None:
            return
        with contextlib.suppress(sqlite3.Error, OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._write(source, paths)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # it is no database any more
                self.close()
                self._file.unlink()
                self._write(source, paths)

    def _write(self, source: str | Path, paths: Sequence[Location] | None) -> None:
        origin = _name(locate(source))
        with contextlib.closing(sqlite3.connect(self._file)) as database, database:
            database.execute(_TABLE)
            database.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                (
                    (name, origin, looks, digest, _checksum(name, looks, digest))
                    for name, (looks, digest) in self._noted.items()
                ),
            )
            if paths is None:
                return
            listed = {_name(path) for path in paths}
            before = database.execute("SELECT path FROM files WHERE source = ?", [origin])
            gone = [row for row in before if row[0] not in listed]
            database.executemany("DELETE FROM files WHERE path = ?", gone)

    def _row(self, path: Location) -> tuple[bytes, bytes] | None:
        name = _name(path)
        for looks, digest, checksum in self._query(
            "SELECT looks, digest, checksum FROM files WHERE path = ?", name
        ):
            if checksum == _checksum(name, looks, digest):
                return looks, digest
        return None

    def _query(self, statement: str, value: bytes) -> Iterable[tuple[bytes, ...]]:
        if self._database is None:
            return ()
        try:
            return self._database.execute(statement, (value,)).fetchall()
        except sqlite3.Error:
            return ()


def _looks(path: Path) -> bytes:
    """Describe a file as the file system sees it, now."""
    now = time.time_ns()
    try:
        status = os.stat(path)  # noqa: PTH116 -- half the time of Path.stat, a hundred thousand times
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read: {reason}") from error
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    settled = now - changed > _RESOLUTION_NS
    looks = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return repr((*looks, "settled") if settled else (*looks, "at", now)).encode()


def _name(path: Location) -> bytes:
    if isinstance(path, Url):
        return os.fsencode(path)
    return os.fsencode(os.path.abspath(path))  # noqa: PTH100 -- Path.resolve asks the disk


def _checksum(name: bytes, looks: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(b"\0".join((name, looks, digest))).digest()[:8]
