"""Stores whose rows come from one pass of the network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.features.keys import Key, Keys
from pipeline.features.store import FeatureStore


class JointStore:
    """Stores of recipes that differ in their layers only, filled together.

    A row is missing if any of them lacks it. What is written holds the values of all recipes, one
    after the other, as `pipeline.backbones.running.load_backbone` gives them.

    Parameters
    ----------
    stores : sequence of FeatureStore
        The first is the one whose rows are a layer's output.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = tuple(stores)
        self.folder = stores[0].folder
        self.recipe = stores[0].recipe

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """How the rows of each store are made."""
        return tuple(store.recipe for store in self.stores)

    @property
    def rows_per_shard(self) -> int:
        """How many rows a writer puts into a shard of each."""
        return min(store.rows_per_shard for store in self.stores)

    @property
    def shards(self) -> dict[str, int]:
        """File names of the shards of all stores, and their numbers of rows."""
        return {name: rows for store in self.stores for name, rows in store.shards.items()}

    def prepare(self) -> None:
        """Make the folders ready, so that one that cannot be written is found before long work."""
        for store in self.stores:
            store.prepare()

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of `keys` that any store lacks, each once, in their order."""
        wanted = list(dict.fromkeys(keys))
        lacking = {key for store in self.stores for key in store.missing(wanted)}
        return [key for key in wanted if key in lacking]

    def count(self, keys: Keys) -> int:
        """Count how many of some rows, all different, are in every store."""
        held = np.logical_and.reduce([store.holds(keys) for store in self.stores])
        return int(np.count_nonzero(held))

    def take_in(self, names: Iterable[str]) -> list[str]:
        """Take in shards that others wrote; return the names of those that no store has."""
        refused = list(names)
        for store in self.stores:
            refused = store.take_in(refused)
        return refused

    def write(self, keys: Sequence[Key], rows: Sequence[npt.NDArray[np.float32]]) -> None:
        """Commit rows to each store that lacks them; of several, each is of shape (values,)."""
        if len(self.stores) == 1:
            self.stores[0].write(keys, np.stack(rows))
            return
        start = 0
        for store in self.stores:
            own = slice(start, start := start + math.prod(store.recipe.shape))
            lacking = set(store.missing(keys))
            lacked = [(key, row[own]) for key, row in zip(keys, rows) if key in lacking]
            if lacked:
                shape = (len(lacked), *store.recipe.shape)
                names, parts = zip(*lacked)
                store.write(names, np.stack(parts).reshape(shape))
