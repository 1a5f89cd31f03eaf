"""Nested cross-validation: every image is tested on once, by a fit chosen and made without it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.classification.arrays import Floats, Labels, Places
from pipeline.classification.fitting import Candidate, all_trials, apply, fit, try_candidates
from pipeline.classification.results import best_of, cost_of, described, model_of, threshold_for
from pipeline.classification.search import Fold
from pipeline.classification.task import Task
from pipeline.evaluation.metrics import evaluate
from pipeline.evaluation.threshold import call
from pipeline.heads.registry import Head
from pipeline.runs.run import Result


def judge_nested(task: Task, head: Head) -> Result:
    """Judge on every fold what was chosen on the others; fit the best candidate to all images."""
    started = time.perf_counter()
    labels = task.dataset.targets.labels
    repeats = [
        _cross_validate(task, head, folds, task.seed + number)
        for number, folds in enumerate(task.folds)
    ]
    losses = np.mean([repeat.losses(labels) for repeat in repeats], axis=0).tolist()
    candidates = repeats[0].candidates
    best = best_of(candidates, losses)
    fits = itertools.chain(*(repeat.candidates[best].fitted for repeat in repeats))
    chosen = replace(candidates[best], fitted=tuple(fits))
    everything = np.arange(len(task.dataset))
    estimator = fit(task, head, chosen, everything, task.seed)
    seconds = time.perf_counter() - started
    groups = task.resampled_by(everything)
    threshold = threshold_for(task, everything, chosen.p)
    test = evaluate(
        labels,
        np.stack([repeat.p for repeat in repeats]),
        np.stack([repeat.calls for repeat in repeats]),
        groups=groups,
        positive=task.positive,
    )
    if threshold is not None:
        test = test.with_thresholds_of(len(task.folds[0]))
    return Result(
        model_of(
            task, head, estimator, threshold, recipe=chosen.rows.recipe, views=chosen.rows.views
        ),
        described(task, chosen),
        tuple((described(task, tried), loss) for tried, loss in zip(candidates, losses)),
        evaluate(
            labels,
            np.concatenate([repeat.inner_p for repeat in repeats]),
            np.concatenate([repeat.inner_calls for repeat in repeats]),
            groups=groups,
            resamples=0,
            positive=task.positive,
        ),
        test,
        seconds,
        repeats[0].p,
        getattr(estimator, "history_", {}),
        getattr(estimator, "best_epoch_", 0),
        calls=repeats[0].calls,
        fold_accuracies=tuple(
            float(np.mean(task.dataset.targets.right(repeat.calls[fold], fold)))
            for repeat, folds in zip(repeats, task.folds)
            for fold in folds
        ),
        aim_cost=_mean_cost(repeats),
    )


def _mean_cost(repeats: Sequence[_CrossValidation]) -> float | None:
    costs = [cost for repeat in repeats for cost in repeat.costs]
    return float(np.mean(costs)) if costs else None


@dataclass(frozen=True)
class _CrossValidation:
    """What came of one cross-validation.

    Attributes
    ----------
    candidates : list of Candidate
        Judged on all folds.
    p, calls : ndarray, shapes (n, k) and (n,)
        Probabilities and class of each image, by what was chosen without it.
    inner_p, inner_calls : ndarray, shapes (times, n, k) and (times, n)
        The same while each other fold was tested on.
    costs : list of float
        What heads are compared by for an aim, while each fold was tested on; else none.
    """

    candidates: list[Candidate]
    p: Floats
    calls: Places
    inner_p: Floats
    inner_calls: Places
    costs: list[float]

    def losses(self, labels: Labels) -> list[float]:
        """Give each candidate's log loss over all folds."""
        return [candidate.log_loss(labels) for candidate in self.candidates]


def _cross_validate(task: Task, head: Head, folds: Sequence[Places], seed: int) -> _CrossValidation:
    labels, (n, k) = task.dataset.targets.labels, (len(task.dataset), len(task.dataset.classes))
    nest = _nest_stopped if head.early_stopping else _nest
    inner_candidates, candidates = nest(task, head, folds, seed)
    p, calls = np.empty((n, k)), np.empty(n, np.int64)
    inner_p, inner_calls = np.empty((len(folds), n, k)), np.empty((len(folds), n), np.int64)
    times, costs = np.zeros(n, np.int64), []
    for fold, inner in zip(folds, inner_candidates):
        best = best_of(inner, [candidate.log_loss(labels) for candidate in inner])
        judged = inner[best].judged
        judged_p = inner[best].p[judged]
        threshold = threshold_for(task, judged, judged_p)
        p[fold] = candidates[best].p[fold]
        calls[fold] = call(p[fold], threshold)
        inner_p[times[judged], judged] = judged_p
        inner_calls[times[judged], judged] = called = call(judged_p, threshold)
        times[judged] += 1
        if (cost := cost_of(task, judged, called)) is not None:
            costs.append(cost)
    count = times[0]  # the same for all images
    return _CrossValidation(candidates, p, calls, inner_p[:count], inner_calls[:count], costs)


_Nested = tuple[list[list[Candidate]], list[Candidate]]
"""Candidates judged for each fold without it, and candidates judged on all folds."""


def _nest(task: Task, head: Head, folds: Sequence[Places], seed: int) -> _Nested:
    """Judge candidates for each fold by fits that saw neither it nor the fold judged.

    A fit that leaves two folds out serves both, whichever is tested on: K folds take K (K - 1) / 2
    fits of each candidate to choose by, and K to test.
    """
    everything = np.arange(len(task.dataset))
    outer = [Fold(np.setdiff1d(everything, fold), fold) for fold in folds]
    pairs = list(itertools.combinations(range(len(folds)), 2))
    left_out = [np.concatenate([folds[a], folds[b]]) for a, b in pairs]
    without = [[Fold(np.setdiff1d(everything, places), places)] for places in left_out]
    candidates, *by_pair = try_candidates(task, all_trials(task, head), [outer, *without], seed)
    inner_p = [[np.full_like(candidate.p, np.nan) for candidate in candidates] for _ in folds]
    for (a, b), fitted_without in zip(pairs, by_pair):
        for number, candidate in enumerate(fitted_without):
            inner_p[a][number][folds[b]] = candidate.p[folds[b]]
            inner_p[b][number][folds[a]] = candidate.p[folds[a]]
    inner = [
        [replace(candidate, p=p) for candidate, p in zip(candidates, fold_p)] for fold_p in inner_p
    ]
    return inner, candidates


def _nest_stopped(task: Task, head: Head, folds: Sequence[Places], seed: int) -> _Nested:
    """As `_nest`, with early stopping: fold k+1 stops the training while fold k is tested.

    The fit is then kept as it is, so that K folds take K fits of each candidate.
    """
    everything = np.arange(len(task.dataset))
    following = [*folds[1:], folds[0]]
    splits = [
        [Fold(np.setdiff1d(everything, np.concatenate([fold, stopping])), stopping)]
        for fold, stopping in zip(folds, following)
    ]
    inner = try_candidates(task, all_trials(task, head), splits, seed)
    candidates = []
    for by_fold in zip(*inner):
        p = np.empty_like(by_fold[0].p)
        for fold, candidate in zip(folds, by_fold):
            p[fold] = apply(task, candidate.fitted[0], candidate.rows, fold)
        fitted = tuple(candidate.fitted[0] for candidate in by_fold)
        candidates.append(replace(by_fold[0], p=p, fitted=fitted))
    return inner, candidates
