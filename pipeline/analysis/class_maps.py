"""Which parts of a picture count for or against a class.

Maps explain the head, not the network below it: they have one value for each position of the
features that the head takes, and each position sees a part of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from pipeline.backbones.choices import EVERY_LAYER
from pipeline.evaluation.metrics import log_odds
from pipeline.heads.dense import DenseHead
from pipeline.heads.estimators import Classifier
from pipeline.models.model import Model
from pipeline.models.network import TunedClassifier, pooling_layer
from pipeline.system import tensorflow

Method = Literal["weights", "gradient", "occlusion"]
Rows = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

_PATCHES = 4  # along each side, so at most 16 predictions for a picture


@dataclass(frozen=True)
class ClassMaps:
    """How much each position counts for a class (above 0) or against it (below 0).

    Attributes
    ----------
    method : {"weights", "gradient", "occlusion"}
        See `find_class_maps`.
    values : ndarray of float64, shape (n, height, width)
        A map for each picture, from its top left.
    """

    method: Method
    values: Values


def find_class_maps(model: Model, rows: Rows, classes: Classes) -> ClassMaps:
    """Make a map for each picture of how much each position counts for a class.

    There are three methods, depending on the head:

    weights
        For a linear head with a row of weights for each class (``logistic``, ``linear-svm``),
        exact: feature times weight, summed over the channels. The sum of a map is the score of the
        class minus the intercept. Features are scaled to rows of length 1, as for the weights.
    gradient
        For a network: feature times the gradient of the class's score before sigmoid or softmax,
        summed over the channels; for a fine-tuned network, the features below its dense layers. If
        the head averages over positions, this is Grad-CAM without its cut at 0. If it flattens
        them, each position has its own weights, and gradients are not averaged over positions as
        in Grad-CAM (HiResCAM).
    occlusion
        For any other head: how much the log-odds of the class fall when the features of a patch
        are set to 0; at most 4 x 4 patches.

    References
    ----------
    R. Selvaraju et al., *Grad-CAM*, ICCV 2017. R. Draelos, L. Carin, *Use HiResCAM instead of
    Grad-CAM for faithful explanations of convolutional neural networks*, arXiv:2011.08891, 2020.
    M. Zeiler, R. Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014.
    """
    if model.recipe.layer in EVERY_LAYER:  # its rows have no places
        return ClassMaps("occlusion", np.zeros((len(rows), 1, 1)))
    estimator = model.estimator
    if isinstance(estimator, DenseHead | TunedClassifier):
        return ClassMaps("gradient", _by_gradient(estimator, rows, classes))
    values = _by_weights(estimator, rows, classes)
    if values is not None:
        return ClassMaps("weights", values)
    return ClassMaps("occlusion", _by_occlusion(model.probabilities, rows, classes))


def has_places(model: Model) -> bool:
    """Tell whether a map has more than one value: maxima over the whole picture have no places."""
    if isinstance(model.estimator, TunedClassifier):
        return bool(model.estimator.network.base.output_shape[1:3] != (1, 1))
    return tuple(model.recipe.shape[:2]) != (1, 1)


def _by_weights(estimator: Classifier | None, rows: Rows, classes: Classes) -> Values | None:
    """Split the score of a linear head by position; None if its weights are not one row a class."""
    if not isinstance(estimator, Pipeline):
        return None
    last = estimator[-1]
    if isinstance(last, CalibratedClassifierCV) and not last.ensemble:
        last = last.calibrated_classifiers_[0].estimator
    if not (hasattr(last, "coef_") and hasattr(last, "decision_function")):
        return None
    weights = np.atleast_2d(last.coef_)
    flat = rows.reshape(len(rows), -1)
    seen = estimator[:-1].transform(flat)
    seen = seen.toarray() if hasattr(seen, "toarray") else seen
    if weights.shape[1] != flat.shape[1] or not _are_class_weights(last, weights, seen):
        return None
    if len(weights) == 1:
        weights = np.concatenate([-weights, weights])  # two classes share one score
    shares: Values = (seen * weights[classes]).reshape(rows.shape).sum(axis=-1, dtype=np.float64)
    return shares


def _are_class_weights(linear: Any, weights: Values, seen: Rows) -> bool:
    """Check that weights belong to classes: some classifiers have weights of pairs of classes."""
    count = len(linear.classes_)
    if len(weights) != (1 if count == 2 else count):
        return False
    scores = seen @ weights.T + linear.intercept_
    decision = np.reshape(linear.decision_function(seen), (len(seen), -1))
    if decision.shape != scores.shape or not np.allclose(decision, scores, rtol=1e-3, atol=1e-4):
        return False
    codes = scores.argmax(axis=1) if count > 2 else (scores[:, 0] > 0).astype(int)
    return bool(np.array_equal(linear.classes_[codes], linear.predict(seen)))


@tensorflow.pinned()
def _by_gradient(
    estimator: DenseHead | TunedClassifier, rows: Rows, classes: Classes
) -> npt.NDArray[np.float64]:
    tf, keras = tensorflow.load()
    if isinstance(estimator, TunedClassifier):
        network = estimator.network
        dense, pool = network.dense, network.head.layers[1]
        seen = network.upper(rows, training=False) if network.upper else rows
    else:
        dense, pool, seen = estimator.model_, pooling_layer(estimator.pool), rows
    hidden, last = keras.Model(dense.inputs, dense.layers[-2].output), dense.layers[-1]
    seen = tf.cast(seen, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(seen)
        scores = hidden(pool(seen), training=False) @ last.kernel + last.bias
        if scores.shape[1] == 1:
            scores = tf.concat([-scores, scores], axis=1)
        chosen = tf.gather(scores, classes, axis=1, batch_dims=1)
    shares: Values = np.asarray(seen * tape.gradient(chosen, seen)).sum(axis=-1, dtype=np.float64)
    return shares


def _by_occlusion(probabilities: Callable[[Rows], Any], rows: Rows, classes: Classes) -> Values:
    _, height, width, _ = rows.shape
    patches = [
        (slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1))
        for down in np.array_split(np.arange(height), min(height, _PATCHES))
        for across in np.array_split(np.arange(width), min(width, _PATCHES))
    ]
    values = np.empty((len(rows), height, width))
    for place, (row, label) in enumerate(zip(rows, classes)):
        variants = np.repeat(row[None], 1 + len(patches), axis=0)
        for variant, (down, across) in zip(variants[1:], patches):
            variant[down, across] = 0
        odds = log_odds(probabilities(variants)[:, label])
        for (down, across), without in zip(patches, odds[1:]):
            values[place, down, across] = odds[0] - without
    return values
