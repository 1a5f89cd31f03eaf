"""The feature store: immutable HDF5 shards, each named by the SHA-256 of its bytes.

A shard is written once and whole, and a reader hashes its bytes before it believes any of them. So
there is nothing to lock, to append to or to repair: a row is stored and right, or it is missing.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.errors import StoreError
from pipeline.features.derived import DERIVED
from pipeline.features.folder import (
    has_recipe,
    list_stores,
    prepare_folder,
    read_recipe,
    set_aside,
    storage_errors,
)
from pipeline.features.index import Index
from pipeline.features.keys import Key, Keys
from pipeline.features.shard import (
    MOST_ROWS,
    Damaged,
    DamagedShardError,
    Shard,
    make_shard,
    open_shard,
    read_shard,
    rows_per_shard,
    shard_name,
)
from pipeline.system.files import write_file

_ROWS_AT_ONCE = 1024
_SHARDS_AT_ONCE = 128

Part = TypeVar("Part")


def open_stores(cache: Path) -> Iterator[FeatureStore | StoreError]:
    """Open every store of a cache, by name; a bad store gives an error and hides no other."""
    for folder in list_stores(Path(cache)):
        try:
            yield FeatureStore.at(folder)
        except StoreError as error:
            yield error


class FeatureStore:
    """The rows of one recipe, in one folder of the cache.

    Parameters
    ----------
    cache : Path
        The cache folder; the store lies in a folder of it that is named after the recipe.
    recipe : Recipe
        What made the rows.
    index : bool
        False leaves out what is stored: the store then knows only the rows that it wrote itself,
        and is opened in no time, to write.
    hold : collection of bytes
        Digests of images whose rows are going to be read: the bytes of their shards are kept, as
        checked, until then or until `release`, so that each file is read once for both.

    Attributes
    ----------
    folder : Path
        Where the shards lie. Made by the first `write`.
    damaged : list of Damaged
        Shards found damaged so far. They were renamed to end in ``.damaged``; their rows
        count as missing.

    Raises
    ------
    StoreError
        The store is of a newer schema, its recipe file is damaged, or it cannot be read.
    """

    def __init__(
        self, cache: Path, recipe: Recipe, *, index: bool = True, hold: Iterable[bytes] = ()
    ) -> None:
        self.recipe = recipe
        self.folder = Path(cache) / recipe.name
        self.damaged: list[Damaged] = []
        self._index = Index()  # the shard itself tells where in it a row is
        self._hold = frozenset(hold)
        self._held: dict[str, bytes] = {}
        if index:
            self.refresh()

    @classmethod
    def at(cls, folder: Path, *, hold: Iterable[bytes] = ()) -> FeatureStore:
        """Open the store that lies in a folder, by the recipe that is written there."""
        recipe = read_recipe(folder)
        if recipe.name != folder.name:
            raise StoreError(
                f"the store {folder} was renamed.", expected=f"its own name, {recipe.name}"
            )
        return cls(folder.parent, recipe, hold=hold)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._index)

    @property
    def shards(self) -> Mapping[str, int]:
        """The shards that are whole: file names, in the order of reading, and numbers of rows."""
        return self._index.shards

    @property
    def size(self) -> int:
        """Bytes on disk."""
        size = 0
        for path in (*self.folder.glob("*.h5"), *self.folder.glob(DERIVED)):
            with contextlib.suppress(FileNotFoundError):  # pruned a moment ago
                size += path.stat().st_size
        return size

    @property
    def rows_per_shard(self) -> int:
        """How many rows a writer puts into a shard."""
        return rows_per_shard(self.recipe)

    def refresh(self) -> None:
        """Take in the shards that were added since the store was opened."""
        with storage_errors(self.folder, "read"):
            if not self.folder.is_dir():
                return
            if has_recipe(self.folder):
                read_recipe(self.folder)  # only to refuse a store of a newer release
            names = sorted(path.name for path in self.folder.glob("*.h5"))
        self.take_in(names)

    def take_in(self, names: Iterable[str]) -> list[str]:
        """Take in shards that others wrote; return the names of those absent or damaged."""
        refused = []
        new = (name for name in names if name not in self.shards)
        while block := list(itertools.islice(new, _SHARDS_AT_ONCE)):
            loaded = {name: self._load_keys(name) for name in block}
            self._index.add([(name, keys) for name, keys in loaded.items() if keys is not None])
            refused += [name for name, keys in loaded.items() if keys is None]
        return refused

    def verify(self) -> None:
        """Read and check every byte of every shard again; what is bad joins `damaged`."""
        self._index.clear()
        self.release()
        self.refresh()

    def release(self) -> None:
        """Free the memory of the shards that are held, and hold no more."""
        self._hold = frozenset()
        self._held.clear()

    def find(self, keys: Iterable[Key]) -> Iterator[tuple[Key, str | None]]:
        """Tell for each key which shard holds its row, None if none does."""
        return self._index.find(keys)

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of `keys` that have no row, each once, in their order."""
        return list(dict.fromkeys(key for key, name in self.find(keys) if name is None))

    def count(self, keys: Keys) -> int:
        """Count how many of some rows, all different, are stored."""
        return int(np.count_nonzero(self.holds(keys)))

    def holds(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Tell which of some rows are stored."""
        return self._index.holds(keys)

    def read(
        self, keys: Sequence[Key], out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Read rows; each shard once.

        Parameters
        ----------
        keys : sequence of Key
            The rows wanted; a key may stand there more than once.
        out : ndarray of float32, optional
            Where to put them, in place of a new array.

        Returns
        -------
        ndarray of float32, shape (len(keys), height, width, channels)
            The rows, in the order of `keys`.

        Raises
        ------
        StoreError
            A row is not stored, or its shard turned out to be damaged.
        """
        places_in: dict[str, list[int]] = {}
        for place, (_, name) in enumerate(self.find(keys)):
            places_in.setdefault(name or "", []).append(place)
        absent = places_in.pop("", [])
        self._refuse({keys[place] for place in absent})
        rows = np.empty((len(keys), *self.recipe.shape), np.float32) if out is None else out
        for name, places in places_in.items():
            own = [keys[place] for place in places]
            read = partial(Shard.read_into, rows=rows, places=places, keys=own)
            if self._load(name, read) is None:
                absent += places
        self._refuse({keys[place] for place in absent})
        return rows

    def blocks(
        self, keys: Sequence[Key]
    ) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """Yield rows and their places among `keys`, some at a time, shard after shard.

        The rows together may be larger than memory; a shard is read once, or in a few parts.
        """
        shards = [name or "" for _, name in self.find(keys)]
        order = np.argsort(shards, kind="stable")
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            places = order[start : start + _ROWS_AT_ONCE]
            yield self.read([keys[place] for place in places]), places

    def stream(
        self, names: Iterable[str] | None = None
    ) -> Iterator[tuple[Keys, npt.NDArray[np.float32]]]:
        """Yield the keys and rows of some shards, by default all, with one at a time in memory."""
        overlapping = sum(self.shards.values()) > len(self)
        for name in list(self.shards if names is None else names):
            loaded = self._load(name, lambda shard: (shard.keys(), shard.rows()))
            if loaded is None:
                continue
            keys, rows = loaded
            if overlapping:  # a row in several shards comes from the one that `read` takes, too
                own = np.flatnonzero([holder == name for _, holder in self.find(keys)])
                keys, rows = keys.take(own), rows[own]
            yield keys, rows

    def prepare(self) -> None:
        """Make the folder ready, so that one that cannot be written is found before long work."""
        prepare_folder(self.folder, self.recipe)

    def write(self, keys: Sequence[Key], rows: npt.NDArray[np.float32]) -> str:
        """Commit rows as one new shard: when this returns, they are on disk for good.

        Parameters
        ----------
        keys : sequence of Key
            Names of the rows, all different.
        rows : ndarray of float32, shape (len(keys), height, width, channels)

        Returns
        -------
        str
            The shard's file name.

        Raises
        ------
        StoreError
            The shard could not be written; nothing else has changed.
        """
        if len(set(keys)) != len(keys) or not keys:
            raise ValueError("keys must be different from each other, and at least one")
        if len(keys) > MOST_ROWS:
            raise ValueError(f"keys must be {MOST_ROWS} or fewer")
        if rows.shape != (len(keys), *self.recipe.shape) or rows.dtype != np.float32:
            raise ValueError(f"rows must be float32 {(len(keys), *self.recipe.shape)}")
        content = make_shard(self.recipe, keys, rows)
        name = shard_name(content)
        if not has_recipe(self.folder):
            self.prepare()
        with storage_errors(self.folder, "write"):
            write_file(self.folder / name, content, sync_folder=True)
        if name not in self.shards:
            self._index.add([(name, Keys.of(keys))])
        return name

    def _refuse(self, absent: Collection[Key]) -> None:
        if absent:
            damage = "".join(f" {bad.name} is damaged: {bad.reason}." for bad in self.damaged)
            raise StoreError(
                f"{len(absent)} of the rows asked for are not in {self.folder}.{damage}",
                fix="run the same command again, or `pipeline features`: it makes them",
            )

    def _load_keys(self, name: str) -> Keys | None:
        """Read what rows a shard has, and hold it if some of them are going to be read."""
        keys = self._load(name, Shard.keys, hold=bool(self._hold))
        if keys is not None and self._hold.isdisjoint(map(bytes, keys.digests)):
            self._held.pop(name, None)
        return keys

    def _load(self, name: str, part: Callable[[Shard], Part], *, hold: bool = False) -> Part | None:
        """Read a part of a shard, checked; None if it is gone, or damaged and so set aside."""
        path = self.folder / name
        content = held = self._held.pop(name, None)
        with storage_errors(path, "read"):
            try:
                content = held or read_shard(path, self.recipe)
                with open_shard(content, path, self.recipe, hashed=held is not None) as shard:
                    loaded = part(shard)
            except FileNotFoundError:
                self._index.forget(name)
                return None
            except DamagedShardError as damage:
                self._index.forget(name)
                self.damaged.append(Damaged(name, str(damage)))
                set_aside(path, content)
                return None
        if hold:
            self._held[name] = content
        return loaded
