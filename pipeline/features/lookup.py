"""Rows of image files: looked up in the cache, or computed and not kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import Forward
from pipeline.data.urls import Location
from pipeline.errors import ImageError, StoreError
from pipeline.features.computing import ImageViews, Rows, compute_rows
from pipeline.features.store import FeatureStore

_FILES_AT_ONCE = 1024  # whose stored rows are read together: a shard may hold rows of many

_Outcome = tuple[ImageViews, list[Rows] | ImageError | bytes]


@dataclass(frozen=True)
class RowLookup:
    """Gives the rows of image files, each file read once.

    Attributes
    ----------
    recipe : Recipe
        Of the views beyond view 0.
    forward : callable
        Computes the rows that are not stored.
    stores : sequence of FeatureStore
        For each view the store that it may lie in; empty where there is no cache.
    """

    recipe: Recipe
    forward: Forward
    stores: Sequence[FeatureStore]

    def rows(
        self, files: Sequence[Location], views: int
    ) -> Iterator[tuple[Location, Rows | ImageError]]:
        """Yield each file, in order, with a row for each view, or why there are none."""
        requests = (ImageViews(file, views=tuple(range(views))) for file in files)
        waiting: list[_Outcome] = []
        for batch in compute_rows(requests, self.recipe, self.forward, self._is_stored):
            waiting += batch
            computed = any(isinstance(outcome, list) for _, outcome in batch)
            if computed or len(waiting) >= _FILES_AT_ONCE:
                yield from self._resolved(waiting)
                waiting = []
        yield from self._resolved(waiting)

    def _is_stored(self, digest: bytes) -> bool:
        return bool(self.stores) and all(
            (digest, view) in store for view, store in enumerate(self.stores)
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
            views = [
                store.read([(digest, view) for digest in digests])
                for view, store in enumerate(self.stores)
            ]
        except StoreError:  # a shard is gone, or cannot be read any more: compute its rows
            requests = (request for request, _ in stored)
            for batch in compute_rows(requests, self.recipe, self.forward):
                for _, outcome in batch:
                    yield outcome if isinstance(outcome, ImageError) else np.stack(outcome)
            return
        yield from np.stack(views, axis=1)
