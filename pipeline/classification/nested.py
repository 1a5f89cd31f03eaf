"""Nested cross-validation."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.classification.arrays import Floats, Places
from pipeline.classification.fitting import Candidate, apply, fit, try_candidates
from pipeline.classification.results import (
    best_of,
    described,
    model_of,
    threshold_for,
)
from pipeline.classification.task import Pair, Task
from pipeline.evaluation.metrics import evaluate
from pipeline.evaluation.threshold import call
from pipeline.heads.registry import Head
from pipeline.runs.run import Result


def judge_nested(task: Task, head: Head) -> Result:
    """Judge on every fold what was chosen on the others; fit the best on all to all images."""
    started = time.perf_counter()
    data, labels = task.dataset, task.dataset.targets.labels
    repeats = [_repeat(task, head, folds, task.seed + at) for at, folds in enumerate(task.folds)]
    by_repeat = [[one.log_loss(labels) for one in repeat.candidates] for repeat in repeats]
    losses = np.mean(by_repeat, axis=0).tolist()
    candidates = repeats[0].candidates
    place = best_of(candidates, losses)
    fitted = itertools.chain(*(repeat.candidates[place].fitted for repeat in repeats))
    chosen = replace(candidates[place], fitted=tuple(fitted))
    everything = np.arange(len(data))
    estimator = fit(task, head, chosen, everything, task.seed)
    seconds = time.perf_counter() - started
    return Result(
        model_of(
            task, head, chosen.rows.views, estimator, threshold_for(task, everything, chosen.p)
        ),
        described(task, chosen),
        tuple((described(task, one), loss) for one, loss in zip(candidates, losses)),
        evaluate(
            labels,
            np.concatenate([one.inner_p for one in repeats]),
            np.concatenate([one.inner_calls for one in repeats]),
            groups=task.resampled_by(everything),
            resamples=0,
        ),
        evaluate(
            labels,
            np.stack([one.p for one in repeats]),
            np.stack([one.calls for one in repeats]),
            groups=task.resampled_by(everything),
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
    labels, shape = task.dataset.targets.labels, (len(task.dataset), len(task.dataset.classes))
    nest = _nest_stopped if head.early_stopping else _nest
    compared, candidates = nest(task, head, folds, seed)
    p, calls = np.empty(shape), np.empty(shape[0], np.int64)
    inner_p, inner_calls = (
        np.empty((len(folds), *shape)),
        np.empty((len(folds), shape[0]), np.int64),
    )
    times = np.zeros(shape[0], np.int64)
    for fold, inner in zip(folds, compared):
        place = best_of(inner, [one.log_loss(labels) for one in inner])
        judged = inner[place].judged
        said = inner[place].p[judged]
        threshold = threshold_for(task, judged, said)
        p[fold] = candidates[place].p[fold]
        calls[fold] = call(p[fold], threshold)
        inner_p[times[judged], judged] = said
        inner_calls[times[judged], judged] = call(said, threshold)
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
