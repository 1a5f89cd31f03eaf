# ruff: noqa: ARG002 -- the arguments are scikit-learn's
"""Linear heads, trained by stochastic gradient descent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline.classification.arrays import Floats, Labels
from pipeline.classification.streaming.stream import Stream
from pipeline.classification.streaming.trained import OnEpoch, TrainedHead
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import log_loss
from pipeline.heads.estimators import CalibrationFolds
from pipeline.heads.registry import Head

_STEPS = 10**6  # enough to converge: scikit-learn's user guide, "Tips on practical use" of SGD
_EPOCHS = (5, 20)  # fewest and most; with 40 the demo's accuracy was that with 20
# As in memory, except that the slope of the squared hinge grows without bound, and descent
# diverges; the modified Huber loss equals it up to a margin of -1 and is straight beyond.
_LOSS = {"logistic": "log_loss", "linear-svm": "modified_huber"}
_UNAVERAGED = 0.5  # share of the steps before weights are averaged: the first lead astray


def train_linear(head: Head, stream: Stream, *, balanced: bool, on_epoch: OnEpoch) -> TrainedHead:
    """Train all candidates side by side, choose, and train the best on validation images, too."""
    validation, truth = stream.dataset.where("validation"), stream.labels("validation")
    if head.calibrated:
        _require_two_of_each_class(stream)
    choosing = _Descent(head, stream, ("train",), balanced=balanced)
    final = _Descent(head, stream, ("train", "validation"), balanced=balanced)
    most = choosing.epochs + final.epochs
    tried = choosing.run(head.grid, lambda done: on_epoch(done, most))
    weights = stream.class_weights("validation", balanced=balanced)[truth]

    def probabilities(output: Floats) -> Floats:
        if not head.calibrated:
            return output
        return _predict_out_of_fold(output, truth, weights, stream.seed)

    # In one pass for all candidates: a pass reads all shards, as validation images are everywhere.
    outputs = stream.apply(
        [
            machine.decision_function if head.calibrated else machine.predict_proba
            for machine in tried
        ],
        validation,
    )
    losses = [log_loss(truth, probabilities(output)) for output in outputs]
    best = int(np.argmin(losses))
    [chosen] = final.run([head.grid[best]], lambda done: on_epoch(choosing.epochs + done, most))
    if head.calibrated:
        # As with `ensemble=False` in memory: the calibration is fitted to scores of images not
        # trained on, the classifier then to all images.
        calibrated = _calibrate(outputs[best], truth, weights)
        calibrated.calibrated_classifiers_[0].estimator = calibrated.estimator = chosen[-1]
        chosen = make_pipeline(*_first_steps(chosen), calibrated)
    return TrainedHead(
        chosen, head.grid[best], tuple(zip(head.grid, losses)), probabilities(outputs[best])
    )


def _require_two_of_each_class(stream: Stream) -> None:
    data = stream.dataset
    counts = data.targets.counts(data.where("validation"))
    if counts.min() < 2:
        raise PipelineError(
            f"the validation split has {'one' if counts.min() else 'no'} image of the class "
            f"{data.classes[int(counts.argmin())]}.",
            expected="two or more of every class, to calibrate probabilities on",
        )


class _Descent:
    """Training of candidates on some splits; `epochs` passes over the rows, fewer if many."""

    def __init__(self, head: Head, stream: Stream, splits: Sequence[str], *, balanced: bool):
        self._head = head
        self._stream = stream
        self._splits = splits
        self._weights = stream.class_weights(*splits, balanced=balanced)
        self._images = len(stream.dataset.where(*splits))
        fewest, most = _EPOCHS
        self.epochs = min(max(math.ceil(_STEPS / self._images), fewest), most)

    def run(
        self, grid: Sequence[Mapping[str, Any]], on_epoch: Callable[[int], None]
    ) -> list[Pipeline]:
        """Train candidates side by side: rows are read and transformed once for all."""
        classes = np.arange(len(self._stream.dataset.classes))
        candidates = [self._start(parameters) for parameters in grid]
        pools = [parameters.get("pool") for parameters in grid]
        for epoch in range(self.epochs):
            for rows, labels in self._stream.epoch(epoch, *self._splits):
                for _, group in itertools.groupby(zip(pools, candidates), lambda pair: pair[0]):
                    machines = [machine for _, machine in group]
                    # Always sparse, as scikit-learn's steps of the intercept depend on that.
                    transformed = csr_array(machines[0][:-1].transform(rows))
                    for machine in machines:
                        machine[-1].partial_fit(transformed, labels, classes)
            on_epoch(epoch + 1)
        return candidates

    def _start(self, parameters: Mapping[str, Any]) -> Pipeline:
        """Return the head's first steps, as in memory, and a machine to train."""
        seed = self._stream.seed
        machine = SGDClassifier(
            loss=_LOSS[self._head.name],
            alpha=1 / (parameters["C"] * self._images),  # the same objective, divided by C and n
            average=1 + int(_UNAVERAGED * self._images * self.epochs),
            class_weight=dict(enumerate(self._weights.tolist())),
            random_state=seed,
        )
        return make_pipeline(*_first_steps(self._head.build(seed, **parameters)), machine)


def _first_steps(pipeline: Any) -> list[Any]:
    return [step for _, step in pipeline.steps[:-1]]


class _Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that is given its scores, shape (n, 1) or (n, k), in place of rows."""

    def fit(self, scores: Floats, labels: Labels, sample_weight: Floats | None = None) -> Self:
        """Learn which classes there are."""
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, scores: Floats) -> Floats:
        """Return the scores."""
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, scores: Floats) -> Labels:
        """Raise: scikit-learn asks for this method, but does not call it."""
        raise NotImplementedError


def _columns(scores: Floats) -> Floats:
    return scores.reshape(len(scores), -1)


def _calibrate(scores: Floats, truth: Labels, weights: Floats) -> CalibratedClassifierCV:
    """Fit Platt's sigmoids to scores."""
    everything = np.arange(len(truth))
    # One fold that fits nothing: the scores are of images that were not trained on.
    calibrated = CalibratedClassifierCV(_Scores(), cv=[(everything, everything)], ensemble=False)
    return calibrated.fit(_columns(scores), truth, sample_weight=weights)


def _predict_out_of_fold(scores: Floats, truth: Labels, weights: Floats, seed: int) -> Floats:
    """Return each image's probabilities by sigmoids that were fitted to the scores of others."""
    p = np.empty((len(truth), truth.max() + 1))
    for fitted, left_out in CalibrationFolds(seed).split(scores, truth):
        calibrated = _calibrate(scores[fitted], truth[fitted], weights[fitted])
        p[left_out] = calibrated.predict_proba(_columns(scores[left_out]))
    return p
