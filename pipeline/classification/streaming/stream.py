"""The rows of a data set's images from a store, a few shards at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.classification.arrays import Floats, Labels, Places, RowMatrix
from pipeline.data.dataset import SPLITS, Dataset
from pipeline.data.packed import distinct, packed
from pipeline.errors import StoreError
from pipeline.features.keys import Keys
from pipeline.features.store import FeatureStore

_SHARDS_MIXED = 8


class Stream:
    """Reads the rows of a data set's images from a store.

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
        missing = len(images) - store.count(Keys(images, np.zeros(len(images), np.uint16)))
        if missing:
            raise _missing_rows(missing, store, dataset)
        del images
        self._texts = np.ascontiguousarray(digests).view("S32").ravel()
        self._order = np.argsort(self._texts, kind="stable")
        self.store = store
        self.dataset = dataset
        self.seed = seed
        self._unneeded: set[str] = set()  # shards of other data sets and views: read at most once

    def epoch(self, number: int, *splits: str) -> Iterator[tuple[RowMatrix, Labels]]:
        """Yield the rows and labels of some splits, in an order that the epoch's number decides.

        A block mixes the rows of a few shards. Raises StoreError if rows are no longer stored.
        """
        rng = np.random.default_rng([self.seed, number])
        names = rng.permutation(list(self.store.shards)).tolist()
        blocks = self._blocks(names, self._mask(splits))
        while mixed := list(itertools.islice(blocks, _SHARDS_MIXED)):
            places = np.concatenate([part for _, part in mixed])
            order = rng.permutation(len(places))
            rows = np.concatenate([part for part, _ in mixed])[order]
            del mixed  # so that memory holds only the block in use
            yield rows, self.dataset.targets.labels[places[order]]

    def once(self, *splits: str) -> Iterator[tuple[RowMatrix, Places]]:
        """Yield the rows of some splits, or of all, a shard at a time, and their images' positions.

        Raises StoreError if rows are no longer stored.
        """
        yield from self._blocks(self.store.shards, self._mask(splits or SPLITS))

    def read(self, places: Places) -> npt.NDArray[np.float32]:
        """Return the rows of some images, shape (n, height, width, channels)."""
        return self.store.read([(self.dataset.digests[place], 0) for place in places])

    def labels(self, *splits: str) -> Labels:
        """Return the labels of the images in some splits, in the order of the data set."""
        return self.dataset.targets.labels[self.dataset.where(*splits)]

    def apply(
        self,
        functions: Sequence[Callable[[RowMatrix], npt.NDArray[Any]]],
        places: Places | None = None,
    ) -> list[Floats]:
        """Apply functions of rows to the images at `places` (ascending), or to all, in one pass.

        Each function returns an array as long as its rows; the results are in the data set's order.
        """
        if places is None:
            places = np.arange(len(self.dataset))
        mask = np.zeros(len(self.dataset), bool)
        mask[places] = True
        results: list[Floats] = []
        for rows, part in self._blocks(self.store.shards, mask):
            values = [np.asarray(function(rows), np.float64) for function in functions]
            results = results or [np.empty((len(places), *array.shape[1:])) for array in values]
            for result, array in zip(results, values):
                result[np.searchsorted(places, part)] = array
        return results

    def class_weights(self, *splits: str, balanced: bool) -> Floats:
        """Return each class's weight, shape (k,): 1, or as ``class_weight="balanced"`` has it."""
        data = self.dataset
        if not balanced:
            return np.ones(len(data.classes))
        counts = data.targets.counts(data.where(*splits))
        weights: Floats = counts.sum() / np.count_nonzero(counts) / np.maximum(counts, 1)
        return weights

    def _mask(self, splits: Sequence[str]) -> npt.NDArray[np.bool_]:
        return np.isin(self.dataset.splits, splits)

    def _blocks(
        self, names: Iterable[str], mask: npt.NDArray[np.bool_]
    ) -> Iterator[tuple[RowMatrix, Places]]:
        """Yield the rows of the images in `mask`, and their positions, shard by shard."""
        missing = int(np.count_nonzero(mask))
        for name in list(names):
            if name in self._unneeded:
                continue
            for keys, rows in self.store.stream([name]):
                positions, places = self._match(keys)
                if not len(places):
                    self._unneeded.add(name)
                wanted = mask[places]
                positions, places = positions[wanted], places[wanted]
                missing -= len(places)
                if len(places):
                    yield rows.reshape(len(rows), -1)[positions], places
        if missing:  # a shard was removed, or turned out to be damaged, since the stream was made
            raise _missing_rows(missing, self.store, self.dataset)

    def _match(self, keys: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return pairs of a row's position in a shard and its image's in the data set.

        Several images share a row if they are copies.
        """
        texts = np.ascontiguousarray(keys.digests).view("S32").ravel()
        first, after = (
            np.searchsorted(self._texts, texts, side, self._order) for side in ("left", "right")
        )
        count = after - first
        count[keys.views > 0] = 0
        positions = np.repeat(np.arange(len(texts)), count)
        within = np.arange(len(positions)) - np.repeat(np.cumsum(count) - count, count)
        return positions, self._order[np.repeat(first, count) + within]


def _missing_rows(count: int, store: FeatureStore, dataset: Dataset) -> StoreError:
    return StoreError(
        f"{count:,} of the images of {dataset.name} have no row in {store.folder}.",
        fix="run the same command again, or `pipeline features`, to compute them",
    )
