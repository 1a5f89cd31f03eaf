"""What stage one has to do for a data set: which rows are stored, and which are missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.backbones.choices import FINE_LAYERS, LAYERS
from pipeline.backbones.recipe import Recipe
from pipeline.data.dataset import Dataset, Quarantined
from pipeline.data.decoding import Decoding
from pipeline.data.depth import remarks_on_decoding
from pipeline.data.digests import read_image
from pipeline.data.images import DECODING_THREADS
from pipeline.data.packed import distinct, packed
from pipeline.data.urls import Location
from pipeline.errors import ImageError, StoreError
from pipeline.features.folder import read_unreadable
from pipeline.features.joint import JointStore
from pipeline.features.keys import Key, Keys, keys
from pipeline.features.store import FeatureStore
from pipeline.features.views import Views
from pipeline.system.files import free_space
from pipeline.system.threads import ReadingThreads

# Size on disk / size of raw rows where no row is stored yet; measured: the most of each precision.
_COMPRESSION = {"float32": 0.5, "bfloat16": 0.25, "int8": 0.5}
_COMPRESSION_OF_LAYERS = {LAYERS: 0.4, FINE_LAYERS: 0.5}


@dataclass(frozen=True)
class Plan:
    """What stage one would do.

    Attributes
    ----------
    dataset : Dataset
        The images.
    views : tuple of Views
        Which views of them are wanted: one entry for each augmentation.
    stores : mapping of str to JointStore
        Where the rows lie, by the augmentation's name; ``"none"`` is the images as they are.
    stored, missing : int
        Number of rows that are stored, and that are to be computed.
    bytes_missing : int
        Bytes on disk that the missing rows will take: estimated from the rows that are stored,
        else from what rows of that precision took at most where it was measured.
    bytes_per_image : int
        The same for all wanted views of one image.
    left_out : int
        Number of passes over an image that rows of every layer would have taken; they were left
        out for that.
    """

    dataset: Dataset
    views: tuple[Views, ...]
    stores: dict[str, JointStore]
    stored: int
    missing: int
    bytes_missing: int
    bytes_per_image: int
    left_out: int = 0

    @property
    def store(self) -> FeatureStore:
        """The store of the images as they are."""
        return self.stores["none"].stores[0]

    @property
    def every_store(self) -> list[FeatureStore]:
        """All stores: of every augmentation, and of all rows that one pass gives."""
        return [store for joint in self.stores.values() for store in joint.stores]

    @property
    def recipe(self) -> Recipe:
        """How the images as they are become rows."""
        return self.store.recipe

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What to know of how the images are decoded, in sentences; some of them are read."""
        decoding = Decoding.from_name(self.recipe.decoding)
        return remarks_on_decoding(self.dataset.paths, decoding)

    def without_beside(self) -> Plan:
        """Return the plan for the first store of each augmentation alone."""
        first = {name: JointStore(joint.stores[:1]) for name, joint in self.stores.items()}
        plan = make_plan(self.dataset, self.views, first)
        return replace(plan, left_out=self.missing - plan.missing)

    def store_of(self, views: Views) -> FeatureStore:
        """Return the store of the views beyond view 0; the first one's where there are none."""
        return self.joint_of(views).stores[0]

    def joint_of(self, views: Views) -> JointStore:
        """Return what holds all rows that one pass over these views gives."""
        return self.stores[views.augmentation.name if views.count > 1 else "none"]

    def readable(self) -> Dataset:
        """Decode the images whose rows are missing, and leave out those that cannot be."""
        return _readable(self.dataset, self.recipe, self.store.missing(keys(self.dataset)))

    def release(self) -> None:
        """Free the memory of the files that the stores held to be read."""
        for store in self.every_store:
            store.release()

    @property
    def free(self) -> int | None:
        """Bytes that are free where the cache is; None where the file system does not tell."""
        return free_space(self.store.folder)

    def check_space(self) -> None:
        """Refuse to begin what the disk cannot hold."""
        free = self.free if self.missing else None
        if free is not None and self.bytes_missing > free:
            raise StoreError(
                f"the {self.missing:,} missing rows need about {self.bytes_missing / 1e6:,.1f} MB; "
                f"{free / 1e6:,.1f} MB are free for {self.store.folder.parent}.",
                fix="make room, name another --cache, or ask for fewer --views",
            )


def without_unreadable(dataset: Dataset, store: FeatureStore) -> Dataset:
    """Leave out the images that could not be read when rows were last made, and still cannot be."""
    before = read_unreadable(store.folder)
    again = [(digest, 0) for digest in dataset.digests if digest in before] if before else []
    return _readable(dataset, store.recipe, store.missing(again))


def _readable(dataset: Dataset, recipe: Recipe, tried: Iterable[Key]) -> Dataset:
    digests = {digest for digest, _ in tried}
    if not digests:
        return dataset

    def refusal(image: tuple[Location, bytes]) -> Quarantined | None:
        path, digest = image
        try:
            recipe.decode(read_image(path, digest)[0])
        except ImageError as error:
            return Quarantined.by(path, error)
        return None

    again = [image for image in zip(dataset.paths, dataset.digests) if image[1] in digests]
    with ReadingThreads(DECODING_THREADS) as threads:
        return dataset.without([bad for bad in threads.map(refusal, again) if bad])


def make_plan(dataset: Dataset, views: Sequence[Views], stores: dict[str, JointStore]) -> Plan:
    """Count which rows of a data set's views are stored; `stores` are those of the views."""
    wanted = stored = missing_bytes = 0
    image_bytes = 0
    for name, number, digests in _wanted(dataset, views):
        here = stores[name].count(Keys(digests, np.full(len(digests), number, np.uint16)))
        size = sum(map(_bytes_per_row, stores[name].stores, stores["none"].stores))
        wanted += len(digests)
        stored += here
        missing_bytes += (len(digests) - here) * size
        image_bytes += size
    return Plan(dataset, tuple(views), stores, stored, wanted - stored, missing_bytes, image_bytes)


def _wanted(
    dataset: Dataset, views: Iterable[Views]
) -> Iterator[tuple[str, int, npt.NDArray[np.uint8]]]:
    """Yield the wanted rows: augmentation, number of the view, distinct digests of its images."""
    digests = packed(dataset.digests)
    yield "none", 0, distinct(digests)
    counted = set()
    for wanted in sorted(views, key=lambda wanted: not wanted.everywhere):
        images = digests if wanted.everywhere else digests[dataset.where("train")]
        for number in range(1, wanted.count):
            if (wanted.augmentation.name, number) not in counted:
                counted.add((wanted.augmentation.name, number))
                yield wanted.augmentation.name, number, distinct(images)


def _bytes_per_row(store: FeatureStore, first: FeatureStore) -> int:
    """Estimate what a row takes on disk, by the rows of its store, else of the first store."""
    known = store if len(store) else first
    if len(known):
        return math.ceil(known.size / len(known))
    recipe = store.recipe
    factor = _COMPRESSION_OF_LAYERS.get(recipe.layer) or _COMPRESSION[recipe.precision]
    return math.ceil(4 * math.prod(recipe.shape) * factor)
