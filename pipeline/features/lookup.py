"""Rows of image files: looked up in the cache, or computed and not kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import Forward, Pixels
from pipeline.data.urls import Location
from pipeline.errors import ImageError, StoreError
from pipeline.features.computing import IN_MEMORY, ImageViews, Rows, compute_rows
from pipeline.features.listener import Listener
from pipeline.features.store import FeatureStore

_FILES_AT_ONCE = 1024  # whose stored rows are read together: a shard may hold rows of many

_Outcome = tuple[ImageViews, list[Rows] | ImageError | bytes]


@dataclass(frozen=True)
class RowLookup:
    """Gives the rows of image files, each file read once.

    It may be used again and again, also by several threads: the network computes for one at a time.

    Attributes
    ----------
    recipe : Recipe
        Of the views beyond view 0.
    forward : callable
        Computes the rows that are not stored.
    stores : sequence of FeatureStore
        For each view the store that it may lie in; empty where there is no cache.
    views : int
        How many views of each image.
    """

    recipe: Recipe
    forward: Forward
    stores: Sequence[FeatureStore]
    views: int
    _alone: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def rows(
        self, files: Iterable[Location | bytes], listener: Listener
    ) -> Iterator[tuple[Location, Rows | ImageError]]:
        """Yield each file, in order, with a row for each view, or why there are none.

        For what is in a file, `IN_MEMORY` is given as its path.
        The listener is told at the end of damaged shards, whose rows were computed.
        """
        views = tuple(range(self.views))
        requests = (
            ImageViews(IN_MEMORY, views=views, content=file)
            if isinstance(file, bytes)
            else ImageViews(file, views=views)
            for file in files
        )

        def is_stored(digest: bytes) -> bool:
            listener.image_read(digest)
            return self._is_stored(digest)

        waiting: list[_Outcome] = []
        for batch in compute_rows(requests, self.recipe, self.compute, is_stored):
            waiting += batch
            computed = any(isinstance(outcome, list) for _, outcome in batch)
            if computed or len(waiting) >= _FILES_AT_ONCE:
                yield from self._resolved(waiting)
                waiting = []
        yield from self._resolved(waiting)
        for store in dict.fromkeys(self.stores):
            if store.damaged:
                listener.set_aside(store)

    def compute(self, pixels: Pixels) -> Rows:
        """Compute rows of decoded pictures, uint8 (n, size, size, 3)."""
        with self._alone:
            return self.forward(pixels)

    def _is_stored(self, digest: bytes) -> bool:
        return bool(self.stores) and not any(
            store.missing([(digest, view)]) for view, store in enumerate(self.stores)
        )

    def _resolved(self, batch: Sequence[_Outcome]) -> Iterator[tuple[Location, Rows | ImageError]]:
        """Read the stored rows, and put them in their places among those that were computed."""
        stored = iter(self._read([(r, digest) for r, digest in batch if isinstance(digest, bytes)]))
        for request, outcome in batch:
            if isinstance(outcome, list):
                yield request.path, np.stack(outcome)
            elif isinstance(outcome, bytes):
                yield request.path, next(stored)
            else:
                yield request.path, outcome

    def _read(self, stored: Sequence[tuple[ImageViews, bytes]]) -> Iterator[Rows | ImageError]:
        if not stored:
            return
        digests = [digest for _, digest in stored]
        try:
            with self._alone:
                views = [
                    store.read([(digest, view) for digest in digests])
                    for view, store in enumerate(self.stores)
                ]
        except StoreError:  # a shard is gone, or cannot be read any more: compute its rows
            requests = (request for request, _ in stored)
            for batch in compute_rows(requests, self.recipe, self.compute):
                for _, outcome in batch:
                    yield outcome if isinstance(outcome, ImageError) else np.stack(outcome)
            return
        yield from np.stack(views, axis=1)
