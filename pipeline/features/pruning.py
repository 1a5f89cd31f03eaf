"""Dropping the rows that no data set needs any more."""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.digests import CACHE
from pipeline.data.loading import list_dataset
from pipeline.errors import DataError, StoreError
from pipeline.features.derived import forget
from pipeline.features.folder import ANY_UNFINISHED, storage_errors
from pipeline.features.keys import Key
from pipeline.features.store import FeatureStore, open_stores
from pipeline.system.files import clear_unfinished, only_one

_PAUSE_SECONDS = 600.0  # between shards of two runs, or of one that takes so long for 256 rows


@dataclass(frozen=True)
class Loss:
    """What pruning would drop from a store.

    Attributes
    ----------
    store : FeatureStore
        The store, as it is now.
    unwanted : frozenset of bytes
        Digests of images that are in none of the data sets.
    rows : int
        Number of their rows.
    size : int
        Bytes that these take up.
    seconds : float
        About how long they took to compute, by the times of the shards; 0 if these tell nothing.
    """

    store: FeatureStore
    unwanted: frozenset[bytes]
    rows: int
    size: int
    seconds: float

    def accept(self) -> Pruned:
        """Drop these rows, and no others that were added meanwhile; merge small shards."""
        return prune(self.store, _AllBut(self.unwanted))


@dataclass(frozen=True)
class Pruned:
    """What was dropped from a store.

    Attributes
    ----------
    store : FeatureStore
        The store, as it is now.
    rows : int
        Number of rows dropped.
    shards : int
        Number of shards less than before.
    """

    store: FeatureStore
    rows: int
    shards: int


@dataclass(frozen=True)
class _AllBut:
    """All digests but some."""

    unwanted: frozenset[bytes]

    def __contains__(self, digest: object) -> bool:
        return digest not in self.unwanted


def losses(sources: Sequence[str | Path], cache: str | Path = CACHE) -> Iterator[Loss | StoreError]:
    """Tell, store by store, what is in none of some data sets; a bad store gives an error."""
    wanted: set[bytes] = set()
    for source in sources:
        dataset = list_dataset(source, cache=cache)
        for bad in dataset.quarantined:
            reason = bad.reason.removeprefix("a folder that ")
            if reason.startswith("cannot be read"):
                raise DataError(
                    f"{bad.path} {reason}, so its rows cannot be told from unwanted ones.",
                    fix="make it readable, or remove it from the data; nothing was dropped",
                )
        wanted.update(dataset.digests)
    for store in open_stores(Path(cache)):
        yield store if isinstance(store, StoreError) else _loss(store, wanted)


def _loss(store: FeatureStore, wanted: Container[bytes]) -> Loss:
    unwanted = set()
    rows = dict.fromkeys(store.shards, 0)
    for (digest, _), name in store.find(store):
        if name and digest not in wanted:
            unwanted.add(digest)
            rows[name] += 1
    files = {}
    for name in store.shards:
        with contextlib.suppress(FileNotFoundError):  # pruned a moment ago
            files[name] = (store.folder / name).stat()
    size = sum(rows[name] * file.st_size // store.shards[name] for name, file in files.items())
    made = sorted((file.st_mtime, store.shards[name]) for name, file in files.items())
    a_row = [
        (time - before) / count
        for (before, _), (time, count) in itertools.pairwise(made)
        if time - before < _PAUSE_SECONDS
    ]
    dropped = sum(rows.values())
    # Of one span alone, nobody knows whether it was a pause between two commands.
    seconds = dropped * statistics.median_low(a_row) if len(a_row) > 1 else 0.0
    return Loss(store, frozenset(unwanted), dropped, size, seconds)


def prune(store: FeatureStore, wanted: Container[bytes]) -> Pruned:
    """Drop the rows of images that nobody wants, and merge small shards.

    New shards are committed before old ones are removed: killed in between, no row is lost.
    """
    with storage_errors(store.folder, "write"), only_one(store.folder / ".prune"):
        clear_unfinished(store.folder, ANY_UNFINISHED)
        store.verify()  # to see what another pruning has left
        rows, shards = len(store), len(store.shards)
        kept = _kept(store, wanted)
        old = _to_rewrite(store, kept)
        keys = [key for name in sorted(old) for key in kept[name]]
        for start in range(0, len(keys), store.rows_per_shard):
            part = keys[start : start + store.rows_per_shard]
            old.discard(store.write(part, store.read(part)))
        forget(store.folder)
        for name in old:
            (store.folder / name).unlink(missing_ok=True)
        store.verify()
        return Pruned(store, rows - len(store), shards - len(store.shards))


def _kept(store: FeatureStore, wanted: Container[bytes]) -> dict[str, list[Key]]:
    """List the rows of each shard that stay; of a row in several shards, that of one stays."""
    kept: dict[str, list[Key]] = {name: [] for name in store.shards}
    for key, name in store.find(store):
        if name and key[0] in wanted:
            kept[name].append(key)
    return kept


def _to_rewrite(store: FeatureStore, kept: dict[str, list[Key]]) -> set[str]:
    """Name the shards that lose rows, and those so small that they are merged."""
    old = {name for name, keys in kept.items() if len(keys) < store.shards[name]}
    small = [name for name, keys in kept.items() if len(keys) < store.rows_per_shard // 2]
    return old.union(small if len(small) > 1 else ())
