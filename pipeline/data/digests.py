"""Files' bytes and their SHA-256, read again only where file system or server say they changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pipeline.data.images import MAX_PIXELS
from pipeline.data.servers import REQUESTS_AT_ONCE
from pipeline.data.urls import Location, Url, locate, read, whole_name
from pipeline.errors import ImageError
from pipeline.system.files import has_locks, open_regular
from pipeline.system.threads import ReadingThreads

CACHE = Path("cache")
"""The cache folder, unless another is named."""

_FILE = "digests.sqlite"
_MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits: nothing that is decoded is larger
_READING_THREADS = 4
_FILES_AT_ONCE = 1000  # a file that waits for a thread takes 2 kB
_NO_SIGNATURES: Mapping[Url, bytes] = MappingProxyType({})
# A file that is written twice within the time resolution of its file system (2 s on FAT) can have
# other bytes and the same times. If it changed that shortly before it was read, it is read again.
_RESOLUTION_NS = 2_000_000_000
# The column `looks` holds signatures. It keeps its first name: older releases read the same file.
_TABLE = """
    CREATE TABLE IF NOT EXISTS files (
        path BLOB PRIMARY KEY, source BLOB, looks BLOB, digest BLOB, checksum BLOB
    ) WITHOUT ROWID
"""


def read_image(path: Location, digest: bytes | None = None) -> tuple[bytes, bytes]:
    """Read a file."""
    content = read(path, _MAX_BYTES + 1) if isinstance(path, Url) else _read_file(path)
    if len(content) > _MAX_BYTES:
        raise _too_large(len(content))
    if not content:
        raise ImageError("0 bytes")
    digest_now = hashlib.sha256(content).digest()
    if digest is not None and digest_now != digest:
        raise ImageError("changed while the work went on; run the same command again")
    return content, digest_now


def _read_file(path: Path) -> bytes:
    try:
        with open_regular(path, follow=True) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_BYTES:
                raise _too_large(size)
            # Not to its end: a file in /proc has none, and is of 0 bytes, before and while read.
            return file.read(size)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name, from a CSV
        raise ImageError(f"cannot be read: {error}") from error


def _too_large(size: int) -> ImageError:
    return ImageError(f"{size / 1e9:.1f} GB: more than the limit of {_MAX_BYTES / 1e9:.1f}")


def digest_files(
    paths: Sequence[Location],
    memory: Digests | None = None,
    signatures: Mapping[Url, bytes] = _NO_SIGNATURES,
) -> list[bytes | ImageError]:
    """Return the SHA-256 of each file's bytes, or why it cannot be read."""
    remote = any(isinstance(path, Url) for path in paths)
    digests: list[bytes | ImageError] = []
    with ReadingThreads(REQUESTS_AT_ONCE if remote else _READING_THREADS) as threads:
        for start in range(0, len(paths), _FILES_AT_ONCE):
            block = paths[start : start + _FILES_AT_ONCE]
            known = [memory.recall(path, signatures) if memory else None for path in block]
            unknown = [path for path, digest in zip(block, known) if digest is None]
            outcomes = threads.map(lambda path: _sign_and_digest(path, signatures), unknown)
            for path, digest in zip(block, known):
                if digest is not None:
                    digests.append(digest)
                    continue
                outcome = next(outcomes)
                if isinstance(outcome, ImageError):
                    digests.append(outcome)
                    continue
                signature, digest_now = outcome
                digests.append(digest_now)
                if memory and signature:
                    memory.note(path, signature, digest_now)
    return digests


def _sign_and_digest(
    path: Location, signatures: Mapping[Url, bytes]
) -> tuple[bytes, bytes] | ImageError:
    """Return a file's signature, taken before it is read, and its digest."""
    try:
        signature = signatures.get(path, b"") if isinstance(path, Url) else _signature(path)
        return signature, read_image(path)[1]
    except ImageError as error:
        return error.bare()  # its traceback would keep the file's bytes in memory


class Digests:
    """The digests of files, remembered with each file's signature.

    A signature is what the file system or server tells of a file: size, inode and times of
    change, or size, tag and time of change. While it stays the same, so do the bytes.
    The memory is a SQLite file in the cache folder. If it is lost, damaged or cannot be written,
    files are read again, and nothing else is different.

    Parameters
    ----------
    cache : Path
        The cache folder, which need not exist.
    """

    def __init__(self, cache: Path) -> None:
        self._file = Path(cache) / _FILE
        self._noted: dict[bytes, tuple[bytes, bytes]] = {}
        self._database: sqlite3.Connection | None = None
        with contextlib.suppress(sqlite3.Error, OSError):
            # Without locks: reading never waits for a writer, and each row has a checksum.
            self._database = self._open("mode=ro&immutable=1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file: nothing is recalled from then on, but what was noted may be saved."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def recall(
        self, path: Location, signatures: Mapping[Url, bytes] = _NO_SIGNATURES
    ) -> bytes | None:
        """Return a file's digest, if its signature is the one that was noted."""
        try:
            now = signatures.get(path) if isinstance(path, Url) else _signature(path)
        except ImageError:
            return None
        row = self._row(path)
        return row[1] if row is not None and row[0] == now else None

    def last(self, path: Location) -> bytes | None:
        """Return the digest that a file had when it was last saved, changed since or not."""
        row = self._row(path)
        return None if row is None else row[1]

    def note(self, path: Location, signature: bytes, digest: bytes) -> None:
        """Take in the digest of a file that had this signature before it was read."""
        self._noted[_name(path)] = signature, digest

    def paths_of(self, source: str | Path) -> Iterator[str]:
        """Yield the absolute paths that `source` listed when it was last saved."""
        origin = _name(locate(source))
        for (name,) in self._query("SELECT path FROM files WHERE source = ?", origin):
            yield os.fsdecode(name)

    def save(self, source: str | Path, paths: Sequence[Location] | None = None) -> None:
        """Write down what was noted; with `paths`, also that `source` lists them and no others."""
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

    def _open(self, options: str) -> sqlite3.Connection:
        """Open the file, which may be missing: SQLite would follow a link, and wait for a pipe."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(self._file.lstat().st_mode):
                raise sqlite3.OperationalError("not a regular file")
        return sqlite3.connect(f"{self._file.absolute().as_uri()}?{options}", uri=True)

    def _write(self, source: str | Path, paths: Sequence[Location] | None) -> None:
        origin = _name(locate(source))
        locks = "" if has_locks(self._file.parent) else "&nolock=1"  # else SQLite waits in vain
        with contextlib.closing(self._open(f"mode=rwc{locks}")) as database, database:
            database.execute(_TABLE)
            database.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                (
                    (name, origin, signature, digest, _checksum(name, signature, digest))
                    for name, (signature, digest) in self._noted.items()
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
        for signature, digest, checksum in self._query(
            "SELECT looks, digest, checksum FROM files WHERE path = ?", name
        ):
            if checksum == _checksum(name, signature, digest):
                return signature, digest
        return None

    def _query(self, statement: str, value: bytes) -> Iterable[tuple[bytes, ...]]:
        if self._database is None:
            return ()
        try:
            rows = self._database.execute(statement, (value,)).fetchall()
        except sqlite3.Error:
            self.close()  # it is damaged, or somebody writes into it: files are read instead
            return ()
        # One flipped bit can make a number of what was written as bytes.
        return [row for row in rows if all(isinstance(column, bytes) for column in row)]


def _signature(path: Path) -> bytes:
    """Return what the file system tells of a file now: size, times of change, inode."""
    now = time.time_ns()
    try:
        status = os.stat(path)  # noqa: PTH116 -- half the time of Path.stat, a hundred thousand times
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read: {reason}") from error
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    settled = now - changed > _RESOLUTION_NS
    parts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return repr((*parts, "settled") if settled else (*parts, "at", now)).encode()


def _name(path: Location) -> bytes:
    return os.fsencode(whole_name(path))


def _checksum(name: bytes, signature: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(b"\0".join((name, signature, digest))).digest()[:8]
