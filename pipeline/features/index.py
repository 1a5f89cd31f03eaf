"""Which shard holds which row: a million rows in 46 bytes each, without an object for any."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.features.keys import Key, Keys

_KEYS_AT_ONCE = 4096
_LONG_RUN = 2**16  # rows
_MOST_RUNS = 16  # about, where there are many rows


@dataclass(frozen=True)
class _Run:
    """Keys in the order of their hashes, and the number of each one's shard."""

    hashes: npt.NDArray[np.uint64]
    keys: Keys
    shards: npt.NDArray[np.int32]

    @classmethod
    def of(cls, keys: Keys, shards: npt.NDArray[np.int32]) -> _Run:
        hashes = keys.hashes
        order = np.argsort(hashes, kind="stable")  # fast on parts that are in order already
        return cls(hashes[order], keys.take(order), shards[order])

    def where(self, kept: npt.NDArray[np.bool_]) -> _Run:
        places = np.flatnonzero(kept)
        return _Run(self.hashes[places], self.keys.take(places), self.shards[places])

    def find(self, keys: Keys) -> npt.NDArray[np.intp]:
        """Return the place of each key, -1 where it is missing."""
        matches = np.full(len(keys), -1, np.intp)
        hashes = keys.hashes
        places = np.searchsorted(self.hashes, hashes)
        left = np.arange(len(keys))
        while left.size:  # again only where two keys share a hash
            inside = places[left] < len(self.hashes)
            left = left[inside]
            left = left[self.hashes[places[left]] == hashes[left]]
            candidates = self.keys.take(places[left])
            same = (candidates.digests == keys.digests[left]).all(axis=1)
            same &= candidates.views == keys.views[left]
            matches[left[same]] = places[left[same]]
            left = left[~same]
            places[left] += 1
        return matches


class Index:
    """Which shard holds which row.

    Rows lie in sorted runs. New rows are merged with the last runs until these are long: merging
    them all would take three times their memory for a moment. Keys are looked up in the order of
    their hashes, which goes through each run from one end to the other and so uses the CPU's
    caches: some dozens of runs cost little more than one.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: dict[str, int] = {}
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.keys) for run in self._runs)

    def __iter__(self) -> Iterator[Key]:
        return itertools.chain.from_iterable(run.keys for run in self._runs)

    @property
    def shards(self) -> dict[str, int]:
        """Names of the shards, in the order in which they were added, and their numbers of rows."""
        return self._rows

    def add(self, shards: Sequence[tuple[str, Keys]]) -> None:
        """Take in shards; a row that an earlier one holds stays that one's."""
        if not shards:
            return
        first = len(self._names)
        self._names += [name for name, _ in shards]
        self._rows |= {name: len(keys) for name, keys in shards}
        lengths = [len(keys) for _, keys in shards]
        numbers = np.repeat(np.arange(first, len(self._names), dtype=np.int32), lengths)
        run = _Run.of(Keys.joined([keys for _, keys in shards]), numbers)
        new = run.find(run.keys) == np.arange(len(run.keys))
        run = run.where(new & (self._numbers(run.keys) < 0))
        long = max(_LONG_RUN, len(self) // _MOST_RUNS)
        while self._runs and len(self._runs[-1].keys) <= min(len(run.keys), long):
            last = self._runs.pop()
            both = Keys.joined([last.keys, run.keys])
            run = _Run.of(both, np.concatenate([last.shards, run.shards]))
        self._runs.append(run)

    def forget(self, name: str) -> None:
        """Take out a shard and its rows."""
        if self._rows.pop(name, None) is not None:
            number = self._names.index(name)
            self._names[number] = ""
            self._runs = [run.where(run.shards != number) for run in self._runs]

    def clear(self) -> None:
        """Take out everything."""
        self._names, self._rows, self._runs = [], {}, []

    def find(self, keys: Iterable[Key]) -> Iterator[tuple[Key, str | None]]:
        """Yield each key with the name of the shard that holds it, None if none does."""
        remaining = iter(keys)
        while block := list(itertools.islice(remaining, _KEYS_AT_ONCE)):
            numbers = self._numbers(Keys.of(block)).tolist()
            yield from zip(block, (self._names[n] if n >= 0 else None for n in numbers))

    def holds(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Tell which of some keys are in a shard."""
        starts = range(0, len(keys), _KEYS_AT_ONCE)
        parts = (keys.take(slice(start, start + _KEYS_AT_ONCE)) for start in starts)
        held = [np.zeros(0, bool), *(self._numbers(part) >= 0 for part in parts)]
        return np.concatenate(held)

    def _numbers(self, keys: Keys) -> npt.NDArray[np.int32]:
        numbers = np.full(len(keys), -1, np.int32)
        left = np.argsort(keys.hashes, kind="stable")
        for run in self._runs:
            places = run.find(keys.take(left))
            inside = places >= 0
            numbers[left[inside]] = run.shards[places[inside]]
            left = left[~inside]
        return numbers
