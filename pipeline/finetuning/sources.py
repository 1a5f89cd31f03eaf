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
from pipeline.data.images import decode
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


class Source(Protocol):
    """Where the inputs of training come from."""

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Give what reads inputs for a phase, and what is done to them before the trained part.

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
        self._folder = folder
        self._averaged = extraction.views.everywhere
        recipe, dataset = extraction.store.recipe, extraction.dataset
        views = list(extraction.views.beyond_first(dataset))
        self._counts = np.array([1 + len(more) for more in views])
        self._first = np.cumsum(self._counts) - self._counts
        # Rows that were computed in bfloat16 lose nothing by it.
        exact = tf.bfloat16.as_numpy_dtype if recipe.precision == "bfloat16" else np.float32
        self._rows = _scratch(folder, (int(self._counts.sum()), *recipe.shape), exact)
        for start in range(0, len(dataset), _ROWS_AT_ONCE):
            places = range(start, min(start + _ROWS_AT_ONCE, len(dataset)))
            self._rows[self._first[places]] = extraction.rows(0, places)
            keys = [(dataset.digests[place], view) for place in places for view in views[place]]
            rows = [self._first[place] + view for place in places for view in views[place]]
            if keys:
                self._rows[rows] = extraction.plan.store_of(extraction.views).read(keys)

    @staticmethod
    def check_space(dataset: Dataset, recipe: Recipe, views: Views, folder: Path) -> None:
        """Refuse, before rows are made, what could not be laid out in a folder.

        Raises
        ------
        PipelineError
            The uncompressed rows need more space than is free there.
        """
        count = sum(1 + len(more) for more in views.beyond_first(dataset))
        size = count * math.prod(recipe.shape) * (2 if recipe.precision == "bfloat16" else 4)
        free = free_space(folder)
        if free is not None and size > free:
            raise _no_room(count, size, folder, f"{free / 1e9:.1f} GB are free")

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Give rows; for a head alone, what the frozen layers above make of them, made once."""
        upper = network.upper if phase == "frozen" else None

        @cache  # a phase that ended before a restart needs none
        def source() -> Any:
            return self._rows if upper is None else self._through(upper)

        def read(places: npt.NDArray[np.int64], size: int, view: int) -> Iterator[Inputs]:
            rows = self._first[places] + max(view, 0) % self._counts[places]
            for start in range(0, len(rows), size):
                yield np.asarray(source()[rows[start : start + size]])

        return read, lambda inputs: inputs

    def probabilities(self, network: Network) -> npt.NDArray[np.float64]:
        """Apply the tail to every image's rows."""
        rows = np.arange(len(self._rows)) if self._averaged else self._first
        parts = [
            np.asarray(network.tail(np.asarray(self._rows[part]), training=False))
            for part in np.split(rows, range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
        ]
        found = as_probabilities(np.concatenate(parts)).astype(np.float64)
        if not self._averaged:
            return found
        means: npt.NDArray[np.float64] = np.add.reduceat(found, self._first)
        means /= self._counts[:, None]
        return means

    def features(self, layers: Any) -> npt.NDArray[np.float32]:
        """Give what layers make of view 0 of every image; None stands for no layers."""
        parts = [
            np.asarray(rows if layers is None else layers(rows, training=False), np.float32)
            for start in range(0, len(self._first), _ROWS_AT_ONCE)
            for rows in [np.asarray(self._rows[self._first[start : start + _ROWS_AT_ONCE]])]
        ]
        return np.concatenate(parts)

    def _through(self, layers: Any) -> Any:
        """Make what frozen layers make of all rows."""
        shape = (len(self._rows), *layers.output.shape[1:])
        found = _scratch(self._folder, shape, np.float32)
        for start in range(0, len(found), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            found[part] = layers(np.asarray(self._rows[part]), training=False)
        return found


class Images:
    """The images themselves, decoded and augmented while the network trains."""

    def __init__(self, dataset: Dataset, recipe: Recipe, views: Views) -> None:
        self._dataset = dataset
        self._recipe = recipe
        self._views = views
        self._failed: list[tuple[Location, PipelineError]] = []

    def inputs(self, network: Network, phase: str) -> tuple[Read, Before]:
        """Give pixels, and the frozen part of the network."""
        frozen = network.base if phase == "frozen" else network.trunk
        scaling, preprocess = self._recipe.scaling, network.backbone.preprocess
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
            except PipelineError as error:
                self._failed.append((self._dataset.paths[place], error))
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
                path, reason = self._failed[0]
                raise DataError(
                    f"the image {path} cannot be read any more: {reason.found}",
                    fix=reason.fix
                    or "leave the images alone until the training ends, and start it again",
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
    """Make an array that the system keeps in memory while there is room, and on disk else.

    Its space is taken at once where the system can: a disk that is full later would end the
    process without a word.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "w+", shape=shape)
    except OSError as error:
        raise _no_room(shape[0], size, folder, error.strerror or str(error)) from error


def _no_room(rows: int, size: int, folder: Path, why: str) -> PipelineError:
    return PipelineError(
        f"cannot lay out {rows:,} rows, {size / 1e9:.1f} GB, in {folder}: {why}.",
        fix="see to permissions and free space there, name another folder with --runs, or ask "
        "for fewer --views",
    )
