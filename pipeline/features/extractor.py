"""Stage one: find out which rows are missing, make them, and commit them to the store."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import make_recipe
from pipeline.backbones.running import Forward
from pipeline.data.dataset import Dataset, Quarantined
from pipeline.data.digests import digest_files, read_image
from pipeline.data.images import decode
from pipeline.data.packed import distinct, packed
from pipeline.data.urls import Location
from pipeline.errors import DataError, ImageError, StoreError
from pipeline.features.calibration import calibrated
from pipeline.features.computing import Commit, LateBackbone, Rows, Task, commit_rows
from pipeline.features.keys import Key, Keys, keys
from pipeline.features.store import CACHE, FeatureStore
from pipeline.features.views import Views
from pipeline.system.files import free_space

Progress = Callable[[int, int], None]
_IMAGES_LOOKED_UP = 1024
_SHRUNK_AT_MOST = {"float32": 0.5, "bfloat16": 0.25, "int8": 0.5}


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
        How images become rows; the default is that of `pipeline.backbones.registry.make_recipe`.
    views : Views, optional
        Which views of the images; the default is view 0, the image itself.
    cache : str or Path
        The cache folder.
    weights : Path, optional
        File with the backbone's weights; see `pipeline.backbones.backbone.Backbone.load_weights`.
    strict : bool
        Fail if any file of the data set cannot be used.
    on_progress : callable, optional
        Called with the number of rows done, and to do, after each batch.
    backbone : callable, optional
        What computes rows from pixels, in place of the recipe's backbone.
    plan : Plan, optional
        What `plan_extraction` found for the same arguments, which spares opening the stores again.
    commit : callable, optional
        What makes rows and commits them, in place of `commit_rows`: a `pipeline.features.cluster.Cluster`.

    Raises
    ------
    StoreError
        The cache cannot be read or written, or there is too little space.
    WeightsError
        The backbone's weights are not to be had.
    DataError
        No usable images are left, or `strict` and there is an unusable one.
    """
    recipe = recipe or make_recipe()
    views = views or Views()
    if strict:
        _refuse(dataset.quarantined)
    if backbone is None:
        recipe = calibrated(dataset, recipe, cache=cache, weights=weights)
    todo = plan or plan_extraction(dataset, recipe, cache=cache, views=views)
    check_space([todo])
    started = time.monotonic()
    forward = backbone or LateBackbone(recipe, weights)
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
    recipe = recipe or make_recipe()
    store = FeatureStore(Path(cache), recipe)
    digests = digest_files(paths)
    images = [(path, found) for path, found in zip(paths, digests) if isinstance(found, bytes)]
    missing = len(store.missing((digest, 0) for _, digest in images))
    filling = _Filling(backbone or LateBackbone(recipe, weights), missing)
    filling.fill(store, ((path, digest, range(1)) for path, digest in images))
    reasons = [
        found.found if isinstance(found, ImageError) else filling.refused.get(found)
        for found in digests
    ]
    bad = [Quarantined(path, reason) for path, reason in zip(paths, reasons) if reason]
    return store, [(digest, 0) for _, digest in images if digest not in filling.refused], bad


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


def _refuse(quarantined: Sequence[Quarantined]) -> None:
    if quarantined:
        files = "\n".join(f"  {bad.path}: {bad.reason}" for bad in quarantined)
        raise DataError(
            f"{len(quarantined)} files cannot be used:\n{files}",
            fix="mend or remove them, or leave --strict away to go on without them",
        )
