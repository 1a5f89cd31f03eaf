"""Choose what there is to choose of a head, fit it, and judge it, as `pipeline.protocol` says.

Candidates are compared by their log loss on images that they were not fitted on: the validation
split, the folds of a search, or, nested in a cross-validation, the folds that are not tested on.
What is tested on has no say in it, nor in the threshold.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pipeline.classification.fitting import (
    Candidate,
    Floats,
    Pair,
    Places,
    Task,
    apply,
    fit,
    try_candidates,
)
from pipeline.errors import PipelineError
from pipeline.evaluate import evaluate
from pipeline.evaluate.threshold import Threshold, choose_threshold
from pipeline.extraction import Views
from pipeline.heads import Classifier, Head
from pipeline.model import Model
from pipeline.run import Result
from pipeline.streaming import STREAMED, Stream, fit_streamed


def judge(task: Task, head: Head) -> Result:
    """Choose a head's parameters, fit it, and judge it.

    Raises
    ------
    PipelineError
        The head cannot be fitted to these images.
    """
    started = time.perf_counter()
    if task.stream is not None:
        return _judge_streamed(task, task.stream, head, started)
    if task.protocol.cv is None:
        return _judge_on_test(task, head, started)
    return _judge_nested(task, head, started)


def _judge_on_test(task: Task, head: Head, started: float) -> Result:
    """Choose on the validation split, or by a search; judge on the test split."""
    data, labels = task.dataset, task.dataset.labels
    train, validation = data.where("train"), data.where("validation")
    seen = np.concatenate([train, validation])
    pairs = [Pair(np.setdiff1d(seen, fold), fold) for folds in task.folds for fold in folds]
    [candidates] = try_candidates(task, head, [pairs or [Pair(train, validation)]], task.seed)
    losses = [one.log_loss(labels) for one in candidates]
    chosen = candidates[_best(candidates, losses)]
    if head.early_stopping and not pairs:
        [estimator] = chosen.fitted  # the validation images are spent on stopping
    else:
        estimator = fit(task, head, chosen, seen, task.seed)
    seconds = time.perf_counter() - started
    judged, said = chosen.judged, chosen.p[chosen.judged]
    return _result(
        task,
        _model(task, head, chosen.rows.views, estimator, _threshold(task, judged, said)),
        parameters=_described(task, chosen),
        candidates=tuple((_described(task, one), loss) for one, loss in zip(candidates, losses)),
        judged=judged,
        said=said,
        p=apply(task, estimator, chosen.rows, np.arange(len(data))),
        seconds=seconds,
    )


def _judge_streamed(task: Task, stream: Stream, head: Head, started: float) -> Result:
    """Do so where rows are read shard by shard; nothing but the splits can be chosen on."""
    if head.name not in STREAMED:
        raise PipelineError(f"it takes rows in memory; they are read shard by shard: {task.why}")
    fitted = fit_streamed(
        head,
        stream,
        balanced=task.protocol.balanced,
        on_epoch=task.on_epoch and partial(task.on_epoch, head.name),
    )
    seconds = time.perf_counter() - started
    judged = task.dataset.where("validation")
    [p] = stream.apply([fitted.classifier.predict_proba])
    threshold = _threshold(task, judged, fitted.held_out)
    return _result(
        task,
        _model(task, head, Views(), fitted.classifier, threshold),
        parameters=dict(fitted.parameters),
        candidates=tuple((dict(tried), loss) for tried, loss in fitted.candidates),
        judged=judged,
        said=fitted.held_out,
        p=p,
        seconds=seconds,
    )


def _result(
    task: Task,
    model: Model,
    *,
    parameters: dict[str, Any],
    candidates: tuple[tuple[dict[str, Any], float], ...],
    judged: Places,
    said: Floats,
    p: Floats,
    seconds: float,
) -> Result:
    """Judge on the test split; `said` was said of `judged` by fits that had not seen them."""
    labels, test = task.dataset.labels, task.dataset.where("test")
    return Result(
        model,
        parameters,
        candidates,
        evaluate(labels[judged], said, model.call(said), groups=_resampled_by(task, judged)),
        evaluate(labels[test], p[test], model.call(p[test]), groups=_resampled_by(task, test)),
        seconds,
        p,
        getattr(model.estimator, "history_", {}),
        getattr(model.estimator, "best_epoch_", 0),
    )


def _judge_nested(task: Task, head: Head, started: float) -> Result:
    """Judge on every fold what was chosen on the others; fit the best on all to all images."""
    data, labels = task.dataset, task.dataset.labels
    repeats = [_repeat(task, head, folds, task.seed + at) for at, folds in enumerate(task.folds)]
    by_repeat = [[one.log_loss(labels) for one in repeat.candidates] for repeat in repeats]
    losses = np.mean(by_repeat, axis=0).tolist()
    candidates = repeats[0].candidates
    place = _best(candidates, losses)
    fitted = itertools.chain(*(repeat.candidates[place].fitted for repeat in repeats))
    chosen = replace(candidates[place], fitted=tuple(fitted))
    everything = np.arange(len(data))
    estimator = fit(task, head, chosen, everything, task.seed)
    seconds = time.perf_counter() - started
    return Result(
        _model(task, head, chosen.rows.views, estimator, _threshold(task, everything, chosen.p)),
        _described(task, chosen),
        tuple((_described(task, one), loss) for one, loss in zip(candidates, losses)),
        evaluate(
            labels,
            np.concatenate([one.inner_p for one in repeats]),
            np.concatenate([one.inner_calls for one in repeats]),
            groups=_resampled_by(task, everything),
            resamples=0,
        ),
        evaluate(
            labels,
            np.stack([one.p for one in repeats]),
            np.stack([one.calls for one in repeats]),
            groups=_resampled_by(task, everything),
        ),
        seconds,
        repeats[0].p,
        getattr(estimator, "history_", {}),
        getattr(estimator, "best_epoch_", 0),
        calls=repeats[0].calls,
        fold_accuracies=tuple(
            float(np.mean(repeat.calls[fold] == labels[fold]))
            for repeat, folds in zip(repeats, task.folds)
            for fold in folds
        ),
    )


@dataclass(frozen=True)
class _Repeat:
    """One cross-validation.

    `candidates` as judged on all folds. `p` and `calls`: what was said of each image by what was
    chosen without it, shapes (n, k) and (n,). `inner_p` and `inner_calls`: what was said of it
    when the others were tested on, shapes (times, n, k) and (times, n).
    """

    candidates: list[Candidate]
    p: Floats
    calls: Places
    inner_p: Floats
    inner_calls: Places


def _repeat(task: Task, head: Head, folds: Sequence[Places], seed: int) -> _Repeat:
    labels, shape = task.dataset.labels, (len(task.dataset), len(task.dataset.classes))
    nest = _nest_stopped if head.early_stopping else _nest
    compared, candidates = nest(task, head, folds, seed)
    p, calls = np.empty(shape), np.empty(shape[0], np.int64)
    inner_p, inner_calls = (
        np.empty((len(folds), *shape)),
        np.empty((len(folds), shape[0]), np.int64),
    )
    times = np.zeros(shape[0], np.int64)
    for fold, inner in zip(folds, compared):
        place = _best(inner, [one.log_loss(labels) for one in inner])
        judged = inner[place].judged
        said = inner[place].p[judged]
        threshold = _threshold(task, judged, said)
        p[fold] = candidates[place].p[fold]
        calls[fold] = _called(p[fold], threshold)
        inner_p[times[judged], judged] = said
        inner_calls[times[judged], judged] = _called(said, threshold)
        times[judged] += 1
    often = times[0]  # as often as any other
    return _Repeat(candidates, p, calls, inner_p[:often], inner_calls[:often])


_Nested = tuple[list[list[Candidate]], list[Candidate]]


def _nest(task: Task, head: Head, folds: Sequence[Places], seed: int) -> _Nested:
    """Judge candidates, for each fold, on all others, by fits that saw neither; and on all folds.

    A fit that two folds are left out of serves both of them, whichever is tested on: K folds take
    K (K - 1) / 2 fits of each candidate to choose by, and K to test.
    """
    everything = np.arange(len(task.dataset))
    outer = [Pair(np.setdiff1d(everything, fold), fold) for fold in folds]
    twos = list(itertools.combinations(range(len(folds)), 2))
    both = [np.concatenate([folds[one], folds[other]]) for one, other in twos]
    without = [[Pair(np.setdiff1d(everything, places), places)] for places in both]
    candidates, *of_twos = try_candidates(task, head, [outer, *without], seed)
    inner = [[np.full_like(one.p, np.nan) for one in candidates] for _ in folds]
    for (one, other), alike in zip(twos, of_twos):
        for place, found in enumerate(alike):
            inner[one][place][folds[other]] = found.p[folds[other]]
            inner[other][place][folds[one]] = found.p[folds[one]]
    compared = [
        [Candidate(one.parameters, one.rows, p) for one, p in zip(candidates, of_fold)]
        for of_fold in inner
    ]
    return compared, candidates


def _nest_stopped(task: Task, head: Head, folds: Sequence[Places], seed: int) -> _Nested:
    """Do so for a head whose training stops by what it is judged on: the next fold is that.

    The fit is then kept as it is, so that K folds take K fits of each candidate.
    """
    everything = np.arange(len(task.dataset))
    following = [*folds[1:], folds[0]]
    pairs = [
        Pair(np.setdiff1d(everything, np.concatenate([fold, after])), after)
        for fold, after in zip(folds, following)
    ]
    compared = try_candidates(task, head, [[pair] for pair in pairs], seed)
    candidates = []
    for alike in zip(*compared):
        p = np.empty_like(alike[0].p)
        for fold, one in zip(folds, alike):
            p[fold] = apply(task, one.fitted[0], one.rows, fold)
        fitted = tuple(one.fitted[0] for one in alike)
        candidates.append(Candidate(alike[0].parameters, alike[0].rows, p, fitted))
    return compared, candidates


def _best(candidates: Sequence[Candidate], losses: Sequence[float]) -> int:
    """Find the best: what was not asked for is there to be compared with, not to be chosen."""
    allowed = [place for place, one in enumerate(candidates) if one.rows.asked_for]
    return min(allowed, key=losses.__getitem__)


def _threshold(task: Task, places: Places, p: Floats) -> Threshold | None:
    aim, data = task.protocol.aim, task.dataset
    if aim is None:
        return None
    return choose_threshold(data.labels[places], p, aim, task.protocol.positive_of(data.classes))


def _called(p: Floats, threshold: Threshold | None) -> Places:
    likeliest: Places = p.argmax(axis=1)
    return threshold.apply(p) if threshold else likeliest


def _resampled_by(task: Task, places: Places) -> Places | None:
    """Give the groups that figures are resampled by, where the user gave any."""
    return task.units[places] if task.dataset.groups else None


def _model(
    task: Task,
    head: Head,
    views: Views,
    estimator: Classifier,
    threshold: Threshold | None,
) -> Model:
    return Model(
        task.recipe,
        head.name,
        task.dataset.classes,
        estimator,
        views=views.count if views.everywhere else 1,
        augmentation=views.augmentation.name if views.everywhere else "none",
        trained_on=task.dataset.digest,
        threshold=threshold,
    )


def _described(task: Task, candidate: Candidate) -> dict[str, Any]:
    if len(task.variants) == 1:
        return dict(candidate.parameters)
    views = candidate.rows.views
    return {
        **candidate.parameters,
        "views": views.count,
        "augmentation": views.augmentation.name,
        "averaged_over_views": views.everywhere,
    }
