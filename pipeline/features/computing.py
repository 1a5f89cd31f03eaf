"""Images to rows: decoding ahead, batches, committing."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import Forward, Pixels, load_backbone
from pipeline.data.augmentation import Augmentation
from pipeline.data.digests import read_image
from pipeline.data.images import DECODING_THREADS
from pipeline.data.servers import REQUESTS_AT_ONCE
from pipeline.data.urls import Location
from pipeline.data.views import apply, draw
from pipeline.errors import ImageError
from pipeline.features.joint import JointStore
from pipeline.features.keys import Key
from pipeline.system.threads import ReadingThreads

Rows = npt.NDArray[np.float32]
Commit = Callable[
    [JointStore, Iterable["ImageViews"], Forward],
    Generator[list[tuple["ImageViews", ImageError | None]]],
]
"""Computes rows and commits them to a store, as `commit_rows` does."""


class Workers(Protocol):
    """Other processes that compute rows and fit heads: `pipeline.features.cluster.Cluster`."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Rows per second of each worker, while it worked."""

    def commit_rows(
        self, store: JointStore, requests: Iterable[ImageViews], forward: Forward
    ) -> Generator[list[tuple[ImageViews, ImageError | None]]]:
        """Compute rows and commit them, as `commit_rows` does."""

    def spread(self, *shared: Any) -> AbstractContextManager[Sequence[Any]]:
        """Have joblib run on the workers while the context lasts."""


Decoded = list[Pixels] | ImageError | bytes
"""An image's views, or why there are none, or its digest, if its rows are stored."""

IN_MEMORY = Path("an image in memory")
"""Stands for the path of an image that came as bytes."""

PIXELS_PER_BATCH = 64 * 150 * 150
"""What the network sees at once: about 1 GB of activations in float32. More is not faster."""
_IMAGES_PER_BATCH = 256  # of small ones: 1,400 at 32 x 32 are as fast, and take twice the memory
_BATCHES_AHEAD = 3


@dataclass(frozen=True)
class ImageViews:
    """An image file, the digest that it is known to have, and the views of it to compute.

    Where its `content` is at hand, no file is read.
    """

    path: Location
    digest: bytes | None = None
    views: tuple[int, ...] = (0,)
    content: bytes | None = None

    def read(self) -> tuple[bytes, bytes]:
        """Return what is in the file, and its SHA-256."""
        if self.content is None:
            return read_image(self.path, self.digest)
        return self.content, hashlib.sha256(self.content).digest()


def commit_rows(
    store: JointStore, requests: Iterable[ImageViews], forward: Forward
) -> Generator[list[tuple[ImageViews, ImageError | None]]]:
    """Compute rows in this process, and commit them a shard at a time.

    Closed at any moment, it commits what was computed.
    """
    pending = _Pending(store)
    try:
        for batch in compute_rows(requests, store.recipe, forward):
            for request, outcome in batch:
                if isinstance(outcome, list):
                    pending.add(request, outcome)
            yield [
                (request, outcome if isinstance(outcome, ImageError) else None)
                for request, outcome in batch
            ]
    finally:
        pending.commit()


def compute_rows(
    requests: Iterable[ImageViews],
    recipe: Recipe,
    forward: Forward,
    is_stored: Callable[[bytes], bool] = lambda digest: False,
) -> Iterator[list[tuple[ImageViews, list[Rows] | ImageError | bytes]]]:
    """Decode images and run them through the backbone, decoding ahead while it computes.

    Of an image that is stored already, its digest is given in place of rows.
    """
    augmentation = Augmentation.from_name(recipe.augmentation)

    def pixels(request: ImageViews) -> Decoded:
        try:
            content, digest = request.read()
            if is_stored(digest):
                return digest
            with decoding:
                picture = recipe.decode(content)
        except ImageError as error:
            return error.bare()  # its traceback would keep the file's bytes in memory
        return [
            apply(picture, draw(augmentation, digest, view)) if view else picture
            for view in request.views
        ]

    most = max(1, min(_IMAGES_PER_BATCH, PIXELS_PER_BATCH // recipe.size**2))
    batches = grouped(requests, most)
    decoding = threading.Semaphore(DECODING_THREADS)
    with ReadingThreads(REQUESTS_AT_ONCE) as threads:
        ahead: deque[list[tuple[ImageViews, Future[Decoded]]]] = deque()
        for batch in batches:
            ahead.append([(request, threads.submit(pixels, request)) for request in batch])
            if len(ahead) > _BATCHES_AHEAD:
                yield _forward_batch(ahead.popleft(), forward, most)
        while ahead:
            yield _forward_batch(ahead.popleft(), forward, most)


def grouped(requests: Iterable[ImageViews], rows: int) -> Iterator[list[ImageViews]]:
    """Put requests together that make up to `rows` rows, or one that makes more."""
    batch: list[ImageViews] = []
    count = 0
    for request in requests:
        if batch and count + len(request.views) > rows:
            yield batch
            batch, count = [], 0
        batch.append(request)
        count += len(request.views)
    if batch:
        yield batch


def _forward_batch(
    batch: Sequence[tuple[ImageViews, Future[Decoded]]], forward: Forward, most: int
) -> list[tuple[ImageViews, list[Rows] | ImageError | bytes]]:
    decoded = [(request, future.result()) for request, future in batch]
    pictures = [picture for _, views in decoded if isinstance(views, list) for picture in views]
    # The views of a single image can be more than what is to be computed at once.
    parts = (pictures[start : start + most] for start in range(0, len(pictures), most))
    rows = chain.from_iterable(forward(np.stack(part)) for part in parts)
    return [
        (request, [next(rows) for _ in views] if isinstance(views, list) else views)
        for request, views in decoded
    ]


@dataclass
class _Pending:
    """Rows that were computed and are not committed yet."""

    store: JointStore
    keys: list[Key] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)

    def add(self, request: ImageViews, rows: Sequence[Rows]) -> None:
        """Take in the rows of an image's views; commit whenever a shard is full."""
        assert request.digest is not None  # noqa: S101 -- for the type checker
        for view, row in zip(request.views, rows):
            self.keys.append((request.digest, view))
            self.rows.append(row)
            if len(self.keys) == self.store.rows_per_shard:
                self.commit()

    def commit(self) -> None:
        """Write what there is as one shard."""
        if self.keys:
            keys, rows, self.keys, self.rows = self.keys, self.rows, [], []
            self.store.write(keys, rows)


@dataclass(frozen=True)
class LateBackbone:
    """The backbone, loaded when its first batch comes: often there is nothing to do."""

    recipe: Recipe
    weights: Path | None
    beside: tuple[Recipe, ...] = ()

    def __call__(self, pixels: Pixels) -> Rows:
        """Compute rows."""
        return self._loaded(pixels)

    @cached_property
    def _loaded(self) -> Forward:
        return load_backbone(self.recipe, self.weights, beside=self.beside)
