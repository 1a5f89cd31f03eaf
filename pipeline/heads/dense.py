# ruff: noqa: N803 -- X is what scikit-learn calls a matrix of rows
"""The textbook's densely connected network as a scikit-learn estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.data.targets import require_labels
from pipeline.errors import PipelineError
from pipeline.heads.cross_fitted import CrossFitted
from pipeline.heads.estimators import Pool, require_two_classes
from pipeline.heads.pooling import Pooling
from pipeline.system import tensorflow

if TYPE_CHECKING:
    import keras

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1), the most epochs, and its figures."""

_LENGTH = 8.0  # of standardised rows, measured: docs/decisions/0026-dense-on-standardised-rows.md
_ROWS_AT_ONCE = 256


@tensorflow.pinned()
def build_dense(
    n_features: int, n_classes: int, *, units: int = 256, dropout: float = 0.5, seed: int = 0
) -> keras.Sequential:
    """Build the textbook's densely connected classifier, with fresh weights and not compiled.

    Dense ``units`` relu, dropout, then one sigmoid unit for two classes or a softmax of
    ``n_classes``. With 8,192 features and two classes it has 2,097,665 parameters.

    Parameters
    ----------
    n_features : int
        Length of a row: the flattened features.
    n_classes : int
        Number of classes, 2 or more.
    units, dropout : int and float
        Size of the hidden layer, and the share of it dropped at each training step.
    seed : int
        Decides the weights and the dropout. No global random state is read or changed.

    Returns
    -------
    keras.Sequential
        From float32 ``(n, n_features)`` to ``(n, 1)``, the probability of class 1, or
        ``(n, n_classes)``.

    References
    ----------
    F. Chollet, *Deep Learning with Python* (Manning, 2018), section 5.3.1.
    """
    _, keras = tensorflow.load()

    kernels, outputs, drops = (int(s) for s in np.random.SeedSequence(seed).generate_state(3) >> 1)
    binary = n_classes == 2
    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(
                units,
                activation="relu",
                kernel_initializer=keras.initializers.GlorotUniform(kernels),
                name="hidden",
            ),
            keras.layers.Dropout(dropout, seed=drops, name="dropout"),
            keras.layers.Dense(
                1 if binary else n_classes,
                activation="sigmoid" if binary else "softmax",
                kernel_initializer=keras.initializers.GlorotUniform(outputs),
                name="probability",
            ),
        ],
        name="dense_head",
    )


def centre_and_scale(blocks: Iterable[NDArray[np.float32]]) -> tuple[NDArray[np.float64], float]:
    """Return the mean of rows, read some at a time, and what brings their distance from it to 8."""
    count, sums, squares = 0, np.zeros(1), 0.0
    for block in blocks:
        values = block.astype(np.float64)
        count, sums = count + len(values), sums + values.sum(axis=0)
        squares += float(np.vdot(values, values))
    mean = sums / count
    length = math.sqrt(squares / count)
    centred = math.sqrt(max(length**2 - float(mean @ mean), 0.0))
    # Rows that do not differ by more than rounding are not made to.
    return mean, _LENGTH / (centred if centred > 1e-6 * length else length or 1.0)


@tensorflow.pinned()
def folded(network: keras.Sequential) -> keras.Sequential:
    """Return the dense network in what `DenseHead.build` made, for rows as they are.

    As a relu scales with its input, the factor can be put behind it. Before it, it would make the
    kernel so small that fine-tuning's first steps undo it.
    """
    rescaling, dense = network.layers
    kernel, bias, outputs, last = dense.get_weights()
    bias = (bias + np.asarray(rescaling.offset, np.float64) @ kernel) / rescaling.scale
    dense.set_weights([kernel, bias, outputs * rescaling.scale, last])
    return dense


def as_probabilities(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a network's outputs, ``(n, 1)`` for two classes, into a column for each class."""
    return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs


def _probabilities(network: keras.Sequential, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    # Calling the network, not its `predict`, saves tracing a function for each model.
    parts = [rows[i : i + 1024] for i in range(0, len(rows), 1024)]
    return as_probabilities(
        np.concatenate([np.asarray(network(part, training=False)) for part in parts])
    )


class DenseHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The textbook's densely connected classifier (see `build_dense`) as a scikit-learn estimator.

    Trained by RMSprop on the cross-entropy. With validation rows, training ends when their loss
    has not fallen for ``patience`` epochs, and the weights of the best epoch are kept.

    It is trained on rows less their mean, and scaled, all alike, to a root mean square length of 8.
    After training that is part of the weights: ``model_`` takes rows as they are.

    (``keras.wrappers.SKLearnClassifier`` has no ``predict_proba``.) To restore a fitted head, set
    ``classes_``, ``n_features_in_`` and ``model_``.

    Parameters
    ----------
    epochs : int, default 30
        The most epochs.
    batch_size : int, default 64
        Rows a step.
    learning_rate : float, default 5e-4
        Of RMSprop.
    units, dropout : int and float, default 256 and 0.5
        See `build_dense`.
    patience : int, default 5
        Epochs to wait for a lower validation loss.
    random_state : int, default 0
        Decides weights, dropout and order of rows; no global random state is read or changed.
    balanced : bool, default False
        Whether all classes count the same in the loss, however many rows they have.
    pool, shape : str and tuple of int, default "flatten"
        As for `pipeline.heads.estimators.Pool`: what is done to rows first.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, in the order of the columns of ``predict_proba``.
    model_ : keras.Sequential
        The network.
    history_ : dict of list of float
        ``loss`` and ``accuracy`` per epoch, and ``val_loss`` and ``val_accuracy`` where there were
        validation rows.
    validation_p_ : ndarray of float32, shape (m, k)
        Probabilities of the validation rows to judge the head by; see `CrossFitted`.
    best_epoch_ : int
        The epoch, from 1, whose weights were kept: the number of epochs for a fit on more rows
        without validation.
    """

    _standardises = True

    def __init__(
        self,
        *,
        epochs: int = 30,
        batch_size: int = 64,
        learning_rate: float = 5e-4,
        units: int = 256,
        dropout: float = 0.5,
        patience: int = 5,
        random_state: int = 0,
        balanced: bool = False,
        pool: Pooling = "flatten",
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.units = units
        self.dropout = dropout
        self.patience = patience
        self.random_state = random_state
        self.balanced = balanced
        self.pool = pool
        self.shape = shape

    @tensorflow.pinned()
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Fit to rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,).

        Training stops early by the loss on ``validation_data``, rows and labels, if given.
        """
        require_labels(y)
        rows, labels = validate_data(self, X, y, dtype=np.float32)
        require_two_classes(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        pool = Pool(self.pool, self.shape)
        rows = pool.transform(rows)
        held_out: tuple[NDArray[Any], ...] | None = None
        if validation_data is not None:
            unseen, truth = validate_data(self, *validation_data, dtype=np.float32, reset=False)
            held_out = (pool.transform(unseen), *self._codes_and_weights(self._codes(truth)))

        _, keras = tensorflow.load()
        # One call into TensorFlow an epoch is 2.5 times as fast as one a step.
        steps = math.ceil(len(rows) / self.batch_size)
        blocks = (rows[i : i + _ROWS_AT_ONCE] for i in range(0, len(rows), _ROWS_AT_ONCE))
        network = self.build(rows.shape[1], len(self.classes_), blocks, steps_at_once=steps)
        callbacks: list[Any] = [_epoch_callback(self.epochs, on_epoch)]
        if held_out is not None:
            judged = CrossFitted(held_out[1], self.random_state)
            callbacks += [
                keras.callbacks.LambdaCallback(
                    on_epoch_end=lambda *_: judged.see(_probabilities(network, held_out[0]))
                ),
                keras.callbacks.EarlyStopping(
                    "val_loss", patience=self.patience, restore_best_weights=True
                ),
            ]
        history = network.fit(
            shuffled_batches(
                rows,
                *self._codes_and_weights(codes),
                batch_size=self.batch_size,
                epochs=self.epochs,
                seed=self._seeds()[1],
            ),
            steps_per_epoch=steps,
            shuffle=False,
            epochs=self.epochs,
            validation_data=held_out,
            validation_batch_size=256,
            callbacks=callbacks,
            verbose=0,
        ).history
        self.history_ = {name: [float(v) for v in values] for name, values in history.items()}
        losses = self.history_.get("val_loss")
        self.best_epoch_ = int(np.argmin(losses)) + 1 if losses else len(self.history_["loss"])
        if held_out is not None:
            self.validation_p_ = judged.p
        self.model_ = folded(network)
        return self

    @tensorflow.pinned()
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the probability of each class for each row, shape (n, k)."""
        check_is_fitted(self, "model_")
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        rows = Pool(self.pool, self.shape).transform(rows)
        return _probabilities(self.model_, rows)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest class of each row, shape (n,)."""
        proba = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[proba.argmax(axis=1)]
        return labels

    @tensorflow.pinned()
    def build(
        self,
        n_features: int,
        n_classes: int,
        rows: Iterable[NDArray[np.float32]],
        *,
        steps_at_once: int,
    ) -> keras.Sequential:
        """Return the network with fresh weights behind a rescaling of rows, compiled for training.

        `n_features` counts the values of a pooled row; `rows` are those to train on, some at a
        time, and `steps_at_once` is the number of training steps in one call into TensorFlow.
        """
        _, keras = tensorflow.load()
        mean, scale = centre_and_scale(rows) if self._standardises else (np.zeros(n_features), 1.0)
        network = keras.Sequential(
            [
                keras.Input((n_features,)),
                keras.layers.Rescaling(scale, (-scale * mean).astype(np.float32)),
                build_dense(
                    n_features,
                    n_classes,
                    units=self.units,
                    dropout=self.dropout,
                    seed=self._seeds()[0],
                ),
            ]
        )
        network.compile(
            optimizer=keras.optimizers.RMSprop(self.learning_rate),
            loss=f"{'binary' if n_classes == 2 else 'sparse_categorical'}_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=steps_at_once,
            jit_compile=False,  # XLA saves a fifth, and takes as long to compile
        )
        return network

    def _seeds(self) -> list[int]:
        """Return the seeds of the network and of the order of rows."""
        return [int(s) for s in np.random.SeedSequence(self.random_state).generate_state(2)]

    def width(self, n_features: int) -> int:
        """Return the number of values of a pooled row."""
        return n_features if self.shape is None or self.pool == "flatten" else self.shape[-1]

    def _codes_and_weights(self, codes: NDArray[np.intp]) -> tuple[NDArray[Any], ...]:
        if not self.balanced:
            return (codes,)
        return codes, compute_sample_weight("balanced", codes).astype(np.float32)

    def _codes(self, labels: NDArray[Any]) -> NDArray[np.intp]:
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise PipelineError(
                f"validation rows are of classes that no training row has: {unknown.tolist()}.",
                expected=f"labels among {self.classes_.tolist()}",
                fix="put images of every class into the training split",
            )
        return np.searchsorted(self.classes_, labels)


class TextbookDenseHead(DenseHead):
    """The same, trained on rows as they are.

    The textbook takes steps of 20 rows at a rate of 2e-5, and the same ``epochs``, ``units`` and
    ``dropout``; for 64 rows that is a rate of 6.4e-5 (P. Goyal et al., *Accurate, large minibatch
    SGD*, 2017).
    """

    _standardises = False


def require_finite(epoch: int, *losses: float) -> None:
    """Raise PipelineError if a loss of an epoch, on training or validation rows, is not finite."""
    for loss in losses:
        if not math.isfinite(loss):
            raise PipelineError(
                f"the loss of the head dense was {loss} in epoch {epoch}.",
                expected="a finite loss",
                fix="lower the learning rate; check the features for very large values",
            )


def shuffled_batches(
    rows: NDArray[np.float32], *targets: NDArray[Any], batch_size: int, epochs: int, seed: int
) -> Any:
    """Return all epochs' batches as one ``tf.data.Dataset``, each epoch in a new order.

    Keras's own shuffling would depend on TensorFlow's global seed.
    """
    tf, _ = tensorflow.load()
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(rows)) for _ in range(epochs)])
    columns = [tf.constant(column) for column in (rows, *targets)]
    return (
        tf.data.Dataset.from_tensor_slices(orders)
        .flat_map(lambda order: tf.data.Dataset.from_tensor_slices(order).batch(batch_size))
        .map(lambda i: tuple(tf.gather(column, i) for column in columns))
        .prefetch(tf.data.AUTOTUNE)
    )


def _epoch_callback(epochs: int, on_epoch: OnEpoch | None) -> Any:
    """Return a Keras callback that reports epochs and stops at a loss that is not finite."""
    _, keras = tensorflow.load()

    def epoch_end(epoch: int, logs: Mapping[str, float]) -> None:
        require_finite(epoch + 1, logs["loss"], logs.get("val_loss", 0.0))
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs, dict(logs))

    return keras.callbacks.LambdaCallback(on_epoch_end=epoch_end)
