"""The rows of a data set's images from a store, a few shards at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import SPLITS, Dataset
from pipeline.data.packed import distinct, packed
from pipeline.errors import StoreError
from pipeline.features.keys import Keys
from pipeline.features.store import FeatureStore

_SHARDS_MIXED = 8

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Places = npt.NDArray[np.int64]
Which = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Stream:
    """The rows of a data set's images, from a store.

    Parameters
    ----------
    store : FeatureStore
        Holds view 0 of the images.
    dataset : Dataset
        The images.
    seed : int
        Decides the order.

    Raises
    ------
    StoreError
        An image has no row.
    """

    def __init__(self, store: FeatureStore, dataset: Dataset, *, seed: int = 0) -> None:
        digests = packed(dataset.digests)
        images = distinct(digests)
        lacking = len(images) - store.count(Keys(images, np.zeros(len(images), np.uint16)))
        if lacking:
            raise _lacking(lacking, store, dataset)
        del images
        self._texts = np.ascontiguousarray(digests).view("S32").ravel()
        self._order = np.argsort(self._texts, kind="stable")
        self.store = store
        self.dataset = dataset
        self.seed = seed
        self._idle: set[str] = set()  # shards of other data sets and views: read once at most

    def epoch(self, number: int, *splits: str) -> Iterator[tuple[Rows, Labels]]:
        """Give the rows of some splits in an order that follows from the epoch's number."""
        rng = np.random.default_rng([self.seed, number])
        names = rng.permutation(list(self.store.shards)).tolist()
        shards = self._shards(names, self._which(splits))
        while some := list(itertools.islice(shards, _SHARDS_MIXED)):
            places = np.concatenate([part for _, part in some])
            mixed = rng.permutation(len(places))
            rows = np.concatenate([part for part, _ in some])[mixed]
            del some  # what is used now is all that memory holds
            yield rows, self.dataset.targets.labels[places[mixed]]

    def once(self, *splits: str) -> Iterator[tuple[Rows, Places]]:
        """Give the rows of some splits, or of all, a shard at a time."""
        yield from self._shards(list(self.store.shards), self._which(splits or SPLITS))

    def read(self, places: Places) -> Rows:
        """Read the rows of some images, shape (n, height, width, channels)."""
        return self.store.read([(self.dataset.digests[place], 0) for place in places])

    def apply(
        self,
        functions: Sequence[Callable[[Rows], npt.NDArray[Any]]],
        wanted: Places | None = None,
    ) -> list[Floats]:
        """Apply functions of rows to some images, or to all, in one pass."""
        if wanted is None:
            wanted = np.arange(len(self.dataset))
        which = np.zeros(len(self.dataset), bool)
        which[wanted] = True
        found: list[Floats] = []
        for rows, places in self._shards(list(self.store.shards), which):
            values = [np.asarray(function(rows), np.float64) for function in functions]
            found = found or [np.empty((len(wanted), *one.shape[1:])) for one in values]
            for whole, part in zip(found, values):
                whole[np.searchsorted(wanted, places)] = part
        return found

    def class_weights(self, *splits: str, balanced: bool) -> Floats:
        """Give each class's weight, shape (k,): 1, or what ``class_weight="balanced"`` means."""
        data = self.dataset
        counts = data.targets.counts(np.flatnonzero(self._which(splits)))
        if not balanced:
            return np.ones(len(counts))
        weights: Floats = counts.sum() / np.count_nonzero(counts) / np.maximum(counts, 1)
        return weights

    def _which(self, splits: Sequence[str]) -> Which:
        return np.isin(self.dataset.splits, splits)

    def _shards(self, names: Iterable[str], wanted: Which) -> Iterator[tuple[Rows, Places]]:
        lacking = int(np.count_nonzero(wanted))
        for name in names:
            if name in self._idle:
                continue
            for keys, rows in self.store.stream([name]):
                which, places = self._places(keys)
                if not len(places):
                    self._idle.add(name)
                chosen = wanted[places]
                which, places = which[chosen], places[chosen]
                lacking -= len(places)
                if len(places):
                    yield rows.reshape(len(rows), -1)[which], places
        if lacking:  # a shard was removed, or found damaged, since the stream was made
            raise _lacking(lacking, self.store, self.dataset)

    def _places(self, keys: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Tell which of some rows are of which images; copies of an image share one."""
        texts = np.ascontiguousarray(keys.digests).view("S32").ravel()
        first, after = (
            np.searchsorted(self._texts, texts, side, self._order) for side in ("left", "right")
        )
        count = after - first
        count[keys.views > 0] = 0
        which = np.repeat(np.arange(len(texts)), count)
        within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        return which, self._order[np.repeat(first, count) + within]


def _lacking(count: int, store: FeatureStore, dataset: Dataset) -> StoreError:
    return StoreError(
        f"{count:,} of the images of {dataset.name} have no row in {store.folder}.",
        fix="run the same command again, or `pipeline features`: it makes them",
    )
