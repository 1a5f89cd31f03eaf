"""One shard: rows in an HDF5 file, written once, and read only after every check."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import math
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import SCHEMA, Recipe, newer
from pipeline.errors import StoreError
from pipeline.features.keys import Key, Keys
from pipeline.system.files import read_regular
from pipeline.system.hdf5 import Array, UnsoundError, open_image

ROWS_PER_SHARD = 256
"""What a writer puts into one shard: seconds of work, and some megabytes of rows."""

MOST_ROWS = 16 * ROWS_PER_SHARD
"""Rows beyond which a file is no shard, and is not read into memory."""

_SHARD_BYTES = 2**26  # of raw rows
_CHUNK_BYTES = 2**19
_GZIP_LEVEL = 4  # docs/decisions/0002: as small as Zstandard here, and every HDF5 reader has it
_SHORT_ROW = 4 * 8192  # bytes; longer ones are packed by their runs alone, in half the time
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
        _write_rows(file, recipe, rows)
        file["digest"] = columns.digests
        file["view"] = columns.views
        file.flush()
        content: bytes = file.id.get_file_image()
    return content


def _write_rows(file: h5py.File, recipe: Recipe, rows: npt.NDArray[np.float32]) -> None:
    """Write rows in gzip's format, of which HDF5's own filter uses only what suits short ones."""
    long = _row_bytes(recipe) > _SHORT_ROW
    features = file.create_dataset(
        "features",
        rows.shape,
        np.float32,
        data=None if long else rows,
        chunks=_chunks(recipe, len(rows)),
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
    )
    length = features.chunks[0]
    for start in range(0, len(rows), length) if long else ():
        part = np.ascontiguousarray(rows[start : start + length])
        padding = bytes((length - len(part)) * _row_bytes(recipe))
        packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
        packed = packer.compress(part.data) + packer.compress(padding) + packer.flush()
        features.id.write_direct_chunk((start, 0, 0, 0), packed)


def read_shard(path: Path, recipe: Recipe) -> bytes:
    """Read a shard's file, if it is a regular one and no larger than a shard can be.

    It may be a link, as data management tools make them: its bytes are checked by their digest.
    """
    most = 2 * MOST_ROWS * (_row_bytes(recipe) + 64) + 2 * _CHUNK_BYTES
    try:
        return read_regular(path, most, follow=True)
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL):
            raise DamagedShardError(str(error.strerror)) from error
        raise


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
        with open_image(content) as file:
            _check_attributes(file, path, recipe)
            shard = Shard(*(Array.of(file, name) for name in ("features", "digest", "view")))
            _check_contents(shard, len(content), recipe)
            yield shard
    except UnsoundError as error:
        raise DamagedShardError(str(error)) from error
    except (DamagedShardError, StoreError, MemoryError):
        raise
    except Exception as error:  # h5py raises many kinds for a file made to harm
        raise DamagedShardError(f"not a feature shard ({error})") from error


@dataclass(frozen=True)
class Shard:
    """The three arrays of an open shard."""

    features: Array
    digest: Array
    view: Array

    @property
    def length(self) -> int:
        """Rows in a chunk of the features."""
        return self.features.chunks[0]

    def keys(self) -> Keys:
        """Read the names of the rows."""
        digests = np.empty(self.digest.shape, np.uint8)
        views = np.empty(self.view.shape, np.uint16)
        self.digest.data.read(h5py.h5s.ALL, h5py.h5s.ALL, digests)
        self.view.data.read(h5py.h5s.ALL, h5py.h5s.ALL, views)
        return Keys(digests, views)

    def rows(self) -> npt.NDArray[np.float32]:
        """Read all rows."""
        return self.features.read_chunks(np.float32)

    def read_into(
        self, rows: npt.NDArray[np.float32], places: Sequence[int], keys: Sequence[Key]
    ) -> int:
        """Read and count the rows of some keys to some places, with one chunk in memory."""
        row_of = {key: row for row, key in enumerate(self.keys())}
        wanted = sorted((row_of[key], place) for key, place in zip(keys, places))
        for number, inside in itertools.groupby(wanted, lambda each: each[0] // self.length):
            chunk = self.features.chunk((number * self.length, 0, 0, 0), np.float32)
            for row, place in inside:
                rows[place] = chunk[row % self.length]
        return len(wanted)


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
    if 34 * rows > size or 4 * math.prod(features.shape) > size * _GZIP_BEST:
        raise DamagedShardError("it declares more rows than its bytes can hold")
    for array, kind, filters in (
        (features, np.float32, [h5py.h5z.FILTER_DEFLATE]),
        (digest, np.uint8, []),
        (view, np.uint16, []),
    ):
        if not array.is_of(kind):
            raise DamagedShardError("its arrays have other types")
        if not array.has_filters(filters):
            raise DamagedShardError("its arrays are not stored as this program stores them")
    if features.chunks != _chunks(recipe, rows) or not all(
        map(Array.is_whole, (features, digest, view))
    ):
        raise DamagedShardError("parts of its rows are missing")
