"""What a network is trained on: cached rows, or the images, in one and the same order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline import tensorflow
from pipeline.augment import PRESETS, apply, draw
from pipeline.backbone import preprocess
from pipeline.dataset import Dataset
from pipeline.digests import read_image
from pipeline.errors import DataError, ImageError
from pipeline.extraction import Extraction, Views
from pipeline.images import decode
from pipeline.network import Network, as_probabilities
from pipeline.recipe import Recipe
from pipeline.training import Batch

_ROWS_AT_ONCE = 64

Inputs = npt.NDArray[Any]
Read = Callable[[npt.NDArray[np.int64], int, int], Iterator[Inputs]]
Before = Callable[[Any], Any]


class Source(Protocol):
    """Where the inputs of training come from."""

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Give what reads inputs for a phase, and what is done to them before the trained part.

        The first is called with the images' positions, the batch size and the view, or -1 for
        images that are not to be augmented.
        """

    def probabilities(self, network: Network) -> npt.NDArray[np.float64]:
        """Apply the trained network to every image."""


class OrderedBatches:
    """An order of the training images for each epoch: the same from images and from rows."""

    def __init__(
        self,
        source: Source,
        network: Network,
        phase: str,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._read, self.before = source.inputs(network, phase)
        self._labels = dataset.labels
        self._training, self._held_out = dataset.where("train"), dataset.where("validation")
        self._batch_size = batch_size
        self._seed = [seed, ("frozen", "finetune").index(phase)]
        self.images = len(self._training)

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        """Give an epoch's batches from the one with the number `first`."""
        rng = np.random.default_rng([*self._seed, number])
        order = rng.permutation(self._training)[first * self._batch_size :]
        return self._with_labels(order, number)

    def validation(self) -> Iterator[Batch]:
        """Give the validation images, in their order."""
        return self._with_labels(self._held_out, -1)

    def _with_labels(self, places: npt.NDArray[np.int64], view: int) -> Iterator[Batch]:
        start = 0
        for inputs in self._read(places, self._batch_size, view):
            yield inputs, self._labels[places[start : start + self._batch_size]]
            start += self._batch_size


class CachedRows:
    """All rows of an extraction, uncompressed in a file without a name, to be read in any order."""

    def __init__(self, extraction: Extraction, cache: Path) -> None:
        tf, _ = tensorflow.load()
        self._extraction = extraction
        self._cache = cache
        recipe, dataset = extraction.store.recipe, extraction.dataset
        views = list(extraction.views.of(dataset))
        self._counts = np.array([1 + len(more) for more in views])
        self._first = np.cumsum(self._counts) - self._counts
        # Rows that were computed in bfloat16 lose nothing by it.
        exact = tf.bfloat16.as_numpy_dtype if recipe.precision == "bfloat16" else np.float32
        self._rows = _scratch(cache, (int(self._counts.sum()), *recipe.shape), exact)
        for start in range(0, len(dataset), _ROWS_AT_ONCE):
            places = range(start, min(start + _ROWS_AT_ONCE, len(dataset)))
            self._rows[self._first[places]] = extraction.rows(0, places)
            keys = [(dataset.digests[place], view) for place in places for view in views[place]]
            rows = [self._first[place] + view for place in places for view in views[place]]
            if keys:
                self._rows[rows] = extraction.augmented.read(keys)

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Give rows; for a head alone, what the frozen layers above make of them, made once."""
        source = self._rows
        if phase == "frozen" and network.upper is not None:
            source = _scratch(
                self._cache, (len(source), *network.upper.output.shape[1:]), np.float32
            )
            for start in range(0, len(source), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                source[part] = network.upper(np.asarray(self._rows[part]), training=False)

        def read(places: npt.NDArray[np.int64], size: int, view: int) -> Iterator[Inputs]:
            rows = self._first[places] + max(view, 0) % self._counts[places]
            for start in range(0, len(rows), size):
                yield np.asarray(source[rows[start : start + size]])

        return read, lambda inputs: inputs

    def probabilities(self, network: Network) -> npt.NDArray[np.float64]:
        """Apply the tail to every image's rows."""
        parts = [
            np.asarray(network.tail(np.asarray(self._rows[start : start + _ROWS_AT_ONCE])))
            for start in range(0, len(self._rows), _ROWS_AT_ONCE)
        ]
        found = as_probabilities(np.concatenate(parts)).astype(np.float64)
        if not self._extraction.views.everywhere:
            plain: npt.NDArray[np.float64] = found[self._first]
            return plain
        sums: npt.NDArray[np.float64] = np.add.reduceat(found, self._first)
        means: npt.NDArray[np.float64] = sums / self._counts[:, None]
        return means


class Images:
    """The images themselves, decoded and augmented while the network trains."""

    def __init__(self, dataset: Dataset, recipe: Recipe, views: Views) -> None:
        self._dataset = dataset
        self._recipe = recipe
        self._views = views
        self._failed: list[ImageError] = []

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Give pixels, and the frozen part of the network."""
        frozen = network.base if phase == "frozen" else network.trunk
        scaling = self._recipe.scaling
        return self._read, lambda pixels: frozen(preprocess(pixels, scaling), training=False)

    def probabilities(self, network: Network) -> npt.NDArray[np.float64]:
        """Apply the whole network to every image."""
        places = np.arange(len(self._dataset))
        views = range(self._views.count if self._views.everywhere else 1)
        whole = network.whole()
        sums = np.zeros((len(places), len(self._dataset.classes)))
        for view in views:
            parts = [
                np.asarray(whole(pixels, training=False))
                for pixels in self._read(places, _ROWS_AT_ONCE, view - 1)
            ]
            sums += as_probabilities(np.concatenate(parts))
        return sums / len(views)

    def _read(self, places: npt.NDArray[np.int64], size: int, view: int) -> Iterator[Inputs]:
        """Read images; with an augmentation, view + 1 of each, so that -1 is the image itself."""
        tf, _ = tensorflow.load()
        number = 0 if self._views.augmentation == PRESETS["none"] else view + 1
        side = self._recipe.size

        def pixels(place: int) -> Inputs:
            try:
                return self._pixels(int(place), number)
            except ImageError as error:
                self._failed.append(error)
                raise

        def load(place: Any) -> Any:
            found = tf.numpy_function(pixels, [place], tf.uint8, stateful=False)
            return tf.ensure_shape(found, (side, side, 3))

        batches = (
            tf.data.Dataset.from_tensor_slices(places)
            .map(load, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(size)
            .prefetch(2)
        )
        try:
            yield from batches
        except tf.errors.OpError as error:
            if self._failed:
                raise DataError(
                    f"an image cannot be read any more: {self._failed[0].found}",
                    fix="leave the images alone while they are trained on, and start again",
                ) from error
            raise

    def _pixels(self, place: int, view: int) -> Inputs:
        dataset = self._dataset
        content, digest = read_image(dataset.paths[place], dataset.digests[place])
        picture = decode(content, self._recipe.size, resize=self._recipe.resize)
        if view:
            return apply(picture, draw(self._views.augmentation, digest, view))
        return picture


def _scratch(folder: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    """Make an array that the system keeps in memory while there is room, and on disk else."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)
