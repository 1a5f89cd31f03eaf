"""One shard: rows in an HDF5 file, written once, and read only after every check."""

from __future__ import annotations

import contextlib
import hashlib
import math
import stat
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import SCHEMA, Recipe, newer
from pipeline.errors import StoreError
from pipeline.features.keys import Key, Keys

ROWS_PER_SHARD = 256
"""What a writer puts into one shard: seconds of work, and some megabytes of rows."""

MOST_ROWS = 16 * ROWS_PER_SHARD
"""Rows beyond which a file is no shard, and is not read into memory."""

_SHARD_BYTES = 2**26  # of raw rows
_CHUNK_BYTES = 2**19
_GZIP_LEVEL = 4  # docs/decisions/0002: as small as Zstandard here, and every HDF5 reader has it
_GZIP_BEST = 1100  # DEFLATE cannot shrink anything more than about 1,032 times


class DamagedShardError(Exception):
    """The file is not a shard that this store wrote."""


@dataclass(frozen=True)
class Damaged:
    """A shard that was set aside, and why."""

    name: str
    reason: str


def rows_per_shard(recipe: Recipe) -> int:
    """Return how many rows a writer puts into one shard: few where rows are large."""
    return max(1, min(ROWS_PER_SHARD, _SHARD_BYTES // _row_bytes(recipe)))


def shard_name(content: bytes) -> str:
    """Return the file name of a shard with these bytes."""
    return f"{hashlib.sha256(content).hexdigest()}.h5"


def make_shard(recipe: Recipe, keys: Sequence[Key], rows: npt.NDArray[np.float32]) -> bytes:
    """Return the bytes of a shard; the same rows give the same bytes."""
    columns = Keys.of(keys)
    # A name of its own, which is not in its bytes: other threads may be writing, too.
    with h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False) as file:
        file.attrs["schema"] = SCHEMA
        # Of fixed length: HDF5 never ends reading some texts that were made to harm.
        file.attrs["fingerprint"] = np.bytes_(recipe.fingerprint)
        file.create_dataset(
            "features",
            data=rows,
            chunks=_chunks(recipe, len(keys)),
            compression="gzip",
            compression_opts=_GZIP_LEVEL,
        )
        file["digest"] = columns.digests
        file["view"] = columns.views
        file.flush()
        content: bytes = file.id.get_file_image()
    return content


def read_shard(path: Path, recipe: Recipe) -> bytes:
    """Read a shard's file, if it is a regular one and no larger than a shard can be."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedShardError("not a regular file")
    if status.st_size > 2 * MOST_ROWS * (_row_bytes(recipe) + 64) + 2 * _CHUNK_BYTES:
        raise DamagedShardError(f"{status.st_size / 1e9:.1f} GB: larger than any shard")
    return path.read_bytes()


@contextlib.contextmanager
def open_shard(
    content: bytes, path: Path, recipe: Recipe, *, hashed: bool = False
) -> Iterator[Shard]:
    """Open a shard from its bytes, checked; whatever fails in the block is damage of the shard.

    `hashed` says that the bytes are known to have the SHA-256 that names the file.
    """
    if not hashed and shard_name(content) != path.name:
        raise DamagedShardError("its bytes do not have the SHA-256 of its name")
    try:
        file = h5py.h5f.open_file_image(content)
    except MemoryError:  # says nothing of the shard
        raise
    except Exception as error:
        raise DamagedShardError(f"not an HDF5 file ({error})") from error
    try:
        _check_attributes(file, path, recipe)
        shard = Shard.of(file)
        _check_contents(shard, len(content), recipe)
        yield shard
    except (DamagedShardError, StoreError, MemoryError):
        raise
    except Exception as error:  # h5py raises many kinds for a file made to harm
        raise DamagedShardError(f"not a feature shard ({error})") from error
    finally:
        file.close()


@dataclass(frozen=True)
class Shard:
    """The three arrays of an open shard. HDF5's own interface: h5py's takes six times as long."""

    features: h5py.h5d.DatasetID
    digest: h5py.h5d.DatasetID
    view: h5py.h5d.DatasetID
    plists: Sequence[h5py.h5p.PropDCID]
    chunks: tuple[int, ...]

    @classmethod
    def of(cls, file: h5py.h5f.FileID) -> Shard:
        """Open the arrays of a file, which must lie in it."""
        arrays, plists = [], []
        for name in (b"features", b"digest", b"view"):
            if not file.links.exists(name) or file.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise DamagedShardError(f"it has no {name.decode()} of its own")
            array = h5py.h5d.open(file, name)
            plist = array.get_create_plist()
            if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
                raise DamagedShardError(f"{name.decode()} lies outside the file")
            arrays.append(array)
            plists.append(plist)
        chunked = plists[0].get_layout() == h5py.h5d.CHUNKED
        return cls(
            arrays[0], arrays[1], arrays[2], plists, plists[0].get_chunk() if chunked else ()
        )

    @property
    def length(self) -> int:
        """Rows in a chunk of the features."""
        return self.chunks[0]

    def keys(self) -> Keys:
        """Read the names of the rows."""
        digests = np.empty(self.digest.shape, np.uint8)
        views = np.empty(self.view.shape, np.uint16)
        self.digest.read(h5py.h5s.ALL, h5py.h5s.ALL, digests)
        self.view.read(h5py.h5s.ALL, h5py.h5s.ALL, views)
        return Keys(digests, views)

    def rows(self) -> npt.NDArray[np.float32]:
        """Read all rows."""
        rows = np.empty(self.features.shape, np.float32)
        for start, chunk in self._inflated(range(0, len(rows), self.length)):
            rows[start : start + len(chunk)] = chunk[: len(rows) - start]
        return rows

    def rows_of(self, keys: Sequence[Key]) -> npt.NDArray[np.float32]:
        """Read some rows, with one chunk at a time in memory."""
        row_of = {key: row for row, key in enumerate(self.keys())}
        numbers = np.array([row_of[key] for key in keys])
        rows = np.empty((len(numbers), *self.features.shape[1:]), np.float32)
        starts = (np.unique(numbers // self.length) * self.length).tolist()
        for start, chunk in self._inflated(starts):
            inside = numbers // self.length == start // self.length
            rows[inside] = chunk[numbers[inside] - start]
        return rows

    def _inflated(self, starts: Iterable[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Inflate chunks here: HDF5 would fill memory with one made to inflate beyond its size."""
        shape = (self.length, *self.features.shape[1:])
        for start in starts:
            skipped_filters, stored = self.features.read_direct_chunk((start, 0, 0, 0))
            raw = stored if skipped_filters else _inflate(stored, 4 * math.prod(shape))
            yield start, np.frombuffer(raw, np.float32).reshape(shape)


def _row_bytes(recipe: Recipe) -> int:
    return 4 * math.prod(recipe.shape)


def _chunks(recipe: Recipe, rows: int) -> tuple[int, ...]:
    return (min(rows, max(1, _CHUNK_BYTES // _row_bytes(recipe))), *recipe.shape)


def _check_attributes(file: h5py.h5f.FileID, path: Path, recipe: Recipe) -> None:
    values = {}
    for attribute, kind in (("schema", "i8"), ("fingerprint", "S64")):
        stored = h5py.h5a.open(file, attribute.encode())
        if (stored.shape, stored.dtype) != ((), np.dtype(kind)):
            raise DamagedShardError(f"its {attribute} is not stored as this program does it")
        values[attribute] = np.empty((), kind)
        stored.read(values[attribute])
    schema = int(values["schema"])
    if schema > SCHEMA:
        raise newer(str(path), schema)
    if values["fingerprint"] != recipe.fingerprint.encode():
        raise DamagedShardError("it belongs to another recipe's store")


def _check_contents(shard: Shard, size: int, recipe: Recipe) -> None:
    """Refuse what this store did not write, before any row is read.

    A shard's name vouches for its bytes, not for whoever made them: links, external or
    virtual storage could read other files or serve zeros, and a huge shape fill memory.
    """
    features, digest, view = shard.features, shard.digest, shard.view
    shapes = (features.shape, digest.shape, view.shape)
    rows = features.shape[0] if features.shape else 0
    if rows < 1 or shapes != ((rows, *recipe.shape), (rows, 32), (rows,)):
        raise DamagedShardError(f"its arrays have the shapes {shapes}")
    if (features.dtype, digest.dtype, view.dtype) != (np.float32, np.uint8, np.uint16):
        raise DamagedShardError("its arrays have other types")
    if 34 * rows > size or 4 * math.prod(features.shape) > size * _GZIP_BEST:
        raise DamagedShardError("it declares more rows than its bytes can hold")
    chunks = _chunks(recipe, rows)
    if shard.chunks != chunks or features.get_num_chunks() != -(-rows // chunks[0]):
        raise DamagedShardError("parts of its rows are missing")
    filters: Sequence[Sequence[int]] = ([h5py.h5z.FILTER_DEFLATE], [], [])
    if not all(map(_is_plain, (features, digest, view), shard.plists, filters)):
        raise DamagedShardError("its arrays are not stored as this program stores them")


def _is_plain(array: h5py.h5d.DatasetID, plist: h5py.h5p.PropDCID, filters: Sequence[int]) -> bool:
    """Tell whether an array has these filters and no others, and the very type that it seems."""
    used = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    # A contiguous array without an offset was never written, and would read as zeros.
    written = bool(filters) or array.get_offset() is not None
    kind = h5py.h5t.py_create(array.dtype)
    return used == filters and written and array.get_type().equal(kind)


def _inflate(stored: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(stored, size + 1)
    if len(inflated) != size or not inflater.eof:
        raise DamagedShardError("a chunk does not inflate to its size")
    return inflated
