"""The textbook's dense network, trained by one pass over the stream an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pipeline.classification.streaming.stream import Stream
from pipeline.classification.streaming.trained import OnEpoch, TrainedHead
from pipeline.evaluation.metrics import log_loss
from pipeline.evaluation.threshold import call
from pipeline.heads.cross_fitted import CrossFitted
from pipeline.heads.dense import DenseHead, folded, require_finite
from pipeline.heads.estimators import Pool
from pipeline.heads.registry import Head
from pipeline.system import tensorflow


def train_dense(head: Head, stream: Stream, *, balanced: bool, on_epoch: OnEpoch) -> TrainedHead:
    """Train a head's candidates, each until its loss on validation no longer falls, and choose."""
    networks: list[Any] = [
        head.candidate(stream.seed, parameters, balanced=balanced) for parameters in head.grid
    ]
    done, most = 0, sum(network.epochs for network in networks)
    for network in networks:
        _train(network, stream, partial(_report, on_epoch, done, most))
        done += network.epochs
    p = [network.validation_p_ for network in networks]
    losses = [log_loss(stream.labels("validation"), values) for values in p]
    best = int(np.argmin(losses))
    return TrainedHead(networks[best], head.grid[best], tuple(zip(head.grid, losses)), p[best])


def _report(on_epoch: OnEpoch, done: int, most: int, epoch: int) -> None:
    on_epoch(done + epoch, most)


@tensorflow.pinned()
def _train(network: DenseHead, stream: Stream, on_epoch: Callable[[int], None]) -> None:
    """Train a network as `DenseHead.fit` does."""
    classes = len(stream.dataset.classes)
    network.classes_ = np.arange(classes)
    network.n_features_in_ = math.prod(stream.store.recipe.shape)
    width = network.width(network.n_features_in_)
    pool = Pool(network.pool, network.shape)
    blocks = (pool.transform(rows) for rows, _ in stream.once("train"))
    network.model_ = network.build(width, classes, blocks, steps_at_once=1)
    network.history_ = {name: [] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    validation, truth = stream.dataset.where("validation"), stream.labels("validation")
    weights = stream.class_weights("validation", balanced=network.balanced)[truth]
    least, best, judged = math.inf, None, CrossFitted(truth, stream.seed)
    for epoch in range(1, network.epochs + 1):
        loss, accuracy = _pass(network, stream, epoch)
        [p] = stream.apply([network.predict_proba], validation)
        judged.see(p)
        validation_loss = log_loss(truth, p, weights)
        require_finite(epoch, loss, validation_loss)
        figures = (loss, accuracy, validation_loss, float(np.mean(call(p) == truth)))
        for values, figure in zip(network.history_.values(), figures):
            values.append(figure)
        if validation_loss < least:
            least, best = validation_loss, network.model_.get_weights()
            network.best_epoch_ = epoch
        on_epoch(epoch)
        if epoch - network.best_epoch_ == network.patience:
            break
    network.validation_p_ = judged.p
    network.model_.set_weights(best)
    network.model_ = folded(network.model_)


def _pass(network: DenseHead, stream: Stream, epoch: int) -> tuple[float, float]:
    """Train for an epoch; return the mean loss and accuracy."""
    pool = Pool(network.pool, network.shape)
    weights = stream.class_weights("train", balanced=network.balanced).astype(np.float32)
    sums, seen = np.zeros(2), 0
    for rows, labels in stream.epoch(epoch, "train"):
        pooled = pool.transform(rows)
        for start in range(0, len(rows), network.batch_size):
            batch = slice(start, start + network.batch_size)
            truth = labels[batch]
            figures = network.model_.train_on_batch(pooled[batch], truth, weights[truth])
            sums += len(truth) * np.array(figures)
        seen += len(rows)
    loss, accuracy = sums / seen
    return float(loss), float(accuracy)
