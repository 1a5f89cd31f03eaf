"""Stage one: settle how images become rows, find out which rows are missing, compute them.

Every row that anything needs comes through `Extractor`; there is no second way from image to row.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path

from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import layers_recipe, make_recipe
from pipeline.backbones.running import Forward
from pipeline.data.dataset import Dataset
from pipeline.data.digests import CACHE
from pipeline.data.loading import load_dataset
from pipeline.data.urls import Location
from pipeline.errors import ImageError, StoreError
from pipeline.features.calibration import calibrated_store, measured_calibration
from pipeline.features.computing import LateBackbone, Rows, Workers, commit_rows
from pipeline.features.filling import Filling, refuse
from pipeline.features.folder import note_unreadable
from pipeline.features.joint import JointStore
from pipeline.features.listener import Listener
from pipeline.features.lookup import RowLookup
from pipeline.features.plan import Plan, make_plan, without_unreadable
from pipeline.features.store import FeatureStore
from pipeline.features.views import Views

_SILENT = Listener()
_MOST_FOR_LAYERS = 0.1  # share of the images
_THE_IMAGE_ITSELF = Views()


@dataclass(frozen=True)
class Extraction:
    """What stage one did.

    Attributes
    ----------
    dataset : Dataset
        The data set, less the files that could not be read.
    plan : Plan
        What there was to do, and the stores that hold the rows.
    made : int
        Number of rows that were computed now.
    seconds : float
        How long that took, loading the backbone included.
    """

    dataset: Dataset
    plan: Plan
    made: int
    seconds: float

    @property
    def recipe(self) -> Recipe:
        """How the images became rows."""
        return self.plan.recipe

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All recipes that there are rows of: `recipe`, and those of the same pass."""
        return self.plan.stores["none"].recipes

    @property
    def store(self) -> FeatureStore:
        """Holds view 0 of every image of `dataset`."""
        return self.plan.store

    @property
    def views(self) -> Views:
        """Which views there are; of several augmentations the first."""
        return self.plan.views[0]

    def rows(
        self,
        view: int = 0,
        places: Sequence[int] | None = None,
        *,
        recipe: Recipe | None = None,
    ) -> Rows:
        """Read the rows of one view; of several augmentations the first.

        Parameters
        ----------
        view : int
            Number of the view; 0 is the image itself.
        places : sequence of int, optional
            Positions of the images in `dataset`; the default is all that have the view.
        recipe : Recipe, optional
            One of `recipes`; the default is the first.

        Returns
        -------
        ndarray of float32, shape (n, height, width, channels)

        Raises
        ------
        StoreError
            A row is not there any more.
        """
        if places is None:
            numbers = self.views.beyond_first(self.dataset)
            places = [at for at, others in enumerate(numbers) if not view or view in others]
        joint = self.plan.joint_of(self.views) if view else self.plan.stores["none"]
        store = joint.stores[self.recipes.index(recipe or self.recipe)]
        return store.read([(self.dataset.digests[place], view) for place in places])


@dataclass(frozen=True)
class Extractor:
    """How images become rows, and where rows are kept.

    Parameters
    ----------
    recipe : Recipe
        What decides a row's value; the default is that of `pipeline.make_recipe`.
    cache : Path
        The folder that rows are kept in.
    weights : Path, optional
        File with the backbone's weights; the default is where they are found first.
    workers : Workers, optional
        Processes that compute the rows in place of this one: `pipeline.features.cluster.Cluster`.
    strict : bool
        Fail if any file of a data set cannot be used.
    stream : bool, optional
        Whether classifiers read rows shard by shard, in place of holding them in memory; the
        default is where they need more memory than is free.
    forward : callable, optional
        What computes rows from pixels, in place of the recipe's backbone.
    layers : bool, optional
        Whether rows of the maxima of every layer are kept, too: the same pass gives them. The
        default keeps them unless many images would have to be shown to the network for them alone.
    """

    recipe: Recipe = field(default_factory=make_recipe)
    _: KW_ONLY
    cache: str | Path = CACHE
    weights: Path | None = None
    workers: Workers | None = None
    strict: bool = False
    stream: bool | None = None
    forward: Forward | None = None
    layers: bool | None = None
    _opened: dict[Path, FeatureStore] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def settle(
        self,
        dataset: Dataset,
        listener: Listener = _SILENT,
        *,
        calibrate: bool = True,
        hold: bool = False,
    ) -> Extractor:
        """Settle how a recipe of precision ``"int8"`` rounds; any other recipe is settled.

        Parameters
        ----------
        dataset : Dataset
            The images.
        listener : Listener
            Told before a calibration is measured.
        calibrate : bool
            Whether to measure a calibration where the cache holds none.
        hold : bool
            As for `plan`, which takes the store that was opened to find the calibration.

        Raises
        ------
        PipelineError
            OpenVINO is not installed, or the cache, the weights or the images cannot be read.
        """
        if not self.recipe.needs_calibration:
            return self
        held = dataset.digests if hold else ()
        store = calibrated_store(dataset, self.recipe, cache=Path(self.cache), hold=held)
        if store is not None:
            settled = replace(self, recipe=store.recipe)
            settled._opened[store.folder] = store
            return settled
        if not calibrate or self.forward is not None:
            return self
        return replace(
            self,
            recipe=measured_calibration(dataset, self.recipe, self.weights, listener.calibrating),
        )

    def plan(
        self, dataset: Dataset, views: Sequence[Views] = (_THE_IMAGE_ITSELF,), *, hold: bool = False
    ) -> Plan:
        """Find out which rows are stored and which are missing, and do nothing.

        Images that could not be read when rows were last made are tried again, and left out if
        they still cannot be.

        Parameters
        ----------
        dataset : Dataset
            The images.
        views : sequence of Views
            Which views of them: one entry for each augmentation.
        hold : bool
            Whether all rows are going to be read into memory: the files that were read to check
            them are then kept until that is done, so that each is read once.

        Raises
        ------
        StoreError
            The cache cannot be read.
        """
        stores = self._stores(views, dataset.digests if hold else ())
        dataset = without_unreadable(dataset, stores["none"].stores[0])
        plan = make_plan(dataset, views, stores)
        if self.layers is None:
            alone = plan.without_beside()
            if alone.left_out > _MOST_FOR_LAYERS * len(dataset):
                return alone
        return plan

    def make(self, plan: Plan, listener: Listener = _SILENT, *, remark: bool = True) -> Extraction:
        """Compute the rows that are missing, and commit them as they come.

        It may be interrupted at any moment and called again: it goes on where it was.

        Parameters
        ----------
        plan : Plan
            As from `plan`.
        listener : Listener
            Told how many rows are done.
        remark : bool
            Whether to look at some images for what is to be said of the data set.

        Raises
        ------
        StoreError
            The cache cannot be written, or there is too little space.
        WeightsError
            The backbone's weights cannot be found.
        DataError
            The extractor is strict, and a file cannot be used.
        """
        dataset = plan.dataset
        if self.strict:
            refuse(dataset.quarantined)
        plan.check_space()
        started = time.monotonic()
        commit = self.workers.commit_rows if self.workers else commit_rows
        forward = self._forward(plan.stores["none"].recipes)
        filling = Filling(forward, plan.missing, listener, commit, strict=self.strict)
        images = list(zip(dataset.paths, dataset.digests)) if plan.missing else []
        try:
            filling.fill(plan.stores["none"], ((path, digest, range(1)) for path, digest in images))
            for views in plan.views:
                numbers = views.beyond_first(dataset)
                filling.fill(
                    plan.joint_of(views),
                    ((path, digest, more) for (path, digest), more in zip(images, numbers)),
                )
        finally:
            if filling.refused:
                note_unreadable(plan.store.folder, filling.refused)
        seconds = time.monotonic() - started
        readable = filling.readable(dataset)
        if remark and plan.remarks:
            remarks = dict.fromkeys((*readable.remarks, *plan.remarks))
            readable = replace(readable, remarks=tuple(remarks))
        return Extraction(readable, plan, filling.made, seconds)

    def rows_of_files(
        self,
        files: Iterable[Location | bytes],
        views: Views = _THE_IMAGE_ITSELF,
        *,
        listener: Listener = _SILENT,
    ) -> Iterator[tuple[Location, Rows | ImageError]]:
        """Look up the rows of image files in the cache, and compute those that are not there.

        What is computed is not kept, and a cache that cannot be read is no error.

        Parameters
        ----------
        files : iterable of Path, Url or bytes
            The files, or what is in them.
        views : Views
            Which views of each.
        listener : Listener, optional
            Told at the end of damaged shards, whose rows were computed.

        Yields
        ------
        path : Path or Url
            The next file, in order; `pipeline.features.computing.IN_MEMORY` for bytes.
        rows : ndarray of float32, shape (views.count, height, width, channels), or ImageError
            A row for each view, or why there are none.
        """
        return self.lookup(views).rows(files, listener)

    def lookup(self, views: Views = _THE_IMAGE_ITSELF, *, stored: bool = True) -> RowLookup:
        """Open cache and network for many calls of `rows_of_files`; unless `stored`, no cache."""
        holders: list[FeatureStore] = []
        names = ["none", *[views.augmentation.name] * (views.count - 1)] if stored else []
        with contextlib.suppress(StoreError):  # nothing is lost but time
            opened = {
                name: self._open(replace(self.recipe, augmentation=name), ())
                for name in dict.fromkeys(names)
            }
            holders = [opened[name] for name in names]
        forward = self._forward([self.recipe])
        return RowLookup(views.augmented(self.recipe), forward, holders, views.count)

    def _forward(self, recipes: Sequence[Recipe]) -> Forward:
        return self.forward or LateBackbone(recipes[0], self.weights, tuple(recipes[1:]))

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """`recipe`, and that of the maxima of every layer if they may be kept."""
        if self.layers is False or self.forward is not None:
            return (self.recipe,)
        layers = layers_recipe(self.recipe)
        return (self.recipe,) if layers is None else (self.recipe, layers)

    def _stores(self, views: Sequence[Views], hold: Iterable[bytes] = ()) -> dict[str, JointStore]:
        """Open the stores of these views, by the augmentation's name."""
        augmentations = ["none", *(each.augmentation.name for each in views if each.count > 1)]
        return {
            name: JointStore(
                [self._open(replace(recipe, augmentation=name), hold) for recipe in self.recipes]
            )
            for name in dict.fromkeys(augmentations)
        }

    def _open(self, recipe: Recipe, hold: Iterable[bytes]) -> FeatureStore:
        """Open a store, or take, once, the one that `settle` has opened."""
        cache = Path(self.cache)
        if cache / recipe.name in self._opened:
            return self._opened.pop(cache / recipe.name)
        return FeatureStore(cache, recipe, hold=hold)


def extract(
    data: str | Path | Dataset,
    *,
    views: Views | Sequence[Views] = _THE_IMAGE_ITSELF,
    extractor: Extractor | None = None,
    seed: int = 0,
    hold: bool = False,
    learnable: bool = True,
    listener: Listener | None = None,
) -> Extraction:
    """Compute the rows that the cache lacks, and keep them: stage one in one call.

    Parameters
    ----------
    data : str, Path or Dataset
        A data set, or what `pipeline.load_dataset` takes for one.
    views : Views or sequence of Views
        Which views of the images; the default is view 0, the image itself.
    extractor : Extractor, optional
        How images become rows, and where rows are kept.
    seed : int
        Decides the splits, where `data` is not a `Dataset`.
    hold : bool
        Whether all rows are going to be read into memory, as for `Extractor.plan`.
    learnable : bool
        Whether to refuse images that no classifier can be trained on.
    listener : Listener, optional
        Told how far the work is.

    Raises
    ------
    StoreError
        The cache cannot be read or written, or there is too little space.
    WeightsError
        The backbone's weights cannot be found.
    DataError
        No usable images are left, or the extractor is strict and one cannot be used.
    """
    extractor, listener = extractor or Extractor(), listener or Listener()
    dataset = (
        data if isinstance(data, Dataset) else load_dataset(data, seed=seed, cache=extractor.cache)
    )
    listener.listed(dataset)
    extractor = extractor.settle(dataset, listener)
    wanted = [views] if isinstance(views, Views) else views
    plan = extractor.plan(dataset, wanted, hold=hold)
    listener.planned(plan)
    extraction = extractor.make(plan, listener)
    if learnable:
        extraction.dataset.check_learnable()
    return extraction
