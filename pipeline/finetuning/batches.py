"""What a network is trained on: cached rows, or the images, in the same order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.finetuning.sources import InputSource
from pipeline.finetuning.training import Batch
from pipeline.models.network import Network


class OrderedBatches:
    """An order of the training images for each epoch: the same from images and from rows.

    It follows from the digests of the images and not from their names.

    Parameters
    ----------
    source : InputSource
        The images, and where the inputs come from.
    network : Network
        What is trained.
    phase : {"frozen", "finetune"}
        Which part of it.
    batch_size : int
        Images a step; an epoch's last may have fewer.
    seed : int
        Decides the order.
    epochs_before : int
        Epochs of an earlier phase: orders and views continue from there.
    final : bool
        Whether the validation images, too, are trained on; then none are judged.
    """

    def __init__(
        self,
        source: InputSource,
        network: Network,
        phase: str,
        *,
        batch_size: int,
        seed: int,
        epochs_before: int = 0,
        final: bool = False,
    ) -> None:
        self._read, self.before = source.inputs(network, phase)
        dataset = source.dataset
        self._labels = dataset.targets.labels
        splits = ("train", "validation") if final else ("train",)
        by_digest = sorted(dataset.where(*splits), key=dataset.digests.__getitem__)
        self._training = np.array(by_digest, np.int64)
        self._validation = dataset.where("validation")[: 0 if final else None]
        self._batch_size = batch_size
        self._seed = seed
        self._epochs_before = epochs_before
        self.images = len(self._training)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        epoch = self._epochs_before + number
        order = np.random.default_rng([self._seed, epoch]).permutation(self._training)
        return self._with_labels(order, epoch)

    def validation(self) -> Iterator[Batch]:
        """Yield the validation images, in the order of the data set."""
        return self._with_labels(self._validation, -1)

    def _with_labels(self, places: npt.NDArray[np.int64], view: int) -> Iterator[Batch]:
        start = 0
        for inputs in self._read(places, self._batch_size, view):
            yield inputs, self._labels[places[start : start + self._batch_size]]
            start += self._batch_size
