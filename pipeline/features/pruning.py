"""Dropping the rows that no data set needs any more."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.digests import CACHE
from pipeline.data.loading import list_dataset
from pipeline.errors import DataError, StoreError
from pipeline.features.folder import storage_errors
from pipeline.features.keys import Key
from pipeline.features.store import FeatureStore, open_stores
from pipeline.system.files import only_one


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


def prune_cache(sources: Sequence[str | Path], cache: str | Path = CACHE) -> Iterator[Pruned]:
    """Drop the rows of images that are in none of some data sets, store by store."""
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
        if isinstance(store, StoreError):
            raise store
        yield prune(store, wanted)


def prune(store: FeatureStore, wanted: Container[bytes]) -> Pruned:
    """Drop the rows of images that nobody wants, and merge small shards.

    New shards are committed before old ones are removed: killed in between, no row is lost.
    """
    with storage_errors(store.folder, "write"), only_one(store.folder / ".prune"):
        store.verify()  # to see what another pruning has left
        rows, shards = len(store), len(store.shards)
        kept = _kept(store, wanted)
        old = _to_rewrite(store, kept)
        keys = [key for name in sorted(old) for key in kept[name]]
        for start in range(0, len(keys), store.rows_per_shard):
            part = keys[start : start + store.rows_per_shard]
            old.discard(store.write(part, store.read(part)))
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
