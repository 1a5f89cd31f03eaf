"""Where in a picture a head finds what speaks for a class, and against it.

The head is asked, not the network below it: a map has one value for each position of the features
that the head was given, each of which sees a part of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from pipeline.heads.dense import DenseHead
from pipeline.heads.estimators import Classifier
from pipeline.models.model import Model
from pipeline.models.network import TunedClassifier
from pipeline.system import tensorflow

Method = Literal["weights", "gradient", "occlusion"]
Rows = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

_PATCHES = 4  # a side, and so 16 looks at a picture at most
_LEAST = 1e-6  # a probability below this counts as this


@dataclass(frozen=True)
class ClassMaps:
    """What speaks for a class (above 0) and against it (below), by position.

    Attributes
    ----------
    method : {"weights", "gradient", "occlusion"}
        How they were made; see `find_class_maps`.
    values : ndarray of float64, shape (n, height, width)
        A map for each picture, from its top left.
    """

    method: Method
    values: Values


def find_class_maps(model: Model, rows: Rows, classes: Classes) -> ClassMaps:
    """Make a map for each picture of what speaks for a class.

    Three ways, by what the head allows:

    weights
        Of a linear head with a row of weights for each class (``logistic``, ``linear-svm``), exact:
        feature times weight, summed over the channels. A map's sum is the class's score less the
        intercept. The features are those that the weights are for, that is, after the row was
        brought to length one.
    gradient
        Of a network: feature times the gradient of the class's score before sigmoid or softmax,
        summed over the channels; for a fine-tuned network, the backbone's last output. Where
        the head averages over positions this is Grad-CAM, without its cut at 0. Where it flattens
        them, each position has weights of its own, and Grad-CAM's mean of the gradients over
        positions would mix these, so it is not taken (HiResCAM).
    occlusion
        Of any other head: how much the log-odds of the class fall when the features of a patch
        are set to 0; at most 4 x 4 patches.

    Parameters
    ----------
    model : Model
        The fitted head.
    rows : ndarray of float32, shape (n, height, width, channels)
        Features that it takes.
    classes : ndarray of int64, shape (n,)
        Which class each map is about.

    References
    ----------
    R. Selvaraju et al., *Grad-CAM*, ICCV 2017. R. Draelos, L. Carin, *Use HiResCAM instead of
    Grad-CAM for faithful explanations of convolutional neural networks*, arXiv:2011.08891, 2020.
    M. Zeiler, R. Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014.
    """
    estimator = model.estimator
    if isinstance(estimator, DenseHead | TunedClassifier):
        return ClassMaps("gradient", _by_gradient(estimator, rows, classes))
    values = _by_weights(estimator, rows, classes)
    if values is not None:
        return ClassMaps("weights", values)
    return ClassMaps("occlusion", _by_occlusion(model.probabilities, rows, classes))


def _by_weights(estimator: Classifier, rows: Rows, classes: Classes) -> Values | None:
    """Share out a linear head's score; None where it is no sum of weights, a row for a class."""
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
    if weights.shape[1] != flat.shape[1] or not _shares_out(last, weights, seen):
        return None
    if len(weights) == 1:
        weights = np.concatenate([-weights, weights])  # two classes share one score
    shares: Values = (seen * weights[classes]).reshape(rows.shape).sum(axis=-1, dtype=np.float64)
    return shares


def _shares_out(linear: Any, weights: Values, seen: Rows) -> bool:
    """Tell whether these are weights of the classes: some have them for pairs of classes."""
    count = len(linear.classes_)
    if len(weights) != (1 if count == 2 else count):
        return False
    scores = seen @ weights.T + linear.intercept_
    found = np.reshape(linear.decision_function(seen), (len(seen), -1))
    if found.shape != scores.shape or not np.allclose(found, scores, rtol=1e-3, atol=1e-4):
        return False
    codes = scores.argmax(axis=1) if count > 2 else (scores[:, 0] > 0).astype(int)
    return bool(np.array_equal(linear.classes_[codes], linear.predict(seen)))


def _by_gradient(
    estimator: DenseHead | TunedClassifier, rows: Rows, classes: Classes
) -> npt.NDArray[np.float64]:
    tf, keras = tensorflow.load()
    if isinstance(estimator, TunedClassifier):
        network = estimator.network
        dense, pool = network.dense, network.head.layers[1]
        seen = network.upper(rows, training=False) if network.upper else rows
    else:
        dense, pool, seen = estimator.model_, keras.layers.Flatten(), rows
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
        looks = np.repeat(row[None], 1 + len(patches), axis=0)
        for look, (down, across) in zip(looks[1:], patches):
            look[down, across] = 0
        p = np.clip(probabilities(looks)[:, label], _LEAST, 1 - _LEAST)
        odds = np.log(p / (1 - p))
        for (down, across), without in zip(patches, odds[1:]):
            values[place, down, across] = odds[0] - without
    return values
