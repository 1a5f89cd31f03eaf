"""Arrays in an HDF5 file, from its bytes: what lies in them, and no more than they can hold."""

from __future__ import annotations

import contextlib
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])


class UnsoundError(ValueError):
    """The bytes are not those of a file that this program wrote."""


@contextlib.contextmanager
def open_image(content: bytes | memoryview) -> Iterator[h5py.h5f.FileID]:
    """Open an HDF5 file from its bytes, so that no other file is opened for it."""
    try:
        file = h5py.h5f.open_file_image(content)
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # h5py raises many kinds for a file made to harm
        raise UnsoundError(f"not an HDF5 file ({error})") from error
    try:
        yield file
    finally:
        file.close()


@dataclass(frozen=True)
class Array:
    """An array of an open file. HDF5's own interface: h5py's takes six times as long."""

    name: str
    data: h5py.h5d.DatasetID
    plist: h5py.h5p.PropDCID
    chunks: tuple[int, ...]

    @classmethod
    def of(cls, file: h5py.h5f.FileID | h5py.h5g.GroupID, name: str) -> Array:
        """Open an array of a file or group, in which it must lie."""
        key = name.encode()
        if not file.links.exists(key) or file.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise UnsoundError(f"it has no {name} of its own")
        data = h5py.h5d.open(file, key)
        plist = data.get_create_plist()
        if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
            raise UnsoundError(f"{name} lies outside the file")
        chunked = plist.get_layout() == h5py.h5d.CHUNKED
        return cls(name, data, plist, plist.get_chunk() if chunked else ())

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of the array."""
        shape: tuple[int, ...] = self.data.shape
        return shape

    def has_filters(self, filters: Sequence[int]) -> bool:
        """Tell whether the array was stored through these filters and no others."""
        count = self.plist.get_nfilters()
        return [self.plist.get_filter(number)[0] for number in range(count)] == list(filters)

    def is_of(self, kind: npt.DTypeLike) -> bool:
        """Tell whether its numbers are of this very type, and not only seem to be."""
        return bool(self.data.get_type().equal(h5py.h5t.py_create(np.dtype(kind))))

    @property
    def has_attributes(self) -> bool:
        """Whether anything is said of it."""
        return bool(h5py.h5a.get_num_attrs(self.data))

    def is_whole(self) -> bool:
        """Tell whether all of it was written: what was not would be read as zeros."""
        if not self.chunks:
            return self.data.get_offset() is not None
        parts = (-(-side // part) for side, part in zip(self.shape, self.chunks))
        return bool(self.data.get_num_chunks() == math.prod(parts))

    def in_one_piece(self, content: bytes | memoryview, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Take an array that lies in one piece straight from the file's bytes."""
        start = self.data.get_offset()
        end = (start or 0) + math.prod(self.shape) * np.dtype(kind).itemsize
        if start is None or self.chunks or not self.has_filters([]) or end > len(content):
            raise UnsoundError(f"parts of {self.name} are missing")
        return np.frombuffer(content[start:end], kind).reshape(self.shape).copy()

    def texts(self, content: bytes | memoryview) -> list[str]:
        """Read texts, which take no more memory than the file."""
        kind = h5py.check_string_dtype(self.data.dtype)
        if kind is None or len(self.shape) != 1:
            raise UnsoundError(f"{self.name} is no list of texts")
        if kind.length is not None:
            texts = self.in_one_piece(content, f"S{kind.length}")
        else:  # of any length: many references may lead to one long text
            lengths = self.in_one_piece(content, _REFERENCE)["length"]
            if lengths.sum(dtype=np.uint64) > len(content):
                raise UnsoundError(f"{self.name} declares more than the file can hold")
            texts = h5py.Dataset(self.data)[:]
        return [text.decode() for text in texts.tolist()]

    def read_chunks(self, kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Read an array that was written in chunks."""
        values = np.empty(self.shape, kind)
        sides = (range(0, side, part) for side, part in zip(self.shape, self.chunks))
        for start in itertools.product(*sides):
            part = values[tuple(slice(a, a + length) for a, length in zip(start, self.chunks))]
            part[...] = self.chunk(start, kind)[tuple(map(slice, part.shape))]
        return values

    def chunk(self, start: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Inflate a chunk here: HDF5 would fill memory with one that inflates beyond its size."""
        skipped_filters, stored = self.data.read_direct_chunk(start)
        size = math.prod(self.chunks) * np.dtype(kind).itemsize
        raw = stored if skipped_filters or self.has_filters([]) else _inflate(stored, size)
        if len(raw) != size:
            raise UnsoundError("a chunk does not inflate to its size")
        return np.frombuffer(raw, kind).reshape(self.chunks)


def _inflate(stored: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(stored, size + 1)
    return inflated if inflater.eof else b""


def groups(file: h5py.h5f.FileID) -> Iterator[h5py.h5g.GroupID]:
    """Yield every group of an open file, all of which must lie in the file itself."""
    seen = set()
    waiting = [h5py.h5g.open(file, b"/")]
    while waiting:
        group = waiting.pop()
        if (address := h5py.h5o.get_info(group).addr) in seen:
            raise UnsoundError("a group of it is in itself")
        seen.add(address)
        yield group
        for name in group:
            if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise UnsoundError("it has a link")
            if _is_group(group, name):
                waiting.append(h5py.h5g.open(group, name))


def _is_group(group: h5py.h5g.GroupID, name: bytes) -> bool:
    return bool(h5py.h5o.get_info(group, name).type == h5py.h5o.TYPE_GROUP)


def arrays(group: h5py.h5g.GroupID) -> list[Array]:
    """List the arrays of numbers in a group, in the order of their names."""
    names = [name for name in group if not _is_group(group, name)]
    found = [Array.of(group, name.decode()) for name in names]
    if any(array.data.dtype.kind not in "fiu" for array in found):
        raise UnsoundError("it has other arrays than of numbers")
    return found


def name_of(group: h5py.h5g.GroupID) -> str:
    """Read a group's attribute ``name``; empty where it has none."""
    return str(h5py.AttributeManager(h5py.Group(group)).get("name", ""))
