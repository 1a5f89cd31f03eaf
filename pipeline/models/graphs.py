"""Fitted classifiers as graphs of Keras's own layers and operations: rows to probabilities.

What any format is written from comes from here. No graph names a class of this project, so that a
file made of it can be loaded where this project is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatchmethod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, issparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, Normalizer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from pipeline.errors import ModelError
from pipeline.heads.dense import DenseHead
from pipeline.heads.estimators import Balanced, Pool, sparse_rows
from pipeline.heads.gram import NearestNeighbours, RbfSVM
from pipeline.heads.machines import DualDiscriminant, DualRidge, DualSVM, Votes
from pipeline.heads.products import GramClassifier
from pipeline.system import tensorflow

Float = Literal["float32", "float64"]
Array = npt.NDArray[Any]

_SAME = {"float64": 1e-6, "float32": 1e-5}
"""Smaller squared distances, as a share of squared lengths, are rounding of equal rows.

Another library computes a training image's row again with other last bits (1e-6 of its values; of
the maxima of every layer, some of thousands are rounded to the other side, by 1/256 or 1/4096), so
that the distance to the row that was kept is not the 0 of `pipeline.heads.machines.SAME`. So an
image that is nearly one of training counts as that one. Taking these distances as the limit itself
would not do: the other four neighbours would have 0.5 % of the votes on a training image, not none.
"""


class NotExportableError(ModelError):
    """A head that cannot be in a file of some format; another may."""


class HeadGraph:
    """Builds the graph of one fitted classifier.

    Parameters
    ----------
    precise : str
        The number format where float32 would be too coarse: ``"float64"``, or ``"float32"`` for
        formats that have nothing else.

    Attributes
    ----------
    has_steps : bool
        Whether probabilities may jump where a value changes by its last bit: at a tree's
        thresholds, and from one neighbour to the next. Known when the graph is built.
    """

    def __init__(self, precise: Float = "float64") -> None:
        _, keras = tensorflow.load()
        self.precise = precise
        self.has_steps = False
        self.layers, self.ops = keras.layers, keras.ops

    @singledispatchmethod
    def probabilities(self, part: Any, rows: Any) -> Any:  # noqa: ARG002 -- for what is registered
        """Return the probabilities (n, k) that a fitted classifier gives of rows (n, d)."""
        raise _unknown(part)

    @singledispatchmethod
    def scores(self, part: Any, rows: Any) -> Any:
        """Return what is calibrated: (n, 1) for two classes, else (n, k).

        By default the probabilities, of two classes the second's.
        """
        p = self.probabilities(part, rows)
        return p[:, 1:] if p.shape[-1] == 2 else p

    @singledispatchmethod
    def transform(self, part: Any, rows: Any) -> Any:  # noqa: ARG002 -- for what is registered
        """Return what a fitted transformer makes of rows."""
        raise _unknown(part)

    # --- what is done to rows first -------------------------------------------------------

    @transform.register(FunctionTransformer)
    def _(self, part: FunctionTransformer, rows: Any) -> Any:
        if part.func in (sparse_rows, csr_array, None):  # csr_array: in models of version 0.1.0
            return rows
        if part.func is np.float64:
            return self.ops.cast(rows, self.precise)
        raise _unknown(part)

    @transform.register(Normalizer)
    def _(self, part: Normalizer, rows: Any) -> Any:
        if part.norm != "l2":
            raise _unknown(part)
        values = self.ops.cast(rows, self.precise)
        length = self.ops.sqrt(self.ops.sum(values * values, axis=1, keepdims=True))
        length = self.ops.where(length > 0, length, self.ops.ones_like(length))
        return self.ops.cast(values / length, rows.dtype)

    @transform.register(StandardScaler)
    def _(self, part: StandardScaler, rows: Any) -> Any:
        return self._affine(rows, part.scale_, part.mean_ if part.with_mean else None)

    @transform.register(MaxAbsScaler)
    def _(self, part: MaxAbsScaler, rows: Any) -> Any:
        return self._affine(rows, part.scale_, None)

    @transform.register(Pool)
    def _(self, part: Pool, rows: Any) -> Any:
        if part.kind == "flatten" or part.shape is None:
            return rows
        height, width, channels = part.shape
        cells = self.ops.reshape(rows, (-1, height * width, channels))
        pool = self.ops.mean if part.kind == "average" else self.ops.max
        return pool(cells, axis=1)

    # --- classifiers ----------------------------------------------------------------------

    @probabilities.register(Pipeline)
    def _(self, part: Pipeline, rows: Any) -> Any:
        return self.probabilities(*self._last(part, rows))

    @scores.register(Pipeline)
    def _(self, part: Pipeline, rows: Any) -> Any:
        return self.scores(*self._last(part, rows))

    @probabilities.register(Balanced)
    def _(self, part: Balanced, rows: Any) -> Any:
        return self.probabilities(part.classifier_, rows)

    @probabilities.register(LogisticRegression)
    @probabilities.register(LinearDiscriminantAnalysis)
    def _(self, part: Any, rows: Any) -> Any:
        scores = self.scores(part, rows)
        if len(part.classes_) == 2:
            return self._both(self.ops.sigmoid(scores))
        return self.ops.softmax(scores)

    @scores.register(LinearClassifierMixin)
    def _(self, part: Any, rows: Any) -> Any:
        return self._linear(rows, np.atleast_2d(part.coef_).T, part.intercept_)

    @probabilities.register(MLPClassifier)
    def _(self, part: MLPClassifier, rows: Any) -> Any:
        *hidden, last = zip(part.coefs_, part.intercepts_)
        activation = {"logistic": "sigmoid", "identity": "linear"}.get(
            part.activation, part.activation
        )
        for weights, bias in hidden:
            rows = self._linear(rows, weights, bias, activation)
        if part.out_activation_ == "logistic":
            return self._both(self._linear(rows, *last, "sigmoid"))
        return self._linear(rows, *last, "softmax")

    @probabilities.register(RandomForestClassifier)
    @probabilities.register(ExtraTreesClassifier)
    def _(self, part: Any, rows: Any) -> Any:
        return self._trees(part.estimators_, rows)

    @probabilities.register(DecisionTreeClassifier)
    def _(self, part: DecisionTreeClassifier, rows: Any) -> Any:
        return self._trees([part], rows)

    @probabilities.register(DenseHead)
    def _(self, part: DenseHead, rows: Any) -> Any:
        values = part.model_(self.transform(Pool(part.pool, part.shape), rows), training=False)
        return self.of_outputs(values)

    @probabilities.register(CalibratedClassifierCV)
    def _(self, part: CalibratedClassifierCV, rows: Any) -> Any:
        each = [
            self._calibrated(own, self.scores(own.estimator, rows))
            for own in part.calibrated_classifiers_
        ]
        return sum(each[1:], each[0]) / len(each)

    @probabilities.register(GramClassifier)
    def _(self, part: GramClassifier, rows: Any) -> Any:
        [calibrated] = part.calibrated_.calibrated_classifiers_
        kept = part.kept_.toarray() if issparse(part.kept_) else part.kept_
        machine = calibrated.estimator
        if isinstance(machine, DualRidge | DualDiscriminant):
            weights = kept.T @ machine.dual_[part.support_]
            scores = self._linear(rows, weights, machine.intercept_)
        else:
            distances = self._squared_distances(rows, kept, part.squares_[part.support_])
            if isinstance(part, RbfSVM):
                kernel = self.ops.exp(distances * float(-part.gamma / part.distance_))
                scores = (
                    self._linear(kernel, machine.dual_[part.support_], machine.intercept_)
                    if isinstance(machine, DualSVM)
                    else self._svm(machine, part.support_, kernel)
                )
            elif isinstance(part, NearestNeighbours):
                scores = self._votes(machine, self.ops.sqrt(distances))
            else:
                raise _unknown(part)
        return self._calibrated(calibrated, scores)

    def of_outputs(self, outputs: Any) -> Any:
        """Turn a network's outputs, (n, 1) for two classes, into a column for each class."""
        return self._both(outputs) if outputs.shape[-1] == 1 else outputs

    # --- their parts ----------------------------------------------------------------------

    def _last(self, part: Pipeline, rows: Any) -> tuple[Any, Any]:
        """Return a pipeline's classifier, and what its other steps make of rows."""
        *transformers, classifier = (step for _, step in part.steps)
        for transformer in transformers:
            if transformer not in (None, "passthrough"):
                rows = self.transform(transformer, rows)
        return classifier, rows

    def _constant(self, values: Any) -> Array:
        return np.asarray(values, self.precise)

    def _both(self, second: Any) -> Any:
        """Put the probability of the first of two classes before the second's."""
        return self.ops.concatenate([1 - second, second], axis=1)

    def _linear(self, rows: Any, weights: Array, bias: Array, activation: str = "linear") -> Any:
        layer = self.layers.Dense(weights.shape[1], activation, dtype=self.precise)
        outputs = layer(rows)
        layer.set_weights([weights, np.broadcast_to(bias, weights.shape[1])])
        return outputs

    def _affine(self, rows: Any, scale: Array | None, mean: Array | None) -> Any:
        values = self.ops.cast(rows, self.precise)
        if mean is not None:
            values = values - self._constant(mean)
        if scale is not None:
            values = values / self._constant(scale)
        return self.ops.cast(values, rows.dtype)

    def _table(self, values: Array, numbers: Any) -> Any:
        """Look rows of a table up by their numbers."""
        layer = self.layers.Embedding(*values.shape, dtype=values.dtype.name)
        found = layer(numbers)
        layer.set_weights([values])
        return found

    def _calibrated(self, part: Any, scores: Any) -> Any:
        """Apply Platt's sigmoid to each score; of three classes or more, let them sum to 1."""
        if part.method != "sigmoid":
            raise _unknown(part.calibrators[0])
        slope, offset = (
            self._constant([getattr(own, name) for own in part.calibrators])
            for name in ("a_", "b_")
        )
        p = self.ops.sigmoid(-(scores * slope + offset))
        if len(part.classes) == 2:
            return self._both(p)
        # Where all round to 0, none is likelier, as in scikit-learn.
        p = p + np.finfo(self.precise).tiny
        return p / self.ops.sum(p, axis=1, keepdims=True)

    def _squared_distances(self, rows: Any, kept: Array, squares: Array) -> Any:
        values = self.ops.cast(rows, self.precise)
        products = self._linear(values, kept.T, np.zeros(len(kept)))
        lengths = self.ops.sum(values * values, axis=1, keepdims=True) + self._constant(squares)
        distances = lengths - 2 * products
        return self.ops.where(
            distances < _SAME[self.precise] * lengths, self.ops.zeros_like(distances), distances
        )

    def _svm(self, part: SVC, support: Array, kernel: Any) -> Any:
        """Return an SVM's scores: of each pair of classes one, which vote for their classes."""
        place = {number: column for column, number in enumerate(support.tolist())}
        columns = [place[number] for number in part.support_.tolist()]
        k = len(part.classes_)
        pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
        owner = np.repeat(np.arange(k), part._n_support)
        weights = np.zeros((len(support), len(pairs)))
        if k == 2:
            weights[columns, 0] = part.dual_coef_[0]
            return self._linear(kernel, weights, part.intercept_)
        for pair, (i, j) in enumerate(pairs):
            coefficients = np.where(owner == i, part.dual_coef_[j - 1], 0.0)
            weights[columns, pair] = np.where(owner == j, part.dual_coef_[i], coefficients)
        decisions = self._linear(kernel, weights, part.intercept_)
        signs = np.zeros((len(pairs), k))  # of a pair, the first class wins where it is positive
        for pair, (i, j) in enumerate(pairs):
            signs[pair, i], signs[pair, j] = 1, -1
        won = self.ops.cast(decisions >= 0, self.precise)
        losses = (signs < 0).sum(axis=0)  # pairs in which a class is the second
        votes = self._linear(won, signs, losses)
        sums = self._linear(decisions, signs, np.zeros(k))
        return votes + sums / (3 * (self.ops.absolute(sums) + 1))

    def _votes(self, part: Votes, distances: Any) -> Any:
        """Return the shares of the classes among the nearest rows, weighted by 1 / distance."""
        self.has_steps = True
        count = min(part.n_neighbors, distances.shape[1])
        nearest, numbers = self.ops.top_k(-distances, count)
        same = self.ops.cast(self.ops.equal(nearest, 0), self.precise)
        weights = self.ops.where(
            self.ops.max(same, axis=1, keepdims=True) > 0,
            same,
            1 / self.ops.maximum(-nearest, np.finfo(self.precise).tiny ** 0.5),
        )
        member = np.eye(len(part.classes_), dtype=self.precise)[np.asarray(part._y)]
        votes = self.ops.sum(self._table(member, numbers) * weights[..., None], axis=1)
        shares = votes / self.ops.sum(votes, axis=1, keepdims=True)
        return shares[:, 1:] if len(part.classes_) == 2 else shares

    def _trees(self, trees: Sequence[Any], rows: Any) -> Any:
        """Follow all trees at once, a level at a time; a leaf is followed by itself."""
        self.has_steps = True
        starts = np.cumsum([0, *(own.tree_.node_count for own in trees)])
        nodes = [_nodes(own.tree_, start) for own, start in zip(trees, starts)]
        table = np.concatenate([inner for inner, _ in nodes])
        leaves = np.concatenate([values for _, values in nodes]).astype(self.precise)
        values = self.ops.cast(rows, "float32")
        depth = max(own.tree_.max_depth for own in trees)
        at = self.ops.cast(values[:, :1] * 0, "int32") + starts[:-1].astype(np.int32)
        for _ in range(depth):
            node = self._table(table, at)
            feature = self.ops.cast(node[..., 0], "int32")
            goes_left = self.ops.take_along_axis(values, feature, axis=1) <= node[..., 1]
            at = self.ops.cast(self.ops.where(goes_left, node[..., 2], node[..., 3]), "int32")
        return self.ops.mean(self._table(leaves, at), axis=1)


def _nodes(tree: Any, start: int) -> tuple[Array, Array]:
    """Return a tree's nodes (feature, threshold, left, right), numbered from `start`, and leaves.

    Values are float32, so that a threshold says the same when it is rounded down to that.
    """
    numbers = np.arange(tree.node_count)
    inner = tree.children_left >= 0
    threshold = tree.threshold.astype(np.float32)
    above = threshold > tree.threshold
    threshold[above] = np.nextafter(threshold[above], np.float32(-np.inf))
    following = (np.where(inner, own, numbers) for own in (tree.children_left, tree.children_right))
    columns = [np.where(inner, tree.feature, 0), np.where(inner, threshold, 0)]
    columns += [own + start for own in following]
    return np.stack(columns, axis=1).astype(np.float32), tree.value[:, 0, :]


def _unknown(part: Any) -> NotExportableError:
    return NotExportableError(
        f"the head cannot be exported: it has a {type(part).__name__} in it.",
        expected="a head of this program, or, as module:factory, a logistic regression, another "
        "linear classifier, a forest of scikit-learn's, or its MLPClassifier",
        fix="name another head of the run with --head",
    )
