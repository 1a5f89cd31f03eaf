"""The recipe's dense network, an epoch being a pass over the stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pipeline.evaluate import log_loss
from pipeline.heads import DenseHead, Head, Pool
from pipeline.heads.dense import require_finite
from pipeline.streaming.fit import Report, StreamedFit
from pipeline.streaming.stream import Floats, Stream

_STEPS_AT_ONCE = 16  # in one call into TensorFlow; a block need not hold a multiple of it


def fit_dense(head: Head, stream: Stream, *, balanced: bool, report: Report) -> StreamedFit:
    """Train a head's candidates, which stop by the loss on validation, and choose."""
    data = stream.dataset
    truth = data.labels[data.where("validation")]
    networks: list[DenseHead] = []
    said: list[Floats] = []
    for parameters in head.grid:
        network: Any = head.build(stream.seed, balanced=balanced, **parameters)
        before, most = network.epochs * len(networks), network.epochs * len(head.grid)
        said.append(_fit(network, stream, partial(_report_after, report, before, most)))
        networks.append(network)
    losses = [log_loss(truth, one) for one in said]
    best = int(np.argmin(losses))
    return StreamedFit(networks[best], head.grid[best], tuple(zip(head.grid, losses)), said[best])


def _report_after(report: Report, before: int, most: int, epoch: int) -> None:
    report(before + epoch, most)


def _fit(network: DenseHead, stream: Stream, report: Callable[[int], None]) -> Floats:
    """Train a network as `DenseHead.fit` does; give what it says of the validation images.

    Raises
    ------
    PipelineError
        A loss is not finite.
    """
    data = stream.dataset
    truth = data.labels[data.where("validation")]
    held_out = stream.class_weights("validation", balanced=network.balanced)[truth]
    network.classes_ = np.arange(len(data.classes))
    network.n_features_in_ = math.prod(stream.store.recipe.shape)
    width = network.width(network.n_features_in_)
    network.model_ = network.build(width, len(data.classes), steps_at_once=_STEPS_AT_ONCE)
    network.history_ = {name: [] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    best_loss, best, best_said = math.inf, None, np.empty(0)
    for epoch in range(1, network.epochs + 1):
        loss, accuracy = _pass(network, stream, epoch)
        [said] = stream.apply([network.predict_proba], "validation")
        watched = log_loss(truth, said, held_out)
        require_finite(epoch, loss, watched)
        figures = (loss, accuracy, watched, float(np.mean(said.argmax(axis=1) == truth)))
        for values, figure in zip(network.history_.values(), figures):
            values.append(figure)
        if watched < best_loss:
            best_loss, best, best_said = watched, network.model_.get_weights(), said
            network.best_epoch_ = epoch
        report(epoch)
        if epoch - network.best_epoch_ == network.patience:
            break
    network.model_.set_weights(best)
    return best_said


def _pass(network: DenseHead, stream: Stream, epoch: int) -> tuple[float, float]:
    """Train for an epoch; give the mean loss and accuracy."""
    pool = Pool(network.pool, network.shape)
    weights = stream.class_weights("train", balanced=network.balanced)
    sums, count = np.zeros(2), 0
    for rows, labels in stream.epoch(epoch, "train"):
        done = network.model_.fit(
            pool.transform(rows),
            labels,
            sample_weight=weights[labels].astype(np.float32),
            batch_size=network.batch_size,
            shuffle=False,
            verbose=0,
        ).history
        sums += len(labels) * np.array([done["loss"][0], done["accuracy"][0]])
        count += len(labels)
    loss, accuracy = (sums / count).tolist()
    return loss, accuracy
