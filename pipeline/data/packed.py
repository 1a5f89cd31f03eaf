"""Paths and digests of a million images, in little more memory than their bytes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from pipeline.data.urls import Location


class PackedPaths(Sequence[Location]):
    """Paths, as a list of folders, and for each path the number of its folder and its name.

    It is equal to any sequence of the same paths, and cannot be changed.
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
            return [self[at] for at in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        name = self._names[self._end[place] : self._end[place + 1]]
        return self._folders[self._folder[place]] / os.fsdecode(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class PackedDigests(Sequence[bytes]):
    """Digests of 32 bytes, in `array` of shape (n, 32); equal to any sequence of the same."""

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
            return [self[at] for at in range(*place.indices(len(self)))]
        return bytes(self.array[place])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def packed(digests: Iterable[bytes]) -> npt.NDArray[np.uint8]:
    """Put digests into one array of shape (n, 32); those of a `PackedDigests` are not copied."""
    if isinstance(digests, PackedDigests):
        return digests.array
    joined = bytearray()  # b"".join would make a list of them all first
    for digest in digests:
        joined += digest
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def distinct(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return each of the rows of an array of shape (n, 32) once, sorted."""
    # As texts of fixed length, which NumPy sorts byte by byte, with the zeros at their ends.
    texts = np.sort(np.ascontiguousarray(digests).view("S32").ravel())
    first = np.ones(len(texts), bool)
    first[1:] = texts[1:] != texts[:-1]
    if not first.all():  # otherwise no copy is needed
        texts = texts[first]
    return texts.view(np.uint8).reshape(-1, 32)
