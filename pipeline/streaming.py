"""Training on more rows than memory holds: shard by shard, several times over.

Each epoch goes through the store's shards in an order of its own, and mixes the rows of a few of
them. So memory holds some shards, whatever the number of images. The estimators are those that
scikit-learn and Keras can train by parts, in place of the exact solvers of `pipeline.heads`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from pipeline import tensorflow
from pipeline.dataset import Dataset
from pipeline.errors import PipelineError, StoreError
from pipeline.heads import Classifier, DenseHead, build_dense, get_head, sparse_unit_rows
from pipeline.index import Keys
from pipeline.packed import distinct, packed
from pipeline.store import FeatureStore

STREAMED = ("logistic", "linear-svm", "dense")
"""The heads that can be trained so."""

_EPOCHS = 20  # of stochastic gradient descent; at 40 the demo's accuracy was the same
_SHARDS_MIXED = 8
_CALIBRATED_ON = 4096  # rows of validation: two numbers for each class are fitted to them
_LOSS = {"logistic": "log_loss", "linear-svm": "squared_hinge"}  # as in memory

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Stream:
    """The rows of a data set's images, from a store, with their labels.

    Parameters
    ----------
    store : FeatureStore
        Holds view 0 of the images.
    dataset : Dataset
        The images.
    seed : int
        Decides the order.
    """

    def __init__(self, store: FeatureStore, dataset: Dataset, *, seed: int = 0) -> None:
        texts = np.ascontiguousarray(packed(dataset.digests)).view("S32").ravel()
        self._order = np.argsort(texts, kind="stable")
        self._texts = texts[self._order]
        self._store = store
        self._dataset = dataset
        self._seed = seed

    def epoch(self, number: int, *splits: str) -> Iterator[tuple[Rows, Labels]]:
        """Give the rows of some splits in an order that follows from the epoch's number.

        Yields
        ------
        rows : ndarray of float32, shape (n, d)
            Rows of a few shards, mixed.
        labels : ndarray of int64, shape (n,)
            Their labels.
        """
        rng = np.random.default_rng([self._seed, number])
        names = iter(rng.permutation(self._store.names).tolist())
        while some := list(itertools.islice(names, _SHARDS_MIXED)):
            parts = [
                (rows[which], places)
                for keys, rows in self._store.stream(some)
                for which, places in [self._places(keys.digests, splits)]
                if len(places)
            ]
            if not parts:
                continue
            rows = np.concatenate([part for part, _ in parts])
            places = np.concatenate([part for _, part in parts])
            mixed = rng.permutation(len(rows))
            yield rows.reshape(len(rows), -1)[mixed], self._dataset.labels[places[mixed]]

    def _places(
        self, digests: npt.NDArray[np.uint8], splits: Sequence[str]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Tell which of some rows are of which images; copies of an image share one."""
        texts = np.ascontiguousarray(digests).view("S32").ravel()
        first = np.searchsorted(self._texts, texts, "left")
        count = np.searchsorted(self._texts, texts, "right") - first
        which = np.repeat(np.arange(len(texts)), count)
        within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        places = self._order[np.repeat(first, count) + within]
        wanted = np.isin(self._dataset.splits[places], splits)
        return which[wanted], places[wanted]


def fit_streamed(
    head: str,
    store: FeatureStore,
    dataset: Dataset,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Train a head on rows that need not fit into memory.

    As in `pipeline.classify`, what there is to choose is chosen on validation, and linear heads are
    then trained on training and validation images.

    Parameters
    ----------
    head : str
        One of `STREAMED`.
    store : FeatureStore
        Holds view 0 of all images.
    dataset : Dataset
        The images, with all splits.
    seed : int
        Decides the order of rows, and what else is random.
    on_epoch : callable, optional
        Called with the epoch's number, from 1, and the most that there will be.

    Returns
    -------
    Classifier
        Fitted; takes rows of shape (n, d).

    Raises
    ------
    PipelineError
        The head cannot be trained so, rows are missing, or a split is empty.
    """
    if head not in STREAMED:
        raise PipelineError(
            f"the head {head} cannot be trained on streamed rows.",
            expected=f"one of {', '.join(STREAMED)}",
        )
    dataset.require_all_splits()
    images = distinct(packed(dataset.digests))
    if lacking := len(images) - store.count(Keys(images, np.zeros(len(images), np.uint16))):
        raise StoreError(
            f"{lacking:,} of the images of {dataset.name} have no row in {store.folder}.",
            fix="run `pipeline features` on them: it makes the rows",
        )
    stream = Stream(store, dataset, seed=seed)
    report = on_epoch or (lambda number, most: None)
    if head == "dense":
        return _fit_dense(stream, dataset, seed, report)
    return _fit_linear(head, stream, dataset, seed, report)


def _fit_linear(
    head: str, stream: Stream, dataset: Dataset, seed: int, report: Callable[[int, int], None]
) -> Classifier:
    grid = [_classifier(head, one, dataset, seed, "train") for one in get_head(head).grid]
    _descend(grid, stream, ("train",), dataset, lambda epoch: report(epoch, 2 * _EPOCHS))
    candidates = [_with_probabilities(one, stream) for one in grid]
    best = int(np.argmin([_loss(one, stream, dataset) for one in candidates]))
    final = _classifier(head, get_head(head).grid[best], dataset, seed, "train", "validation")
    _descend(
        [final],
        stream,
        ("train", "validation"),
        dataset,
        lambda epoch: report(_EPOCHS + epoch, 2 * _EPOCHS),
    )
    chosen = candidates[best]
    if isinstance(chosen, CalibratedClassifierCV):
        # Calibrated by what it said of rows that it had not seen, then trained on these, too: as
        # `ensemble=False` does it in memory.
        chosen.calibrated_classifiers_[0].estimator = FrozenEstimator(final)
    else:
        chosen = final
    return make_pipeline(*sparse_unit_rows(), chosen)  # type: ignore[no-any-return]


def _with_probabilities(classifier: SGDClassifier, stream: Stream) -> Any:
    if hasattr(classifier, "predict_proba"):
        return classifier
    return CalibratedClassifierCV(FrozenEstimator(classifier)).fit(*_sample(stream))


def _prepared(rows: Rows) -> csr_array:
    return Normalizer(copy=False).transform(csr_array(rows))


def _classifier(
    head: str, parameters: Mapping[str, Any], dataset: Dataset, seed: int, *splits: str
) -> SGDClassifier:
    count = len(dataset.where(*splits))
    return SGDClassifier(
        loss=_LOSS[head],
        alpha=1 / (parameters["C"] * count),  # the same objective, divided by C and n
        average=True,
        random_state=seed,
    )


def _descend(
    classifiers: Sequence[SGDClassifier],
    stream: Stream,
    splits: Sequence[str],
    dataset: Dataset,
    report: Callable[[int], None],
) -> None:
    """Train several side by side: the rows are read once for all."""
    classes = np.arange(len(dataset.classes))
    for epoch in range(_EPOCHS):
        for rows, labels in stream.epoch(epoch, *splits):
            prepared = _prepared(rows)
            for classifier in classifiers:
                classifier.partial_fit(prepared, labels, classes)
        report(epoch + 1)


def _sample(stream: Stream) -> tuple[csr_array, Labels]:
    """Take some rows of validation into memory."""
    parts, left = [], _CALIBRATED_ON
    for rows, labels in stream.epoch(0, "validation"):
        parts.append((_prepared(rows[:left]), labels[:left]))
        left -= len(rows)
        if left <= 0:
            break
    return vstack([rows for rows, _ in parts]), np.concatenate([labels for _, labels in parts])


def _loss(
    classifier: Any,
    stream: Stream,
    dataset: Dataset,
    prepare: Callable[[Rows], Any] = _prepared,
) -> float:
    """Compute the log loss on validation."""
    total, count = 0.0, 0
    classes = np.arange(len(dataset.classes))
    for rows, labels in stream.epoch(0, "validation"):
        probabilities = classifier.predict_proba(prepare(rows))
        total += log_loss(labels, probabilities, labels=classes, normalize=False)
        count += len(labels)
    return total / count


def _fit_dense(
    stream: Stream, dataset: Dataset, seed: int, report: Callable[[int, int], None]
) -> DenseHead:
    """Train the recipe's network as `DenseHead.fit` does, an epoch being a pass over the stream."""
    _, keras = tensorflow.load()
    head = DenseHead(random_state=seed)
    head.classes_ = np.arange(len(dataset.classes))
    binary = len(head.classes_) == 2
    loss = f"{'binary' if binary else 'sparse_categorical'}_crossentropy"
    best, best_loss, waited = None, math.inf, 0
    head.history_ = {"loss": [], "val_loss": []}
    for epoch in range(head.epochs):
        total = count = 0.0
        for rows, labels in stream.epoch(epoch, "train"):
            if epoch == count == 0:
                head.n_features_in_ = rows.shape[1]
                head.model_ = build_dense(rows.shape[1], len(head.classes_), seed=seed)
                optimizer = keras.optimizers.RMSprop(head.learning_rate)
                head.model_.compile(optimizer, loss, steps_per_execution=16, jit_compile=False)
            done = head.model_.fit(
                rows, labels, batch_size=head.batch_size, shuffle=False, verbose=0
            )
            total += done.history["loss"][0] * len(labels)
            count += len(labels)
        if not math.isfinite(total):
            raise PipelineError(
                f"the dense head's loss was {total / count} in epoch {epoch + 1}.",
                expected="a finite loss",
                fix="check the features for very large values",
            )
        held_out = _loss(head, stream, dataset, lambda rows: rows)
        head.history_["loss"].append(total / count)
        head.history_["val_loss"].append(held_out)
        report(epoch + 1, head.epochs)
        waited += 1
        if held_out < best_loss:
            best, best_loss, waited = head.model_.get_weights(), held_out, 0
        if waited == head.patience:
            break
    head.model_.set_weights(best)
    head.best_epoch_ = int(np.argmin(head.history_["val_loss"])) + 1
    return head
