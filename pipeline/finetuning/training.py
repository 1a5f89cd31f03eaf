"""Training a Keras model on batches; killed, it goes on after the last epoch that was kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.finetuning.checkpoint import Checkpoint, Curves
from pipeline.finetuning.settings import Training
from pipeline.runs.listener import RunListener
from pipeline.system import tensorflow

CHECKPOINT_SECONDS = 10.0
"""Checkpoints are at least so far apart: after short epochs, writing them would take the time."""

Batch = tuple[Any, npt.NDArray[np.int64]]
_Step = Callable[[Any, Any], tuple[Any, Any]]
_Judged = tuple[float, Any, int]  # of a batch: summed loss, number correct, number of images


class Batches(Protocol):
    """What a model is trained on."""

    images: int
    """Number of images of an epoch."""

    def before(self, inputs: Any) -> Any:
        """Apply the frozen part of the network, in the same graph as the trained part."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield an epoch's batches, the same each time; epochs count from 0."""

    def validation(self) -> Iterator[Batch]:
        """Yield what is judged after each epoch."""


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes
    ----------
    curves : dict of list of float
        ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each complete epoch.
    """

    curves: Curves

    @property
    def epochs(self) -> int:
        """Number of complete epochs."""
        return len(self.curves["loss"])

    @property
    def best_epoch(self) -> int:
        """The epoch, from 1, with the lowest validation loss; without validation, the last."""
        losses = self.curves["val_loss"]
        return int(np.argmin(losses)) + 1 if losses else self.epochs

    def is_over(self, training: Training) -> bool:
        """Tell whether the training has ended."""
        waited = self.epochs - self.best_epoch
        return self.epochs >= training.epochs or waited >= training.patience


@tensorflow.pinned()
def train(
    model: Any,
    batches: Batches,
    training: Training,
    *,
    file: Path,
    phase: str = "finetune",
    listener: RunListener | None = None,
) -> Trained:
    """Train a model; where there is a checkpoint, go on from it.

    At the end the model has the weights of the best epoch.
    """
    listener = listener or RunListener()
    total = training.epochs * batches.images
    report = partial(listener.images_trained, phase, total=total)
    epochs = _Epochs(model, batches, training, report)
    checkpoint = Checkpoint(file, model, epochs.optimizer)
    curves, best = checkpoint.restore()
    trained, saved = Trained(curves), time.monotonic()
    report(trained.epochs * batches.images)
    while not trained.is_over(training):
        for name, value in epochs.train(trained.epochs).items():
            curves[name].append(value)
        if trained.best_epoch == trained.epochs:
            best = [np.asarray(variable) for variable in model.trainable_variables]
        if trained.is_over(training) or time.monotonic() - saved >= CHECKPOINT_SECONDS:
            checkpoint.save(curves, best)
            saved = time.monotonic()
        figures = {name: values[-1] for name, values in curves.items() if values}
        listener.epoch_ended(phase, trained.epochs, figures)
    for variable, array in zip(model.trainable_variables, best, strict=True):
        variable.assign(array)
    return trained


class _Epochs:
    """The epochs of a training, one at a time."""

    def __init__(
        self, model: Any, batches: Batches, training: Training, report: Callable[[int], None]
    ) -> None:
        _, keras = tensorflow.load()
        self.optimizer = keras.optimizers.get(training.optimizer)  # each step sets the rate
        self.optimizer.build(model.trainable_variables)
        self._variables = [*model.variables, *self.optimizer.variables]
        self._batches = batches
        self._rate = _schedule(training, training.epochs * batches.images)
        self._report = report
        self._step, self._judge = _compile(model, self.optimizer, batches)

    def train(self, number: int) -> dict[str, float]:
        """Train an epoch; return its losses and accuracies, on training and validation images."""
        loss, accuracy = _means(self._steps(number))
        # The loss may well be finite if weights are not: a compiled relu turns NaN into 0.
        if not all(np.isfinite(np.asarray(variable)).all() for variable in self._variables):
            raise _not_finite(f"weights were not finite after epoch {number + 1}")
        figures = {"loss": loss, "accuracy": accuracy}
        judged = [
            (*self._judge(inputs, labels), len(labels))
            for inputs, labels in self._batches.validation()
        ]
        if judged:
            figures["val_loss"], figures["val_accuracy"] = _means(judged)
            if not math.isfinite(figures["val_loss"]):
                raise _not_finite(f"the validation loss was not finite after epoch {number + 1}")
        return figures

    def _steps(self, epoch: int) -> Iterator[_Judged]:
        done = epoch * self._batches.images
        for number, (inputs, labels) in enumerate(self._batches.epoch(epoch), 1):
            self.optimizer.learning_rate = self._rate(done)
            loss, correct = self._step(inputs, labels)
            if not math.isfinite(loss):
                raise _not_finite(
                    f"the loss was {float(loss)} at step {number} of epoch {epoch + 1}"
                )
            yield float(loss) * len(labels), correct, len(labels)
            done += len(labels)
            self._report(done)


def _means(judged: Iterable[_Judged]) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    losses, correct, images = zip(*judged)
    seen = sum(images)
    return sum(map(float, losses)) / seen, sum(map(int, correct)) / seen


def _not_finite(problem: str) -> PipelineError:
    return PipelineError(f"{problem}.", expected="finite numbers", fix="lower the learning rate")


def _schedule(training: Training, total: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the number of images trained, of `total`."""
    if training.schedule == "constant":
        return lambda done: training.learning_rate
    _, keras = tensorflow.load()
    cosine = keras.optimizers.schedules.CosineDecay(training.learning_rate, total)
    return lambda done: float(cosine(done))


def _compile(model: Any, optimizer: Any, batches: Batches) -> tuple[_Step, _Step]:
    """Compile a step of training and the judging of a batch.

    The first returns the mean loss, the second the sum; both, the number of correct images.
    """
    tf, _ = tensorflow.load()

    # Keras's jit_compile="auto" would use XLA, which halves bfloat16's speed on a CPU.
    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
    def step(inputs: Any, labels: Any) -> tuple[Any, Any]:
        inputs = batches.before(inputs)
        with tf.GradientTape() as tape:
            losses, correct = _losses(model(inputs, training=True), labels)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss, tf.math.count_nonzero(correct)

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator]
    def judge(inputs: Any, labels: Any) -> tuple[Any, Any]:
        losses, correct = _losses(model(batches.before(inputs), training=False), labels)
        return tf.reduce_sum(losses), tf.math.count_nonzero(correct)

    return step, judge


def _losses(outputs: Any, labels: Any) -> tuple[Any, Any]:
    """Return each image's cross-entropy, and whether its likeliest class is the true one."""
    tf, keras = tensorflow.load()
    if outputs.shape[-1] == 1:
        losses = keras.losses.binary_crossentropy(labels[:, None], outputs)
        return losses, tf.cast(outputs[:, 0] > 0.5, tf.int64) == labels
    losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
    return losses, tf.argmax(outputs, axis=-1) == labels
