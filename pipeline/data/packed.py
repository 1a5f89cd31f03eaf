"""Sequences that take little more memory than the bytes in them: for a million images."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from pipeline.data.urls import Location


class PackedPaths(Sequence[Location]):
    """Paths, as the folders that there are, and for each path the number of its folder and a name.

    It is equal to any sequence of the same paths, and cannot be changed.

    Parameters
    ----------
    paths : iterable of Path or Url
        What it holds.
    """

    def __init__(self, paths: Iterable[Location]) -> None:
        number: dict[Location, int] = {}
        self._folder = array("i")
        self._end = array("q", [0])
        names = bytearray()
        for path in paths:
            self._folder.append(number.setdefault(path.parent, len(number)))
            names += os.fsencode(path.name)
            self._end.append(len(names))
        self._folders = list(number)
        self._names = bytes(names)

    def __len__(self) -> int:
        return len(self._folder)

    @overload
    def __getitem__(self, place: int) -> Location: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Location]: ...
    def __getitem__(self, place: int | slice) -> Location | Sequence[Location]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        name = self._names[self._end[place] : self._end[place + 1]]
        return self._folders[self._folder[place]] / os.fsdecode(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class PackedDigests(Sequence[bytes]):
    """Digests of 32 bytes, in one array; equal to any sequence of the same.

    Parameters
    ----------
    digests : iterable of bytes
        What it holds.

    Attributes
    ----------
    array : ndarray of uint8, shape (n, 32)
        All of them.
    """

    def __init__(self, digests: Iterable[bytes]) -> None:
        self.array = packed(digests)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return bytes(self.array[place])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def packed(digests: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    """Put digests into one array of shape (n, 32), without a copy where they lie in one."""
    if isinstance(digests, PackedDigests):
        return digests.array
    joined = bytearray()  # b"".join would make a list of them all first
    for digest in digests:
        joined += digest
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def distinct(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return each of the rows of an array of shape (n, 32) once, sorted."""
    # As fixed texts, which NumPy sorts byte by byte; the zeros that it takes for padding count.
    texts = np.sort(np.ascontiguousarray(digests).view("S32").ravel())
    first = np.ones(len(texts), bool)
    first[1:] = texts[1:] != texts[:-1]
    if not first.all():  # else the copy is spared
        texts = texts[first]
    return texts.view(np.uint8).reshape(-1, 32)
