"""Images to rows: decoding ahead, batches, committing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.running import Forward, Pixels, load_backbone
from pipeline.data.augmentation import Augmentation
from pipeline.data.digests import read_image
from pipeline.data.images import decode
from pipeline.data.urls import REQUESTS_AT_ONCE, Location
from pipeline.data.views import apply, draw
from pipeline.errors import ImageError
from pipeline.features.keys import Key
from pipeline.features.store import FeatureStore

Rows = npt.NDArray[np.float32]
Commit = Callable[
    [FeatureStore, Iterable["Task"], Forward], Generator[list[tuple["Task", ImageError | None]]]
]
"""Computes rows and commits them to a store, as `commit_rows` does."""

_PIXELS_PER_BATCH = 64 * 150 * 150  # about 1 GB of activations in float32; larger is not faster
_IMAGES_PER_BATCH = 256  # of small ones: 1,400 at 32 x 32 are as fast, and take twice the memory
_DECODING_THREADS = 4
_BATCHES_AHEAD = 3


@dataclass(frozen=True)
class Task:
    """An image file, the digest that it is known to have, and views of it to compute."""

    path: Location
    digest: bytes | None = None
    views: tuple[int, ...] = (0,)


def commit_rows(
    store: FeatureStore, tasks: Iterable[Task], forward: Forward
) -> Generator[list[tuple[Task, ImageError | None]]]:
    """Make rows in this process, and commit them a shard at a time.

    Closed at any moment, it commits what was computed.

    Parameters
    ----------
    store : FeatureStore
        Where rows go.
    tasks : iterable of Task
        The work, with digests; it is asked for a few batches ahead.
    forward : callable
        Pixels to rows.

    Yields
    ------
    list of (Task, ImageError or None)
        The tasks of the next batch, in order, and why one has no rows.
    """
    pending = _Pending(store)
    try:
        for batch in compute_rows(tasks, store.recipe, forward):
            for task, outcome in batch:
                if not isinstance(outcome, ImageError):
                    pending.add(task, outcome)
            yield [
                (task, outcome if isinstance(outcome, ImageError) else None)
                for task, outcome in batch
            ]
    finally:
        pending.commit()


def compute_rows(
    tasks: Iterable[Task], recipe: Recipe, forward: Forward
) -> Iterator[list[tuple[Task, list[Rows] | ImageError]]]:
    """Decode images and run them through the backbone, decoding ahead while it computes.

    Parameters
    ----------
    tasks : iterable of Task
        The work; it is asked for a few batches ahead.
    recipe : Recipe
        Size, resize rule and augmentation.
    forward : callable
        Pixels to rows.

    Yields
    ------
    list of (Task, list of ndarray or ImageError)
        For each task of the next batch, in order, a row for each of its views, or the reason
        why it has none.
    """
    augmentation = Augmentation.from_name(recipe.augmentation)

    def pixels(task: Task) -> list[Pixels] | ImageError:
        try:
            content, digest = read_image(task.path, task.digest)
            with decoding:
                picture = decode(content, recipe.size, resize=recipe.resize)
        except ImageError as error:
            return ImageError(error.found)  # its traceback would keep the file's bytes in memory
        return [
            apply(picture, draw(augmentation, digest, view)) if view else picture
            for view in task.views
        ]

    most = max(1, min(_IMAGES_PER_BATCH, _PIXELS_PER_BATCH // recipe.size**2))
    batches = grouped(tasks, most)
    decoding = threading.Semaphore(_DECODING_THREADS)  # a large picture takes much memory
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        ahead: deque[list[tuple[Task, Future[list[Pixels] | ImageError]]]] = deque()
        try:
            for batch in batches:
                ahead.append([(task, pool.submit(pixels, task)) for task in batch])
                if len(ahead) > _BATCHES_AHEAD:
                    yield _forward_batch(ahead.popleft(), forward, most)
            while ahead:
                yield _forward_batch(ahead.popleft(), forward, most)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def grouped(tasks: Iterable[Task], rows: int) -> Iterator[list[Task]]:
    """Put tasks together that make up to `rows` rows, or one that makes more."""
    batch: list[Task] = []
    count = 0
    for task in tasks:
        if batch and count + len(task.views) > rows:
            yield batch
            batch, count = [], 0
        batch.append(task)
        count += len(task.views)
    if batch:
        yield batch


def _forward_batch(
    batch: Sequence[tuple[Task, Future[list[Pixels] | ImageError]]], forward: Forward, most: int
) -> list[tuple[Task, list[Rows] | ImageError]]:
    decoded = [(task, future.result()) for task, future in batch]
    pictures = [one for _, found in decoded if isinstance(found, list) for one in found]
    # The views of a single image can be more than what is to be computed at once.
    parts = (pictures[start : start + most] for start in range(0, len(pictures), most))
    rows = chain.from_iterable(forward(np.stack(part)) for part in parts)
    return [
        (task, found if isinstance(found, ImageError) else [next(rows) for _ in found])
        for task, found in decoded
    ]


@dataclass
class _Pending:
    """Rows that were computed and are not committed yet."""

    store: FeatureStore
    keys: list[Key] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)

    def add(self, task: Task, rows: Sequence[Rows]) -> None:
        assert task.digest is not None  # noqa: S101 -- for the type checker
        for view, row in zip(task.views, rows):
            self.keys.append((task.digest, view))
            self.rows.append(row.copy())  # a view would keep its whole batch in memory
            if len(self.keys) == self.store.rows_per_shard:
                self.commit()

    def commit(self) -> None:
        if self.keys:
            keys, rows, self.keys, self.rows = self.keys, self.rows, [], []
            self.store.write(keys, np.stack(rows))


@dataclass(frozen=True)
class LateBackbone:
    """The backbone, loaded when its first batch comes: often there is nothing to do."""

    recipe: Recipe
    weights: Path | None

    def __call__(self, pixels: Pixels) -> Rows:
        return self._loaded(pixels)

    @cached_property
    def _loaded(self) -> Forward:
        return load_backbone(self.recipe, self.weights)
