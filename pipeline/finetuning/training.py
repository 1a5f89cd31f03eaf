"""Training a Keras model on batches, so that it can be killed at any step and gone on with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.finetuning.checkpoint import Progress, State, not_finite
from pipeline.system import tensorflow

OPTIMIZERS = ("rmsprop", "adam")
"""Keras's names of the optimisers; the textbook uses RMSprop."""

SCHEDULES = ("constant", "cosine")
"""What can become of the learning rate."""

Batch = tuple[Any, npt.NDArray[np.int64]]


class Batches(Protocol):
    """What a model is trained on."""

    images: int
    """Number of images of an epoch."""

    def epoch(self, number: int, first: int) -> Iterator[Batch]:
        """Give an epoch's batches, from the one with the number `first`; both count from 0."""

    def validation(self) -> Iterator[Batch]:
        """Give what is judged after each epoch."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Parameters
    ----------
    epochs : int
        The most epochs.
    learning_rate : float
        Of the optimiser.
    optimizer : {"rmsprop", "adam"}
        Keras's, with its defaults.
    schedule : {"constant", "cosine"}
        What becomes of the learning rate: nothing, or it falls to 0 along half a cosine until the
        last epoch (I. Loshchilov, F. Hutter, *SGDR*, ICLR 2017). The textbook recipe has the first.
    patience : int
        Training ends when the validation loss has not fallen for so many epochs; the weights of
        the best epoch are kept.
    """

    epochs: int = 30
    learning_rate: float = 1e-5
    optimizer: str = "rmsprop"
    schedule: str = "constant"
    patience: int = 5

    def __post_init__(self) -> None:
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if (given := getattr(self, name)) not in known:
                raise PipelineError(
                    f"unknown {name} {given!r}.", expected=f"one of {', '.join(known)}"
                )
        if self.epochs < 1 or self.patience < 1 or not 0 < self.learning_rate < math.inf:
            raise PipelineError(
                f"{self.epochs} epochs, patience {self.patience}, learning rate "
                f"{self.learning_rate}.",
                expected="at least 1 epoch, patience of 1 or more and a positive learning rate",
            )


def train(
    model: Any,
    batches: Batches,
    training: Training,
    *,
    checkpoint: Path,
    before: Callable[[Any], Any] = lambda inputs: inputs,
    on_images: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Progress:
    """Train a model; where there is a checkpoint, go on from it.

    Parameters
    ----------
    model : keras.Model
        To probabilities, ``(n, 1)`` for two classes or ``(n, k)``; what of it is trainable is
        trained on the cross-entropy.
    batches : Batches
        The same in every run, for an epoch and a step.
    training : Training
        How it is trained.
    checkpoint : Path
        File to go on from; written each minute, at the end, and after an epoch that is long enough
        for writing it to be a small part.
    before : callable
        What is done to a batch's inputs, in the same graph, without being trained.
    on_images : callable, optional
        Called with the number of images done, and to do, at the start and after each step.
    on_epoch : callable, optional
        Called after each epoch with its number and its figures.

    Returns
    -------
    Progress
        With the learning curves; the model has the weights of the best epoch.

    Raises
    ------
    PipelineError
        The loss is not finite, the checkpoint cannot be written, or is not of this training.
    """
    tf, keras = tensorflow.load()
    optimizer = keras.optimizers.get(training.optimizer)  # its learning rate is set at each step
    optimizer.build(model.trainable_variables)

    @_for_any_batch_size
    def step(inputs: Any, labels: Any) -> tuple[Any, Any]:
        inputs = before(inputs)
        with tf.GradientTape() as tape:
            losses, hits = _judge(model(inputs, training=True), labels)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss, tf.math.count_nonzero(hits)

    @_for_any_batch_size
    def test(inputs: Any, labels: Any) -> tuple[Any, Any]:
        losses, hits = _judge(model(before(inputs), training=False), labels)
        return tf.reduce_sum(losses), tf.math.count_nonzero(hits)

    state = State(model, optimizer, checkpoint)
    progress = state.restore()
    report = on_images or (lambda done, total: None)
    total = training.epochs * batches.images
    rate_after = _schedule(training, total)
    done = progress.epoch * batches.images + progress.seen
    report(done, total)
    while not _is_over(progress, training):
        begun = time.monotonic()
        for inputs, labels in batches.epoch(progress.epoch, progress.step):
            optimizer.learning_rate = rate_after(done)
            loss, hits = step(inputs, labels)
            loss = float(loss)
            progress.step += 1
            if not math.isfinite(loss):
                raise not_finite(f"the loss was {loss} {progress.where}", checkpoint)
            progress.seen += len(labels)
            progress.loss += loss * len(labels)
            progress.hits += int(hits)
            done = progress.epoch * batches.images + progress.seen
            report(done, total)
            state.save_now_and_then(progress)
        figures = progress.end_epoch(_validate(test, batches))
        if not math.isfinite(figures.get("val_loss", 0.0)):
            raise not_finite(f"the loss on validation was not finite {progress.where}", checkpoint)
        if progress.best_epoch == progress.epoch:
            state.keep_best()
        if _is_over(progress, training):
            state.save(progress)
        else:
            state.save_if_cheap(progress, time.monotonic() - begun)
        if on_epoch:
            on_epoch(progress.epoch, figures)
    state.use_best()
    return progress


def _schedule(training: Training, total: int) -> Callable[[int], float]:
    """Give what tells the learning rate after so many of all images."""
    if training.schedule == "constant":
        return lambda done: training.learning_rate
    _, keras = tensorflow.load()
    cosine = keras.optimizers.schedules.CosineDecay(training.learning_rate, total)
    return lambda done: float(cosine(done))


def _for_any_batch_size(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Compile a function of inputs and labels once, whichever batch comes first.

    Else a training that goes on with an epoch's last, smaller batch would run other graphs.
    """
    tf, _ = tensorflow.load()
    compiled: Any = None

    def call(inputs: Any, labels: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            signature = [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in (inputs, labels)]
            # Keras's jit_compile="auto" would use XLA, which halves bfloat16's speed on a CPU.
            compiled = tf.function(function, signature, jit_compile=False)
        return compiled(inputs, labels)

    return call


def _judge(outputs: Any, labels: Any) -> tuple[Any, Any]:
    """Give each image's cross-entropy, and whether its likeliest class is the true one."""
    tf, keras = tensorflow.load()
    if outputs.shape[-1] == 1:
        losses = keras.losses.binary_crossentropy(labels[:, None], outputs)
        return losses, tf.cast(outputs[:, 0] > 0.5, tf.int64) == labels
    losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
    return losses, tf.argmax(outputs, axis=-1) == labels


def _is_over(progress: Progress, training: Training) -> bool:
    waited = progress.epoch - progress.best_epoch
    return progress.epoch >= training.epochs or (
        progress.best_epoch > 0 and waited >= training.patience
    )


def _validate(test: Callable[[Any, Any], tuple[Any, Any]], batches: Batches) -> dict[str, float]:
    loss, hits, seen = 0.0, 0, 0
    for inputs, labels in batches.validation():
        losses, right = test(inputs, labels)
        loss += float(losses)
        hits += int(right)
        seen += len(labels)
    return {"val_loss": loss / seen, "val_accuracy": hits / seen} if seen else {}
