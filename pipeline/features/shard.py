"""One shard: rows in an HDF5 file that is believed only after every check."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.features.keys import Key, Keys

CHUNK_BYTES = 2**19
GZIP_LEVEL = 4  # docs/decisions/0002: as small as Zstandard here, and every HDF5 reader has it
GZIP_BEST = 1100  # DEFLATE cannot shrink anything more than about 1,032 times

Part = TypeVar("Part")


class DamagedShardError(Exception):
    """The file is not a shard that this store wrote."""


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
        found, found_plists = [], []
        for name in (b"features", b"digest", b"view"):
            if not file.links.exists(name) or file.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise DamagedShardError(f"it has no {name.decode()} of its own")
            dataset = h5py.h5d.open(file, name)
            plist = dataset.get_create_plist()
            if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
                raise DamagedShardError(f"{name.decode()} lies outside the file")
            found.append(dataset)
            found_plists.append(plist)
        chunked = found_plists[0].get_layout() == h5py.h5d.CHUNKED
        return cls(
            found[0],
            found[1],
            found[2],
            found_plists,
            found_plists[0].get_chunk() if chunked else (),
        )

    @property
    def length(self) -> int:
        """Rows in a chunk of the features."""
        return self.chunks[0]

    def keys(self) -> Keys:
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
            here = numbers // self.length == start // self.length
            rows[here] = chunk[numbers[here] - start]
        return rows

    def _inflated(self, starts: Iterable[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Inflate chunks here: HDF5 would fill memory with one made to inflate beyond its size."""
        shape = (self.length, *self.features.shape[1:])
        for start in starts:
            skipped_filters, stored = self.features.read_direct_chunk((start, 0, 0, 0))
            raw = stored if skipped_filters else _inflate(stored, 4 * math.prod(shape))
            yield start, np.frombuffer(raw, np.float32).reshape(shape)


def is_plain(dataset: h5py.h5d.DatasetID, plist: h5py.h5p.PropDCID, filters: Sequence[int]) -> bool:
    """Tell whether an array has these filters and no others, and the very type that it seems."""
    used = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    # A contiguous array without an offset was never written, and would read as zeros.
    written = bool(filters) or dataset.get_offset() is not None
    kind = h5py.h5t.py_create(dataset.dtype)
    return used == filters and written and dataset.get_type().equal(kind)


def _inflate(stored: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(stored, size + 1)
    if len(inflated) != size or not inflater.eof:
        raise DamagedShardError("a chunk does not inflate to its size")
    return inflated
