"""What a network is trained on: cached rows, or the images, in one and the same order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import Dataset
from pipeline.finetuning.sources import Source
from pipeline.finetuning.training import Batch
from pipeline.models.network import Network


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
        self._labels = dataset.targets.labels
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
