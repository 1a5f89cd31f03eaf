"""What a network is trained on: cached rows, or the images, in one and the same order."""

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

from pipeline import tensorflow
from pipeline.augment import PRESETS, apply, draw
from pipeline.backbone import preprocess
from pipeline.dataset import Dataset
from pipeline.digests import read_image
from pipeline.errors import DataError, PipelineError
from pipeline.extraction import Extraction, Views, free_space
from pipeline.finetuning.training import Batch
from pipeline.images import decode
from pipeline.network import Network, as_probabilities
from pipeline.recipe import Recipe
from pipeline.urls import Location

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
    """An order of the training images for each epoch: the same from images and from rows.

    It follows from the images' digests and not from their names, as a training's course does.

    Parameters
    ----------
    source : Source
        Where the inputs come from.
    network : Network
        What is trained.
    phase : {"frozen", "finetune"}
        Which part of it.
    dataset : Dataset
        Labels and splits.
    batch_size : int
        Images a step; an epoch's last may have fewer.
    seed : int
        Decides the order.
    epochs_before : int
        Epochs of an earlier phase: orders and views go on from there.
    final : bool
        Whether the validation images, too, are trained on; then there are none to judge by.
    """

    def __init__(
        self,
        source: Source,
        network: Network,
        phase: str,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
        epochs_before: int = 0,
        final: bool = False,
    ) -> None:
        self._read, self.before = source.inputs(network, phase)
        self._labels = dataset.labels
        splits = ("train", "validation") if final else ("train",)
        by_digest = sorted(dataset.where(*splits), key=dataset.digests.__getitem__)
        self._training = np.array(by_digest, np.int64)
        self._held_out = dataset.where("validation")[: 0 if final else None]
        self._batch_size = batch_size
        self._seed = seed
        self._epochs_before = epochs_before
        self.images = len(self._training)

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        """Give an epoch's batches from the one with the number `first`."""
        epoch = self._epochs_before + number
        order = np.random.default_rng([self._seed, epoch]).permutation(self._training)
        return self._with_labels(order[first * self._batch_size :], epoch)

    def validation(self) -> Iterator[Batch]:
        """Give the validation images, in their order."""
        return self._with_labels(self._held_out, -1)

    def _with_labels(self, places: npt.NDArray[np.int64], view: int) -> Iterator[Batch]:
        start = 0
        for inputs in self._read(places, self._batch_size, view):
            yield inputs, self._labels[places[start : start + self._batch_size]]
            start += self._batch_size


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
        views = list(extraction.views.of(dataset))
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
                self._rows[rows] = extraction.augmented.read(keys)

    @staticmethod
    def check_space(dataset: Dataset, recipe: Recipe, views: Views, folder: Path) -> None:
        """Refuse, before rows are made, what could not be laid out in a folder.

        Raises
        ------
        PipelineError
            The uncompressed rows need more space than is free there.
        """
        count = sum(1 + len(more) for more in views.of(dataset))
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
