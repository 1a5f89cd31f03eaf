"""Stage one: find out which rows are missing, make them, and commit them to the store."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.augment import PRESETS, Augmentation, apply, draw
from pipeline.backbone import Backbone, calibrate, needs_calibration, vgg16_recipe
from pipeline.dataset import Dataset, Quarantined
from pipeline.digests import digest_files, read_image
from pipeline.errors import DataError, ImageError, PipelineError, StoreError
from pipeline.images import decode
from pipeline.index import Key, Keys
from pipeline.packed import distinct, packed
from pipeline.recipe import Recipe
from pipeline.store import FeatureStore, open_stores
from pipeline.urls import REQUESTS_AT_ONCE, Location

CACHE = Path("cache")
"""Where features are kept, unless another folder is named."""

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]
Forward = Callable[[Pixels], Rows]
Progress = Callable[[int, int], None]
Commit = Callable[
    [FeatureStore, Iterable["Task"], Forward], Generator[list[tuple["Task", ImageError | None]]]
]
"""Computes rows and commits them to a store, as `commit_rows` does."""

_PIXELS_PER_BATCH = 64 * 150 * 150  # about 1 GB of activations in float32; larger is not faster
_IMAGES_PER_BATCH = 256  # of small ones: 1,400 at 32 x 32 are as fast, and take twice the memory
_DECODING_THREADS = 4
_BATCHES_AHEAD = 3
_IMAGES_LOOKED_UP = 1024
_CALIBRATION_IMAGES = 192
_MOST_VIEWS = 2**16 - 1  # what a shard can number
_SHRUNK_AT_MOST = {"float32": 0.5, "bfloat16": 0.25, "int8": 0.5}


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which views of a data set's images are wanted.

    View 0 is the image itself; the others are seeded augmentations of it.

    Parameters
    ----------
    count : int
        Number of views of each training image, view 0 included.
    augmentation : Augmentation
        How the views beyond view 0 are made.
    everywhere : bool
        Whether validation and test images, too, have all views and not view 0 alone: to average
        over them (test-time augmentation).
    """

    count: int = 1
    augmentation: Augmentation = PRESETS["none"]
    everywhere: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_VIEWS:
            raise PipelineError(f"{self.count} views.", expected=f"1 to {_MOST_VIEWS}")
        if self.count > 1 and self.augmentation == PRESETS["none"]:
            raise PipelineError(
                f"{self.count} views without augmentation would all be the same.",
                expected="an augmentation that changes something, or 1 view",
            )

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe of the views beyond view 0."""
        return replace(recipe, augmentation=self.augmentation.name)

    def of(self, dataset: Dataset) -> Iterator[range]:
        """Tell for each image which views it has beyond view 0."""
        for split in dataset.splits:
            yield range(1, self.count if self.everywhere or split == "train" else 1)

    def keys(self, dataset: Dataset) -> Iterator[Key]:
        """Name the rows of the views beyond view 0, image by image."""
        for digest, views in zip(dataset.digests, self.of(dataset)):
            for view in views:
                yield digest, view


@dataclass(frozen=True)
class Extraction:
    """What stage one did.

    Attributes
    ----------
    dataset : Dataset
        The data set, less the files that could not be read.
    store : FeatureStore
        Holds view 0 of every image of `dataset`.
    augmented : FeatureStore
        Holds the other views; the same store where there are none.
    views : Views
        Which views there are.
    made : int
        Number of rows that were made now.
    seconds : float
        How long that took, loading the backbone included.
    """

    dataset: Dataset
    store: FeatureStore
    augmented: FeatureStore
    views: Views
    made: int
    seconds: float

    def rows(self, view: int = 0, places: Sequence[int] | None = None) -> Rows:
        """Read the features of one view.

        Parameters
        ----------
        view : int
            Which view.
        places : sequence of int, optional
            Positions of the images in `dataset`; the default is all that have the view.

        Returns
        -------
        ndarray of float32, shape (n, height, width, channels)
        """
        digests = self.dataset.digests
        if places is None and view:  # not all images need have it
            places = [at for at, more in enumerate(self.views.of(self.dataset)) if view in more]
        chosen = range(len(digests)) if places is None else places
        store = self.augmented if view else self.store
        return store.read([(digests[place], view) for place in chosen])


@dataclass(frozen=True)
class Plan:
    """What stage one would do.

    Attributes
    ----------
    store, augmented : FeatureStore
        As in `Extraction`.
    there, missing : int
        Number of rows that are there, and that are to be made.
    bytes_per_row : int
        What a row takes on disk: measured on the rows that are there, else what rows of that
        precision took at most where it was measured.
    """

    store: FeatureStore
    augmented: FeatureStore
    there: int
    missing: int
    bytes_per_row: int

    @property
    def bytes_to_make(self) -> int:
        """Bytes on disk that the missing rows will take, about."""
        return self.missing * self.bytes_per_row

    @property
    def free(self) -> int | None:
        """Bytes that are free where the cache is; None where the file system does not tell."""
        return free_space(self.store.folder)


def free_space(folder: Path) -> int | None:
    """Return the bytes that are free where a folder is, or will be; None where nobody can tell."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total else None  # some network drives say 0 of 0


def check_space(plans: Sequence[Plan]) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises
    ------
    StoreError
        The rows to be made need more space than is free.
    """
    missing, needed = (
        sum(plan.missing for plan in plans),
        sum(plan.bytes_to_make for plan in plans),
    )
    free = plans[0].free if missing else None
    if free is not None and needed > free:
        raise StoreError(
            f"the {missing:,} rows to make need about {needed / 1e6:,.1f} MB, and "
            f"{free / 1e6:,.1f} MB are free for {plans[0].store.folder.parent}.",
            fix="make room, name another --cache, or ask for fewer --views",
        )


def plan_extraction(
    dataset: Dataset,
    recipe: Recipe,
    *,
    cache: str | Path = CACHE,
    views: Views | None = None,
    after: Plan | None = None,
) -> Plan:
    """Find out what `extract` would do, and do nothing.

    Parameters
    ----------
    dataset, recipe, cache, views
        As for `extract`.
    after : Plan, optional
        What is to be done before, with other views of the same images: rows of view 0 are the
        same for both, and count there alone.

    Raises
    ------
    StoreError
        The cache cannot be read.
    """
    views = views or Views()
    store = after.store if after else FeatureStore(Path(cache), recipe)
    more = views.count > 1
    augmented = FeatureStore(Path(cache), views.recipe(recipe)) if more else store
    digests = packed(dataset.digests)
    parts = [] if after else [(store, digests, 0)]
    if more:
        viewed = digests if views.everywhere else digests[dataset.where("train")]
        parts += [(augmented, viewed, view) for view in range(1, views.count)]
    wanted = there = 0
    for holder, images, view in parts:
        each = distinct(images)
        wanted += len(each)
        there += holder.count(Keys(each, np.full(len(each), view, np.uint16)))
    known = augmented if len(augmented) else store
    raw = 4 * math.prod(recipe.shape)
    size = known.size / len(known) if len(known) else raw * _SHRUNK_AT_MOST[recipe.precision]
    return Plan(store, augmented, there, wanted - there, math.ceil(size))


def calibrated(
    dataset: Dataset,
    recipe: Recipe,
    *,
    cache: str | Path = CACHE,
    weights: Path | None = None,
    on_calibration: Callable[[int], None] | None = None,
) -> Recipe:
    """Settle how a recipe of precision ``"int8"`` rounds; any other is given back as it is.

    If the cache holds rows of these images, the calibration is that of the store which holds most:
    images that were added change nothing for the others. Else it is measured on up to 192 training
    images, those with the smallest digests, which is as good as by chance.

    Parameters
    ----------
    dataset, recipe, cache, weights
        As for `extract`, which does this by itself.
    on_calibration : callable, optional
        Called with the number of images, before the calibration is measured on them.

    Raises
    ------
    PipelineError
        OpenVINO is not installed, or the cache, the weights or the images cannot be read.
    """
    found = stored_calibration(dataset, recipe, cache=cache)
    if not needs_calibration(found):
        return found
    return _calibrate(dataset, recipe, weights, on_calibration or (lambda count: None))


def stored_calibration(dataset: Dataset, recipe: Recipe, *, cache: str | Path = CACHE) -> Recipe:
    """Return the recipe with the calibration that most of the images' stored rows have, if any."""
    if not needs_calibration(recipe):
        return recipe
    wanted = keys(dataset)
    most, found = 0, recipe
    for store in open_stores(Path(cache)):
        if isinstance(store, FeatureStore) and replace(store.recipe, calibration="none") == recipe:
            there = len(set(wanted)) - len(store.missing(wanted))
            if there > most:
                most, found = there, store.recipe
    return found


def _calibrate(
    dataset: Dataset, recipe: Recipe, weights: Path | None, report: Callable[[int], None]
) -> Recipe:
    digests = dataset.digests
    path_of = {digests[place]: dataset.paths[place] for place in dataset.where("train")}
    sample = [(path_of[digest], digest) for digest in sorted(path_of)[:_CALIBRATION_IMAGES]]
    report(len(sample))
    pixels = []
    for path, digest in sample:
        with contextlib.suppress(ImageError):  # it is listed when its row is to be made
            pixels.append(decode(read_image(path, digest)[0], recipe.size, resize=recipe.resize))
    if not pixels:
        raise DataError(
            f"{dataset.name} has no training image to calibrate precision int8 on.",
            fix="add images to its training split, or use another --precision",
        )
    return calibrate(recipe, np.stack(pixels), weights)


def find_unreadable(dataset: Dataset, store: FeatureStore) -> list[Quarantined]:
    """Decode the images that have no row, and tell which of them can never have one."""
    missing = set(store.missing(keys(dataset)))
    unreadable = []
    for path, digest in zip(dataset.paths, dataset.digests):
        if (digest, 0) in missing:
            try:
                decode(read_image(path, digest)[0], store.recipe.size, resize=store.recipe.resize)
            except ImageError as error:
                unreadable.append(Quarantined(path, error.found))
    return unreadable


def keys(dataset: Dataset) -> list[Key]:
    """Name the row of each image of a data set, in its order."""
    return [(digest, 0) for digest in dataset.digests]


def extract(
    dataset: Dataset,
    recipe: Recipe | None = None,
    *,
    views: Views | None = None,
    cache: str | Path = CACHE,
    weights: Path | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
    backbone: Forward | None = None,
    plan: Plan | None = None,
    commit: Commit | None = None,
) -> Extraction:
    """Make the rows that the cache lacks, and commit them as they come.

    It may be interrupted at any moment and called again: it goes on where it was.

    Parameters
    ----------
    dataset : Dataset
        The images.
    recipe : Recipe, optional
        How images become rows; the default is that of `pipeline.backbone.vgg16_recipe`.
    views : Views, optional
        Which views of the images; the default is view 0, the image itself.
    cache : str or Path
        The cache folder.
    weights : Path, optional
        File with the backbone's weights; see `pipeline.weights.load_weights`.
    strict : bool
        Fail if any file of the data set cannot be used.
    on_progress : callable, optional
        Called with the number of rows done, and to do, after each batch.
    backbone : callable, optional
        What computes rows from pixels, in place of the recipe's backbone.
    plan : Plan, optional
        What `plan_extraction` found for the same arguments, which spares opening the stores again.
    commit : callable, optional
        What makes rows and commits them, in place of `commit_rows`: a `pipeline.cluster.Cluster`.

    Raises
    ------
    StoreError
        The cache cannot be read or written, or there is too little space.
    WeightsError
        The backbone's weights are not to be had.
    DataError
        No usable images are left, or `strict` and there is an unusable one.
    """
    recipe = recipe or vgg16_recipe()
    views = views or Views()
    if strict:
        _refuse(dataset.quarantined)
    if backbone is None:
        recipe = calibrated(dataset, recipe, cache=cache, weights=weights)
    todo = plan or plan_extraction(dataset, recipe, cache=cache, views=views)
    check_space([todo])
    started = time.monotonic()
    forward = backbone or _LateBackbone(recipe, weights)
    filling = _Filling(
        forward, todo.missing, on_progress, strict=strict, commit=commit or commit_rows
    )
    filling.fill(todo.store, zip(dataset.paths, dataset.digests, repeat(range(1))))
    filling.fill(todo.augmented, zip(dataset.paths, dataset.digests, views.of(dataset)))
    dataset = filling.readable(dataset)
    dataset.check_learnable()
    seconds = time.monotonic() - started
    return Extraction(dataset, todo.store, todo.augmented, views, filling.made, seconds)


def extract_files(
    paths: Sequence[Location],
    recipe: Recipe | None = None,
    *,
    cache: str | Path = CACHE,
    weights: Path | None = None,
    backbone: Forward | None = None,
) -> tuple[FeatureStore, list[Key], list[Quarantined]]:
    """Make the rows of some image files, without labels or splits.

    Parameters
    ----------
    paths : sequence of Path or Url
        The files.
    recipe, cache, weights, backbone
        As for `extract`.

    Returns
    -------
    store : FeatureStore
        Holds the rows.
    keys : list of Key
        Names of the rows of the readable files, in their order.
    refused : list of Quarantined
        The files that could not be read.
    """
    recipe = recipe or vgg16_recipe()
    store = FeatureStore(Path(cache), recipe)
    digests = digest_files(paths)
    images = [(path, found) for path, found in zip(paths, digests) if isinstance(found, bytes)]
    missing = len(store.missing((digest, 0) for _, digest in images))
    filling = _Filling(backbone or _LateBackbone(recipe, weights), missing)
    filling.fill(store, ((path, digest, range(1)) for path, digest in images))
    reasons = [
        found.found if isinstance(found, ImageError) else filling.refused.get(found)
        for found in digests
    ]
    bad = [Quarantined(path, reason) for path, reason in zip(paths, reasons) if reason]
    return store, [(digest, 0) for _, digest in images if digest not in filling.refused], bad


@dataclass(frozen=True)
class Task:
    """An image file, the digest that it is known to have, and views of it to compute."""

    path: Location
    digest: bytes | None = None
    views: tuple[int, ...] = (0,)


class _Filling:
    """Makes the rows that stores lack.

    Attributes
    ----------
    made : int
        Number of rows made.
    refused : dict of bytes to str
        Digests of the images that could not be read, and why.
    """

    def __init__(
        self,
        forward: Forward,
        total: int,
        on_progress: Progress | None = None,
        *,
        strict: bool = False,
        commit: Commit | None = None,
    ) -> None:
        self.made = 0
        self.refused: dict[bytes, str] = {}
        self._done = 0  # made, or given up
        self._forward = forward
        self._commit = commit or commit_rows
        self._total = total
        self._report = on_progress or (lambda done, total: None)
        self._strict = strict

    def fill(self, store: FeatureStore, images: Iterable[tuple[Location, bytes, range]]) -> None:
        """Make those rows of the images' views that a store lacks, and commit them."""
        tasks = self._tasks(store, images)
        # Closed at once when interrupted, not when it is forgotten: what was computed is kept.
        with contextlib.closing(self._commit(store, tasks, self._forward)) as batches:
            for batch in batches:
                for task, refusal in batch:
                    self._note(task, refusal)
                self._report(self._done, self._total)

    def readable(self, dataset: Dataset) -> Dataset:
        """Return a data set less the images that were refused."""
        if not self.refused:
            return dataset
        return dataset.without(
            [
                Quarantined(path, self.refused[digest])
                for path, digest in zip(dataset.paths, dataset.digests)
                if digest in self.refused
            ]
        )

    def _tasks(
        self, store: FeatureStore, images: Iterable[tuple[Location, bytes, range]]
    ) -> Iterator[Task]:
        """Give the work one image at a time: a list of it all would be as long as the data."""
        prepared = False
        begun: set[bytes] = set()
        for path, digest, views in _lacking(store, images):
            if digest in begun:
                continue
            begun.add(digest)
            if digest in self.refused:
                self._done += len(views)
                continue
            if not prepared:
                prepared = True
                store.prepare()
                self._report(self._done, self._total)
            yield Task(path, digest, views)

    def _note(self, task: Task, refusal: ImageError | None) -> None:
        assert task.digest is not None  # noqa: S101 -- for the type checker: _tasks gives it
        self._done += len(task.views)
        if refusal is None:
            self.made += len(task.views)
            return
        self.refused[task.digest] = refusal.found
        if self._strict:
            _refuse([Quarantined(task.path, refusal.found)])


def _lacking(
    store: FeatureStore, images: Iterable[tuple[Location, bytes, range]]
) -> Iterator[tuple[Location, bytes, tuple[int, ...]]]:
    """Give the images that a store lacks views of, and which; it is asked for many at once."""
    images = iter(images)
    while block := list(itertools.islice(images, _IMAGES_LOOKED_UP)):
        wanted = ((digest, view) for _, digest, views in block for view in views)
        missing = set(store.missing(wanted))
        for path, digest, views in block:
            if lacking := tuple(view for view in views if (digest, view) in missing):
                yield path, digest, lacking


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
class _LateBackbone:
    """The backbone, loaded when its first batch comes: often there is nothing to do."""

    recipe: Recipe
    weights: Path | None

    def __call__(self, pixels: Pixels) -> Rows:
        return self._loaded(pixels)

    @cached_property
    def _loaded(self) -> Forward:
        return Backbone(self.recipe, self.weights)


def _refuse(quarantined: Sequence[Quarantined]) -> None:
    if quarantined:
        files = "\n".join(f"  {bad.path}: {bad.reason}" for bad in quarantined)
        raise DataError(
            f"{len(quarantined)} files cannot be used:\n{files}",
            fix="mend or remove them, or leave --strict away to go on without them",
        )
