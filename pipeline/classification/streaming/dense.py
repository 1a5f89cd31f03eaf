"""The recipe's dense network, an epoch being a pass over the stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pipeline.classification.streaming.fit import Report, StreamedFit, watch
from pipeline.classification.streaming.stream import Stream
from pipeline.heads.dense import DenseHead, require_finite
from pipeline.heads.estimators import Pool
from pipeline.heads.registry import Head
from pipeline.system import tensorflow


def fit_dense(head: Head, stream: Stream, *, balanced: bool, report: Report) -> StreamedFit:
    """Train a head's candidates, which stop by the loss on validation, and choose."""
    networks: list[DenseHead] = []
    losses: list[float] = []
    for parameters in head.grid:
        network: Any = head.build(stream.seed, balanced=balanced, **parameters)
        before, most = network.epochs * len(networks), network.epochs * len(head.grid)
        losses.append(_fit(network, stream, partial(_report_after, report, before, most)))
        networks.append(network)
    best = int(np.argmin(losses))
    [said] = stream.apply([networks[best].predict_proba], stream.dataset.where("validation"))
    return StreamedFit(networks[best], head.grid[best], tuple(zip(head.grid, losses)), said)


def _report_after(report: Report, before: int, most: int, epoch: int) -> None:
    report(before + epoch, most)


def _fit(network: DenseHead, stream: Stream, report: Callable[[int], None]) -> float:
    """Train a network as `DenseHead.fit` does; give its log loss on validation, without weights."""
    data = stream.dataset
    weights = stream.class_weights("validation", balanced=network.balanced)
    network.classes_ = np.arange(len(data.classes))
    network.n_features_in_ = math.prod(stream.store.recipe.shape)
    width = network.width(network.n_features_in_)
    network.model_ = network.build(width, len(data.classes), steps_at_once=1)
    learn = _learner(network.model_, width, network.batch_size)
    network.history_ = {name: [] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    least, best_loss, best = math.inf, math.nan, None
    for epoch in range(1, network.epochs + 1):
        loss, accuracy = _pass(network, stream, epoch, learn)
        [(of_images, watched, right)] = watch(stream, [network.predict_proba], weights).tolist()
        require_finite(epoch, loss, watched)
        figures = (loss, accuracy, watched, right)
        for values, figure in zip(network.history_.values(), figures):
            values.append(figure)
        if watched < least:
            least, best_loss, best = watched, of_images, network.model_.get_weights()
            network.best_epoch_ = epoch
        report(epoch)
        if epoch - network.best_epoch_ == network.patience:
            break
    network.model_.set_weights(best)
    return best_loss


def _pass(
    network: DenseHead, stream: Stream, epoch: int, learn: Callable[..., None]
) -> tuple[float, float]:
    """Train for an epoch; give the mean loss and accuracy."""
    pool = Pool(network.pool, network.shape)
    weights = stream.class_weights("train", balanced=network.balanced).astype(np.float32)
    network.model_.reset_metrics()
    for rows, labels in stream.epoch(epoch, "train"):
        learn(pool.transform(rows), labels, weights[labels])
    figures = network.model_.get_metrics_result()
    return float(figures["loss"]), float(figures["accuracy"])


def _learner(model: Any, width: int, batch_size: int) -> Callable[..., None]:
    """Make what trains a network on the batches of a block: rows, labels and weights.

    It is Keras's own step. Its `fit` would make a pipeline of data for each block, some of which it
    never lets go of.
    """
    tf, _ = tensorflow.load()
    model.optimizer.build(model.trainable_variables)
    model.test_on_batch(np.zeros((1, width), np.float32), np.zeros(1))  # makes the metrics
    columns = (((None, width), tf.float32), ((None,), tf.int64), ((None,), tf.float32))

    @tf.function(input_signature=[tf.TensorSpec(*column) for column in columns])  # type: ignore[untyped-decorator]
    def learn(rows: Any, labels: Any, weights: Any) -> None:
        for start in tf.range(0, tf.shape(rows)[0], batch_size):
            batch = slice(start, start + batch_size)
            model.train_step((rows[batch], labels[batch], weights[batch]))

    learner: Callable[..., None] = learn
    return learner
