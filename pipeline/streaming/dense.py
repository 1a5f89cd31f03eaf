"""The recipe's dense network, an epoch being a pass over the stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pipeline.heads import DenseHead, Head, Pool
from pipeline.heads.dense import require_finite
from pipeline.streaming.fit import Report, StreamedFit, watch
from pipeline.streaming.stream import Stream

_STEPS_AT_ONCE = 16  # in one call into TensorFlow; a block need not hold a multiple of it


def fit_dense(head: Head, stream: Stream, *, balanced: bool, report: Report) -> StreamedFit:
    """Train a head's candidates, which stop by the loss on validation, and choose."""
    networks: list[DenseHead] = []
    losses: list[float] = []
    for parameters in head.grid:
        network: Any = head.build(stream.seed, balanced=balanced, **parameters)
        before, most = network.epochs * len(networks), network.epochs * len(head.grid)
        _fit(network, stream, partial(_report_after, report, before, most))
        networks.append(network)
        losses.append(float(watch(stream, [network.predict_proba])[0, 0]))
    best = int(np.argmin(losses))
    [said] = stream.apply([networks[best].predict_proba], "validation")
    return StreamedFit(networks[best], head.grid[best], tuple(zip(head.grid, losses)), said)


def _report_after(report: Report, before: int, most: int, epoch: int) -> None:
    report(before + epoch, most)


def _fit(network: DenseHead, stream: Stream, report: Callable[[int], None]) -> None:
    """Train a network as `DenseHead.fit` does.

    Raises
    ------
    PipelineError
        A loss is not finite.
    """
    data = stream.dataset
    weights = stream.class_weights("validation", balanced=network.balanced)
    network.classes_ = np.arange(len(data.classes))
    network.n_features_in_ = math.prod(stream.store.recipe.shape)
    width = network.width(network.n_features_in_)
    network.model_ = network.build(width, len(data.classes), steps_at_once=_STEPS_AT_ONCE)
    network.history_ = {name: [] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    best_loss, best = math.inf, None
    for epoch in range(1, network.epochs + 1):
        loss, accuracy = _pass(network, stream, epoch)
        [(watched, right)] = watch(stream, [network.predict_proba], weights).tolist()
        require_finite(epoch, loss, watched)
        figures = (loss, accuracy, watched, right)
        for values, figure in zip(network.history_.values(), figures):
            values.append(figure)
        if watched < best_loss:
            best_loss, best = watched, network.model_.get_weights()
            network.best_epoch_ = epoch
        report(epoch)
        if epoch - network.best_epoch_ == network.patience:
            break
    network.model_.set_weights(best)


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
