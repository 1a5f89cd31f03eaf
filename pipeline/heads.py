# ruff: noqa: N803, ARG002 -- X, C and unused arguments are scikit-learn's interface
"""The classifiers ("heads") that are trained on cached features, by name.

Rows come in as a ``(n, d)`` float32 matrix, one row an image: ``d = 8192`` for the flattened
``(4, 4, 512)`` block VGG16 makes of a 150 x 150 picture. About 93 % of the values are zeros, none
is negative, and there are fewer rows than columns. What follows from that, measured on 2,624
photographs of solar cells (three to five seeded splits, judged on validation):

* Every scikit-learn head first brings each row to length one. Against raw values, square roots and
  per-column scaling (``MaxAbsScaler``, ``StandardScaler(with_mean=False)``) it was as good or
  better on every split, needs no fitting, and makes ``C`` and ``gamma`` mean the same whether
  features were made with VGG16's own preprocessing or with the recipe's 1/255.
* ``logistic``, ``linear-svm`` and ``knn`` get sparse rows (logistic regression: 6 times as fast).
  ``rbf-svm`` gets dense ones, since BLAS makes their Gram matrix faster.
* Every head gives probabilities. Those of ``logistic`` and ``dense`` come from their loss. The
  others are calibrated by Platt's sigmoid on out-of-fold scores, inside the training rows.

Importing this module never imports TensorFlow; only fitting or building ``dense`` does.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import keras

Seen = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1), the most there can be, and its figures."""

TRUSTED_TYPES: tuple[str, ...] = (
    "pipeline.heads.CalibrationFolds",
    "pipeline.heads.NearestNeighbours",
    "pipeline.heads.RbfSVM",
    "scipy.sparse._csr.csr_array",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
)
"""What ``skops.io.load`` must be told to trust beyond its defaults for scikit-learn heads."""


class Classifier(Protocol):
    """What every head's estimator can do: scikit-learn's classifier interface."""

    classes_: NDArray[Any]

    def fit(self, *data: Any, **options: Any) -> Any:
        """Learn from rows of shape (n, d) and their labels of shape (n,); give itself."""

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""

    def predict_proba(self, X: NDArray[Any]) -> NDArray[Any]:
        """Give the probability of each class for each row, shape (n, k)."""


class CalibrationFolds(BaseEstimator):  # type: ignore[misc]
    """Stratified, shuffled folds: five, or as many as the smallest class has rows.

    scikit-learn's own splitters want the number beforehand, and fail or warn for a smaller class.

    Parameters
    ----------
    random_state : int, default 0
        Decides the shuffling.
    """

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def split(
        self, X: ArrayLike, y: ArrayLike, groups: object = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the indices of the rows to fit on and of the rows to score, fold by fold."""
        folds = StratifiedKFold(
            self.get_n_splits(X, y), shuffle=True, random_state=self.random_state
        )
        yield from folds.split(X, y)

    def get_n_splits(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, groups: object = None
    ) -> int:
        """Give the number of folds for the labels ``y``: 2 to 5."""
        if y is None:
            return 5
        names, counts = np.unique(np.asarray(y), return_counts=True)
        if counts.min() < 2:
            raise PipelineError(
                f"Class {names[counts.argmin()]} has a single training row.",
                expected="two or more, to calibrate probabilities on rows not trained on.",
                fix="add images of that class, or use the head 'logistic', which needs but one.",
            )
        return int(min(5, counts.min()))


class NearestNeighbours(KNeighborsClassifier):  # type: ignore[misc]
    """k nearest neighbours; all rows where there are fewer than ``n_neighbors``.

    scikit-learn's own refuses to predict then, so that one grid could not serve small data sets.
    """

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Find the nearest rows, as ``KNeighborsClassifier.kneighbors`` does."""
        check_is_fitted(self)
        rows = self.n_samples_fit_ - (X is None)
        wanted = self.n_neighbors if n_neighbors is None else n_neighbors
        return super().kneighbors(X, min(wanted, rows), return_distance)


def _at_least_two_classes(labels: NDArray[Any]) -> None:
    check_classification_targets(labels)
    if len(np.unique(labels)) < 2:
        # A ValueError, as every scikit-learn classifier raises here.
        raise ValueError(f"All rows are of one class, {labels[0]}; two or more are needed.")


class RbfSVM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A support vector machine with the kernel ``exp(-gamma |a - b|^2)``, with probabilities.

    The same machine as ``CalibratedClassifierCV(SVC(gamma=gamma, C=C), ensemble=False)``, but each
    kernel value is computed once, by BLAS, and the calibration folds are slices of that Gram
    matrix; libsvm would compute it value by value, again in each fold. In float64: scikit-learn's
    care for float32 rows makes their kernel ten times as slow.

    Parameters
    ----------
    C : float, default 3.0
        Inverse strength of the regularisation.
    gamma : float, default 2.0
        Inverse width of the kernel, for rows of length one (squared distances from 0 to 4;
        from 0 to 2 for non-negative rows).
    random_state : int, default 0
        Decides the calibration folds.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, in the order of the columns of ``predict_proba``.
    support_ : ndarray of shape (s,)
        Which training rows are support vectors.
    support_vectors_ : csr_array of shape (s, d)
        These rows. Sparse, as features are mostly zeros: the saved model is a tenth of the size.
    calibrated_ : CalibratedClassifierCV
        The machine on kernel values against all training rows.
    """

    def __init__(self, C: float = 3.0, gamma: float = 2.0, random_state: int = 0) -> None:
        self.C = C
        self.gamma = gamma
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,).

        Raises
        ------
        PipelineError
            If a class has a single row, which leaves none to calibrate on.
        ValueError
            If there are fewer than two classes, or ``X`` or ``y`` is malformed.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        _at_least_two_classes(labels)
        self.calibrated_ = CalibratedClassifierCV(
            SVC(kernel="precomputed", C=self.C),
            cv=CalibrationFolds(self.random_state),
            ensemble=False,
        ).fit(rbf_kernel(rows, gamma=self.gamma), labels)
        self.classes_ = self.calibrated_.classes_
        self.support_ = self.calibrated_.calibrated_classifiers_[0].estimator.support_
        self.support_vectors_ = csr_array(rows[self.support_])
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give the probability of each class for each row, shape (n, k), from 0 to 1."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        # The machine expects a column for every training row, but reads the support vectors' only.
        kernel = np.zeros((len(rows), self.calibrated_.n_features_in_))
        kernel[:, self.support_] = rbf_kernel(rows, self.support_vectors_, gamma=self.gamma)
        proba: NDArray[np.float64] = self.calibrated_.predict_proba(kernel)
        return proba

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""
        proba = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[proba.argmax(axis=1)]
        return labels


def build_dense(
    n_features: int, n_classes: int, *, units: int = 256, dropout: float = 0.5, seed: int = 0
) -> keras.Sequential:
    """Build the recipe's densely connected classifier, with fresh weights and not compiled.

    Dense ``units`` relu, dropout, then one sigmoid unit for two classes or a softmax of
    ``n_classes``. With 8,192 features and two classes it has 2,097,665 parameters.

    Parameters
    ----------
    n_features : int
        Length of a row: the flattened features.
    n_classes : int
        Number of classes, 2 or more.
    units, dropout : int and float
        Size of the hidden layer, and the share of it left out at each training step.
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
    import keras

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


class DenseHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The recipe's densely connected classifier (see `build_dense`) as a scikit-learn estimator.

    Trained by RMSprop on the cross-entropy. With validation rows, training ends when their loss
    has not fallen for ``patience`` epochs, and the weights of the best epoch are kept.

    ``keras.wrappers.SKLearnClassifier`` gives no probabilities, so this is our own. To restore a
    fitted one, set ``classes_``, ``n_features_in_`` and ``model_``.

    Parameters
    ----------
    epochs : int, default 30
        The most epochs.
    batch_size : int, default 20
        Rows a step. This, ``epochs``, ``units``, ``dropout`` and ``learning_rate`` are Chollet's.
    learning_rate : float, default 2e-5
        Of RMSprop.
    units, dropout : int and float, default 256 and 0.5
        See `build_dense`.
    patience : int, default 5
        Epochs to wait for a lower validation loss.
    random_state : int, default 0
        Decides weights, dropout and order of rows; no global random state is read or changed.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The labels, in the order of the columns of ``predict_proba``.
    model_ : keras.Sequential
        The network.
    history_ : dict of list of float
        ``loss`` and ``accuracy`` per epoch, and ``val_loss`` and ``val_accuracy`` where there were
        validation rows.
    best_epoch_ : int
        The epoch, from 1, whose weights were kept: how many to train for when refitting on more
        rows without validation.
    """

    def __init__(
        self,
        *,
        epochs: int = 30,
        batch_size: int = 20,
        learning_rate: float = 2e-5,
        units: int = 256,
        dropout: float = 0.5,
        patience: int = 5,
        random_state: int = 0,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.units = units
        self.dropout = dropout
        self.patience = patience
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        on_epoch: Seen | None = None,
    ) -> Self:
        """Learn from rows ``X`` of shape (n, d) and their labels ``y`` of shape (n,).

        Parameters
        ----------
        X, y : array-like of shape (n, d) and (n,)
            Training rows and labels.
        validation_data : tuple of array-like, optional
            Rows and labels on which to decide when to stop.
        on_epoch : callable, optional
            Called as ``on_epoch(epoch, epochs, figures)`` after each epoch.

        Raises
        ------
        PipelineError
            If the loss becomes NaN or infinite, or a validation row is of no training class.
        ValueError
            If there are fewer than two classes, or ``X`` or ``y`` is malformed.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float32)
        _at_least_two_classes(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        held_out = None
        if validation_data is not None:
            unseen, truth = validate_data(self, *validation_data, dtype=np.float32, reset=False)
            held_out = (unseen, self._codes(truth))

        import keras

        seeds = np.random.SeedSequence(self.random_state).generate_state(2)
        self.model_ = build_dense(
            rows.shape[1],
            len(self.classes_),
            units=self.units,
            dropout=self.dropout,
            seed=int(seeds[0]),
        )
        steps = math.ceil(len(rows) / self.batch_size)
        self.model_.compile(
            optimizer=keras.optimizers.RMSprop(self.learning_rate),
            loss=f"{'binary' if len(self.classes_) == 2 else 'sparse_categorical'}_crossentropy",
            metrics=["accuracy"],
            # An epoch is one call into TensorFlow: two and a half times as fast as a call a step.
            # Compiling by XLA would gain a fifth more, and cost that in compile time.
            steps_per_execution=steps,
            jit_compile=False,
        )
        callbacks: list[Any] = [_watch(self.epochs, on_epoch)]
        if held_out is not None:
            callbacks.append(
                keras.callbacks.EarlyStopping(
                    "val_loss", patience=self.patience, restore_best_weights=True
                )
            )
        history = self.model_.fit(
            _shuffled_batches(rows, codes, self.batch_size, self.epochs, int(seeds[1])),
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
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Give the probability of each class for each row, shape (n, k), from 0 to 1."""
        check_is_fitted(self, "model_")
        rows = validate_data(self, X, dtype=np.float32, reset=False)
        # Calling the network instead of its `predict` saves tracing a function for each model.
        parts = [rows[i : i + 1024] for i in range(0, len(rows), 1024)]
        proba: NDArray[np.float32] = np.concatenate(
            [np.asarray(self.model_(part, training=False)) for part in parts]
        )
        return np.hstack([1 - proba, proba]) if len(self.classes_) == 2 else proba

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give the likeliest class of each row, shape (n,)."""
        proba = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[proba.argmax(axis=1)]
        return labels

    def _codes(self, labels: NDArray[Any]) -> NDArray[np.intp]:
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise PipelineError(
                f"Validation rows are of classes that no training row has: {unknown.tolist()}.",
                expected=f"labels among {self.classes_.tolist()}.",
                fix="put images of every class into the training part.",
            )
        return np.searchsorted(self.classes_, labels)


def _shuffled_batches(
    rows: NDArray[np.float32], codes: NDArray[np.intp], batch_size: int, epochs: int, seed: int
) -> Any:
    """Give all epochs' batches as one ``tf.data.Dataset``, each epoch in an order of its own.

    Keras's own shuffling takes its order from TensorFlow's global seed.
    """
    tf: Any = importlib.import_module("tensorflow")
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(rows)) for _ in range(epochs)])
    features, labels = tf.constant(rows), tf.constant(codes)
    return (
        tf.data.Dataset.from_tensor_slices(orders)
        .flat_map(lambda order: tf.data.Dataset.from_tensor_slices(order).batch(batch_size))
        .map(lambda i: (tf.gather(features, i), tf.gather(labels, i)))
        .prefetch(tf.data.AUTOTUNE)
    )


def _watch(epochs: int, on_epoch: Seen | None) -> Any:
    """Make the Keras callback that reports epochs and stops at a loss that is not finite."""
    import keras

    def epoch_end(epoch: int, logs: Mapping[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise PipelineError(
                f"The dense head's loss was {logs['loss']} in epoch {epoch + 1}.",
                expected="a finite loss.",
                fix="lower the learning rate; check the features for very large values.",
            )
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs, dict(logs))

    return keras.callbacks.LambdaCallback(on_epoch_end=epoch_end)


@dataclass(frozen=True)
class Head:
    """A kind of classifier, and what of it is to be chosen on validation.

    Attributes
    ----------
    name : str
        What the user calls it.
    summary : str
        What it is, in a line.
    build : callable
        ``build(seed, **params)`` gives a fresh, unfitted estimator.
    grid : tuple of mapping
        The candidates: parameters for ``build``, from strong to weak regularisation.
    early_stopping : bool
        Whether ``fit`` also takes ``validation_data`` and ``on_epoch``, as `DenseHead` does.
    """

    name: str
    summary: str
    build: Callable[..., Classifier]
    grid: tuple[Mapping[str, Any], ...] = field(default=({},))
    early_stopping: bool = False


def _sparse_unit_rows() -> list[Any]:
    return [FunctionTransformer(csr_array, accept_sparse=True), Normalizer(copy=False)]


def _calibrated(classifier: Any, seed: int) -> CalibratedClassifierCV:
    # One classifier on all rows, not one per fold: a model a fifth as large and as slow.
    return CalibratedClassifierCV(classifier, cv=CalibrationFolds(seed), ensemble=False)


def _logistic(seed: int, *, C: float = 10.0) -> Classifier:
    # At C = 300 it took 120 iterations; 2,000 leaves room for harder data.
    classifier = LogisticRegression(C=C, max_iter=2000, random_state=seed)
    return make_pipeline(*_sparse_unit_rows(), classifier)  # type: ignore[no-any-return]


def _linear_svm(seed: int, *, C: float = 1.0) -> Classifier:
    svm = LinearSVC(C=C, max_iter=20_000, random_state=seed)
    return make_pipeline(*_sparse_unit_rows(), _calibrated(svm, seed))  # type: ignore[no-any-return]


def _rbf_svm(seed: int, *, C: float = 3.0, gamma: float = 2.0) -> Classifier:
    svm = RbfSVM(C=C, gamma=gamma, random_state=seed)
    return make_pipeline(Normalizer(), svm)  # type: ignore[no-any-return]


def _knn(seed: int, *, n_neighbors: int = 20) -> Classifier:
    # Between rows of length one the nearest by distance are the nearest by angle. Near rows count
    # more, which was better on every split. Raw votes are often 0 of k, an infinite log loss where
    # wrong; calibrated, the log loss fell from 0.5-2.6 to 0.41-0.49.
    knn = NearestNeighbours(n_neighbors, weights="distance", algorithm="brute")
    return make_pipeline(*_sparse_unit_rows(), _calibrated(knn, seed))  # type: ignore[no-any-return]


def _dense(seed: int, **params: Any) -> Classifier:
    return DenseHead(random_state=seed, **params)


HEADS: Mapping[str, Head] = MappingProxyType(
    {
        head.name: head
        for head in (
            Head(
                "logistic",
                "logistic regression",
                _logistic,
                tuple({"C": c} for c in (1.0, 3.0, 10.0, 30.0, 100.0)),
            ),
            Head(
                "linear-svm",
                "linear support vector machine",
                _linear_svm,
                tuple({"C": c} for c in (0.1, 0.3, 1.0, 3.0)),
            ),
            Head(
                "rbf-svm",
                "support vector machine with a Gaussian kernel",
                _rbf_svm,
                tuple({"gamma": g, "C": c} for g in (1.0, 2.0, 4.0) for c in (3.0, 10.0)),
            ),
            Head(
                "knn",
                "k nearest neighbours by angle",
                _knn,
                tuple({"n_neighbors": k} for k in (40, 20, 10, 5)),
            ),
            Head(
                "dense",
                "the recipe's densely connected network (Keras)",
                _dense,
                # The recipe regularises by dropout and by stopping early on validation.
                early_stopping=True,
            ),
        )
    }
)
"""Every head, by name."""


def get_head(name: str) -> Head:
    """Give the head of that name.

    Raises
    ------
    PipelineError
        If there is none; the message lists the names.
    """
    try:
        return HEADS[name]
    except KeyError:
        raise PipelineError(
            f"There is no head named {name!r}.",
            expected=f"one of {', '.join(HEADS)}.",
        ) from None
