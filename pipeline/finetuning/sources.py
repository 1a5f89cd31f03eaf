"""Where the inputs of training come from: cached rows, or images."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.backbones.recipe import Recipe
from pipeline.data.augmentation import PRESETS
from pipeline.data.dataset import Dataset
from pipeline.data.digests import read_image
from pipeline.data.urls import Location
from pipeline.data.views import apply, draw
from pipeline.errors import DataError, PipelineError
from pipeline.features.extractor import Extraction
from pipeline.features.views import Views
from pipeline.heads.dense import as_probabilities
from pipeline.models.network import Network
from pipeline.system import tensorflow
from pipeline.system.files import free_space

_ROWS_AT_ONCE = 64

Inputs = npt.NDArray[Any]
Read = Callable[[npt.NDArray[np.int64], int, int], Iterator[Inputs]]
Before = Callable[[Any], Any]


class InputSource(Protocol):
    """Where the inputs of training come from."""

    dataset: Dataset
    """The images, less those that cannot be read."""
    recipe: Recipe
    """How they become rows."""

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Return what reads inputs for a phase, and the frozen part of the network.

        The first is called with the images' positions, the batch size and the view, or -1 for
        images that are not to be augmented.
        """

    def probabilities(self, network: Network) -> npt.NDArray[np.float64]:
        """Apply the trained network to every image."""


class CachedRows:
    """All rows of an extraction, uncompressed in a file without a name, to be read in any order.

    Parameters
    ----------
    extraction : Extraction
        The rows.
    folder : Path
        Where that file is to be.
    """

    def __init__(self, extraction: Extraction, folder: Path) -> None:
        tf, _ = tensorflow.load()
        self.dataset = dataset = extraction.dataset
        self.recipe = recipe = extraction.recipe
        self._folder = folder
        self._averaged = extraction.views.everywhere
        views = list(extraction.views.beyond_first(dataset))
        self._counts = np.array([1 + len(numbers) for numbers in views])
        self._first = np.cumsum(self._counts) - self._counts
        # Rows that were computed in bfloat16 lose nothing by it.
        exact = tf.bfloat16.as_numpy_dtype if recipe.precision == "bfloat16" else np.float32
        self._rows = scratch_array(folder, (int(self._counts.sum()), *recipe.shape), exact)
        at_once = extraction.plan.store.rows_per_shard  # to read a shard once, not for each image
        for start in range(0, len(dataset), at_once):
            places = range(start, min(start + at_once, len(dataset)))
            self._rows[self._first[places]] = extraction.rows(0, places)
            keys = [(dataset.digests[place], view) for place in places for view in views[place]]
            rows = [self._first[place] + view for place in places for view in views[place]]
            if keys:
                self._rows[rows] = extraction.plan.store_of(extraction.views).read(keys)

    @staticmethod
    def check_space(dataset: Dataset, recipe: Recipe, views: Views, folder: Path) -> None:
        """Refuse, before rows are computed, what a folder has no space for uncompressed."""
        count = sum(1 + len(numbers) for numbers in views.beyond_first(dataset))
        size = count * math.prod(recipe.shape) * (2 if recipe.precision == "bfloat16" else 4)
        free = free_space(folder)
        if free is not None and size > free:
            raise _no_room(count, size, folder, f"{free / 1e9:.1f} GB are free")

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Return rows; for a head alone, the outputs of the frozen layers, computed once."""
        upper = network.upper if phase == "frozen" else None

        @cache  # not computed if the phase ended before a restart
        def rows() -> Any:
            return self._rows if upper is None else self._through(upper)

        def read(places: npt.NDArray[np.int64], size: int, view: int) -> Iterator[Inputs]:
            chosen = self._first[places] + max(view, 0) % self._counts[places]
            for start in range(0, len(chosen), size):
                yield np.asarray(rows()[chosen[start : start + size]])

        return read, lambda inputs: inputs

    @tensorflow.pinned()
    def probabilities(self, network: Network) -> npt.NDArray[np.float64]:
        """Apply the tail to every image's rows."""
        rows = np.arange(len(self._rows)) if self._averaged else self._first
        parts = [
            np.asarray(network.tail(np.asarray(self._rows[part]), training=False))
            for part in np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
        ]
        probabilities = as_probabilities(np.concatenate(parts)).astype(np.float64)
        if not self._averaged:
            return probabilities
        means: npt.NDArray[np.float64] = np.add.reduceat(probabilities, self._first)
        means /= self._counts[:, None]
        return means

    @tensorflow.pinned()
    def features(self, layers: Any) -> npt.NDArray[np.float32]:
        """Return view 0 of every image, through layers if there are any."""
        parts = [
            np.asarray(rows if layers is None else layers(rows, training=False), np.float32)
            for start in range(0, len(self._first), _ROWS_AT_ONCE)
            for rows in [np.asarray(self._rows[self._first[start : start + _ROWS_AT_ONCE]])]
        ]
        return np.concatenate(parts)

    def _through(self, layers: Any) -> Any:
        """Apply frozen layers to all rows."""
        shape = (len(self._rows), *layers.output.shape[1:])
        outputs = scratch_array(self._folder, shape, np.float32)
        for start in range(0, len(outputs), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            outputs[part] = layers(np.asarray(self._rows[part]), training=False)
        return outputs


class Images:
    """The images themselves, decoded and augmented while the network trains."""

    def __init__(self, dataset: Dataset, recipe: Recipe, views: Views) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self._views = views
        self._failed: list[tuple[Location, PipelineError]] = []

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Return pixels, and the frozen part of the network."""
        frozen = network.base if phase == "frozen" else network.trunk
        scaling, preprocess = self.recipe.scaling, network.backbone.preprocess
        return self._read, lambda pixels: frozen(preprocess(pixels, scaling), training=False)

    @tensorflow.pinned()
    def probabilities(self, network: Network) -> npt.NDArray[np.float64]:
        """Apply the whole network to every image."""
        places = np.arange(len(self.dataset))
        views = range(self._views.count if self._views.everywhere else 1)
        whole = network.whole()
        sums = np.zeros((len(places), len(self.dataset.classes)))
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
        side = self.recipe.size

        def pixels(place: int) -> Inputs:
            try:
                return self._pixels(int(place), number)
            except PipelineError as error:
                self._failed.append((self.dataset.paths[place], error))
                raise

        def load(place: Any) -> Any:
            picture = tf.numpy_function(pixels, [place], tf.uint8, stateful=False)
            return tf.ensure_shape(picture, (side, side, 3))

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
                path, reason = self._failed[0]
                raise DataError(
                    f"the image {path} cannot be read any more: {reason.found}",
                    fix=reason.fix
                    or "leave the images alone until the training ends, and start it again",
                ) from error
            raise

    def _pixels(self, place: int, view: int) -> Inputs:
        dataset = self.dataset
        content, digest = read_image(dataset.paths[place], dataset.digests[place])
        picture = self.recipe.decode(content)
        if view:
            return apply(picture, draw(self._views.augmentation, digest, view))
        return picture


def scratch_array(folder: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    """Make an array that the system keeps in memory while there is room, and else on disk.

    Its space is allocated at once where the system can: if the disk were full later, the process
    would end without a message.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "w+", shape=shape)
    except OSError as error:
        raise _no_room(shape[0], size, folder, error.strerror or str(error)) from error


def _no_room(rows: int, size: int, folder: Path, reason: str) -> PipelineError:
    return PipelineError(
        f"cannot unpack {rows:,} rows, {size / 1e9:.1f} GB, in {folder}: {reason}.",
        fix="check permissions and free space there, name another folder with --runs, or ask for "
        "fewer --views",
    )
