# ruff: noqa: ARG002 -- the arguments are scikit-learn's
"""Linear heads by stochastic gradient descent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline.classification.streaming.fit import Report, StreamedFit, watch
from pipeline.classification.streaming.stream import Floats, Labels, Places, Rows, Stream
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import log_loss
from pipeline.heads.estimators import CalibrationFolds
from pipeline.heads.registry import Head

_STEPS = 10**6  # after which it has converged: scikit-learn's user guide, "Tips on practical use"
_EPOCHS = (5, 20)  # fewest and most; at 40 the demo's accuracy was the same as at 20
# As in memory, but for the squared hinge's slope, which grows without bound, and descent with it;
# the modified Huber loss is the same up to a margin of -1, and straight beyond.
_LOSS = {"logistic": "log_loss", "linear-svm": "modified_huber"}
# Share of the steps before averaging begins: the first are long and lead astray where C is large.
_UNAVERAGED = 0.5
# Images, about, that calibrations are fitted to and candidates compared on, where there are more:
# they tell a mean log loss of 0.5 to about 0.002, and the difference between candidates better.
_CALIBRATED_ON = 50_000

Parameters = Mapping[str, Any]


def fit_linear(head: Head, stream: Stream, *, balanced: bool, report: Report) -> StreamedFit:
    """Train a head's candidates side by side, choose, and train the best on validation too."""
    grid = head.grid
    sample = _Sample.of(stream) if head.calibrated else None
    choosing = _Descent(head, stream, ("train",), balanced=balanced)
    final = _Descent(head, stream, ("train", "validation"), balanced=balanced)
    most = choosing.epochs + final.epochs
    tried = choosing.run(grid, lambda done: report(done, most))
    if sample is not None:
        losses, said, last = _judge_calibrated(tried, stream, sample, balanced=balanced)
    else:
        losses = watch(stream, [one.predict_proba for one in tried])[:, 0].tolist()
        [said] = stream.apply(
            [tried[np.argmin(losses)].predict_proba], stream.dataset.where("validation")
        )
        last = None
    best = int(np.argmin(losses))
    [chosen] = final.run([grid[best]], lambda done: report(choosing.epochs + done, most))
    if last is not None:
        # Calibrated by what was said of images not seen, then trained on these, too: as
        # `ensemble=False` does it in memory.
        last.calibrated_classifiers_[0].estimator = last.estimator = chosen[-1]
        chosen = make_pipeline(*_steps(chosen), last)
    return StreamedFit(chosen, grid[best], tuple(zip(grid, losses)), said)


class _Sample(NamedTuple):
    """Validation images to calibrate on, in their order.

    `places` are their positions among the validation images, and `stands_for` tells how many of
    these each stands for.
    """

    places: Places
    stands_for: Floats

    @classmethod
    def of(cls, stream: Stream) -> Self:
        """Take all; of very many, half the same number of each class, half in proportion."""
        data = stream.dataset
        truth = data.targets.labels[data.where("validation")]
        counts = data.targets.counts(data.where("validation"))
        if counts.min() < 2:
            raise PipelineError(
                f"the validation split has {'one' if counts.min() else 'no'} image of the class "
                f"{data.classes[int(counts.argmin())]}.",
                expected="two or more of every class, to calibrate probabilities on",
            )
        if len(truth) <= _CALIBRATED_ON:
            return cls(np.arange(len(truth)), np.ones(len(truth)))
        share = _CALIBRATED_ON / 2 * (1 / len(counts) + counts / len(truth))
        taken = np.minimum(counts, np.maximum(2, np.ceil(share).astype(np.int64)))
        rng = np.random.default_rng(stream.seed)
        chosen = [
            rng.choice(np.flatnonzero(truth == label), count, replace=False)
            for label, count in enumerate(taken)
        ]
        places = np.sort(np.concatenate(chosen))
        return cls(places, (counts / taken)[truth[places]])


def _judge_calibrated(
    tried: Sequence[Pipeline], stream: Stream, sample: _Sample, *, balanced: bool
) -> tuple[list[float], Floats, CalibratedClassifierCV]:
    """Give log losses on validation, what the best says there, and that one's calibration."""
    data = stream.dataset
    validation = data.where("validation")
    places = validation[sample.places]
    truth = data.targets.labels[places]
    weights = sample.stands_for * stream.class_weights("validation", balanced=balanced)[truth]
    scores = stream.apply([one.decision_function for one in tried], places)
    losses = [
        log_loss(truth, _say(one, truth, weights, stream.seed), sample.stands_for) for one in scores
    ]
    best = int(np.argmin(losses))
    said = _say(scores[best], truth, weights, stream.seed)
    calibration = _calibrate(scores[best], truth, weights)
    if len(places) == len(validation):
        return losses, said, calibration

    def say(rows: Rows) -> Floats:
        p: Floats = calibration.predict_proba(_columns(tried[best].decision_function(rows)))
        return p

    [of_all] = stream.apply([say], validation)
    of_all[sample.places] = said
    return losses, of_all, calibration


class _Descent:
    """Training of candidates on some splits.

    Attributes
    ----------
    epochs : int
        Passes over the rows: fewer, the more there are.
    """

    def __init__(self, head: Head, stream: Stream, splits: Sequence[str], *, balanced: bool):
        self._head = head
        self._stream = stream
        self._splits = splits
        self._weights = stream.class_weights(*splits, balanced=balanced)
        self._images = len(stream.dataset.where(*splits))
        fewest, most = _EPOCHS
        self.epochs = min(max(math.ceil(_STEPS / self._images), fewest), most)

    def run(self, candidates: Sequence[Parameters], report: Any) -> list[Pipeline]:
        """Train several side by side: rows are read and prepared once for all."""
        classes = np.arange(len(self._stream.dataset.classes))
        made = [self._start(one) for one in candidates]
        pools = [one.get("pool") for one in candidates]
        for epoch in range(self.epochs):
            for rows, labels in self._stream.epoch(epoch, *self._splits):
                for _, alike in itertools.groupby(zip(pools, made), lambda pair: pair[0]):
                    machines = [machine for _, machine in alike]
                    prepared = machines[0][:-1].transform(rows)
                    for machine in machines:
                        machine[-1].partial_fit(prepared, labels, classes)
            report(epoch + 1)
        return made

    def _start(self, parameters: Parameters) -> Pipeline:
        """Take the steps that the head begins with in memory, and what is to be trained."""
        seed = self._stream.seed
        machine = SGDClassifier(
            loss=_LOSS[self._head.name],
            alpha=1 / (parameters["C"] * self._images),  # the same objective, divided by C and n
            average=1 + int(_UNAVERAGED * self._images * self.epochs),
            class_weight=dict(enumerate(self._weights.tolist())),
            random_state=seed,
        )
        return make_pipeline(*_steps(self._head.build(seed, **parameters)), machine)


def _steps(pipeline: Any) -> list[Any]:
    return [step for _, step in pipeline.steps[:-1]]


class _Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose scores are there already, and come in place of rows."""

    def fit(self, scores: Floats, labels: Labels, sample_weight: Floats | None = None) -> Self:
        """Learn which classes there are."""
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, scores: Floats) -> Floats:
        """Give them."""
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, scores: Floats) -> Labels:
        """Refuse: scikit-learn calibrates nothing without this method, and never calls it."""
        raise NotImplementedError


def _columns(scores: Floats) -> Floats:
    return scores.reshape(len(scores), -1)


def _calibrate(scores: Floats, truth: Labels, weights: Floats) -> CalibratedClassifierCV:
    """Fit Platt's sigmoids to scores."""
    everything = np.arange(len(truth))
    # One fold, which nothing is fitted on: the scores are of images that were not learned from.
    calibrated = CalibratedClassifierCV(_Scores(), cv=[(everything, everything)], ensemble=False)
    return calibrated.fit(_columns(scores), truth, sample_weight=weights)


def _say(scores: Floats, truth: Labels, weights: Floats, seed: int) -> Floats:
    """Give each image's probabilities by sigmoids that were fitted to the scores of others."""
    said = np.empty((len(truth), truth.max() + 1))
    for fitted, left_out in CalibrationFolds(seed).split(scores, truth):
        calibrated = _calibrate(scores[fitted], truth[fitted], weights[fitted])
        said[left_out] = calibrated.predict_proba(_columns(scores[left_out]))
    return said
