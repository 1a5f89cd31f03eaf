"""Stage one: find out which rows are missing, make them, and commit them to the store."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.backbone import Backbone, calibrate, needs_calibration, vgg16_recipe
from pipeline.dataset import Dataset, Quarantined
from pipeline.digests import digest_files, read_image
from pipeline.errors import DataError, ImageError
from pipeline.images import decode
from pipeline.recipe import Recipe
from pipeline.store import FeatureStore, Key, open_stores

CACHE = Path("cache")
"""Where features are kept, unless another folder is named."""

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]
Forward = Callable[[Pixels], Rows]
Progress = Callable[[int, int], None]

_PIXELS_PER_BATCH = 64 * 150 * 150  # about 1 GB of activations in float32; larger is not faster
_DECODING_THREADS = 4
_BATCHES_AHEAD = 3
_CALIBRATION_IMAGES = 192


@dataclass(frozen=True)
class Extraction:
    """What stage one did.

    Attributes
    ----------
    dataset : Dataset
        The data set, less the files that could not be read.
    store : FeatureStore
        Holds a row for every image of `dataset`.
    made : int
        Number of rows that were made now.
    seconds : float
        How long that took, loading the backbone included.
    """

    dataset: Dataset
    store: FeatureStore
    made: int
    seconds: float

    def rows(self) -> Rows:
        """Read the features of all images.

        Returns
        -------
        ndarray of float32, shape (len(dataset), height, width, channels)
        """
        return self.store.read(keys(self.dataset))


@dataclass(frozen=True)
class Plan:
    """What stage one would do: how many rows are there, and how many are to be made."""

    store: FeatureStore
    there: int
    missing: int


def plan(dataset: Dataset, recipe: Recipe, *, cache: str | Path = CACHE) -> Plan:
    """Find out what `extract` would do, and do nothing.

    Raises
    ------
    StoreError
        The cache cannot be read.
    """
    store = FeatureStore(Path(cache), recipe)
    wanted = set(keys(dataset))
    missing = len(store.missing(wanted))
    return Plan(store, len(wanted) - missing, missing)


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
    cache: str | Path = CACHE,
    weights: Path | None = None,
    strict: bool = False,
    on_progress: Progress | None = None,
    backbone: Forward | None = None,
    store: FeatureStore | None = None,
) -> Extraction:
    """Make the rows that the cache lacks, and commit them as they come.

    It may be interrupted at any moment and called again: it goes on where it was.

    Parameters
    ----------
    dataset : Dataset
        The images.
    recipe : Recipe, optional
        How images become rows; the default is that of `pipeline.backbone.vgg16_recipe`.
    cache : str or Path
        The cache folder.
    weights : Path, optional
        File with the backbone's weights; see `pipeline.backbone.load_weights`.
    strict : bool
        Fail if any file of the data set cannot be used.
    on_progress : callable, optional
        Called with the number of images done, and to do, after each batch.
    backbone : callable, optional
        What computes rows from pixels, in place of the recipe's backbone.
    store : FeatureStore, optional
        The recipe's store, where it is open already, as after `plan`.

    Raises
    ------
    StoreError
        The cache cannot be read or written.
    WeightsError
        The backbone's weights are not to be had.
    DataError
        No usable images are left, or `strict` and there is an unusable one.
    """
    recipe = recipe or vgg16_recipe()
    if strict:
        _refuse(dataset.quarantined)
    if backbone is None:
        recipe = calibrated(dataset, recipe, cache=cache, weights=weights)
    if store is None:
        store = FeatureStore(Path(cache), recipe)
    started = time.monotonic()
    made, refused = _fill(
        store,
        list(zip(dataset.paths, dataset.digests)),
        backbone or _LateBackbone(recipe, weights),
        on_progress,
        strict=strict,
    )
    bad = [
        Quarantined(path, refused[digest])
        for path, digest in zip(dataset.paths, dataset.digests)
        if digest in refused
    ]
    readable = dataset.without(bad)
    readable.check_learnable()
    return Extraction(readable, store, made, time.monotonic() - started)


def extract_files(
    paths: Sequence[Path],
    recipe: Recipe | None = None,
    *,
    cache: str | Path = CACHE,
    weights: Path | None = None,
    backbone: Forward | None = None,
) -> tuple[FeatureStore, list[Key], list[Quarantined]]:
    """Make the rows of some image files, without labels or splits.

    Parameters
    ----------
    paths : sequence of Path
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
    _, refused = _fill(store, images, backbone or _LateBackbone(recipe, weights))
    reasons = [
        found.found if isinstance(found, ImageError) else refused.get(found) for found in digests
    ]
    bad = [Quarantined(path, reason) for path, reason in zip(paths, reasons) if reason]
    return store, [(digest, 0) for _, digest in images if digest not in refused], bad


def _fill(
    store: FeatureStore,
    images: Sequence[tuple[Path, bytes]],
    forward: Forward,
    on_progress: Progress | None = None,
    *,
    strict: bool = False,
) -> tuple[int, dict[bytes, str]]:
    """Make the rows that a store lacks; tell how many, and which digests were refused and why."""
    path_of = {(digest, 0): path for path, digest in images}
    missing = store.missing((digest, 0) for _, digest in images)
    report = on_progress or (lambda done, total: None)
    pending = _Pending(store)
    refused: dict[bytes, str] = {}
    done = 0
    if missing:
        store.prepare()
        report(0, len(missing))
    try:
        for batch in compute_rows(
            [(path_of[key], key[0]) for key in missing], store.recipe, forward
        ):
            for key, outcome in zip(missing[done:], batch):
                if isinstance(outcome, ImageError):
                    refused[key[0]] = outcome.found
                    if strict:
                        _refuse([Quarantined(path_of[key], outcome.found)])
                else:
                    pending.add(key, outcome)
            done += len(batch)
            report(done, len(missing))
    finally:
        # Also when interrupted: what was computed is kept.
        pending.commit()
    return done - len(refused), refused


def compute_rows(
    images: Sequence[tuple[Path, bytes | None]], recipe: Recipe, forward: Forward
) -> Iterator[list[npt.NDArray[np.float32] | ImageError]]:
    """Decode images and run them through the backbone, decoding ahead while it computes.

    Parameters
    ----------
    images : sequence of (Path, bytes or None)
        Files, and the digest that each is known to have.
    recipe : Recipe
        Size and resize rule.
    forward : callable
        Pixels to rows.

    Yields
    ------
    list
        For each image of the next batch, in order, its row or the reason why it has none.
    """
    size = max(1, _PIXELS_PER_BATCH // recipe.size**2)
    batches = [images[start : start + size] for start in range(0, len(images), size)]

    def pixels(image: tuple[Path, bytes | None]) -> Pixels | ImageError:
        try:
            return decode(read_image(*image)[0], recipe.size, resize=recipe.resize)
        except ImageError as error:
            return ImageError(error.found)  # its traceback would keep the file's bytes in memory

    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        ahead: deque[list[Future[Pixels | ImageError]]] = deque()
        try:
            for batch in batches[:_BATCHES_AHEAD]:
                ahead.append([pool.submit(pixels, image) for image in batch])
            for number in range(len(batches)):
                decoded = [future.result() for future in ahead.popleft()]
                if number + _BATCHES_AHEAD < len(batches):
                    later = batches[number + _BATCHES_AHEAD]
                    ahead.append([pool.submit(pixels, image) for image in later])
                readable = [item for item in decoded if not isinstance(item, ImageError)]
                rows = iter(forward(np.stack(readable)) if readable else ())
                yield [item if isinstance(item, ImageError) else next(rows) for item in decoded]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Pending:
    """Rows that were computed and are not committed yet."""

    store: FeatureStore
    keys: list[Key] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)

    def add(self, key: Key, row: Rows) -> None:
        self.keys.append(key)
        self.rows.append(row.copy())  # a view would keep its whole batch in memory
        if len(self.keys) == self.store.rows_per_shard:
            self.commit()

    def commit(self) -> None:
        if self.keys:
            keys, rows, self.keys, self.rows = self.keys, self.rows, [], []
            self.store.write(keys, np.stack(rows))


class _LateBackbone:
    """The backbone, loaded when its first batch comes: often there is nothing to do."""

    def __init__(self, recipe: Recipe, weights: Path | None) -> None:
        self._recipe = recipe
        self._weights = weights
        self._loaded: Forward | None = None

    def __call__(self, pixels: Pixels) -> Rows:
        if self._loaded is None:
            self._loaded = Backbone(self._recipe, self._weights)
        return self._loaded(pixels)


def _refuse(quarantined: Sequence[Quarantined]) -> None:
    if quarantined:
        files = "\n".join(f"  {bad.path}: {bad.reason}" for bad in quarantined)
        raise DataError(
            f"{len(quarantined)} files cannot be used:\n{files}",
            fix="mend or remove them, or leave --strict away to go on without them",
        )
